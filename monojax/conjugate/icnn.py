r"""Fully input-convex networks as functions of their parameters, with exact structured Hessians.

.. math:: a_0 = W^y_0 y + b_0,\quad a_{i+1} = W^z_i g(a_i) + W^y_{i+1} y + b_{i+1},\quad F = g(a_k)

with :math:`W^z \ge 0` and g convex and non-decreasing. With :math:`J_i = \partial a_i/\partial y`
and :math:`\delta_i = \partial F/\partial z_i \ge 0`,

.. math:: \nabla^2 F = \sum_i J_i^\top \mathrm{diag}(\delta_i\, g''(a_i))\, J_i ,

a sum of one positive rank-one term per unit. Products with it cost about one gradient and no
exponentials; automatic differentiation of the gradient costs several times that.

Parameters are a dict: ``y_kernel_i`` `[d, h_i]`, ``bias_i`` `[h_i]` for i = 0..k, ``z_kernel_i``
`[h_{i-1}, h_i]` for i = 1..k, and the last width is 1.
"""

import dataclasses
import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from monojax.conjugate.activations import Activation
from monojax.conjugate.constants import by_rows, certified

WEIGHT_MAPS = {
    "clamp": lambda w: jnp.maximum(w, 0),
    "softplus": jax.nn.softplus,
    "square": jnp.square,
    "abs": jnp.abs,
    "projected": lambda w: w,
}
"""How raw weights become non-negative; "projected" trusts the caller to clamp them itself."""

Params = dict[str, jax.Array]


class Terms(NamedTuple):
    """What the Hessian of F at one point is made of."""

    slopes: list[jax.Array]
    """g'(a_i) per layer, `[h_i]`."""
    weights: list[jax.Array]
    """delta_i g''(a_i) >= 0 per layer, `[h_i]`: the weights of the rank-one terms."""


@dataclasses.dataclass(frozen=True)
class ICNNPotential:
    """F as a function of its parameters: activation, weight map, and whether F = g(a_k) or a_k."""

    activation: Activation
    weight_map: str = "clamp"
    activate_output: bool = True

    def layers(self, params: Params) -> list[tuple[Any, jax.Array, jax.Array]]:
        """Per layer ``(W^z [h, h'], W^y [h, d], b [h])``; W^z >= 0, and None in the first."""
        count = sum(name.startswith("bias_") for name in params)
        positive = WEIGHT_MAPS[self.weight_map]
        return [
            (
                positive(params[f"z_kernel_{i}"]).T if i else None,
                params[f"y_kernel_{i}"].T,
                params[f"bias_{i}"],
            )
            for i in range(count)
        ]

    def preactivations(self, layers: list, y: jax.Array) -> list[jax.Array]:
        """a_0 ... a_k at one point `[d]`, shapes `[h_i]`."""
        out: list[jax.Array] = []
        for wz, wy, b in layers:
            a = wy @ y + b
            out.append(a if wz is None else a + wz @ self.activation(out[-1]))
        return out

    def value(self, params: Params, y: jax.Array) -> jax.Array:
        """F(y) `[]` at one point `[d]`."""
        last = self.preactivations(self.layers(params), y)[-1][0]
        return self.activation(last) if self.activate_output else last

    def expand(self, params: Params, y: jax.Array) -> tuple[jax.Array, jax.Array, Terms]:
        """F `[]`, its gradient `[d]`, and what the Hessian there is made of, in one pass."""
        layers = self.layers(params)
        jets: list[tuple[jax.Array, jax.Array, jax.Array]] = []
        for wz, wy, b in layers:
            a = wy @ y + b
            a = a if wz is None else a + wz @ jets[-1][0]
            jets.append(self.activation.jet(a))
        if not self.activate_output:
            jets[-1] = (a, jnp.ones_like(a), jnp.zeros_like(a))
        slopes = [jet[1] for jet in jets]
        delta, gradient = jnp.ones_like(slopes[-1]), jnp.zeros_like(y)
        weights: list[jax.Array] = []
        for (wz, wy, _), (_, slope, curvature) in zip(layers[::-1], jets[::-1], strict=True):
            weights.insert(0, delta * curvature)
            back = delta * slope
            gradient = gradient + wy.T @ back
            delta = back if wz is None else wz.T @ back
        return jets[-1][0][0], gradient, Terms(slopes, weights)

    def hessian_at(self, params: Params, terms: Terms) -> jax.Array:
        """The Hessian of F `[d, d]` where :meth:`expand` gave ``terms``."""
        # One row per direction: under vmap the products by wz are then one large product.
        parts = self._jacobians(params, terms)
        return functools.reduce(operator.add, ((j * w) @ j.T for j, w in parts))

    def _jacobians(self, params: Params, terms: Terms) -> list[tuple[jax.Array, jax.Array]]:
        """Per layer the Jacobian of the units, transposed `[d, h]`, and their weights `[1, h]`."""
        slopes, weights = terms
        moved, out = None, []
        for i, (wz, wy, _) in enumerate(self.layers(params)):
            moved = wy.T if moved is None else (moved * slopes[i - 1][None, :]) @ wz.T + wy.T
            out.append((moved, weights[i][None, :]))
        return out

    def factor_at(self, params: Params, terms: Terms) -> jax.Array:
        """B `[units, d]` with B'B the Hessian, where :meth:`expand` gave ``terms``."""
        parts = self._jacobians(params, terms)
        return jnp.concatenate([j * jnp.sqrt(jnp.maximum(w, 0)) for j, w in parts], axis=1).T

    def products_at(self, params: Params, terms: Terms):
        """The two maps of :meth:`factor_at`: v `[d]` to B v `[units]`, and w to B'w `[d]`."""
        layers, (slopes, weights) = self.layers(params), terms
        roots = [jnp.sqrt(jnp.maximum(w, 0)) for w in weights]
        ends = np.cumsum([w.shape[0] for w in weights])[:-1]

        def forward(v: jax.Array) -> jax.Array:
            moved = [layers[0][1] @ v]
            for i, (wz, wy, _) in enumerate(layers[1:], start=1):
                moved.append(wz @ (slopes[i - 1] * moved[-1]) + wy @ v)
            return jnp.concatenate([r * m for r, m in zip(roots, moved, strict=True)])

        def backward(u: jax.Array) -> jax.Array:
            parts = jnp.split(u, ends)
            back = roots[-1] * parts[-1]
            out = layers[-1][1].T @ back
            for i in range(len(layers) - 1, 0, -1):
                back = slopes[i - 1] * (layers[i][0].T @ back) + roots[i - 1] * parts[i - 1]
                out = out + layers[i - 1][1].T @ back
            return out

        return forward, backward

    def hvp_at(self, params: Params, terms: Terms):
        """Map of vectors `[d]` to the Hessian times them, where ``expand`` gave ``terms``."""
        layers, (slopes, weights) = self.layers(params), terms

        def product(v: jax.Array) -> jax.Array:
            moved = [layers[0][1] @ v]
            for i, (wz, wy, _) in enumerate(layers[1:], start=1):
                moved.append(wz @ (slopes[i - 1] * moved[-1]) + wy @ v)
            back = weights[-1] * moved[-1]
            out = layers[-1][1].T @ back
            for i in range(len(layers) - 1, 0, -1):
                back = slopes[i - 1] * (layers[i][0].T @ back) + weights[i - 1] * moved[i - 1]
                out = out + layers[i - 1][1].T @ back
            return out

        return product

    def hessian(self, params: Params, y: jax.Array) -> jax.Array:
        """The Hessian of F at one point, `[d, d]`."""
        return self.hessian_at(params, self.expand(params, y)[2])

    def hvp(self, params: Params, y: jax.Array):
        """Map of vectors `[d]` to the Hessian of F at ``y`` times them."""
        return self.hvp_at(params, self.expand(params, y)[2])

    def bounds(self, params: Params) -> tuple[jax.Array, jax.Array]:
        """Certified ``(lipschitz, smoothness)`` of F, see `monojax.conjugate.constants`.

        Returns:
          Two scalars `[]`, differentiable in ``params``; inf where the activation has no bound.

        Raises:
          ValueError: if the activation's constants are not known.
        """
        return certified(self.layers(params), *self._known_constants(), self.activate_output)

    def product_bound(self, params: Params) -> tuple[jax.Array, jax.Array]:
        """The looser ``(lipschitz, smoothness)`` by row norms alone, each `[]`."""
        return by_rows(self.layers(params), *self._known_constants(), self.activate_output)

    def _known_constants(self) -> tuple[float, float]:
        """Slope and curvature bound of the activation, or an error that says what to do."""
        s, c = self.activation.slope_bound, self.activation.curvature_bound
        if s is None or c is None:
            raise ValueError(
                f"the slope and curvature bounds of activation {self.activation.name!r} are not "
                "known; wrap it in monojax.conjugate.Activation with both, or use softplus(tau)."
            )
        return s, c


def orthonormal(columns: jax.Array) -> jax.Array:
    """Orthonormal basis `[d, n]` of a space with the given columns in it, `[d, n]`, n <= d.

    Cholesky of the Gram matrix, twice. As fast as Householder's QR on a quiet machine; QR in
    OpenBLAS was seen to take 400 times longer where its threads compete with other work. QR
    remains for columns too close to dependent, told by the result.
    """
    eye = jnp.eye(columns.shape[1], dtype=columns.dtype)

    def whiten(a):
        factor = jnp.linalg.cholesky(a.T @ a, symmetrize_input=False)
        return jax.scipy.linalg.solve_triangular(factor, a.T, lower=True).T

    basis = whiten(whiten(columns))
    # A comparison with NaN is False, so a failed factorisation falls back too.
    good = jnp.all(jnp.abs(basis.T @ basis - eye) <= 50 * jnp.finfo(columns.dtype).eps)
    return jax.lax.cond(good, lambda: basis, lambda: jnp.linalg.qr(columns)[0])
