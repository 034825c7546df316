"""Estimators with scikit-learn's face: kept directions, and certainties that can be trusted."""

from monojax.estimators.classifier import MonotoneClassifier
from monojax.estimators.dependence import Dependence
from monojax.estimators.duq import DUQClassifier
from monojax.estimators.regressor import MonotoneRegressor

__all__ = ["DUQClassifier", "Dependence", "MonotoneClassifier", "MonotoneRegressor"]
