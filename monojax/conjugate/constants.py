r"""Certified Lipschitz and smoothness constants of a fully input-convex network.

With :math:`g' \in [0, s]`, :math:`g'' \le c` and :math:`D_k = 1,\ D_i = s {W^z_i}^\top D_{i+1}
\ge \delta_i`, the formula of the Hessian (see `monojax.conjugate.icnn`) gives
:math:`\|\nabla^2 F\| \le c \sum_i \|D_i^{1/2} J_i\|^2`. Three bounds hold for each norm, for any
diagonal R such as :math:`D_i^{1/2}`, and the smallest is taken:

- rows: :math:`\|RJ_i\|^2 \le \sum_j R_j^2 \ell_{ij}^2`, where
  :math:`\ell_{i+1} = s W^z_i \ell_i + \mathrm{rownorm}(W^y_{i+1})` bounds the row norms;
- triangle: :math:`\|RJ_{i+1}\| \le s\|RW^z_i\|\,\|J_i\| + \|RW^y_{i+1}\|`;
- centred: write :math:`\mathrm{diag}(g') = \tfrac s2 I + \tfrac s2 T,\ \|T\| \le 1`, and
  :math:`C_{i+1} = \tfrac s2 W^z_i C_i + W^y_{i+1}`. Then :math:`J_{i+1} - C_{i+1} =
  W^z_i\,\mathrm{diag}(g')(J_i - C_i) + \tfrac s2 W^z_i T C_i`, so
  :math:`\|RJ_{i+1}\| \le \|RC_{i+1}\| + \|RW^z_i\|(s\|J_i - C_i\| + \tfrac s2\|C_i\|)`.

The gradient is :math:`g'(a_k) J_k`, so s times the bound of the last row is the Lipschitz
constant. The rows alone (:func:`by_rows`) are never smaller than the first choice, hence than this.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Layer = tuple[Any, jax.Array, jax.Array]
"""``(W^z [h, h'] or None, W^y [h, d], b [h])``, as ``ICNNPotential.layers`` gives them."""


class _Bounds(NamedTuple):
    """What is known of the Jacobian J of one layer's units."""

    rows: jax.Array
    """Bounds on its row norms, `[h]`."""
    norm: jax.Array
    """Bound on its norm, `[]`."""
    centre: jax.Array
    """C, `[h, d]`."""
    gap: jax.Array
    """Bound on the norm of J - C, `[]`."""


def certified(
    layers: list[Layer], slope: float, curvature: float, activate_output: bool
) -> tuple[jax.Array, jax.Array]:
    """``(lipschitz, smoothness)`` `[]` each, in the Euclidean norm; inf where none is known.

    Args:
      layers: of the network, weights between units non-negative.
      slope: s, the largest first derivative of the activation; inf if it has none.
      curvature: c, the largest second derivative; inf if it has none.
      activate_output: whether the activation is applied to the last unit.

    Returns:
      Two scalars, differentiable in the layers.
    """
    caps = _output_caps(layers, slope, activate_output)
    known, total = _first(layers[0][1]), jnp.zeros((), layers[0][1].dtype)
    for i, ((wz, wy, _), cap) in enumerate(zip(layers, caps, strict=True)):
        # Units cut off by the clamp have cap 0, where a square root has no derivative.
        root = jnp.where(cap > 0, jnp.sqrt(jnp.where(cap > 0, cap, 1)), 0)
        if wz is None:
            weighted = _spectral(root[:, None] * wy)
        else:
            new = _next(known, wz, wy, slope)
            weighted = _least(root, known, new, wz, wy, slope)
            known = new._replace(norm=_least(jnp.ones_like(root), known, new, wz, wy, slope))
        if i < len(layers) - 1 or activate_output:
            total = total + _times(curvature, jnp.square(weighted))
    return _times(slope if activate_output else 1.0, known.norm), total


def by_rows(
    layers: list[Layer], slope: float, curvature: float, activate_output: bool
) -> tuple[jax.Array, jax.Array]:
    r"""The looser ``(lipschitz, smoothness)`` by row norms alone, each `[]`.

    :math:`m_{i+1} = s W^z_i m_i + c\,\ell_{i+1}^2`, elementwise.
    """
    rows = bend = below = jnp.zeros((1,), layers[0][1].dtype)
    for wz, wy, _ in layers:
        own = _row_norms(wy)
        below = (
            jnp.zeros_like(own) if wz is None else _apply(wz, bend)
        )  # curvature without activation
        rows = own if wz is None else _times(slope, _apply(wz, rows)) + own
        bend = _times(slope, below) + _times(curvature, jnp.square(rows))
    if not activate_output:
        return rows[0], below[0]
    return _times(slope, rows[0]), bend[0]


def _output_caps(layers: list[Layer], slope: float, activate_output: bool) -> list[jax.Array]:
    """D_i per layer, `[h_i]`."""
    caps = [jnp.ones((1,), layers[-1][1].dtype)]
    for wz, _, _ in layers[:0:-1]:
        # The last layer's slope is 1 when the output is linear.
        own = slope if (activate_output or len(caps) > 1) else 1.0
        caps.insert(0, _times(own, _apply(wz.T, caps[0])))
    return caps


def _first(wy: jax.Array) -> _Bounds:
    return _Bounds(_row_norms(wy), _spectral(wy), wy, jnp.zeros((), wy.dtype))


def _next(known: _Bounds, wz: jax.Array, wy: jax.Array, slope: float) -> _Bounds:
    """The next layer's bounds, all but the norm."""
    spread = _spread(known, slope)
    return _Bounds(
        rows=_times(slope, _apply(wz, known.rows)) + _row_norms(wy),
        norm=known.norm,
        centre=_times(slope / 2, wz @ known.centre) + wy,
        gap=_spectral(wz) * spread,
    )


def _spread(known: _Bounds, slope: float) -> jax.Array:
    """How far ``diag(g') J`` can lie from ``s/2 C``, `[]`."""
    return _times(slope, known.gap) + _times(slope / 2, _spectral(known.centre))


def _least(r, known: _Bounds, new: _Bounds, wz, wy, slope: float) -> jax.Array:
    """The smallest of the three bounds on the norm of ``diag(r) J`` of the next layer, `[]`."""
    scale = r[:, None]
    choices = (
        _norm(r * new.rows),
        _times(slope, _spectral(scale * wz) * known.norm) + _spectral(scale * wy),
        _spectral(scale * new.centre) + _spectral(scale * wz) * _spread(known, slope),
    )
    least = jnp.stack(choices)
    # An infinite constant times a weight of 0 is NaN, which says nothing.
    return jnp.where(jnp.isnan(least), jnp.inf, least).min()


def _times(constant: float, value: jax.Array) -> jax.Array:
    """``constant * value`` for value >= 0 (or a finite constant), with inf * 0 = 0."""
    if math.isfinite(constant):
        return constant * value
    return jnp.where(value == 0, 0, jnp.sign(value) * constant)


def _apply(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    """``matrix @ vector`` for entries >= 0, of which the vector's may be inf: 0 times inf is 0."""
    return jnp.sum(jnp.where(matrix == 0, 0, matrix * vector[None, :]), axis=1)


def _row_norms(matrix: jax.Array) -> jax.Array:
    """Euclidean norms of the rows, with derivative 0 where a row is 0 (a dead unit)."""
    squares = jnp.sum(jnp.square(matrix), axis=1)
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)


def _norm(vector: jax.Array) -> jax.Array:
    return _row_norms(vector[None, :])[0]


def _spectral(matrix: jax.Array) -> jax.Array:
    """Largest singular value, `[]`, with the derivative u v' (finite for any rank)."""
    fixed = jax.lax.stop_gradient(matrix)
    finite = jnp.isfinite(fixed).all()
    u, _, vt = jnp.linalg.svd(jnp.where(finite, fixed, 0), full_matrices=False)
    value = u[:, 0] @ jnp.where(finite, matrix, 0) @ vt[0]
    return jnp.where(finite, value, jnp.inf)
