"""Group monotonicity: feature maps divided among the classes."""

from typing import Any

from monojax.base.checks import check_maps
from monojax.groups.penalty import group_logits, group_penalty
from monojax.groups.reading import (
    ActivationReading,
    ClassReport,
    DetectionScores,
    activation_classifier,
    class_report,
    class_shares,
    detection_scores,
)
from monojax.groups.slices import class_slices, total_activation

__all__ = [
    "ActivationReading",
    "ClassReport",
    "DetectionScores",
    "activation_classifier",
    "check_maps",
    "class_report",
    "class_shares",
    "class_slices",
    "detection_scores",
    "group_logits",
    "group_penalty",
    "total_activation",
]


def __getattr__(name: str) -> Any:
    if name == "ExtraMaps":
        # No AttributeError: an import would hide its text.
        raise ImportError("monojax.groups.ExtraMaps is monojax.models.ExtraMaps now.")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
