r"""Classes read off groups of feature maps: slices, total activation, the group penalty.

The last W feature maps of a classifier with K classes are divided into K contiguous slices of
W / K maps, one per class. A group-monotone classifier raises the output of the true class most
through that class's own slice; the class can then be read off the maps alone
(:func:`activation_classifier`), and maps that point at no class give away an unfamiliar input
(:func:`detection_scores`).

Reference:
  Monteiro et al., "Monotonicity Regularization", UAI 2022 (arXiv 2205.08247), sections on group
  monotonicity. The paper gives a weight and an inverse temperature, not the formula; the softmax
  over slices, contiguous slices, and both forms of its logits are our reading.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import check_labels, is_concrete

Head = Callable[[jax.Array], jax.Array]
Form = Literal["gradient", "activation"]


def class_slices(num_maps: int, num_classes: int) -> tuple[slice, ...]:
    """The slice of maps of every class: contiguous, of equal size, in class order.

    Args:
      num_maps: W, the number of feature maps.
      num_classes: K.

    Returns:
      K slices into the channel axis.

    Raises:
      ValueError: if W does not divide by K; it proposes the nearest numbers that do.
    """
    size = check_maps(num_maps, num_classes)
    return tuple(slice(k * size, (k + 1) * size) for k in range(num_classes))


def check_maps(num_maps: int, num_classes: int) -> int:
    """Maps per class.

    Args:
      num_maps: W, the number of feature maps.
      num_classes: K.

    Returns:
      W / K.

    Raises:
      ValueError: if W does not divide by K; it proposes the nearest numbers that do.
    """
    for name, value in (("num_maps", num_maps), ("num_classes", num_classes)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")
    if num_maps % num_classes:
        below = num_maps // num_classes * num_classes
        near = [below, below + num_classes] if below else [num_classes]
        raise ValueError(
            f"{num_maps} feature maps do not divide into slices of equal size for {num_classes} "
            f"classes; use {' or '.join(map(str, near))} maps, or add a convolution with such a "
            "number of maps (monojax.groups.ExtraMaps)."
        )
    return num_maps // num_classes


def total_activation(features: jax.Array, num_classes: int) -> jax.Array:
    r"""What every class's slice of maps sums up to, :math:`T_k = \sum_{w\in S_k}\sum_{ij} a_w[ij]`.

    Args:
      features: floating, shape `[b, h, w, W]` (any number of position axes) or `[b, W]`.
      num_classes: K; W must divide by it.

    Returns:
      `[b, K]`, float32 at least.

    Raises:
      ValueError: if W does not divide by K, on another rank, or on NaN in concrete features.
      TypeError: if the features are not floating point.
    """
    features = _check_features(features, num_classes)
    return _slice_sums(features, num_classes)


def group_penalty(
    features: jax.Array,
    labels: Any,
    num_classes: int,
    inverse_temperature: float | jax.Array,
    *,
    head: Head | None = None,
    form: Form = "gradient",
) -> jax.Array:
    r"""How little the true class's own slice stands out; differentiable in features and head.

    :math:`\Omega = \frac1b\sum_x -\log\frac{\exp(\mu O_y)}{\sum_k\exp(\mu O_k)}`, where
    ``form="gradient"`` takes the total gradient of the true class's logit with respect to each
    slice, :math:`O_k = \sum_{w\in S_k}\sum_{ij}\partial h_y/\partial a_w[ij]`, and
    ``form="activation"`` the mean activation of the slice. With average pooling and a linear
    head V the gradient form is :math:`O_k = \sum_{w\in S_k} V_{yw}`, whatever the input.

    Args:
      features: the maps that feed the head, after normalisation and ReLU; `[b, h, w, W]` or
        `[b, W]`.
      labels: integers `[b]` in `[0, K)`.
      num_classes: K; W must divide by it.
      inverse_temperature: mu >= 0; 0 gives log K whatever the maps.
      head: map of the features of ONE example, `[h, w, W]` or `[W]`, to its logits `[K]`; needed
        by the gradient form, which costs one backward pass through it.
      form: "gradient" or "activation".

    Returns:
      A non-negative scalar `[]`, float32 at least. Under `pmap` it is the mean over this device's
      examples, as the loss beside it is.

    Raises:
      ValueError: if W does not divide by K, on wrong labels, options or shapes, on a missing
        head, on NaN in concrete features.
      TypeError: if the features are not floating point.

    Example:
      >>> maps = jnp.array([[3.0, 0.0]])  # one example, two maps, two classes
      >>> round(float(group_penalty(maps, jnp.array([0]), 2, 1.0, form="activation")), 4)
      0.0486
    """
    features = _check_features(features, num_classes)
    labels = check_labels(labels, len(features), num_classes)
    if form not in ("gradient", "activation"):
        raise ValueError(f"form must be 'gradient' or 'activation', got {form!r}.")
    mu = inverse_temperature
    if np.shape(mu) != () or (is_concrete(mu) and not (0 <= mu < np.inf)):
        raise ValueError(f"inverse_temperature must be one finite number >= 0, got {mu}.")
    logits = group_logits(features, labels, num_classes, head=head, form=form)
    shares = jax.nn.log_softmax(jnp.asarray(mu, logits.dtype) * logits)
    return -jnp.take_along_axis(shares, labels[:, None], axis=1).mean()


def group_logits(
    features: jax.Array,
    labels: jax.Array,
    num_classes: int,
    *,
    head: Head | None = None,
    form: Form = "gradient",
) -> jax.Array:
    """What the group penalty's softmax is taken of: O_k of :func:`group_penalty`.

    Args:
      features: `[b, h, w, W]` or `[b, W]`.
      labels: integers `[b]`; the gradient form differentiates these logits.
      num_classes: K.
      head: map of the features of ONE example to logits `[K]`, for the gradient form.
      form: "gradient" or "activation".

    Returns:
      `[b, K]`, float32 at least.

    Raises:
      ValueError: as :func:`group_penalty`.
    """
    if form == "activation":
        if head is not None:
            raise ValueError("form='activation' reads the features alone; leave head out.")
        per_slice = features[0].size // num_classes
        return _slice_sums(features, num_classes) / per_slice
    if head is None:
        raise ValueError(
            "form='gradient' differentiates the head: pass head=, which maps the features of one "
            "example to logits, or use form='activation'."
        )
    out = jax.eval_shape(head, jax.ShapeDtypeStruct(features.shape[1:], features.dtype))
    if getattr(out, "shape", None) != (num_classes,):
        found = jax.tree.map(lambda leaf: leaf.shape, out)
        raise ValueError(
            f"head must map the features of one example, {features.shape[1:]}, to "
            f"{num_classes} logits, got {found}; for a linen head that takes batches use "
            "lambda a: head(a[None])[0]."
        )
    slopes = jax.vmap(jax.grad(lambda a, y: head(a)[y]))(features, labels)
    return _slice_sums(slopes, num_classes)


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
    if is_concrete(totals) and not bool((np.asarray(totals) >= 0).all()):
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
      ClassReport.

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
    count = jnp.zeros(num_classes, jnp.int32).at[labels].add(1)

    def mean(values):
        sums = jnp.zeros(num_classes, shares.dtype).at[labels].add(values.astype(shares.dtype))
        return sums / jnp.where(count > 0, count, jnp.nan)

    own = jnp.take_along_axis(shares, labels[:, None], axis=1)[:, 0]
    confusion = jnp.zeros((num_classes, num_classes), jnp.int32).at[labels, named].add(1)
    return ClassReport(
        examples=count,
        output_accuracy=mean(predicted == labels),
        activation_accuracy=mean(named == labels),
        agreement=mean(named == predicted),
        own_share=mean(own),
        confusion=confusion,
    )


class ExtraMaps(nn.Module):
    """The added last convolution: 1x1, batch norm, ReLU; gives a chosen number of maps.

    It goes between the last stage and the pooling of a pretrained network, whose own maps are
    too few or do not divide by the classes: W = 15,000 for 1000 classes in the paper.
    """

    maps: int
    """W."""
    num_classes: int
    """K; W must divide by it."""
    dtype: Any = None
    """Of the computation; None follows the input and parameters."""
    axis_name: str | None = None
    """The `pmap` axis over which the batch statistics are taken."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """`[b, h, w, c]` to `[b, h, w, maps]`, non-negative."""
        check_maps(self.maps, self.num_classes)
        x = nn.Conv(self.maps, (1, 1), use_bias=False, dtype=self.dtype, name="conv")(x)
        x = nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
            axis_name=self.axis_name,
            name="bn",
        )(x)
        return nn.relu(x)


def _check_features(features: Any, num_classes: int) -> jax.Array:
    """Features as an array `[b, ..., W]`, floating, W a multiple of the classes."""
    features = features if isinstance(features, jax.Array) else np.asarray(features)
    if features.ndim < 2 or 0 in features.shape:
        raise ValueError(
            f"features must have shape [b, h, w, maps] or [b, maps], got {features.shape}; for "
            "one example pass features[None]."
        )
    if not jnp.issubdtype(features.dtype, jnp.floating):
        raise TypeError(f"features must be floating point, got {features.dtype}.")
    check_maps(features.shape[-1], num_classes)
    if is_concrete(features):
        flat = np.asarray(features, np.float32).reshape(len(features), -1)
        bad = int((~np.isfinite(flat)).any(axis=1).sum())
        if bad:
            raise ValueError(
                f"features of {bad} of {len(features)} examples have NaN or infinite values."
            )
    return jnp.asarray(features)


def _slice_sums(values: jax.Array, num_classes: int) -> jax.Array:
    """Sums over positions and slices, `[b, ..., W]` to `[b, K]`, in float32 at least."""
    wide = jnp.promote_types(values.dtype, jnp.float32)
    # Positions first: the sum over a slice is then over few numbers.
    over_positions = values.sum(axis=tuple(range(1, values.ndim - 1)), dtype=wide)
    return over_positions.reshape(len(values), num_classes, -1).sum(axis=2)
