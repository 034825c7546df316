"""Predictions that may be withheld: the error among those that a score accepts, and calibration."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import check_number, check_width, is_concrete

BLOCK = 4096
"""Predictions whose gaps are added up first."""


def aurc(scores: Any, correct: Any) -> jax.Array:
    """Area under the risk-coverage curve: the mean error over all shares that can be accepted.

    Inputs are accepted from the highest score down. Among equal scores the order is random; the
    mean over orders is taken.

    Args:
      scores: of the predictions, `[n]`; higher means more certain.
      correct: whether each was right, bool `[n]`; numbers in [0, 1] are shares.

    Returns:
      `[]` in [0, 1]; lower is better. A constant score has the error rate.

    Raises:
      ValueError: on another shape, no predictions, NaN in concrete scores, values of ``correct``
        outside [0, 1].

    Reference:
      Geifman and El-Yaniv, NeurIPS 2017, arXiv 1705.08500.
    """
    wrong, _ = _accepted(scores, correct)
    return jnp.mean(jnp.cumsum(wrong) / jnp.arange(1, len(wrong) + 1))


def coverage_at_risk(scores: Any, correct: Any, *, risk: Any = 0.05) -> jax.Array:
    """Largest share of predictions that a threshold accepts with an error of at most ``risk``.

    Args:
      scores: of the predictions, `[n]`; higher means more certain.
      correct: whether each was right, bool `[n]`.
      risk: allowed share of errors among the accepted, in [0, 1].

    Returns:
      `[]` in [0, 1], 0 if no threshold does. Equal scores are accepted together.

    Raises:
      ValueError: as :func:`aurc`, and on a risk outside [0, 1].
    """
    check_number(risk, "risk", least=0, most=1)
    wrong, last = _accepted(scores, correct)
    number = jnp.arange(1, len(wrong) + 1)
    # Counts, not shares, are compared: 5 of 100 is 5%, however the division rounds.
    errors = jnp.cumsum(wrong)
    slack = 1e-5 * (1 + errors)
    kept = last & (errors <= jnp.asarray(risk, errors.dtype) * number + slack)
    return jnp.max(jnp.where(kept, number, 0)) / len(wrong)


def expected_calibration_error(confidence: Any, correct: Any, *, bins: int = 15) -> jax.Array:
    """How far confidences are from the shares that were right, over bins of equal width.

    Args:
      confidence: of the predictions, `[n]` in [0, 1].
      correct: whether each was right, bool `[n]`.
      bins: of [0, 1]; a value on an edge counts to the lower bin.

    Returns:
      `[]` in [0, 1]: the mean over predictions of the difference in their bin.

    Raises:
      ValueError: as :func:`aurc`, and on concrete confidences outside [0, 1].

    Reference:
      Guo et al., ICML 2017, arXiv 1706.04599.
    """
    check_width(bins, "bins")
    confidence, right = _pairs(confidence, correct)
    if is_concrete(confidence):
        found = np.asarray(confidence)
        if found.min() < 0 or found.max() > 1:
            raise ValueError(
                f"confidence must lie in [0, 1], got {found.min():g} to {found.max():g}."
            )
    confidence = jnp.asarray(confidence).astype(right.dtype)
    place = jnp.clip(jnp.ceil(confidence * bins) - 1, 0, bins - 1).astype(int)
    # Blocks first: added up one by one, millions of float32 numbers lose their last digits.
    fill = (0, -len(right) % BLOCK)
    gap = jnp.pad(confidence - right, fill).reshape(-1, BLOCK)
    place = jnp.pad(place, fill).reshape(-1, BLOCK)
    here = lambda b: jnp.sum(jnp.sum(jnp.where(place == b, gap, 0), axis=1))
    return jnp.sum(jnp.abs(jax.lax.map(here, jnp.arange(bins)))) / len(right)


def _accepted(scores: Any, correct: Any) -> tuple[jax.Array, jax.Array]:
    """Errors `[n]` from the highest score down, shared among ties; where a tie ends, bool `[n]`."""
    scores, right = _pairs(scores, correct)
    if is_concrete(scores):  # ranks keep the order where float32 would make scores equal
        _, ranks = np.unique(np.asarray(scores), return_inverse=True)
        scores = jnp.asarray(ranks.reshape(-1).astype(np.int32))
    order = jnp.argsort(scores)[::-1]
    rising, wrong = scores[order][::-1], (1 - right)[order]
    total = jnp.concatenate([jnp.zeros(1, wrong.dtype), jnp.cumsum(wrong)])
    # Never by -scores: what is unsigned has no negative.
    first = len(wrong) - jnp.searchsorted(rising, rising[::-1], side="right")
    after = len(wrong) - jnp.searchsorted(rising, rising[::-1], side="left")
    shared = (total[after] - total[first]) / (after - first)
    return shared, after == jnp.arange(1, len(wrong) + 1)


def _pairs(scores: Any, correct: Any) -> tuple[Any, jax.Array]:
    """Scores `[n]` as they were given, and shares of right answers, floating."""
    scores = scores if isinstance(scores, jax.Array) else np.asarray(scores)
    correct = correct if isinstance(correct, jax.Array) else np.asarray(correct)
    if scores.ndim != 1 or scores.size == 0 or correct.shape != scores.shape:
        raise ValueError(
            "scores and correct must have one shape [n] with n >= 1, got "
            f"{scores.shape} and {correct.shape}."
        )
    if is_concrete(scores) and np.isnan(np.asarray(scores, float)).any():
        raise ValueError("scores have NaN; drop or replace them first.")
    if is_concrete(correct):
        values = np.asarray(correct, float)
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError("correct must be True or False, or shares in [0, 1].")
    dtype = jnp.promote_types(jnp.result_type(float), jnp.float32)
    return scores, jnp.asarray(correct).astype(dtype)
