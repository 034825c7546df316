"""Knowing what a network does not know: DUQ, scores of unfamiliar inputs, certificates of them."""

from monojax.base import registry
from monojax.uncertainty.certified import largest_certainty, unfamiliarity_radius
from monojax.uncertainty.densities import GaussianDensity, Mahalanobis
from monojax.uncertainty.ensemble import DeepEnsemble
from monojax.uncertainty.gaussian_process import RandomFeatureGP
from monojax.uncertainty.head import DUQ
from monojax.uncertainty.kernels import kernel_loss, log_kernels
from monojax.uncertainty.scores import energy, max_softmax, negative_entropy, threshold

__all__ = [
    "DUQ",
    "DeepEnsemble",
    "GaussianDensity",
    "Mahalanobis",
    "RandomFeatureGP",
    "energy",
    "kernel_loss",
    "largest_certainty",
    "log_kernels",
    "max_softmax",
    "negative_entropy",
    "threshold",
    "unfamiliarity_radius",
]

registry.publish(__name__)
