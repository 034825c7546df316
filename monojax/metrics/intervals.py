"""How sure a mean over examples is."""

from typing import Any, NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A mean and the interval that holds it in 95% of draws of the examples."""

    mean: float
    low: float
    high: float


def bootstrap(values: Any, *, draws: int = 2000, seed: int = 0) -> Interval:
    """Mean and its 95% percentile interval over examples.

    Args:
      values: one number per example; NaNs (nothing measured) are left out.
      draws: number of draws, with replacement, of as many examples.
      seed: of the draws.

    Returns:
      Interval; NaNs where nothing is left.

    Reference:
      Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979.
    """
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    if not values.size:
        return Interval(*[float("nan")] * 3)
    drawn = np.random.default_rng(seed).integers(0, values.size, (draws, values.size))
    low, high = np.quantile(values[drawn].mean(1), [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))
