r"""Kernels around class centroids, in logarithms, and the loss of Deterministic Uncertainty.

With :math:`s_c = \frac1{2 m \sigma^2} \|z_c - e_c\|^2` for an embedding z `[c, m]`, the kernels are
:math:`K_c = e^{-s_c}`. A kernel underflows at s of about 100, where a cross-entropy of K is NaN;
:math:`\log K = -s` and :math:`\log(1 - K) = \log(-\mathrm{expm1}(-s))` never do.

Reference:
  van Amersfoort et al., Uncertainty Estimation Using a Single Deep Deterministic Neural Network,
  ICML 2020, arXiv 2003.02037.
"""

from typing import Any

import jax
import jax.numpy as jnp

from monojax.base.checks import check_labels, check_positive
from monojax.base.labels import known_labels


def log_kernels(embedded: jax.Array, centroids: jax.Array, length_scale: Any) -> jax.Array:
    r"""Logarithms of the kernels, :math:`-\|z_c - e_c\|^2 / (2 m \sigma^2)`.

    Args:
      embedded: z, `[..., c, m]`, or `[..., 1, m]` where all classes share one embedding.
      centroids: e, `[c, m]`.
      length_scale: sigma, > 0.

    Returns:
      `[..., c]`, <= 0, in at least float32.

    Raises:
      ValueError: if the shapes do not fit, or on a length scale that is not positive.
    """
    check_positive(length_scale, "length_scale")
    embedded, centroids = jnp.asarray(embedded), jnp.asarray(centroids)
    fits = centroids.ndim == 2 and embedded.ndim >= 2
    if (
        not fits
        or embedded.shape[-1] != centroids.shape[1]
        or (embedded.shape[-2] not in (1, centroids.shape[0]))
    ):
        raise ValueError(
            f"embedded must have shape [..., c, m] or [..., 1, m] for centroids [c, m], got "
            f"{embedded.shape} and {centroids.shape}."
        )
    dtype = jnp.promote_types(jnp.result_type(embedded, centroids), jnp.float32)
    centroids = centroids.reshape((1,) * (embedded.ndim - 2) + centroids.shape)
    gaps = embedded.astype(dtype) - centroids.astype(dtype)
    scale = jnp.asarray(length_scale, dtype)
    return -jnp.mean(jnp.square(gaps / scale), axis=-1) / 2


def kernel_loss(log_k: jax.Array, labels: Any, *, weights: Any = None) -> jax.Array:
    """Binary cross-entropy of every kernel with "is of this class", from logarithms.

    Args:
      log_k: from :func:`log_kernels`, `[n, c]`.
      labels: integers `[n]` in [0, c).
      weights: of the examples, `[n]`, >= 0; None counts them equally.

    Returns:
      `[]`: the mean over examples and classes. Finite however far an example is from all
      centroids, and at a centroid of another class, too; NaN for a traced label that is no class.

    Raises:
      ValueError: on another shape, or labels outside the classes.
    """
    log_k = jnp.asarray(log_k)
    if log_k.ndim != 2 or log_k.shape[0] == 0:
        raise ValueError(f"log_k must have shape [n, c] with n >= 1, got {log_k.shape}.")
    labels = check_labels(labels, *log_k.shape)
    if weights is not None:
        weights = jnp.asarray(weights, log_k.dtype)
        if weights.shape != log_k.shape[:1]:
            raise ValueError(f"weights must have shape {log_k.shape[:1]}, got {weights.shape}.")
        log_k = jnp.where(weights[:, None] > 0, log_k, -1)  # what fills a batch may be NaN
    # At s = 0 the logarithm is infinite: the wrong centroid itself costs what a gap of eps does.
    s = jnp.maximum(-log_k, jnp.finfo(log_k.dtype).eps)
    other = -jnp.log(-jnp.expm1(-s))
    own = jax.nn.one_hot(labels, log_k.shape[1], dtype=bool)
    each = jnp.mean(jnp.where(own, -log_k, other), axis=1)
    wrong = ~known_labels(labels, log_k.shape[1])
    if weights is not None:
        wrong &= weights > 0
    each = jnp.where(wrong, jnp.nan, each)
    if weights is None:
        return jnp.mean(each)
    return jnp.sum(each * weights) / jnp.maximum(jnp.sum(weights), jnp.finfo(each.dtype).tiny)
