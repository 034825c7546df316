"""Measured properties. A metric can refute a property; it cannot prove one."""

from monojax.metrics.detection import auroc, detection_rate_at_equal_error
from monojax.metrics.detection_curves import auprc, fpr_at_tpr
from monojax.metrics.disentanglement import DCI, dci, mig, sap, spearman
from monojax.metrics.embedding import (
    clustermap_order,
    effective_dimension,
    feature_correlation,
    principal_axes,
    reconstruction_error,
    rms_off_diagonal,
    sts_score,
)
from monojax.metrics.intervals import Interval, bootstrap, mean_interval
from monojax.metrics.lipschitz import adjacent_differences, empirical_lipschitz, local_gains
from monojax.metrics.lipschitz_search import Extremes, exact_lipschitz_1d, search_lipschitz
from monojax.metrics.monotonicity import (
    MonotonicityReport,
    monotonicity_report,
    violation_rate,
    violations,
)
from monojax.metrics.neighbours import nearest
from monojax.metrics.retrieval import knn_accuracy, recall_at_k
from monojax.metrics.selective import aurc, coverage_at_risk, expected_calibration_error

__all__ = [
    "DCI",
    "Extremes",
    "Interval",
    "MonotonicityReport",
    "adjacent_differences",
    "auprc",
    "aurc",
    "auroc",
    "bootstrap",
    "clustermap_order",
    "coverage_at_risk",
    "dci",
    "detection_rate_at_equal_error",
    "effective_dimension",
    "empirical_lipschitz",
    "exact_lipschitz_1d",
    "expected_calibration_error",
    "feature_correlation",
    "fpr_at_tpr",
    "knn_accuracy",
    "local_gains",
    "mean_interval",
    "mig",
    "monotonicity_report",
    "nearest",
    "principal_axes",
    "recall_at_k",
    "reconstruction_error",
    "rms_off_diagonal",
    "sap",
    "search_lipschitz",
    "spearman",
    "sts_score",
    "violation_rate",
    "violations",
]
