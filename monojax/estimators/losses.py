"""Losses of one row, on the scale that is trained on, and the links back to the target's units."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

REGRESSION = ("squared", "quantile", "poisson", "gamma")
LOG_LIMIT = 30.0
"""Logarithms of predicted means are used between -LOG_LIMIT and LOG_LIMIT around the average."""


def row_losses(
    loss: str, f: jax.Array, y: jax.Array, offset: jax.Array, steps: jax.Array, quantile: jax.Array
) -> jax.Array:
    """Loss of each row.

    Args:
      loss: one of REGRESSION, "logistic", "ordered", "softmax".
      f: outputs of the network `[n, k]`.
      y: float `[n]`: scaled targets, or class numbers 0..K-1.
      offset: `[k]`, added to the outputs of classifiers.
      steps: raw gaps between the thresholds of ordered classes `[K-2]`.
      quantile: `[]`.

    Returns:
      `[n]`.
    """
    if loss == "squared":
        return jnp.square(f[:, 0] - y)
    if loss == "quantile":
        gap = y - f[:, 0]
        return jnp.maximum(quantile * gap, (quantile - 1) * gap)
    if loss in ("poisson", "gamma"):
        eta = jnp.clip(f[:, 0], -LOG_LIMIT, LOG_LIMIT)
        return jnp.exp(eta) - y * eta if loss == "poisson" else y * jnp.exp(-eta) + eta
    scores = f + jnp.broadcast_to(offset, f.shape)
    if loss == "softmax":
        labels = y.astype(jnp.int32)
        return -jnp.take_along_axis(jax.nn.log_softmax(scores), labels[:, None], axis=1)[:, 0]
    cuts = thresholds(steps)
    above = scores[:, :1] - jnp.broadcast_to(cuts, (len(y), cuts.size))  # P(y >= k), k = 1..K-1
    labels = y.astype(jnp.int32)[:, None]
    if loss == "logistic":
        return jax.nn.softplus(above[:, 0]) - y * above[:, 0]
    # log P(y = k) = log(s(a) - s(b)), a > b: log s(a) + log s(-b) + log(1 - e^(b - a)).
    upper = _take(above, labels - 1, jnp.inf)
    lower = _take(above, labels, -jnp.inf)
    inside = jnp.isfinite(upper) & jnp.isfinite(lower)
    gap = jnp.where(inside, lower - upper, -1.0)
    cross = jnp.where(inside, jnp.log(-jnp.expm1(jnp.minimum(gap, -1e-6))), 0.0)
    log_up = jnp.where(jnp.isfinite(upper), jax.nn.log_sigmoid(_finite(upper)), 0.0)
    log_down = jnp.where(jnp.isfinite(lower), jax.nn.log_sigmoid(-_finite(lower)), 0.0)
    return -(log_up + log_down + cross)


def _finite(x: jax.Array) -> jax.Array:
    return jnp.where(jnp.isfinite(x), x, 0.0)


def _take(above: jax.Array, index: jax.Array, outside: float) -> jax.Array:
    """Column ``index`` of each row, a constant where there is none."""
    count = above.shape[1]
    there = (index >= 0) & (index < count)
    picked = jnp.take_along_axis(above, jnp.clip(index, 0, count - 1), axis=1)
    return jnp.where(there, picked, outside)[:, 0]


def thresholds(steps: Any) -> jax.Array:
    """Where P(y >= k) is a half, k = 1..K-1: rising, the first one 0; `[K-1]` from `[K-2]`."""
    gaps = jax.nn.softplus(jnp.asarray(steps)) + 1e-3
    return jnp.concatenate([jnp.zeros(1, gaps.dtype), jnp.cumsum(gaps)])


@dataclasses.dataclass(frozen=True)
class Link:
    """From a network's outputs f to scores: ``offset + scale * f``; targets are scaled likewise."""

    loss: str
    offset: np.ndarray
    """float64 `[k]`."""
    scale: float
    start: np.ndarray
    """Initial raw gaps of the thresholds of ordered classes `[K-2]`."""

    @classmethod
    def fitted(cls, loss: str, y: np.ndarray, weights: np.ndarray, classes: int = 0) -> "Link":
        """The link whose constant prediction is the best one.

        Args:
          loss: as in :func:`row_losses`.
          y: float64 `[n]`: targets, or class numbers.
          weights: float64 `[n]`, their sum > 0.
          classes: K, for a classifier.

        Returns:
          Link.
        """
        none = np.zeros(0)
        if loss in ("squared", "quantile"):
            mean = np.average(y, weights=weights)
            spread = float(np.sqrt(np.average((y - mean) ** 2, weights=weights)))
            return cls(loss, np.asarray([mean]), spread, none)
        if loss in ("poisson", "gamma"):
            return cls(loss, np.log(np.average(y, weights=weights, keepdims=True)), 1.0, none)
        share = np.bincount(y.astype(int), weights, minlength=classes) / weights.sum()
        share = np.clip(share, 1e-6, None) / np.clip(share, 1e-6, None).sum()
        if loss == "softmax":
            return cls(loss, np.log(share), 1.0, none)
        above = np.cumsum(share[::-1])[::-1][1:]  # P(y >= k), k = 1..K-1
        logits = np.log(above) - np.log1p(-above)
        gaps = np.maximum(-np.diff(logits) - 1e-3, 1e-3)
        return cls(loss, logits[:1], 1.0, np.log(np.expm1(gaps)))

    def scaled(self, y: np.ndarray) -> np.ndarray:
        """Targets as they are trained on, float64 `[n]`."""
        if self.loss in ("squared", "quantile"):
            return (y - self.offset[0]) / self.scale
        return y / np.exp(self.offset[0]) if self.loss in ("poisson", "gamma") else y

    def trained_offset(self) -> np.ndarray:
        """What is added to the outputs in the loss, `[k]`: 0 where the targets are scaled."""
        return np.zeros(1) if self.loss in REGRESSION else self.offset

    def scores(self, f: Any) -> Any:
        """Outputs `[..., k]` in the units of the link; rises in f, elementwise."""
        if self.loss in ("poisson", "gamma"):
            f = f.clip(-LOG_LIMIT, LOG_LIMIT)
        return f * self.scale + self.offset.reshape((1,) * (f.ndim - 1) + (-1,))

    def means(self, f: Any, numpy: Any = np) -> Any:
        """Predictions `[..., k]` of a regressor, in the target's units."""
        scores = self.scores(f)
        return numpy.exp(scores) if self.loss in ("poisson", "gamma") else scores
