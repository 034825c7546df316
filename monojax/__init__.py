"""Monotone and bi-Lipschitz networks in JAX: soft, hard, dual and hidden ways to monotonicity."""

from monojax import metrics, penalties
from monojax.directions import check_directions
from monojax.penalties import monotonicity_penalty, value_and_penalty
from monojax.regions import (
    data_mixup_points,
    data_range,
    half_points,
    mixup_points,
    random_train_points,
    uniform_points,
)

__version__ = "0.1.0"

__all__ = [
    "check_directions",
    "data_mixup_points",
    "data_range",
    "half_points",
    "metrics",
    "mixup_points",
    "monotonicity_penalty",
    "penalties",
    "random_train_points",
    "uniform_points",
    "value_and_penalty",
]
