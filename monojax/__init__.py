"""Monotone and bi-Lipschitz networks in JAX: soft, hard, dual and hidden ways to monotonicity."""

import importlib as _importlib
from importlib import metadata as _metadata
from pathlib import Path as _Path
from typing import Any as _Any

from monojax import (
    attribution,
    bilipschitz,
    certify,
    compact,
    conjugate,
    exporting,
    groups,
    layers,
    metrics,
    penalties,
    splitting,
    uncertainty,
)
from monojax.base import registry as _registry
from monojax.base.directions import check_directions
from monojax.bilipschitz.conv import ConvBLNN
from monojax.bilipschitz.dense import BLNN
from monojax.bilipschitz.partial import PartialBLNN
from monojax.certify import (
    Audit,
    Certificate,
    Discovery,
    audit_monotone,
    certify_monotone,
    discover_monotone,
)
from monojax.compact.contrastive import supcon_loss
from monojax.exporting import export, load_exported
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
from monojax.uncertainty import DUQ

__all__ = [
    "BLNN",
    "DUQ",
    "Audit",
    "Certificate",
    "ConvBLNN",
    "Discovery",
    "PartialBLNN",
    "SplitPair",
    "attribution",
    "audit_monotone",
    "bilipschitz",
    "certify",
    "certify_monotone",
    "check_directions",
    "compact",
    "conjugate",
    "data",
    "data_mixup_points",
    "data_range",
    "discover_monotone",
    "estimators",
    "export",
    "exporting",
    "group_penalty",
    "groups",
    "half_points",
    "layers",
    "load",
    "load_exported",
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
    "uncertainty",
    "uniform_points",
    "value_and_penalty",
]

__version__ = _metadata.version("monojax")

# Imported when they are first asked for, so that `import monojax` stays cheap.
_LATER = ("data", "estimators", "models", "training")
_registry.publish(__name__)
_registry.publish_later("monojax.models")


def __getattr__(name: str) -> _Any:
    """Imports a room at its first use."""
    if name in _LATER:
        return _importlib.import_module(f"monojax.{name}")
    raise AttributeError(f"module 'monojax' has no attribute {name!r}{_elsewhere(name)}")


def _elsewhere(name: str) -> str:
    """Which rooms export a name, from their texts: nothing is imported to say it."""
    if name.startswith("_"):
        return ""
    top = _Path(__file__).parent
    listed = lambda file: f'"{name}"' in file.read_text(encoding="utf-8").partition("__all__")[2]
    for pattern in ("*/**/__init__.py", "*/*.py"):  # rooms first, then modules inside them
        if found := [file for file in sorted(top.glob(pattern)) if listed(file)]:
            break
    parts = [file.relative_to(top).with_suffix("").parts for file in found]
    places = [".".join(("mj", *(p for p in each if p != "__init__"), name)) for each in parts]
    return f"; did you mean {' or '.join(places)}?" if places else ""


def __dir__() -> list[str]:
    """All public names, those of rooms that are not imported yet included."""
    return sorted({*globals(), *_LATER})
