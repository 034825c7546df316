"""Measured properties. A metric can refute a property; :mod:`monojax.certify` proves one."""

from monojax.metrics.monotonicity import (
    MonotonicityReport,
    monotonicity_report,
    violation_rate,
    violations,
)

__all__ = [
    "MonotonicityReport",
    "monotonicity_report",
    "violation_rate",
    "violations",
]
