"""Convex conjugates by an optax inner loop, differentiated implicitly."""

from monojax.conjugate.activations import Activation, as_activation, softplus
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
    "newton",
    "report",
    "softplus",
]
