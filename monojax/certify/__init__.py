"""Proofs of monotonicity: sound bounds on slopes over boxes, and a search for counterexamples."""

from monojax.certify.bounds import BOUNDS, gradient_bounds
from monojax.certify.interval import Interval
from monojax.certify.monotone import certify_monotone
from monojax.certify.program import CertifyError
from monojax.certify.result import Certificate

__all__ = [
    "BOUNDS",
    "Certificate",
    "CertifyError",
    "Interval",
    "certify_monotone",
    "gradient_bounds",
]
