"""Measured properties. A metric can refute a property; it cannot prove one."""

from monojax.metrics.detection import auroc, detection_rate_at_equal_error
from monojax.metrics.lipschitz import adjacent_differences, empirical_lipschitz, local_gains
from monojax.metrics.lipschitz_search import Extremes, exact_lipschitz_1d, search_lipschitz
from monojax.metrics.monotonicity import (
    MonotonicityReport,
    monotonicity_report,
    violation_rate,
    violations,
)

__all__ = [
    "Extremes",
    "MonotonicityReport",
    "adjacent_differences",
    "auroc",
    "detection_rate_at_equal_error",
    "empirical_lipschitz",
    "exact_lipschitz_1d",
    "local_gains",
    "monotonicity_report",
    "search_lipschitz",
    "violation_rate",
    "violations",
]
