"""Precision and false acceptance of a detector of unfamiliar inputs; higher scores mean normal."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from monojax.base.checks import check_number, known, one_of
from monojax.metrics.detection import check_scores


def auprc(normal: Any, unfamiliar: Any, *, positive: str = "normal") -> jax.Array:
    """Area under the precision-recall curve, as average precision.

    Unlike :func:`auroc` it depends on how many inputs of each kind there are.

    Args:
      normal: scores of normal inputs, `[n]`; higher means more normal.
      unfamiliar: scores of inputs that should be noticed, `[m]`.
      positive: which of the two is to be found: "normal" (accepted by a high score) or
        "unfamiliar" (noticed by a low one).

    Returns:
      `[]` in (0, 1]; a constant score has the share of the positive kind. Inputs with equal scores
      are found together.

    Raises:
      ValueError: as :func:`auroc`, and on another ``positive``.
    """
    one_of(positive, ("normal", "unfamiliar"), "positive")
    normal, unfamiliar = check_scores(normal, unfamiliar)
    found, other = (normal, unfamiliar) if positive == "normal" else (-unfamiliar, -normal)
    ours, theirs = jnp.sort(found), jnp.sort(other)
    true = len(ours) - jnp.searchsorted(ours, found, side="left")
    false = len(theirs) - jnp.searchsorted(theirs, found, side="left")
    return jnp.mean(true / (true + false))


def fpr_at_tpr(normal: Any, unfamiliar: Any, *, tpr: float = 0.95) -> jax.Array:
    """Share of unfamiliar inputs accepted where a wished share of the normal ones is.

    Args:
      normal: scores of normal inputs, `[n]`; higher means more normal.
      unfamiliar: scores of inputs that should be noticed, `[m]`.
      tpr: share of normal inputs to accept, in (0, 1]; the threshold is the largest score that
        accepts at least as many.

    Returns:
      `[]` in [0, 1]; lower is better, a constant score has 1.

    Raises:
      ValueError: as :func:`auroc`, and on a share outside (0, 1].
    """
    check_number(tpr, "tpr", above=0, most=1)
    share = known(tpr)
    if share is None:
        raise ValueError("tpr must be known when the program is traced; give a Python number.")
    normal, unfamiliar = check_scores(normal, unfamiliar)
    # A hair less, so that 0.95 * 20 is 19 whatever the product rounds to.
    k = max(1, math.ceil(float(share) * len(normal) * (1 - 1e-12)))
    cut = jnp.sort(normal)[len(normal) - k]
    return jnp.mean(unfamiliar >= cut)
