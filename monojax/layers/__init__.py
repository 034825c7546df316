"""Linen layers whose form guarantees a property."""

from monojax.layers.chain import Chain, Rotation
from monojax.layers.convex import ICNN, PairwiseICNN, PartialICNN, project_convex

__all__ = [
    "ICNN",
    "Chain",
    "PairwiseICNN",
    "PartialICNN",
    "Rotation",
    "project_convex",
]
