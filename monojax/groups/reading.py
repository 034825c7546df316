"""What the maps alone say: the class, how sure, how familiar; and how well they do."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import check_labels, known
from monojax.base.labels import known_labels, own_column
from monojax.groups.slices import total_activation


class ActivationReading(NamedTuple):
    """What the maps alone say."""

    labels: jax.Array
    """int32 `[b]`: the class whose slice is most active; the first one of equals."""
    totals: jax.Array
    """`[b, K]`: total activation of every slice."""
    shares: jax.Array
    """`[b, K]`: totals divided by their sum; 1 / K each where no map is active."""


def activation_classifier(features: jax.Array, num_classes: int) -> ActivationReading:
    """The class read off the maps: whose slice has the largest total activation.

    Its accuracy is the paper's measure of how group-monotone a classifier is.

    Args:
      features: maps after ReLU, `[b, h, w, W]` or `[b, W]`.
      num_classes: K; W must divide by it.

    Returns:
      ActivationReading.

    Raises:
      ValueError: as :func:`total_activation`.
    """
    totals = total_activation(features, num_classes)
    return ActivationReading(jnp.argmax(totals, axis=1), totals, class_shares(totals))


def class_shares(totals: jax.Array) -> jax.Array:
    """Each class's share of the total activation, q_k = T_k / sum_j T_j.

    Args:
      totals: `[b, K]`, non-negative, as maps after a ReLU give them.

    Returns:
      `[b, K]` in [0, 1], rows summing to 1; 1 / K each for a row of zeros.

    Raises:
      ValueError: on another rank, or a negative value in concrete totals.
    """
    totals = jnp.asarray(totals)
    if totals.ndim != 2:
        raise ValueError(f"totals must have shape [b, K], got {totals.shape}.")
    values = known(totals)
    if values is not None and not bool((values >= 0).all()):
        raise ValueError(
            "total activations must be >= 0 to have shares; take the maps after the ReLU."
        )
    mass = totals.sum(axis=1, keepdims=True)
    # Only zeros are replaced, so that NaN stays NaN under jit.
    return jnp.where(mass == 0, 1 / totals.shape[1], totals / jnp.where(mass == 0, 1, mass))


class DetectionScores(NamedTuple):
    """Scores of how familiar an input is, each `[b]` in [0, 1]; higher is more normal."""

    s_ent: jax.Array
    """1 + sum_k q_k ln q_k / ln K: 1 if one slice has all the activation, 0 if all are equal."""
    s_max: jax.Array
    """Largest share."""
    s_pred: jax.Array
    """Share of the class that the output layer predicts."""
    agree: jax.Array
    """1 where the maps and the output layer name the same class, else 0."""
    softmax: jax.Array
    """Baseline: the largest probability of the output layer."""


def detection_scores(totals: jax.Array, logits: jax.Array) -> DetectionScores:
    """How much an input looks like the training data, from its maps and from its logits.

    Args:
      totals: total activations `[b, K]`, see :func:`total_activation`; K >= 2.
      logits: of the output layer, `[b, K]`.

    Returns:
      DetectionScores.

    Raises:
      ValueError: if the shapes differ or K < 2, or on negative concrete totals.
    """
    shares, logits = class_shares(totals), jnp.asarray(logits)
    if logits.shape != shares.shape or shares.shape[1] < 2:
        raise ValueError(
            f"totals and logits must have one shape [b, K] with K >= 2, got {shares.shape} and "
            f"{logits.shape}."
        )
    predicted = jnp.argmax(logits, axis=1)
    neg_entropy = jax.scipy.special.xlogy(shares, shares).sum(axis=1)
    return DetectionScores(
        s_ent=jnp.clip(1 + neg_entropy / np.log(shares.shape[1]), 0, 1),  # rounding
        s_max=shares.max(axis=1),
        s_pred=jnp.take_along_axis(shares, predicted[:, None], axis=1)[:, 0],
        agree=(jnp.argmax(shares, axis=1) == predicted).astype(shares.dtype),
        softmax=jax.nn.softmax(logits.astype(shares.dtype)).max(axis=1),
    )


class ClassReport(NamedTuple):
    """Per true class, `[K]` each; NaN for a class without examples."""

    examples: jax.Array
    """int32: examples of the class."""
    output_accuracy: jax.Array
    """Share of them that the output layer names rightly."""
    activation_accuracy: jax.Array
    """Share of them that the maps name rightly."""
    agreement: jax.Array
    """Share of them for which both name the same class."""
    own_share: jax.Array
    """Mean share of the total activation that lies in the class's own slice."""
    confusion: jax.Array
    """int32 `[K, K]`: examples of class (row) that the maps call class (column)."""


def class_report(totals: jax.Array, logits: jax.Array, labels: Any) -> ClassReport:
    """Accuracies of both readings and the use of the slices, class by class.

    Args:
      totals: total activations `[b, K]`.
      logits: of the output layer, `[b, K]`.
      labels: integers `[b]`.

    Returns:
      ClassReport; a traced label that is no class makes every mean NaN and is counted nowhere.

    Raises:
      ValueError: on shapes that disagree, labels out of range, negative concrete totals.
    """
    shares, logits = class_shares(totals), jnp.asarray(logits)
    if logits.shape != shares.shape:
        raise ValueError(
            f"totals and logits must have one shape [b, K], got {shares.shape} and {logits.shape}."
        )
    num_classes = shares.shape[1]
    labels = check_labels(labels, len(shares), num_classes)
    named, predicted = jnp.argmax(shares, axis=1), jnp.argmax(logits, axis=1)
    own = own_column(shares, labels)
    inside = known_labels(labels, num_classes)
    rows = jnp.where(inside, labels, num_classes)  # what is no class falls beyond the last
    count = jnp.zeros(num_classes, jnp.int32).at[rows].add(1, mode="drop")

    def mean(values):
        # Of at least 32 bits: sums of bfloat16 end at 256.
        values = values.astype(jnp.promote_types(shares.dtype, jnp.float32))
        sums = jnp.zeros(num_classes, values.dtype).at[rows].add(values, mode="drop")
        return sums / jnp.where((count > 0) & inside.all(), count, jnp.nan)

    confusion = jnp.zeros((num_classes, num_classes), jnp.int32)
    confusion = confusion.at[rows, named].add(1, mode="drop")
    return ClassReport(
        examples=count,
        output_accuracy=mean(predicted == labels),
        activation_accuracy=mean(named == labels),
        agreement=mean(named == predicted),
        own_share=mean(own),
        confusion=confusion,
    )
