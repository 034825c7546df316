"""Linen layers whose form guarantees a property."""

from monojax.base import registry
from monojax.layers.chain import Chain, Rotation
from monojax.layers.convex import ICNN, PairwiseICNN, PartialICNN, project_convex
from monojax.layers.convex_conv import ConvICNN
from monojax.layers.difference import ConvexMLP, DCNetwork
from monojax.layers.lipschitz import (
    LMN,
    AOLConv,
    AOLDense,
    BiLipNet,
    CayleyConv,
    CayleyDense,
    LipschitzMLP,
    MonLipDense,
    NormDense,
    SandwichConv,
    SandwichDense,
    SLLConv,
    SLLDense,
    SpectralDense,
    group_sort,
)
from monojax.layers.lmn import lmn_bound
from monojax.layers.min_max import SmoothMinMax
from monojax.layers.monotone import MonotoneMLP
from monojax.layers.monotone_head import MonotoneHead
from monojax.layers.nonnegative import NonNegativeDense, nonnegative_init
from monojax.layers.scalable_monotone import ScalableMonotoneNetwork

__all__ = [
    "ICNN",
    "LMN",
    "AOLConv",
    "AOLDense",
    "BiLipNet",
    "CayleyConv",
    "CayleyDense",
    "Chain",
    "ConvICNN",
    "ConvexMLP",
    "DCNetwork",
    "LipschitzMLP",
    "MonLipDense",
    "MonotoneHead",
    "MonotoneMLP",
    "NonNegativeDense",
    "NormDense",
    "PairwiseICNN",
    "PartialICNN",
    "Rotation",
    "SLLConv",
    "SLLDense",
    "SandwichConv",
    "SandwichDense",
    "ScalableMonotoneNetwork",
    "SmoothMinMax",
    "SpectralDense",
    "group_sort",
    "lmn_bound",
    "nonnegative_init",
    "project_convex",
]

registry.publish(__name__)
