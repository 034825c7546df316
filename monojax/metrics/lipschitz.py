"""Measured Lipschitz constants: lower estimates of the largest gain, upper ones of the smallest.

Everything here is measured; it refutes a bound, never proves it: a larger gain may sit between
the points. Distances are Euclidean, gains are in output units per input unit.

So that a refutation is one, a gain between two points is narrowed by what the rounding of the
function can explain: the last bits of its values (a function like x + 1000 moves in steps of 6e-5
in float32) and of products with its inputs. What it adds and takes away again inside, such as
(x + 1000) - 1000, cannot be seen from outside: measure such a function in float64. Gains of
Jacobians are right up to a relative 1e-5 or so in float32.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import check_output, check_points

Fn = Callable[[jax.Array], jax.Array]
ROUNDING = 4
"""Units in the last place of a value that count as rounding; of its inputs' share in it, half."""


def empirical_lipschitz(
    fn: Fn,
    points: jax.Array,
    *,
    key: jax.Array | None = None,
    num_pairs: int = 3000,
    batch_size: int = 256,
) -> tuple[jax.Array, jax.Array]:
    r"""Smallest and largest gain seen: measured; it refutes a bound, never proves it.

    Without ``key``: over all pairs of points, :math:`\|f(x)-f(x')\|/\|x-x'\|`, and over the
    singular values of the Jacobian at every point; deterministic. With ``key``: over
    ``num_pairs`` random pairs only, as the papers measure; on a steep narrow ramp few pairs fall
    inside, so expect less. Pairs of equal points are left out, and rounding is taken off.

    Args:
      fn: map of ONE example `[d]` to `()` or `[c]`.
      points: float, shape `[n, d]`, n >= 2.
      key: PRNG key for random pairs, or None.
      num_pairs: random pairs to draw, with replacement.
      batch_size: points whose pairs or Jacobians are held at once.

    Returns:
      ``(lower [], upper [])``, float32 at least. With c < d the Jacobian has a kernel, so ``lower``
      is 0 without ``key``. NaN if ``fn`` is not finite somewhere; ``(inf, 0)`` with ``key`` if no
      two of the drawn points differ.

    Raises:
      ValueError: on wrong shapes, one point only, NaN in points, or counts below 1.

    Reference:
      Kinoshita, Toyoizumi, NeurIPS 2024, arXiv 2404.09821: 3000 random pairs of 2000 points.
    """
    points = _at_least_two(fn, points)
    check_count(num_pairs, "num_pairs")
    check_count(batch_size, "batch_size")
    values = jax.lax.map(lambda x: fn(x).reshape(-1), points, batch_size=batch_size)
    if key is not None:
        a, b = jax.random.randint(key, (2, num_pairs), 0, len(points))
        return _extremes(gains(points[a], points[b], values[a], values[b]))

    def against_all(row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return _extremes(gains(row[0][None, :], points, row[1][None, :], values))

    low, high = jax.lax.map(against_all, (points, values), batch_size=batch_size)
    local_low, local_high = local_gains(fn, points, batch_size=batch_size)
    return jnp.minimum(low.min(), local_low.min()), jnp.maximum(high.max(), local_high.max())


def adjacent_differences(fn: Fn, points: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Smallest and largest gain between consecutive points, measured.

    On a fine sorted grid in one dimension every slope of the function contributes, however
    narrow the piece down to the spacing. It refutes a bound, never proves it. Rounding is taken
    off: a spacing of few units in the last place of the values says little.

    Args:
      fn: map of ONE example `[d]` to `()` or `[c]`.
      points: float, shape `[n, d]`, n >= 2, in the order to walk through.

    Returns:
      ``(lower [], upper [])``; equal neighbours are left out.

    Raises:
      ValueError: on wrong shapes, one point only, or NaN in points.
    """
    points = _at_least_two(fn, points)
    values = jax.vmap(lambda x: fn(x).reshape(-1))(points)
    return _extremes(gains(points[:-1], points[1:], values[:-1], values[1:]))


def local_gains(fn: Fn, points: jax.Array, *, batch_size: int = 256) -> tuple[jax.Array, jax.Array]:
    """Smallest and largest singular value of the Jacobian at every point, measured there.

    Args:
      fn: map of ONE example `[d]` to `()` or `[c]`.
      points: float, shape `[n, d]`.
      batch_size: Jacobians held at once.

    Returns:
      ``(lower [n], upper [n])``, float32 at least; ``lower`` is 0 where c < d: some direction is
      not seen at all. NaN where ``fn`` is not finite. Each refutes a bound, never proves it.

    Raises:
      ValueError: on wrong shapes or NaN in points.
    """
    points = check_points(points)
    check_output(fn, points)
    check_count(batch_size, "batch_size")

    return jax.lax.map(lambda x: jacobian_gains(fn, x), points, batch_size=batch_size)


def jacobian_gains(fn: Fn, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Smallest and largest singular value of the Jacobian at one point.

    Args:
      fn: map of ONE example `[d]` to `()` or `[c]`.
      x: `[d]`.

    Returns:
      ``(lower [], upper [])``, float32 at least, NaN where ``fn`` is not finite.
    """
    flat = lambda point: (value := fn(point).reshape(-1), value)
    outputs = int(np.prod(jax.eval_shape(fn, x).shape, dtype=int))
    mode = jax.jacrev if outputs < x.shape[0] else jax.jacfwd  # the fewer passes
    jacobian, value = mode(flat, has_aux=True)(x)
    # No singular values in half precision; and squares of its entries would not fit.
    jacobian = jacobian.astype(jnp.promote_types(jacobian.dtype, jnp.float32))
    sigma = jnp.linalg.svd(jacobian, compute_uv=False)
    wide = jacobian.shape[0] < jacobian.shape[1]
    smallest = jnp.zeros_like(sigma[0]) if wide else sigma[-1]
    broken = ~jnp.isfinite(value).all() | ~jnp.isfinite(jacobian).all()
    return jnp.where(broken, jnp.nan, smallest), jnp.where(broken, jnp.nan, sigma[0])


class Gains(NamedTuple):
    """Gains between pairs of points, and what rounding can explain of them; `[...]` each."""

    ratio: jax.Array
    """||fx - f_other|| / ||x - other||, NaN where ``fn`` is not finite."""
    of_values: jax.Array
    """What the last bits of the two values can add to it or take from it."""
    of_inputs: jax.Array
    """The same for products with the inputs, per unit of gain."""
    apart: jax.Array
    """Where the two points differ."""

    def narrowed(self) -> jax.Array:
        """Not more than the true gain."""
        noise = self.of_values + self.ratio * self.of_inputs
        return jnp.where(jnp.isfinite(self.ratio), jnp.maximum(self.ratio - noise, 0), self.ratio)

    def widened(self, steepest: jax.Array) -> jax.Array:
        """Not less than the true gain, for a function that is ``steepest`` somewhere.

        A product that cancels can round to no change at all, so the pair's own ratio does not tell
        how large its terms are.
        """
        return self.ratio + self.of_values + steepest * self.of_inputs


def gains(x: jax.Array, other: jax.Array, fx: jax.Array, f_other: jax.Array) -> Gains:
    """Ratios ||fx - f_other|| / ||x - other|| along the last axis, and their rounding.

    Args:
      x: points, `[..., d]`.
      other: other points, of a shape that broadcasts.
      fx: values at ``x``, `[..., c]`.
      f_other: values at ``other``.

    Returns:
      Gains, float32 at least.
    """
    eps = float(jnp.finfo(fx.dtype).eps)  # of what fn computed in, before it is widened
    x, other, fx, f_other = (_half(array) for array in (x, other, fx, f_other))
    top, distance = _norm(x - other)
    top_f, rise = _norm(fx - f_other)
    apart = top > 0
    top = jnp.where(apart, top, 1)

    def relative(array):
        size, rest = _norm(array)
        return size / top * (rest / distance)

    broken = ~(jnp.isfinite(fx).all(axis=-1) & jnp.isfinite(f_other).all(axis=-1))
    # Each norm is a size times a number near 1: squares of 1e-25 or 1e25 would not fit float32.
    ratio = jnp.where(broken, jnp.nan, top_f / top * (rise / distance))
    of_values = ROUNDING * eps * (relative(fx) + relative(f_other))
    of_inputs = ROUNDING / 2 * eps * (relative(x) + relative(other))
    return Gains(ratio, of_values, of_inputs, apart)


def _half(array: jax.Array) -> jax.Array:
    """Half of the array, float32 at least: differences of the largest numbers fit, too."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32)) / 2


def _norm(array: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two factors of the norm along the last axis: the largest entry, and the rest (at least 1)."""
    top = jnp.abs(array).max(axis=-1)
    some = top > 0
    # By a root, twice: the reciprocal of 3e38, which XLA divides by, is flushed to 0.
    root = jax.lax.rsqrt(jnp.where(some, top, 1))[..., None]
    unit = array * root * root
    return top, jnp.sqrt(jnp.where(some, jnp.square(unit).sum(axis=-1), 1))


def _extremes(found: Gains) -> tuple[jax.Array, jax.Array]:
    """Smallest and largest gain of pairs of points that differ, less what rounding explains."""
    broken = jnp.isnan(found.ratio).any()  # of equal points as well
    steepest = jnp.where(found.apart, found.ratio, 0).max()
    low = jnp.where(found.apart, found.widened(steepest), jnp.inf).min()
    high = jnp.where(found.apart, found.narrowed(), 0).max()
    return jnp.where(broken, jnp.nan, low), jnp.where(broken, jnp.nan, high)


def _at_least_two(fn: Fn, points: jax.Array) -> jax.Array:
    points = check_points(points)
    check_output(fn, points)
    if len(points) < 2:
        raise ValueError(f"a gain needs at least two points, got shape {points.shape}.")
    return points


def check_count(value: int, name: str) -> None:
    """Raises ValueError if a count is below 1.

    Args:
      value: the count.
      name: the argument's name in messages.

    Raises:
      ValueError: naming both.
    """
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")
