"""Where to ask for monotonicity: points in a box, on the data, and mixtures of both.

The regions of Monteiro et al. (UAI 2022) and the variants of the authors' earlier public code.
Point ``i`` of a region depends on the key and on ``i`` alone, so devices that each draw a part
(``first``, ``num``) together draw the same points as one device would.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry_2x32

from monojax.base.checks import check_box, check_number, check_points, known


def uniform_points(key: jax.Array, num: int, low: Any, high: Any, *, first: Any = 0) -> jax.Array:
    """Points drawn uniformly from the box [low, high].

    Args:
      key: PRNG key.
      num: number of points.
      low: lower corner, shape `[d]`.
      high: upper corner, shape `[d]`.
      first: index of the first point, for devices that draw points first..first+num-1 of a set;
        a traced one counts modulo 2^32.

    Returns:
      float array `[num, d]`.

    Raises:
      ValueError: on an empty or unbounded box, mismatched shapes, ``num`` < 1, or points beyond
        the 2^32 that a key has.
    """
    low, high = check_box(low, high)
    _check_num(num)
    width = len(low)
    bits = _bits(key, _indices(first, num), width + width % 2)
    low, high = low[None, :], high[None, :]
    # Rounding must not leave the box.
    return jnp.minimum(low + (high - low) * _unit(bits[:, :width], low.dtype), high)


def mixup_points(
    key: jax.Array,
    num: int,
    data: jax.Array,
    low: Any,
    high: Any,
    *,
    radius: float = 0.5,
    first: Any = 0,
) -> jax.Array:
    """Mixtures of pairs from the data and as many random points: the paper's mixup region.

    Pairs are data-data, data-random and random-random in about 1:2:1; one mixing factor per
    pair. Pairs are drawn with replacement (two distinct rows each), which at the usual sizes
    is the authors' draw without replacement but for rare repeats.

    Args:
      key: PRNG key.
      num: number of points.
      data: rows of the current batch, float, shape `[n, d]`.
      low: lower corner of the box of random points, shape `[d]` or a scalar.
      high: its upper corner.
      radius: mixing factors are uniform in [0.5 - radius, 0.5 + radius].
      first: index of the first point, as in :func:`uniform_points`.

    Returns:
      float array `[num, d]`, inside the convex hull of box and data.

    Raises:
      ValueError: on an empty box, another width, ``radius`` outside [0, 0.5], ``num`` < 1.
    """
    data = check_points(data, "data")
    low, high = check_box(low, high, data.shape[1], data.dtype)
    key_random, key_pairs = jax.random.split(key)
    rows = jnp.concatenate([data, uniform_points(key_random, len(data), low, high)])
    return _mix(key_pairs, num, rows, radius, first)


def data_mixup_points(
    key: jax.Array, num: int, data: jax.Array, *, radius: float = 0.5, first: Any = 0
) -> jax.Array:
    """Mixtures of pairs of data rows alone: the convex hull of the data, no random points.

    Args:
      key: PRNG key.
      num: number of points.
      data: float, shape `[n, d]` with n >= 2.
      radius: mixing factors are uniform in [0.5 - radius, 0.5 + radius].
      first: index of the first point, as in :func:`uniform_points`.

    Returns:
      float array `[num, d]`.

    Raises:
      ValueError: on fewer than two rows, ``radius`` outside [0, 0.5], ``num`` < 1.
    """
    return _mix(key, num, check_points(data, "data"), radius, first)


def random_train_points(
    key: jax.Array, num: int, data: jax.Array, low: Any, high: Any
) -> jax.Array:
    """The data, completed with random points up to ``num`` (a variant of the authors' code).

    Args:
      key: PRNG key.
      num: number of points; the first n are the data, or the first ``num`` rows of it.
      data: float, shape `[n, d]`.
      low: lower corner of the box, shape `[d]` or a scalar.
      high: upper corner.

    Returns:
      float array `[num, d]`.

    Raises:
      ValueError: on an empty box, another width, or ``num`` < 1.
    """
    data = check_points(data, "data")
    low, high = check_box(low, high, data.shape[1], data.dtype)
    _check_num(num)
    if num <= len(data):
        return data[:num]
    return jnp.concatenate([data, uniform_points(key, num - len(data), low, high)])


def half_points(
    key: jax.Array, num: int, data: jax.Array, low: Any, high: Any, *, radius: float = 0.5
) -> jax.Array:
    """Half random points, half mixup points (a variant of the authors' code).

    Args:
      key: PRNG key.
      num: number of points, at least 2.
      data: float, shape `[n, d]`.
      low: lower corner of the box, shape `[d]` or a scalar.
      high: upper corner.
      radius: as in :func:`mixup_points`.

    Returns:
      float array `[num, d]`; the first num // 2 are random.

    Raises:
      ValueError: on an empty box, another width, or ``num`` < 2.
    """
    data = check_points(data, "data")
    low, high = check_box(low, high, data.shape[1], data.dtype)
    _check_num(num, least=2)
    key_random, key_mixup = jax.random.split(key)
    random = uniform_points(key_random, num // 2, low, high)
    mixed = mixup_points(key_mixup, num - num // 2, data, low, high, radius=radius)
    return jnp.concatenate([random, mixed])


def data_range(data: jax.Array, margin: float = 0.0) -> tuple[jax.Array, jax.Array]:
    """The box around the data, widened on each side.

    Args:
      data: float, shape `[n, d]`.
      margin: share of each input's range added on each side.

    Returns:
      ``(low, high)``, shape `[d]` each.

    Raises:
      ValueError: on NaN, another shape, or a margin below 0.
    """
    data = check_points(data, "data")
    check_number(margin, "margin", least=0)
    low, high = data.min(axis=0), data.max(axis=0)
    more = jnp.asarray(margin, data.dtype) * (high - low)
    return low - more, high + more


def _mix(key: jax.Array, num: int, rows: jax.Array, radius: float, first: Any) -> jax.Array:
    """Convex combinations of ``num`` pairs of distinct rows; no gradient flows through."""
    _check_num(num)
    if len(rows) < 2:
        raise ValueError("mixtures need at least two rows of data, got one.")
    check_number(radius, "radius", least=0, most=0.5)
    half = jnp.asarray(radius, rows.dtype)
    bits = _bits(key, _indices(first, num), 4)
    # An offset of 1..n-1 reaches every other row; the remainder's bias is below n / 2^32.
    a = bits[:, 0] % jnp.uint32(len(rows))
    b = (a + 1 + bits[:, 1] % jnp.uint32(len(rows) - 1)) % jnp.uint32(len(rows))
    lam = 0.5 + half * (2 * _unit(bits[:, 2], rows.dtype) - 1)[:, None]
    rows = jax.lax.stop_gradient(rows)
    return lam * rows[a] + (1 - lam) * rows[b]


def _indices(first: Any, num: int) -> jax.Array | np.ndarray:
    """first .. first + num - 1 as 32-bit counters, refused where they would begin again at 0."""
    start = known(first)
    if start is None:
        return first.astype(jnp.uint32) + jnp.arange(num, dtype=jnp.uint32)
    if start.shape != () or not np.issubdtype(start.dtype, np.integer):
        raise ValueError(f"first must be one integer, got {first!r}.")
    if not 0 <= int(start) <= 2**32 - num:
        raise ValueError(f"first must lie in [0, 2^32 - {num}] for {num} points, got {first}.")
    return (int(start) + np.arange(num, dtype=np.uint64)).astype(np.uint32)


def _bits(key: jax.Array, index: Any, words: int) -> jax.Array:
    """Random bits `[n, words]` (even ``words``) that depend on the key and each row's index.

    Counter mode: words j and words/2 + j of row i are threefry's block (i, j). `jax.random`
    uses half of each block and cannot be cut by rows; this costs half as much on CPU.
    """
    seed = jax.random.bits(key, (2,), jnp.uint32)  # any key implementation
    block = jnp.arange(words // 2, dtype=jnp.uint32)
    i, j = jnp.broadcast_arrays(index[:, None], block[None, :])
    both = threefry_2x32(seed, jnp.concatenate([i.ravel(), j.ravel()]))
    return jnp.concatenate(both.reshape(2, len(index), -1), axis=1)


def _unit(bits: jax.Array, dtype: Any) -> jax.Array:
    """Bits to floats uniform in [0, 1)."""
    # 23 bits fit float32 exactly; narrower types get as many as they hold, so 1 is never reached.
    keep = min(23, jnp.finfo(dtype).nmant)
    return (bits >> (32 - keep)).astype(dtype) * jnp.asarray(2.0**-keep, dtype)


def _check_num(num: int, least: int = 1) -> None:
    if num < least:
        raise ValueError(f"num must be at least {least}, got {num}.")
