"""Monotone and bi-Lipschitz networks in JAX: soft, hard, dual and hidden ways to monotonicity."""

from importlib import metadata

from monojax import attribution, conjugate, groups, layers, metrics, penalties, splitting
from monojax.base import registry
from monojax.base.directions import check_directions
from monojax.bilipschitz.conv import ConvBLNN
from monojax.bilipschitz.dense import BLNN, PartialBLNN
from monojax.compact.contrastive import supcon_loss
from monojax.groups.penalty import group_penalty, total_activation
from monojax.penalties.gradient import monotonicity_penalty, value_and_penalty
from monojax.penalties.regions import (
    data_mixup_points,
    data_range,
    half_points,
    mixup_points,
    random_train_points,
    uniform_points,
)
from monojax.saving import load, save
from monojax.splitting import SplitPair, split, split_report, tag

__all__ = [
    "BLNN",
    "ConvBLNN",
    "PartialBLNN",
    "SplitPair",
    "attribution",
    "check_directions",
    "conjugate",
    "data_mixup_points",
    "data_range",
    "group_penalty",
    "groups",
    "half_points",
    "layers",
    "load",
    "metrics",
    "mixup_points",
    "monotonicity_penalty",
    "penalties",
    "random_train_points",
    "save",
    "split",
    "split_report",
    "splitting",
    "supcon_loss",
    "tag",
    "total_activation",
    "uniform_points",
    "value_and_penalty",
]

__version__ = metadata.version("monojax")
registry.publish(__name__)
registry.publish_later("monojax.models")
