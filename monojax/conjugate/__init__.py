"""Convex conjugates by an optax inner loop, differentiated implicitly."""

from typing import Any

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
from monojax.conjugate.icnn import ICNNPotential
from monojax.conjugate.legendre import Conjugate, conjugate
from monojax.conjugate.newton import newton
from monojax.conjugate.potentials import DENSE_LIMIT, Potential, ScaledICNN
from monojax.conjugate.reports import SolveReport, solve_report
from monojax.conjugate.solvers import METHODS, Solver

__all__ = [
    "DENSE_LIMIT",
    "METHODS",
    "Activation",
    "Conjugate",
    "ICNNPotential",
    "Potential",
    "ScaledICNN",
    "SolveReport",
    "Solver",
    "as_activation",
    "conjugate",
    "fenchel_young_loss",
    "newton",
    "softplus",
    "solve_report",
]

registry.publish(__name__, Activation, Solver, SoftplusSlopes, SoftplusValue, squared_relu)

_RENAMED = {"report": "solve_report", "Report": "SolveReport", "ICNN": "ICNNPotential"}


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        raise AttributeError(f"monojax.conjugate.{name} is named {_RENAMED[name]} now.")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
