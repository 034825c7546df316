"""Monotone and bi-Lipschitz networks in JAX: soft, hard, dual and hidden ways to monotonicity."""

import importlib as _importlib
from importlib import metadata as _metadata
from typing import Any as _Any

from monojax import (
    attribution,
    bilipschitz,
    compact,
    conjugate,
    groups,
    layers,
    metrics,
    penalties,
    splitting,
)
from monojax.base import registry as _registry
from monojax.base.directions import check_directions
from monojax.bilipschitz.conv import ConvBLNN
from monojax.bilipschitz.dense import BLNN
from monojax.bilipschitz.partial import PartialBLNN
from monojax.compact.contrastive import supcon_loss
from monojax.groups import group_penalty, total_activation
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
    "bilipschitz",
    "check_directions",
    "compact",
    "conjugate",
    "data",
    "data_mixup_points",
    "data_range",
    "group_penalty",
    "groups",
    "half_points",
    "layers",
    "load",
    "metrics",
    "mixup_points",
    "models",
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
    "training",
    "uniform_points",
    "value_and_penalty",
]

__version__ = _metadata.version("monojax")

# Imported when they are first asked for, so that `import monojax` stays cheap.
_LATER = ("data", "models", "training")
_registry.publish(__name__)
_registry.publish_later("monojax.models")


def __getattr__(name: str) -> _Any:
    """Imports a room at its first use."""
    if name in _LATER:
        return _importlib.import_module(f"monojax.{name}")
    raise AttributeError(f"module 'monojax' has no attribute {name!r}")


def __dir__() -> list[str]:
    """All public names, those of rooms that are not imported yet included."""
    return sorted({*globals(), *_LATER})
