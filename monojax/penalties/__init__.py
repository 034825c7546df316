"""The soft way: gradient penalties, and the regions of the input space they are asked on."""

from monojax.penalties.gradient import monotonicity_penalty, value_and_penalty
from monojax.penalties.latents import latent_penalty, path_penalty
from monojax.penalties.norm import gradient_norm_penalty
from monojax.penalties.regions import (
    data_mixup_points,
    data_range,
    half_points,
    mixup_points,
    random_train_points,
    uniform_points,
)
from monojax.penalties.slopes import signed_slopes

__all__ = [
    "data_mixup_points",
    "data_range",
    "gradient_norm_penalty",
    "half_points",
    "latent_penalty",
    "mixup_points",
    "monotonicity_penalty",
    "path_penalty",
    "random_train_points",
    "signed_slopes",
    "uniform_points",
    "value_and_penalty",
]
