"""Group monotonicity: feature maps divided among the classes."""

from monojax.groups.penalty import (
    ActivationReading,
    ClassReport,
    DetectionScores,
    ExtraMaps,
    activation_classifier,
    check_maps,
    class_report,
    class_shares,
    class_slices,
    detection_scores,
    group_logits,
    group_penalty,
    total_activation,
)

__all__ = [
    "ActivationReading",
    "ClassReport",
    "DetectionScores",
    "ExtraMaps",
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
