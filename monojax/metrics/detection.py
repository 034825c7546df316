"""How well a score tells normal inputs from unfamiliar ones; higher scores mean more normal."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import is_concrete


def auroc(normal: Any, unfamiliar: Any) -> jax.Array:
    """Area under the ROC curve: the chance that a normal input scores above an unfamiliar one.

    Args:
      normal: scores of normal inputs, `[n]`; higher means more normal.
      unfamiliar: scores of inputs that should be noticed, `[m]`.

    Returns:
      `[]` in [0, 1]; equal scores count 1/2, so a constant score has 0.5.

    Raises:
      ValueError: on another rank, no scores, or NaN in concrete scores.
    """
    normal, unfamiliar = check_scores(normal, unfamiliar)
    unfamiliar = jnp.sort(unfamiliar)
    below = jnp.searchsorted(unfamiliar, normal, side="left")
    not_above = jnp.searchsorted(unfamiliar, normal, side="right")
    # Counts divided before they are averaged: their sum would not fit an int32 or a float32.
    return jnp.mean((below + not_above) / (2 * len(unfamiliar)))


def detection_rate_at_equal_error(normal: Any, unfamiliar: Any) -> jax.Array:
    """Share of unfamiliar inputs noticed where as large a share of the normal ones is accepted.

    The threshold is the one at which both kinds of error are equally frequent; between the
    thresholds that the scores allow, the ROC curve is taken as straight.

    Args:
      normal: scores of normal inputs, `[n]`; higher means more normal.
      unfamiliar: scores of inputs that should be noticed, `[m]`.

    Returns:
      `[]` in [0, 1]: 1 minus the equal error rate; 0.5 for a constant score.

    Raises:
      ValueError: as :func:`auroc`.
    """
    normal, unfamiliar = check_scores(normal, unfamiliar)
    normal, unfamiliar = jnp.sort(normal), jnp.sort(unfamiliar)
    thresholds = jnp.sort(jnp.concatenate([normal, unfamiliar]))

    def noticed(scores):  # share at or below each threshold, after a start at (0, 0)
        share = jnp.searchsorted(scores, thresholds, side="right") / len(scores)
        return jnp.concatenate([jnp.zeros(1, share.dtype), share])

    false_alarms, detected = noticed(normal), noticed(unfamiliar)
    excess = detected + false_alarms - 1  # from -1 to 1, never falling
    after = jnp.argmax(excess >= 0)
    before = after - 1
    gap = excess[after] - excess[before]
    part = -excess[before] / gap
    return detected[before] + part * (detected[after] - detected[before])


def check_scores(normal: Any, unfamiliar: Any) -> tuple[jax.Array, jax.Array]:
    """Both as arrays `[n]`, n >= 1, without NaN when concrete, in an order that float32 keeps.

    Args:
      normal: scores `[n]`.
      unfamiliar: scores `[m]`.

    Returns:
      Both as jax arrays; as ranks where they are concrete.

    Raises:
      ValueError: on another rank, no scores, or NaN in concrete scores.
    """
    both = _scores(normal, "normal"), _scores(unfamiliar, "unfamiliar")
    if all(is_concrete(scores) for scores in both):
        # Only the order counts. Ranks keep it where float32 would make scores equal: numpy's
        # float64, and integers beyond 2^24.
        first, second = (np.asarray(scores) for scores in both)
        _, ranks = np.unique(np.concatenate([first, second]), return_inverse=True)
        ranks = ranks.reshape(-1).astype(np.int32)
        return jnp.asarray(ranks[: len(first)]), jnp.asarray(ranks[len(first) :])
    dtype = jnp.result_type(*both)
    if jnp.issubdtype(dtype, jnp.floating):
        dtype = jnp.promote_types(dtype, jnp.float32)
    elif dtype == jnp.bool_:
        dtype = jnp.int32  # type: ignore[assignment]
    return both[0].astype(dtype), both[1].astype(dtype)


def _scores(scores: Any, name: str) -> Any:
    """Scores as a numeric array `[n]`, n >= 1, without NaN when concrete."""
    scores = scores if isinstance(scores, jax.Array) else np.asarray(scores)
    if scores.ndim != 1 or scores.size == 0:
        raise ValueError(f"{name} must be scores of shape [n] with n >= 1, got {scores.shape}.")
    if is_concrete(scores) and bool(np.isnan(np.asarray(scores)).any()):
        raise ValueError(f"{name} has NaN scores; drop or replace them first.")
    return scores
