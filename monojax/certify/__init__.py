"""Proofs of monotonicity: sound bounds on slopes over boxes, and a search for counterexamples."""

from monojax.certify.audit import Audit, audit_monotone
from monojax.certify.bounds import BOUNDS, gradient_bounds
from monojax.certify.discover import Discovery, discover_monotone
from monojax.certify.interval import Interval
from monojax.certify.monotone import certify_monotone
from monojax.certify.program import CertifyError
from monojax.certify.result import Certificate

__all__ = [
    "BOUNDS",
    "Audit",
    "Certificate",
    "CertifyError",
    "Discovery",
    "Interval",
    "audit_monotone",
    "certify_monotone",
    "discover_monotone",
    "gradient_bounds",
]
