"""Convex conjugates by an optax inner loop, differentiated implicitly."""

from monojax.conjugate.legendre import Conjugate, Report, conjugate, report
from monojax.conjugate.newton import newton
from monojax.conjugate.solvers import DENSE_LIMIT, METHODS, Solver

__all__ = [
    "DENSE_LIMIT",
    "METHODS",
    "Conjugate",
    "Report",
    "Solver",
    "conjugate",
    "newton",
    "report",
]
