"""Intervals by resampling: how far a measured number would move with other examples."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from monojax.base.checks import check_number


class Interval(NamedTuple):
    """A value and the interval that holds it in 95% of draws of the examples."""

    value: float
    low: float
    high: float


def bootstrap(
    fn: Callable[..., Any],
    *arrays: Any,
    key: jax.Array,
    draws: int = 2000,
    level: float = 0.95,
    paired: bool = True,
) -> Interval:
    """A statistic with its percentile interval over resampled examples.

    Every draw takes as many examples as there are, with replacement, and applies ``fn`` to them.
    The interval says what other examples of the same kind would have given; it says nothing of
    other trainings.

    Args:
      fn: of the arrays to one number, such as ``np.mean`` or :func:`monojax.metrics.auroc`; called
        ``draws + 1`` times with numpy arrays, so give a jitted function where it is JAX's.
      *arrays: with the examples along the first axis.
      key: PRNG key; the same key and numbers of examples give the same draws.
      draws: resamples.
      level: of the interval, in (0, 1).
      paired: True draws the same examples of all arrays, which then have one length; False draws
        from each array on its own, as for two groups (normal and unfamiliar scores).

    Returns:
      Interval ``(value, low, high)``: of the arrays as they are, and the interval's ends. The ends
      are NaN if ``fn`` is NaN for a draw (a class that a draw leaves out, say).

    Raises:
      ValueError: on no array, no examples, other lengths with ``paired``, or ``fn`` without one
        number.

    Example:
      >>> value, low, high = bootstrap(np.mean, np.arange(100.0), key=jax.random.key(0))
      >>> value, low < value < high
      (49.5, True)

    Reference:
      Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979.
    """
    columns = [np.asarray(array) for array in arrays]
    if not columns or any(column.ndim == 0 or not len(column) for column in columns):
        raise ValueError("bootstrap needs arrays with at least one example along the first axis.")
    sizes = [len(column) for column in columns]
    if paired and len(set(sizes)) > 1:
        raise ValueError(
            f"arrays have {', '.join(map(str, sizes))} examples; paired arrays have one length. "
            "paired=False draws from each array on its own."
        )
    check_number(draws, "draws", least=1)
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}.")
    raw = key if not jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key) else None
    words = np.asarray(jax.random.key_data(key) if raw is None else raw)
    rng = np.random.default_rng(words.reshape(-1).tolist())
    values = []
    for _ in range(draws):
        rows = [rng.integers(0, size, size) for size in (sizes[:1] if paired else sizes)]
        rows = rows * len(columns) if paired else rows
        picked = (column[row] for column, row in zip(columns, rows, strict=True))
        values.append(_number(fn(*picked)))
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(_number(fn(*columns)), float(low), float(high))


def mean_interval(values: Any, *, draws: int = 2000, seed: int = 0) -> Interval:
    """Mean and its 95% percentile interval over examples.

    Args:
      values: one number per example; NaNs (nothing measured) are left out.
      draws: resamples.
      seed: of the draws.

    Returns:
      Interval; NaNs where nothing is left.
    """
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    if not values.size:
        return Interval(*[float("nan")] * 3)
    return bootstrap(np.mean, values, key=jax.random.key(seed), draws=draws)


def _number(value: Any) -> float:
    if np.shape(value) != ():
        raise ValueError(f"fn must return one number, got shape {np.shape(value)}.")
    return float(value)
