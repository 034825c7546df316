"""Estimators with scikit-learn's face: columns that push the answer up or down, certified."""

from monojax.estimators.classifier import MonotoneClassifier
from monojax.estimators.dependence import Dependence
from monojax.estimators.regressor import MonotoneRegressor

__all__ = ["Dependence", "MonotoneClassifier", "MonotoneRegressor"]
