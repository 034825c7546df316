"""Scores of total activations that are calibrated on the training data: two-sided.

A share of the activation cannot tell much from little: an image with more ink than any digit has
larger shares, and looks more familiar than a digit. A density does: too much is as strange as too
little.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from monojax.groups import class_shares
from monojax.uncertainty import GaussianDensity

ROWS = 20_000
"""Training images that the densities are fitted to, at most."""
RIDGE = 1e-3
"""Of the covariances: shares sum to 1, so that one direction has no variance."""

Scores = Callable[[np.ndarray], dict[str, Any]]


def calibrated_scores(totals: np.ndarray, labels: np.ndarray, num_classes: int) -> Scores:
    """Fits the densities.

    Args:
      totals: total activations of training images, `[n, K]`, >= 0.
      labels: of the images `[n]`.
      num_classes: K.

    Returns:
      Function of totals `[m, K]` to ``{"density", "share_density"}``, each `[m]`, higher is more
      familiar: the class-conditional density of the logarithms of the totals, and that of the
      shares with the logarithm of their sum.
    """
    floor = 0.01 * float(np.mean(totals)) + float(np.finfo(np.float32).tiny)
    logs = lambda totals: jnp.log(jnp.asarray(totals) + floor)

    def shares(totals):
        mass = jnp.sum(jnp.asarray(totals), axis=1, keepdims=True)
        return jnp.concatenate([class_shares(jnp.asarray(totals)), jnp.log(mass + floor)], axis=1)

    fit = lambda h: GaussianDensity.fit(h, labels, num_classes, ridge=RIDGE)
    density, share_density = fit(logs(totals)), fit(shares(totals))
    return lambda totals: {
        "density": density.score(logs(totals)),
        "share_density": share_density.score(shares(totals)),
    }
