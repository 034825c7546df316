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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from monojax.conjugate.activations import Activation
from monojax.conjugate.newton import conjugate_gradients, dense_solve

WEIGHT_MAPS = {
    "clamp": lambda w: jnp.maximum(w, 0),
    "softplus": jax.nn.softplus,
    "square": jnp.square,
    "abs": jnp.abs,
    "projected": lambda w: w,
}
"""How raw weights become non-negative; "projected" trusts the caller to clamp them itself."""

CG_FROM = 24
"""Unknowns from which systems with the structured Hessian are solved by conjugate gradients."""

START_LIMIT = 160
"""Most unknowns for which the start factorises the Hessian at 0."""

Params = dict[str, jax.Array]


class Terms(NamedTuple):
    """What the Hessian of F at one point is made of."""

    slopes: list[jax.Array]
    """g'(a_i) per layer, `[h_i]`."""
    weights: list[jax.Array]
    """delta_i g''(a_i) >= 0 per layer, `[h_i]`: the weights of the rank-one terms."""


@dataclasses.dataclass(frozen=True)
class ICNN:
    """The shape of one network's maths: activation, weight map, and whether F = g(a_k) or a_k."""

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
        layers, (slopes, weights) = self.layers(params), terms
        moved = layers[0][1].T
        out = (moved * weights[0]) @ moved.T
        for i, (wz, wy, _) in enumerate(layers[1:], start=1):
            moved = (moved * slopes[i - 1]) @ wz.T + wy.T
            out = out + (moved * weights[i]) @ moved.T
        return out

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
        r"""Certified ``(lipschitz, smoothness)`` of F in the Euclidean norm, each `[]`.

        With :math:`g' \in [0, s]`, :math:`g'' \le c` and
        :math:`D_k = 1,\ D_i = s {W^z_i}^\top D_{i+1} \ge \delta_i`, the formula of the Hessian
        gives :math:`\|\nabla^2 F\| \le c \sum_i \|D_i^{1/2} J_i\|^2`. Three bounds hold for each
        norm, for any diagonal R such as :math:`D_i^{1/2}`, and the smallest is taken:

        - rows: :math:`\|RJ_i\|^2 \le \sum_j R_j^2 \ell_{ij}^2`, where
          :math:`\ell_{i+1} = s W^z_i \ell_i + \mathrm{rownorm}(W^y_{i+1})` bounds the row norms;
        - triangle: :math:`\|RJ_{i+1}\| \le s\|RW^z_i\|\,\|J_i\| + \|RW^y_{i+1}\|`;
        - centred: write :math:`\mathrm{diag}(g') = \tfrac s2 I + \tfrac s2 T,\ \|T\| \le 1`, and
          :math:`C_{i+1} = \tfrac s2 W^z_i C_i + W^y_{i+1}`. Then :math:`J_{i+1} - C_{i+1} =
          W^z_i\,\mathrm{diag}(g')(J_i - C_i) + \tfrac s2 W^z_i T C_i`, so
          :math:`\|RJ_{i+1}\| \le \|RC_{i+1}\| + \|RW^z_i\|(s\|J_i - C_i\| + \tfrac s2\|C_i\|)`.

        The gradient is :math:`g'(a_k) J_k`, so s times the bound of the last row is the Lipschitz
        constant. The rows-only recursion of curvatures (``product_bound``) is never smaller than
        the first choice, hence than this.

        Returns:
          Two scalars, differentiable in ``params``; inf for relu's smoothness.

        Raises:
          ValueError: if the activation's constants are not known.
        """
        s, c = self._known_constants()
        layers = self.layers(params)
        caps = [jnp.ones((1,), layers[-1][1].dtype)]
        for wz, _, _ in layers[:0:-1]:
            # The last layer's slope is 1 when the output is linear.
            slope = s if (self.activate_output or len(caps) > 1) else 1.0
            caps.insert(0, slope * (wz.T @ caps[0]))
        zero = jnp.zeros((), layers[0][1].dtype)
        rows, centre, gap, norm = zero, zero, zero, zero
        total = zero
        for i, ((wz, wy, _), cap) in enumerate(zip(layers, caps, strict=True)):
            # Units cut off by the clamp have cap 0, where a square root has no derivative.
            root = jnp.where(cap > 0, jnp.sqrt(jnp.where(cap > 0, cap, 1)), 0)[:, None]
            if wz is None:
                rows, centre = jnp.linalg.norm(wy, axis=1), wy
                weighted, gap, norm = _spectral(root * wy), zero, _spectral(wy)
            else:
                size, middle = _spectral(centre), s / 2 * (wz @ centre) + wy
                spread = s * gap + s / 2 * size
                rows = s * (wz @ rows) + jnp.linalg.norm(wy, axis=1)

                def least(r, wz=wz, wy=wy, rows=rows, spread=spread, middle=middle, norm=norm):
                    return jnp.minimum(
                        jnp.minimum(
                            jnp.linalg.norm(r[:, 0] * rows),
                            s * _spectral(r * wz) * norm + _spectral(r * wy),
                        ),
                        _spectral(r * middle) + _spectral(r * wz) * spread,
                    )

                weighted, norm = least(root), least(jnp.ones_like(root))
                gap, centre = _spectral(wz) * spread, middle
            if i < len(layers) - 1 or self.activate_output:
                total = total + c * jnp.square(weighted)
        lipschitz = (s if self.activate_output else 1.0) * norm
        return lipschitz, total

    def product_bound(self, params: Params) -> tuple[jax.Array, jax.Array]:
        r"""The looser ``(lipschitz, smoothness)`` by row norms alone, each `[]`.

        :math:`m_{i+1} = s W^z_i m_i + c\,\ell_{i+1}^2`, elementwise.
        """
        s, c = self._known_constants()
        rows = curvature = jnp.zeros(())
        for wz, wy, _ in self.layers(params):
            own = jnp.linalg.norm(wy, axis=1)
            carried = 0.0 if wz is None else s * (wz @ curvature)
            rows = own if wz is None else s * (wz @ rows) + own
            curvature = carried + c * jnp.square(rows)
        if not self.activate_output:
            return rows[0], curvature[0] - c * jnp.square(rows[0])
        return s * rows[0], s * (curvature[0] - c * rows[0] ** 2) + c * rows[0] ** 2

    def _known_constants(self) -> tuple[float, float]:
        """Slope and curvature bound of the activation, or an error that says what to do."""
        s, c = self.activation.slope_bound, self.activation.curvature_bound
        if s is None or c is None:
            raise ValueError(
                f"the slope and curvature bounds of activation {self.activation.name!r} are not "
                "known; wrap it in monojax.conjugate.Activation with both, or use softplus(tau)."
            )
        return s, c


def _spectral(matrix: jax.Array) -> jax.Array:
    """Largest singular value, `[]`, with the derivative u v' (finite for any rank)."""
    u, _, vt = jnp.linalg.svd(jax.lax.stop_gradient(matrix), full_matrices=False)
    return u[:, 0] @ matrix @ vt[0]


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


@dataclasses.dataclass(frozen=True)
class ScaledICNN:
    r"""The potential :math:`G(y) = w F(y) + \tfrac{c}{2}\|y\|^2` with all that the solver can use.

    Parameters: ``{"core": params of F, "weight": w [] >= 0, "curvature": c [] > 0}``.
    """

    net: ICNN

    @property
    def piecewise_linear(self) -> bool:
        """Whether the implicit rule is wrong for it."""
        return self.net.activation.piecewise_linear

    def __call__(self, params: Any, y: jax.Array) -> jax.Array:
        """G(y) `[]` at one point `[d]`."""
        return params["weight"] * self.net.value(params["core"], y) + (
            0.5 * params["curvature"] * (y @ y)
        )

    def strong_convexity(self, params: Any) -> jax.Array:
        """The curvature c `[]`."""
        return params["curvature"]

    def smoothness(self, params: Any) -> jax.Array:
        """Certified bound `[]` on the largest curvature of G."""
        return params["weight"] * self.net.bounds(params["core"])[1] + params["curvature"]

    def start(self, params: Any, x: jax.Array) -> jax.Array:
        """x / c, the solution for F = 0, which is never farther off than ||grad F|| / c."""
        return x / params["curvature"]

    def newton_start(self, params: Any, x: jax.Array) -> jax.Array:
        r"""The Newton step from 0, or x / c in more than ``START_LIMIT`` dimensions.

        The Hessian at 0 does not depend on x: under `jax.vmap` it is factorised once for a batch.
        x / c is often far out, where F is almost linear and its curvature misleads Newton.
        """
        if x.shape[0] > START_LIMIT:
            return self.start(params, x)
        _, slope, terms = self.expand(params, jnp.zeros_like(x))
        return dense_solve(self.hessian_at(params, terms), x - slope)

    def expand(self, params: Any, y: jax.Array) -> tuple[jax.Array, jax.Array, Terms]:
        """G `[]`, its gradient `[d]`, and what its Hessian is made of, in one pass."""
        weight, c = params["weight"], params["curvature"]
        value, gradient, terms = self.net.expand(params["core"], y)
        return weight * value + 0.5 * c * (y @ y), weight * gradient + c * y, terms

    def hessian_at(self, params: Any, terms: Terms) -> jax.Array:
        """Hessian of G `[d, d]` where :meth:`expand` gave ``terms``."""
        out = params["weight"] * self.net.hessian_at(params["core"], terms)
        return out + params["curvature"] * jnp.eye(out.shape[0], dtype=out.dtype)

    def hvp_at(self, params: Any, terms: Terms):
        """Map of vectors `[d]` to the Hessian of G times them, where ``expand`` gave ``terms``."""
        product = self.net.hvp_at(params["core"], terms)
        return lambda v: params["weight"] * product(v) + params["curvature"] * v

    def hessian(self, params: Any, y: jax.Array) -> jax.Array:
        """Hessian of G, `[d, d]`."""
        return self.hessian_at(params, self.expand(params, y)[2])

    def hvp(self, params: Any, y: jax.Array):
        """Map of vectors `[d]` to the Hessian of G at ``y`` times them."""
        return self.hvp_at(params, self.expand(params, y)[2])

    def hessian_solve(self, params: Any, y: jax.Array, b: jax.Array) -> jax.Array:
        """Hessian of G inverse times ``b``, `[d]`."""
        dim = y.shape[0]
        if dim < CG_FROM:
            return dense_solve(self.hessian(params, y), b)
        tolerance = 1e-12 if y.dtype == jnp.float64 else 1e-6
        return conjugate_gradients(self.hvp(params, y), b, tolerance, 4 * dim)

    def restrict(self, params: Any, x: jax.Array):
        """The same problem in as many unknowns as F has units, if those are fewer than d.

        grad F lies in the span of the rows of the input weights; off that span y = x / c. With Q an
        orthonormal basis of the span, y = Q u + (x - Q Q' x) / c and F(y) = F(Q u): the rest of y
        is orthogonal to every row.
        """
        core, dim = params["core"], x.shape[0]
        names = [name for name in core if name.startswith("y_kernel_")]
        rows = jnp.concatenate([core[name] for name in names], axis=1)
        if rows.shape[1] >= dim:
            return self, params, x, lambda u: u
        basis = orthonormal(rows)
        small = {**core, **{name: basis.T @ core[name] for name in names}}
        inside = basis.T @ x
        outside = (x - basis @ inside) / params["curvature"]
        return self, {**params, "core": small}, inside, lambda u: basis @ u + outside
