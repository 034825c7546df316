"""Gaussians fitted to features: the density per class, and the distance to the nearest class."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from monojax.base.checks import check_labels, check_number, check_points, check_width, is_concrete
from monojax.base.labels import known_labels

RIDGE = 1e-6
"""First multiple of the mean variance that is added to the diagonal where nothing else is said."""


class GaussianDensity(struct.PyTreeNode):
    """One Gaussian per class with a covariance of its own, weighted by the classes' shares.

    The score is the logarithm of the density of the mixture: features unlike those of every class
    score low. The features should keep distances, as those of a network with a lower slope bound.

    Example:
      >>> h, y = jnp.eye(4)[:, :2], jnp.array([0, 0, 1, 1])
      >>> GaussianDensity.fit(h, y, 2).score(h).shape
      (4,)

    Reference:
      Mukhoti et al., Deep Deterministic Uncertainty, CVPR 2023, arXiv 2102.11582.
    """

    means: jax.Array
    """`[c, p]`."""
    factors: jax.Array
    """`[c, p, p]`: Cholesky factors of the covariances."""
    log_shares: jax.Array
    """`[c]`: logarithms of the classes' shares of the examples."""

    @classmethod
    def fit(
        cls, features: Any, labels: Any, num_classes: int, *, ridge: Any = RIDGE
    ) -> "GaussianDensity":
        """Means and covariances of the classes.

        Args:
          features: `[n, p]`, floating.
          labels: integers `[n]` in [0, num_classes).
          num_classes: c.
          ridge: added to every covariance's diagonal, as a multiple of its mean variance; ten
            times more each time the factorisation fails.

        Returns:
          The fitted density; a pytree, to be used under `jax.jit` as it is.

        Raises:
          ValueError: on labels outside the classes, a class without two examples, other shapes.
        """
        gaps, own, means = _by_class(features, labels, num_classes, ridge)
        number = own.sum(axis=0)
        factor = lambda weights: _factor(gaps * weights[:, None], weights.sum(), ridge)
        return cls(means, jax.vmap(factor)(own.T), jnp.log(number / number.sum()))

    def score(self, features: Any) -> jax.Array:
        """Logarithm of the mixture's density.

        Args:
          features: `[n, p]`, floating.

        Returns:
          `[n]`.
        """
        return jax.nn.logsumexp(self.log_densities(features), axis=1)

    def log_densities(self, features: Any) -> jax.Array:
        """Logarithms of the classes' densities times their shares, `[n, c]`."""
        features = _features(features, self.means)
        distances = jax.vmap(_distances, (None, 0, 0))(features, self.means, self.factors)
        # Half of the determinant's logarithm, and the constant of p dimensions.
        logs = jnp.log(jnp.diagonal(self.factors, axis1=1, axis2=2)).sum(axis=1)
        logs = logs + features.shape[1] * np.log(2 * np.pi) / 2
        return (self.log_shares - logs)[None] - distances.T / 2


class Mahalanobis(struct.PyTreeNode):
    """Distance to the nearest class mean under one covariance for all classes.

    Reference:
      Lee et al., NeurIPS 2018, arXiv 1807.03888 (without its input preprocessing).
    """

    means: jax.Array
    """`[c, p]`."""
    factor: jax.Array
    """`[p, p]`: Cholesky factor of the covariance within classes."""

    @classmethod
    def fit(
        cls, features: Any, labels: Any, num_classes: int, *, ridge: Any = RIDGE
    ) -> "Mahalanobis":
        """Class means and the covariance within classes.

        Args:
          features: `[n, p]`, floating.
          labels: integers `[n]` in [0, num_classes).
          num_classes: c.
          ridge: as in :meth:`GaussianDensity.fit`.

        Returns:
          The fitted model; a pytree.

        Raises:
          ValueError: as :meth:`GaussianDensity.fit`.
        """
        gaps, _, means = _by_class(features, labels, num_classes, ridge)
        return cls(means, _factor(gaps, jnp.asarray(len(gaps), gaps.dtype), ridge))

    def score(self, features: Any) -> jax.Array:
        """Minus the squared distance to the nearest mean.

        Args:
          features: `[n, p]`, floating.

        Returns:
          `[n]`, <= 0.
        """
        features = _features(features, self.means)
        distances = jax.vmap(_distances, (None, 0, None))(features, self.means, self.factor)
        return -jnp.min(distances, axis=0)


def _by_class(
    features: Any, labels: Any, num_classes: int, ridge: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gaps of the rows from their class's mean, in at least float32; ones per class; the means.

    Less the first row of its class, a class keeps its digits far from the origin and beside any
    other. Rows of a traced label that is no class are NaN, and so is the fit.
    """
    check_width(num_classes, "num_classes")
    check_number(ridge, "ridge", least=0)
    features = check_points(features, "features")
    labels = check_labels(labels, len(features), num_classes)
    if is_concrete(labels):
        number = np.bincount(np.asarray(labels), minlength=num_classes)
        if (number < 2).any():
            few = np.flatnonzero(number < 2)
            raise ValueError(
                f"classes {few.tolist()} have fewer than 2 examples: a Gaussian needs 2 or more. "
                "Give more rows, or number the classes that there are."
            )
    features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
    own = jax.nn.one_hot(labels, num_classes, dtype=features.dtype)
    own = jnp.where(known_labels(labels, num_classes)[:, None], own, jnp.nan)
    rows = jnp.clip(labels, 0, num_classes - 1)
    origins = features[jnp.argmax(own > 0, axis=0)]
    beside = features - origins[rows]
    shifts = (own / own.sum(axis=0)[None]).T @ beside
    return beside - shifts[rows], own, origins + shifts


def _features(features: Any, means: jax.Array) -> jax.Array:
    features = jnp.asarray(features)
    if features.ndim != 2 or features.shape[1] != means.shape[1]:
        raise ValueError(f"features must have shape [n, {means.shape[1]}], got {features.shape}.")
    return features.astype(jnp.promote_types(features.dtype, means.dtype))


def _distances(features: jax.Array, mean: jax.Array, factor: jax.Array) -> jax.Array:
    """Squared distances `[n]` to one mean."""
    gaps = (features - mean[None]).T
    solved = jax.scipy.linalg.solve_triangular(factor, gaps, lower=True)
    return jnp.sum(jnp.square(solved), axis=0)


def _factor(gaps: jax.Array, number: jax.Array, ridge: Any) -> jax.Array:
    """Cholesky factor of the gaps' covariance and as much of the identity as it takes."""
    scale = _scale(gaps)
    covariance = (gaps / scale).T @ (gaps / scale) / number
    eye = jnp.eye(covariance.shape[0], dtype=covariance.dtype)
    size = jnp.trace(covariance) / covariance.shape[0] + jnp.finfo(covariance.dtype).tiny
    least = jnp.finfo(covariance.dtype).eps

    def failed(state):
        factor, _, tries = state
        return ~jnp.isfinite(factor).all() & (tries < 8)

    def again(state):
        _, share, tries = state
        share = jnp.maximum(10 * share, least)
        return jnp.linalg.cholesky(covariance + share * size * eye), share, tries + 1

    share = jnp.asarray(ridge, covariance.dtype)
    start = jnp.linalg.cholesky(covariance + share * size * eye), share, jnp.zeros((), int)
    return jax.lax.while_loop(failed, again, start)[0] * scale


def _scale(gaps: jax.Array) -> jax.Array:
    """1; if squares would leave the range, the power of 2 that brings the largest gap near 1."""
    info = jnp.finfo(gaps.dtype)
    largest = jnp.max(jnp.abs(gaps))
    fits = (largest > float(info.tiny) ** 0.4) & (largest < float(info.max) ** 0.4)
    _, power = jnp.frexp(jnp.where(fits | ~(largest > 0), 1, largest))
    power = jnp.clip(power - 1, info.minexp + 1, info.maxexp - 2)
    return jnp.ldexp(jnp.ones((), gaps.dtype), power)
