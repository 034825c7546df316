"""Precision and false acceptance of a detector of unfamiliar inputs; higher scores mean normal."""

from typing import Any

import jax
import jax.numpy as jnp

from monojax.base.checks import check_number, count_of_share, known, one_of
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
    if positive == "normal":  # found from the highest score down
        found, other = normal, unfamiliar
        count = lambda sorted_: len(sorted_) - jnp.searchsorted(sorted_, found, side="left")
    else:  # from the lowest up; never by the negative, which what is unsigned has not
        found, other = unfamiliar, normal
        count = lambda sorted_: jnp.searchsorted(sorted_, found, side="right")
    true, false = count(jnp.sort(found)), count(jnp.sort(other))
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
    cut = jnp.sort(normal)[len(normal) - count_of_share(share, len(normal))]
    return jnp.mean(unfamiliar >= cut)
