"""Measured Lipschitz constants: lower estimates of the largest gain, upper ones of the smallest.

Everything here is measured; it refutes a bound, never proves it: a larger gain may sit between
the points. Distances are Euclidean, gains are in output units per input unit.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import check_output, check_points

Fn = Callable[[jax.Array], jax.Array]


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
    inside, so expect less. Pairs of equal points are left out.

    Args:
      fn: map of ONE example `[d]` to `()` or `[c]`.
      points: float, shape `[n, d]`, n >= 2.
      key: PRNG key for random pairs, or None.
      num_pairs: random pairs to draw, with replacement.
      batch_size: points whose pairs or Jacobians are held at once.

    Returns:
      ``(lower [], upper [])``. With c < d the Jacobian has a kernel, so ``lower`` is 0 without
      ``key``. NaN if ``fn`` gives NaN; ``(inf, 0)`` if no two points differ.

    Raises:
      ValueError: on wrong shapes, one point only, NaN in points, or counts below 1.

    Reference:
      Kinoshita, Toyoizumi, NeurIPS 2024, arXiv 2404.09821: 3000 random pairs of 2000 points.
    """
    points = _at_least_two(fn, points)
    _check_count(num_pairs, "num_pairs")
    _check_count(batch_size, "batch_size")
    values = jax.lax.map(lambda x: fn(x).reshape(-1), points, batch_size=batch_size)
    if key is not None:
        pairs = jax.random.randint(key, (2, num_pairs), 0, len(points))
        return _extremes(
            *_gains(points[pairs[0]], points[pairs[1]], values[pairs[0]], values[pairs[1]])
        )

    def against_all(row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return _extremes(*_gains(row[0], points, row[1], values))

    low, high = jax.lax.map(against_all, (points, values), batch_size=batch_size)
    local_low, local_high = local_gains(fn, points, batch_size=batch_size)
    return jnp.minimum(low.min(), local_low.min()), jnp.maximum(high.max(), local_high.max())


def adjacent_differences(fn: Fn, points: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Smallest and largest gain between consecutive points, measured.

    On a fine sorted grid in one dimension every slope of the function contributes, however
    narrow the piece down to the spacing. It refutes a bound, never proves it.

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
    return _extremes(*_gains(points[:-1], points[1:], values[:-1], values[1:]))


def local_gains(fn: Fn, points: jax.Array, *, batch_size: int = 256) -> tuple[jax.Array, jax.Array]:
    """Smallest and largest singular value of the Jacobian at every point, measured there.

    Args:
      fn: map of ONE example `[d]` to `()` or `[c]`.
      points: float, shape `[n, d]`.
      batch_size: Jacobians held at once.

    Returns:
      ``(lower [n], upper [n])``; ``lower`` is 0 where c < d: some direction is not seen at all.
      Each refutes a bound, never proves it.

    Raises:
      ValueError: on wrong shapes or NaN in points.
    """
    points = check_points(points)
    check_output(fn, points)
    _check_count(batch_size, "batch_size")

    def one(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        jacobian = _jacobian(fn, x)
        sigma = jnp.linalg.svd(jacobian, compute_uv=False)
        wide = jacobian.shape[0] < jacobian.shape[1]
        return jnp.zeros_like(sigma[0]) if wide else sigma[-1], sigma[0]

    return jax.lax.map(one, points, batch_size=batch_size)


def _gains(
    x: jax.Array, other: jax.Array, fx: jax.Array, f_other: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Ratios ||fx - f_other|| / ||x - other|| along the last axis, and which are defined."""
    distance = jnp.linalg.norm(x - other, axis=-1)
    apart = distance > 0
    gain = jnp.linalg.norm(fx - f_other, axis=-1) / jnp.where(apart, distance, 1.0)
    return gain, apart


def _extremes(gain: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.where(valid, gain, jnp.inf).min(), jnp.where(valid, gain, 0.0).max()


def _jacobian(fn: Fn, x: jax.Array) -> jax.Array:
    """`[c, d]`, by the mode with fewer passes."""
    outputs = int(np.prod(jax.eval_shape(fn, x).shape, dtype=int))
    mode = jax.jacrev if outputs < x.shape[0] else jax.jacfwd
    return mode(lambda point: fn(point).reshape(-1))(x)


def _at_least_two(fn: Fn, points: jax.Array) -> jax.Array:
    points = check_points(points)
    check_output(fn, points)
    if len(points) < 2:
        raise ValueError(f"a gain needs at least two points, got shape {points.shape}.")
    return points


def _check_count(value: int, name: str) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")
