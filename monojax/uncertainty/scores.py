"""Scores of logits, higher for inputs that look familiar, and a threshold on any score."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import check_positive, count_of_share


def max_softmax(logits: Any) -> jax.Array:
    """The largest probability of a softmax.

    Args:
      logits: `[..., c]`, floating.

    Returns:
      `[...]` in [1/c, 1].

    Reference:
      Hendrycks and Gimpel, ICLR 2017, arXiv 1610.02136.
    """
    logits = _logits(logits)
    return jnp.exp(jnp.max(logits, axis=-1) - jax.nn.logsumexp(logits, axis=-1))


def energy(logits: Any, *, temperature: Any = 1.0) -> jax.Array:
    """The negative free energy, ``T logsumexp(logits / T)``.

    Args:
      logits: `[..., c]`, floating.
      temperature: T > 0.

    Returns:
      `[...]`, unbounded.

    Reference:
      Liu et al., NeurIPS 2020, arXiv 2010.03759.
    """
    check_positive(temperature, "temperature")
    logits = _logits(logits)
    temperature = jnp.asarray(temperature, logits.dtype)
    return temperature * jax.nn.logsumexp(logits / temperature, axis=-1)


def negative_entropy(logits: Any) -> jax.Array:
    """Minus the entropy of a softmax, in nats; logarithms of probabilities are logits, too.

    Args:
      logits: `[..., c]`, floating.

    Returns:
      `[...]` in [-log c, 0].
    """
    log_p = jax.nn.log_softmax(_logits(logits), axis=-1)
    p = jnp.exp(log_p)
    gone = p == 0  # not where it is NaN, which is passed on
    return jnp.sum(jnp.where(gone, 0, p * jnp.where(gone, 0, log_p)), axis=-1)


def threshold(familiar_scores: Any, coverage: float) -> float:
    """The score at which a wished share of familiar inputs is accepted.

    It is the k-th largest of n scores with k the least whole number of at least ``coverage * n``,
    so at least that share of the given ones is accepted. Of new inputs of the same kind, drawn
    independently, a share of k / (n + 1) or more is to be expected.

    Args:
      familiar_scores: of inputs that were held out of training, `[n]`, concrete.
      coverage: in (0, 1).

    Returns:
      t; an input is familiar where its score is at least t.

    Raises:
      ValueError: on a coverage outside (0, 1), no scores, or NaN among them.

    Example:
      >>> threshold([0.1, 0.4, 0.8, 0.9], 0.75)
      0.4
    """
    scores = np.asarray(familiar_scores)
    if scores.ndim != 1 or scores.size == 0:
        raise ValueError(f"familiar_scores must have shape [n] with n >= 1, got {scores.shape}.")
    if np.isnan(scores.astype(float)).any():
        raise ValueError("familiar_scores has NaN; drop or replace them first.")
    check_coverage(coverage)
    return float(np.sort(scores)[len(scores) - count_of_share(coverage, len(scores))])


def check_coverage(coverage: Any) -> None:
    """Raises ValueError unless ``coverage`` is one number in (0, 1)."""
    if np.shape(coverage) != () or not 0 < float(coverage) < 1:
        raise ValueError(
            f"coverage must lie in (0, 1), such as 0.95 to accept 95% of familiar inputs; got "
            f"{coverage!r}."
        )


def _logits(logits: Any) -> jax.Array:
    """Floating `[..., c]`, in at least float32."""
    logits = jnp.asarray(logits)
    if logits.ndim < 1 or logits.shape[-1] < 1:
        raise ValueError(f"logits must have shape [..., c] with c >= 1, got {logits.shape}.")
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"logits must be floating point, got {logits.dtype}.")
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
