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
from typing import Any, Literal

import jax
import jax.numpy as jnp

from monojax.base.checks import check_labels, check_number, one_of
from monojax.base.compat import as_varying, varying_axes
from monojax.base.labels import known_labels, own_column
from monojax.groups.slices import check_features, slice_sums

Head = Callable[[jax.Array], jax.Array]
Form = Literal["gradient", "activation"]


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
      examples, as the loss beside it is. NaN for a traced label that is no class.

    Raises:
      ValueError: if W does not divide by K, on wrong labels, options or shapes, on a missing
        head, on NaN in concrete features.
      TypeError: if the features are not floating point.

    Example:
      >>> maps = jnp.array([[3.0, 0.0]])  # one example, two maps, two classes
      >>> round(float(group_penalty(maps, jnp.array([0]), 2, 1.0, form="activation")), 4)
      0.0486
    """
    features = check_features(features, num_classes)
    labels = check_labels(labels, len(features), num_classes)
    one_of(form, ("gradient", "activation"), "form")
    mu = inverse_temperature
    check_number(mu, "inverse_temperature", least=0)
    logits = group_logits(features, labels, num_classes, head=head, form=form)
    shares = jax.nn.log_softmax(jnp.asarray(mu, logits.dtype) * logits)
    return -own_column(shares, labels).mean()


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
        return slice_sums(features, num_classes) / per_slice
    if head is None:
        raise ValueError(
            "form='gradient' differentiates the head: pass head=, which maps the features of one "
            "example to logits, or use form='activation'."
        )
    labels = check_labels(labels, len(features), num_classes)
    out = jax.eval_shape(head, jax.ShapeDtypeStruct(features.shape[1:], features.dtype))
    if getattr(out, "shape", None) != (num_classes,):
        found = jax.tree.map(lambda leaf: leaf.shape, out)
        raise ValueError(
            f"head must map the features of one example, {features.shape[1:]}, to "
            f"{num_classes} logits, got {found}; for a linen head that takes batches use "
            "lambda a: head(a[None])[0]."
        )
    features = as_varying(features, varying_axes(labels))  # slopes are each example's own
    slopes = jax.vmap(jax.grad(lambda a, y: head(a)[y]))(features, labels)
    wrong = ~known_labels(labels, num_classes)  # traced ones: their slopes would be another's
    slopes = jnp.where(wrong.reshape(-1, *(1,) * (slopes.ndim - 1)), jnp.nan, slopes)
    return slice_sums(slopes, num_classes)
