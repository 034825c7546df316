"""Convex conjugates by an optax inner loop, differentiated implicitly."""

from monojax.base import registry
from monojax.conjugate.activations import (
    Activation,
    SoftplusSlopes,
    SoftplusValue,
    as_activation,
    softplus,
    squared_relu,
)
from monojax.conjugate.fenchel_young import fenchel_young_loss
from monojax.conjugate.legendre import Conjugate, Report, conjugate, report
from monojax.conjugate.newton import newton
from monojax.conjugate.solvers import DENSE_LIMIT, METHODS, Solver

__all__ = [
    "DENSE_LIMIT",
    "METHODS",
    "Activation",
    "Conjugate",
    "Report",
    "Solver",
    "as_activation",
    "conjugate",
    "fenchel_young_loss",
    "newton",
    "report",
    "softplus",
]

registry.publish(__name__, Activation, Solver, SoftplusSlopes, SoftplusValue, squared_relu)
