"""Searching for the largest and smallest gain: gradient ascent, and refinement in one dimension.

Everything here is measured; it refutes a bound, never proves it: a larger gain may sit where the
search did not go. Distances are Euclidean, gains are in output units per input unit.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from monojax.base.checks import check_box, check_number, check_output, check_points, known
from monojax.metrics.lipschitz import Fn, check_count, gains, jacobian_gains

SPLIT = 64


class Extremes(NamedTuple):
    """Smallest and largest slope seen of a function of one variable, and where."""

    lower: jax.Array
    """`[]`: smallest |f'| seen, 0 if slopes of both signs were seen."""
    upper: jax.Array
    """`[]`: largest |f'| seen."""
    at_lower: jax.Array
    """`[]`: the point of ``lower``."""
    at_upper: jax.Array
    """`[]`: the point of ``upper``."""


def search_lipschitz(
    fn: Fn,
    starts: jax.Array,
    *,
    low: jax.Array | None = None,
    high: jax.Array | None = None,
    steps: int = 200,
    learning_rate: float = 0.05,
    radius: float = 0.05,
) -> tuple[jax.Array, jax.Array]:
    """Gain extremes found by gradient ascent and descent from many starts, measured.

    Adam moves a point and an offset of length ``radius`` to raise (or lower) the gain between
    ``x - offset / 2`` and ``x + offset / 2``, and the largest (smallest) singular value of the
    Jacobian where it is smooth. The offset carries the search over the kinks of piecewise linear
    networks, whose Jacobian has no gradient. It refutes a bound, never proves it.

    Args:
      fn: map of ONE example `[d]` to `()` or `[c]`.
      starts: float, shape `[n, d]`; every row is a start.
      low: lower corner of the box to stay in, `[d]` or scalar; None for no box.
      high: upper corner; both or none.
      steps: Adam steps per start, for each of the two searches.
      learning_rate: in input units.
      radius: length of the offset, > 0, in input units.

    Returns:
      ``(lower [], upper [])`` over all visited points, pairs and Jacobians alike, less what
      rounding can explain. ``lower`` is 0 where c < d; both are NaN if ``fn`` was not finite at a
      visited point.

    Raises:
      ValueError: on wrong shapes or NaN in starts, one corner only, or options that are not > 0.
    """
    starts = check_points(starts, "starts")
    check_output(fn, starts)
    check_count(steps, "steps")
    check_number(learning_rate, "learning_rate", above=0)
    check_number(radius, "radius", above=0)
    if (low is None) != (high is None):
        raise ValueError("give both low and high, or neither.")
    if low is not None:
        low, high = check_box(low, high, starts.shape[1])

    def inside(x: jax.Array) -> jax.Array:
        return x if low is None else jnp.clip(x, low, high).astype(x.dtype)

    def both_gains(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        """Of the pair, wider and narrower by rounding, and of the Jacobian: lower, upper."""
        x, offset = state[0].astype(starts.dtype), state[1]
        half = radius / 2 * offset / (jnp.linalg.norm(offset) + jnp.finfo(x.dtype).tiny)
        a, b = inside(x - half.astype(x.dtype)), inside(x + half.astype(x.dtype))
        smallest, largest = jacobian_gains(fn, x)
        pair = gains(a, b, fn(a).reshape(-1), fn(b).reshape(-1))
        wider, narrower = pair.widened(jnp.maximum(pair.ratio, largest)), pair.narrowed()
        # A pair squeezed by the box's edge is mostly rounding: the Jacobian stands in for it.
        whole = jnp.linalg.norm(b - a) > 0.1 * radius
        wider, narrower = (
            jnp.where(whole | jnp.isnan(gain), gain, largest) for gain in (wider, narrower)
        )
        return wider, narrower, smallest, largest

    def climb(sign: float) -> jax.Array:
        optimiser = optax.adam(learning_rate)

        def objective(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            wider, narrower, smallest, largest = both_gains(state)
            secant, local = (narrower, largest) if sign > 0 else (wider, smallest)
            seen = jnp.maximum(secant, local) if sign > 0 else jnp.minimum(secant, local)
            return -sign * (secant + local), seen

        def step(carry, _):
            state, memory = carry
            slope, seen = jax.grad(objective, has_aux=True)(state)
            slope = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0.0), slope)
            update, memory = optimiser.update(slope, memory, state)
            x, offset = optax.apply_updates(state, update)
            return ((inside(x), offset), memory), seen

        def one(start: jax.Array, offset: jax.Array) -> jax.Array:
            # In float16 Adam's moments vanish, and 0 / 0 is its step.
            wide = jnp.promote_types(start.dtype, jnp.float32)
            state = (inside(start).astype(wide), offset.astype(wide))
            _, seen = jax.lax.scan(step, (state, optimiser.init(state)), None, length=steps)
            return seen.max() if sign > 0 else seen.min()

        found = jax.vmap(one)(starts, _offsets(starts))
        return found.max() if sign > 0 else found.min()

    return climb(-1.0), climb(1.0)


def exact_lipschitz_1d(
    fn: Fn,
    low: float | jax.Array,
    high: float | jax.Array,
    *,
    num: int = 20001,
    rounds: int = 3,
    keep: int = 16,
) -> Extremes:
    """Smallest and largest |f'| on an interval, by a dense grid and repeated refinement.

    Slopes are taken at the middle of each cell and across it. In every round the ``keep``
    steepest and flattest cells are split into 64, so a ramp much narrower than a cell is found
    if the value changes over it; a jump counts with the grid's spacing. Exact, up to rounding,
    for piecewise linear functions with pieces wider than a cell and for smooth ones whose slope
    has no peak narrower than a cell; otherwise measured: it refutes a bound, never proves it.

    Args:
      fn: map of ONE example `[1]` to `()` or `[1]`, differentiable almost everywhere.
      low: left end.
      high: right end, above ``low``.
      num: grid points, at least 3.
      rounds: refinements, each 64 times finer.
      keep: cells refined per round.

    Returns:
      Extremes, each `[]`. NaN slopes, if ``fn`` has them, make both NaN.

    Raises:
      ValueError: on an empty or unbounded interval, a function of another shape, or counts too
        small.
    """
    given = known(low), known(high)
    low, high = check_box(low, high, 1)
    if given[0] is not None and given[1] is not None and not (given[0] < given[1]).all():
        raise ValueError(f"low must be below high, got {given[0]} and {given[1]}.")
    low, high = (end.astype(jnp.promote_types(end.dtype, jnp.float32)) for end in (low, high))
    if num < 3 or rounds < 0 or keep < 1:
        raise ValueError(
            f"need num >= 3, rounds >= 0 and keep >= 1, got {num}, {rounds} and {keep}."
        )
    if int(np.prod(check_output(fn, low[None]), dtype=int)) != 1:
        raise ValueError("fn must return one number: `()` or `[1]`.")

    def value(t: jax.Array) -> jax.Array:
        return fn(t[None]).reshape(())

    @jax.jit
    def slopes(left: jax.Array, right: jax.Array) -> tuple[jax.Array, jax.Array]:
        ends = jax.vmap(value)(left), jax.vmap(value)(right)
        size = jnp.abs(ends[0]) + jnp.abs(ends[1])
        # Rounding of the two values is taken off, so that a secant stays a lower estimate.
        rise = jnp.abs(ends[1] - ends[0]) - 4 * jnp.finfo(size.dtype).eps * size
        wide = right > left  # cells below one ulp are empty
        across = jnp.where(wide, rise / jnp.where(wide, right - left, 1.0), 0.0)
        return jax.vmap(jax.grad(value))((left + right) / 2), across

    grid = jnp.linspace(low[0], high[0], num)
    left, right = grid[:-1], grid[1:]
    local, across = slopes(left, right)
    # Secants count on the grid, where they see jumps; in finer cells they only steer, because
    # there the rounding inside ``fn`` outweighs them.
    middle = (left + right) / 2
    secants, found = (middle, across), [(middle, local)]
    for _ in range(rounds):
        steep = jnp.argsort(-jnp.maximum(jnp.abs(local), across))[:keep]
        flat = jnp.argsort(jnp.abs(local))[:keep]
        chosen = jnp.concatenate([steep, flat])
        share = jnp.linspace(0.0, 1.0, SPLIT + 1, dtype=grid.dtype)
        ends = left[chosen, None] + (right - left)[chosen, None] * share[None, :]
        left, right = ends[:, :-1].reshape(-1), ends[:, 1:].reshape(-1)
        local, across = slopes(left, right)
        found.append(((left + right) / 2, local))
    return _summary(secants, found)


def _summary(
    secants: tuple[jax.Array, jax.Array], found: list[tuple[jax.Array, jax.Array]]
) -> Extremes:
    """Extremes over signed slopes, and over the sizes of secants where those see more."""
    where, signed = (jnp.concatenate(part) for part in zip(*found, strict=True))
    low, high = jnp.argmin(jnp.abs(signed)), jnp.argmax(jnp.abs(signed))
    turns = (signed.min() < 0) & (signed.max() > 0)
    lower = jnp.where(turns, 0.0, jnp.abs(signed[low]))
    best = jnp.argmax(secants[1])
    # Ties and near ties go to the derivative, which is free of the secant's rounding.
    jump = secants[1][best] > 1.001 * jnp.abs(signed[high])
    upper = jnp.where(jump, secants[1][best], jnp.abs(signed[high]))
    broken = jnp.isnan(signed).any() | jnp.isnan(secants[1]).any()
    lower, upper = (jnp.where(broken, jnp.nan, part) for part in (lower, upper))
    return Extremes(lower, upper, where[low], jnp.where(jump, secants[0][best], where[high]))


def _offsets(starts: jax.Array) -> jax.Array:
    """Fixed first offsets `[n, d]`: the search is deterministic, and starts differ."""
    return jax.random.normal(jax.random.key(0), starts.shape, starts.dtype)
