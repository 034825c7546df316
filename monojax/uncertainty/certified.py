r"""What slope bounds guarantee about DUQ's certainty: far away it is low, nearby it moves little.

Let :math:`\|h(x) - h(x')\| \ge \alpha\|x - x'\|`, kernels :math:`K_c(x) = \exp(-\|W_c h(x) -
e_c\|^2 / (2 m \sigma^2))`, and :math:`\tau_c` the smallest singular value of :math:`W_c` (1 for the
identity head; 0 if m < p). For an input :math:`x_i` with features :math:`h_i`, by the triangle
inequality,

.. math:: \|W_c h(x) - e_c\| \ge \|W_c (h(x) - h_i)\| - \|W_c h_i - e_c\|
          \ge \tau_c \alpha \|x - x_i\| - \|W_c h_i - e_c\| .

:math:`K_c(x) \ge t` needs :math:`\|W_c h(x) - e_c\| \le \rho = \sigma\sqrt{2 m \log(1/t)}`. So

.. math:: \|x - x_i\| > r_i = \max_c \frac{\rho + \|W_c h_i - e_c\|}{\tau_c \alpha}
          \quad\Rightarrow\quad \max_c K_c(x) < t ,

for **every** i: an input outside of any one of the balls is certified. The other way, with
:math:`\|h(x) - h(x')\| \le L \|x - x'\|`, within a distance r of x no kernel exceeds
:math:`\exp(-\max(0, \|W_c h(x) - e_c\| - \|W_c\|_2 L r)^2 / (2 m \sigma^2))`.

What is computed differs from h by the inner solve's residual and by rounding. Let every computed
h(x) be within :math:`a + b\|x - x_i\|` of the exact one, and :math:`h_i` within a. The product
with :math:`W_c` adds at most :math:`\gamma_c \|h\|`, where :math:`\gamma_c = (p + 2)\, \epsilon\,
\|W_c\|_F` (0 for the identity head). The computed ones have :math:`u = \|h(x) - h_i\| \ge
(\alpha - b) \|x - x_i\| - 2a`, a computed embedding is at least :math:`(\tau_c - \gamma_c) u -
\|W_c h_i - e_c\| - 2 \gamma_c \|h_i\|` away from its centroid, and the kernels **as computed** are
below t outside of

.. math:: r_i = \max_c \frac1{\alpha - b} \Big(2a + \frac{\rho + \|W_c h_i - e_c\| +
          2\gamma_c \|h_i\|}{\tau_c - \gamma_c}\Big).

Norms, roots and sums are rounded outwards.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import check_number, check_points, check_positive, known


class _Head(NamedTuple):
    """What is needed of the head, per class."""

    distances: jax.Array
    """`[n, c]`: of the embedded features to the centroids, rounded up or down."""
    least: jax.Array
    """`[c]`: smallest singular value, rounded down."""
    most: jax.Array
    """`[c]`: largest, rounded up."""
    product: jax.Array
    """`[c]`: rounding of the product with W per length of features."""
    norms: jax.Array
    """`[n]`: lengths of the features."""
    eps: Any


def unfamiliarity_radius(
    alpha: Any,
    features: Any,
    centroids: Any,
    length_scale: Any,
    threshold: Any,
    *,
    weight: Any = None,
    error: Any = 0.0,
    error_slope: Any = 0.0,
    per_class: bool = False,
) -> jax.Array:
    r"""Radii around inputs outside of which DUQ's certainty must lie below a threshold.

    A certificate of unfamiliarity: an input further than ``radius[i]`` from input i, for **any**
    one i, has a certainty below ``threshold``. See this module for the derivation. It holds for the
    certainty as computed, at every x whose computed features are within
    ``error + error_slope * ||x - x_i||`` of the exact ones; for a :class:`monojax.BLNN` in float32
    whose solves converge, ``error = error_bound`` of its diagnostics at x covers it, or, before any
    x is known, ``beta * tolerance * (1 + ||x_i||)`` with the slope ``beta * tolerance``, both and
    the rounding of the final sum.

    The smallest radii come from points whose features are the centroids: with head "identity" and
    alpha > 0, ``net.inverse(centroids)``.

    Args:
      alpha: lower slope bound of the features' map in the Euclidean norm, >= 0; with 0 the radii
        are infinite.
      features: of inputs, as computed, `[n, p]`, in the dtype in which the head gets them; those
        of training data, say.
      centroids: e, `[c, m]`; m = p with the identity head.
      length_scale: sigma of the kernels.
      threshold: t in (0, 1]; `[]`.
      weight: W of the linear head, `[c, m, p]`; None for the identity head.
      error: bound on the features' error at the inputs, and part of that at x, `[]` or `[n]`.
      error_slope: growth of that bound with the distance from the input, `[]`.
      per_class: whether to keep the classes apart: outside of ``radius[i, k]`` kernel k is below.

    Returns:
      `[n]`, or `[n, c]` with ``per_class``: Euclidean distances in the space of inputs, infinite
      where nothing is guaranteed.

    Raises:
      ValueError: on another shape, a threshold outside (0, 1], a negative alpha or error.

    Example:
      >>> e = jnp.zeros((1, 2))
      >>> r = unfamiliarity_radius(2.0, jnp.array([[3.0, 0.0]]), e, 1.0, jnp.exp(-0.5))
      >>> round(float(r[0]), 3)  # (sqrt(2) + 3) / 2
      2.207
    """
    check_number(alpha, "alpha", least=0)
    check_number(threshold, "threshold", above=0, most=1)
    check_number(error_slope, "error_slope", least=0)
    head, m, dtype = _head(features, centroids, length_scale, weight, up=True)
    errors = _errors(error, len(head.norms), dtype)
    slack = 1 + (m + 16) * head.eps
    # The threshold's own rounding, and that of a computed kernel, count where it is near 1.
    level = jnp.maximum(-jnp.log(jnp.asarray(threshold, dtype)), 0) + 4 * head.eps
    inside = jnp.asarray(length_scale, dtype) * jnp.sqrt(2 * m * level) * slack
    distance = (inside + head.distances + 2 * head.product[None] * head.norms[:, None]) * slack
    stretch = (head.least - head.product) / slack
    growth = jnp.asarray(alpha, dtype) / slack - jnp.asarray(error_slope, dtype) * slack
    usable = (stretch > 0) & (growth > 0)
    apart = distance / jnp.where(stretch > 0, stretch, 1)[None] + 2 * errors[:, None]
    radius = apart * slack / jnp.where(growth > 0, growth, 1) * slack
    radius = jnp.where(usable[None] & ~jnp.isnan(radius), radius, jnp.inf)
    return radius if per_class else jnp.max(radius, axis=1)


def largest_certainty(
    lipschitz: Any,
    features: Any,
    centroids: Any,
    length_scale: Any,
    radius: Any,
    *,
    weight: Any = None,
    error: Any = 0.0,
) -> jax.Array:
    """The most that DUQ's certainty can be within a Euclidean ball around each input.

    Put in place of unfamiliar inputs' scores it gives the guaranteed AUROC: what an attacker who
    moves them by up to ``radius`` leaves. See this module for the derivation.

    Args:
      lipschitz: upper slope bound of the features' map, such as alpha + beta of a BLNN, >= 0.
      features: of the balls' centres, as computed, `[n, p]`.
      centroids: e, `[c, m]`.
      length_scale: sigma of the kernels.
      radius: of the balls, >= 0, `[]` or `[n]`.
      weight: W of the linear head, `[c, m, p]`; None for the identity head.
      error: bound on the features' error, everywhere in the ball, `[]` or `[n]`.

    Returns:
      Logarithms of the bounds, `[n]`, <= 0: kernels underflow where their order still counts.

    Raises:
      ValueError: as :func:`unfamiliarity_radius`.
    """
    check_number(lipschitz, "lipschitz", least=0)
    head, m, dtype = _head(features, centroids, length_scale, weight, up=False)
    errors = _errors(error, len(head.norms), dtype)
    radii = _errors(radius, len(head.norms), dtype, "radius")
    slack = 1 + (m + 16) * head.eps
    upper = jnp.asarray(lipschitz, dtype)
    # The product's rounding at the far end of the ball: its features are no longer than that.
    reach = (head.norms + upper * radii + 2 * errors) * slack
    moved = head.most[None] * (upper * radii + 2 * errors)[:, None]
    moved = (moved + head.product[None] * (reach + head.norms)[:, None]) * slack
    left = jnp.maximum(head.distances - moved, 0) / jnp.asarray(length_scale, dtype)
    bound = -jnp.square(left) / (2 * m) / jnp.square(slack)
    return jnp.max(jnp.where(jnp.isnan(bound), 0, bound), axis=1)


def _head(features: Any, centroids: Any, length_scale: Any, weight: Any, up: bool):
    """The head's part of a bound, its width m, and the dtype, at least float32."""
    check_positive(length_scale, "length_scale")
    features, centroids = check_points(features, "features"), check_points(centroids, "centroids")
    (_, p), (c, m) = features.shape, centroids.shape
    # That of the head, which rounds its weights to the features' dtype.
    dtype = jnp.promote_types(features.dtype, jnp.float32)
    eps = jnp.finfo(dtype).eps
    features, centroids = features.astype(dtype), centroids.astype(dtype)
    sign = 1 if up else -1
    outwards = 1 + sign * (m + 16) * eps
    norms = _norm(features) * (1 + (p + 16) * eps)
    # What was given may have been rounded when it became an array of this dtype.
    given = sign * eps * _norm(centroids)[None]
    if weight is None:
        if p != m:
            raise ValueError(
                f"features [n, {p}] and centroids [c, {m}] differ in width: the identity head has "
                "one width. Give weight= for a linear head."
            )
        one, zero = jnp.ones(c, dtype), jnp.zeros(c, dtype)
        gaps = features[:, None, :] - centroids[None]
        distances = _norm(gaps) * outwards + given + sign * eps * norms[:, None]
        return _Head(distances, one, one, zero, norms, eps), m, dtype
    weight = jnp.asarray(weight).astype(dtype)
    if weight.shape != (c, m, p):
        raise ValueError(f"weight must have shape [c, m, p] = {(c, m, p)}, got {weight.shape}.")
    with jax.default_matmul_precision("highest"):
        embedded = jnp.einsum("np,cmp->ncm", features, weight)
    distances = _norm(embedded - centroids[None]) * outwards + given
    values = jnp.linalg.svd(weight, compute_uv=False)
    # A computed singular value is off by a small multiple of the largest one's last place.
    lost = 16 * max(m, p) * eps * values[:, 0]
    least = jnp.maximum(values[:, -1] - lost, 0) if m >= p else jnp.zeros(c, dtype)
    whole = _norm(weight.reshape(c, m * p))
    product = (p + 2) * eps * whole * (1 + (m * p + 16) * eps)
    return _Head(distances, least, values[:, 0] + lost, product, norms, eps), m, dtype


def _norm(x: jax.Array) -> jax.Array:
    """Lengths along the last axis; squares neither under- nor overflow."""
    size = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    return size[..., 0] * jnp.linalg.norm(x / jnp.where(size > 0, size, 1), axis=-1)


def _errors(error: Any, rows: int, dtype: Any, name: str = "error") -> jax.Array:
    """Not negative, `[n]`."""
    shape = np.shape(error)
    if shape not in ((), (rows,)):
        raise ValueError(f"{name} must have shape [] or [{rows}], got {shape}.")
    found = known(error)
    if found is not None and not (found >= 0).all():
        raise ValueError(f"{name} must be >= 0, got {found.min() if found.size else found}.")
    return jnp.broadcast_to(jnp.asarray(error, dtype), (rows,))
