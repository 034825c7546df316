r"""Networks that are convex in their input, and in a part of it.

`ICNN` follows the recursion of Kinoshita and Toyoizumi's bi-Lipschitz network; `PartialICNN` that
of Amos, Xu and Kolter, with every declared block used (the released code's loop stops one short).
`PairwiseICNN` has a conjugate whose gradient is monotone in every coordinate.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from monojax.base.checks import check_widths, choose, one_of
from monojax.base.renamed import renamed
from monojax.conjugate.activations import Activation, as_activation, softplus
from monojax.conjugate.icnn import WEIGHT_MAPS, ICNNPotential
from monojax.layers.guarantee import Frozen, Guaranteed

Initializer = Callable[..., jax.Array]


def uniform(low: float, high: float) -> Initializer:
    """A flax initialiser, uniform between two numbers."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, low, high)

    return init


INITIALISERS: dict[str, Initializer] = {
    "glorot_normal": nn.initializers.glorot_normal(),
    "glorot_uniform": nn.initializers.glorot_uniform(),
    "uniform_0_1": uniform(0.0, 1.0),
    "uniform_1_1.1": uniform(1.0, 1.1),
}
"""Raw weights between convex units: the code's default, the paper's text, its Figures 4 and 5."""


def convex_init(init: str | Initializer, weight_map: str) -> Initializer:
    """Initialiser of raw weights such that the mapped ones are the clamped draw of ``init``.

    Args:
      init: a name in ``INITIALISERS``, or a flax initialiser.
      weight_map: "clamp", "softplus", "square", "abs" or "projected". The maps that vanish nowhere
        ("softplus") or only at 0 ("square", "abs") get a floor of 1e-3, below which they hardly
        learn.

    Returns:
      A flax initialiser.

    Raises:
      ValueError: on an unknown name.
    """
    draw = init if callable(init) else choose("z_init", init, INITIALISERS)
    check_weight_map(weight_map)

    def raw(key, shape, dtype=jnp.float32):
        w = draw(key, shape, dtype)
        if weight_map == "clamp":
            return w
        if weight_map == "abs":
            return jnp.maximum(w, 1e-3)
        positive = jnp.maximum(w, 0)
        if weight_map == "projected":
            return positive
        positive = jnp.maximum(positive, 1e-3)
        return jnp.sqrt(positive) if weight_map == "square" else jnp.log(jnp.expm1(positive))

    return raw


def check_weight_map(weight_map: Any) -> None:
    """Raises ValueError unless ``weight_map`` is known; "clip" is named "clamp" now."""
    if weight_map == "clip":
        raise ValueError("weight_map 'clip' is named 'clamp' now.")
    one_of(weight_map, WEIGHT_MAPS, "weight_map")


def project_convex(params: Any) -> Any:
    """Clamps every ``z_kernel`` of a parameter tree at 0: call after each optimiser step.

    Args:
      params: pytree of an :class:`ICNN` or :class:`PartialICNN` with ``weight_map="projected"``.

    Returns:
      The same tree; convexity is guaranteed at these values.
    """

    def clamp(path, leaf):
        name = str(getattr(path[-1], "key", path[-1]))
        return jnp.maximum(leaf, 0) if name.startswith("z_kernel") else leaf

    return jax.tree_util.tree_map_with_path(clamp, params)


def check_features(features: Sequence[int]) -> tuple[int, ...]:
    """Widths of hidden layers as a tuple of positive integers, at least one.

    Raises:
      ValueError: if empty, or a width is below 1.
    """
    return check_widths(features)


@renamed(reparam="weight_map")
class ICNN(Guaranteed):
    r"""A scalar function convex in its input: maps `[..., d]` to `[...]`.

    :math:`z_0 = g(W^y_0 y + b_0)`, :math:`z_{i+1} = g([W^z_i]_+ z_i + W^y_{i+1} y + b_{i+1})`;
    the last unit is scalar. Convex for any parameters because g is convex and non-decreasing and
    the weights between units are non-negative.

    Attributes:
      features: widths of the hidden layers.
      activation: ``softplus(sharpness)``, "relu", "elu", an Activation or a callable; sharpness 10
        by default.
      weight_map: "clamp" (the paper's; its negative entries never learn), "softplus", "square",
        "abs", or "projected" with :func:`project_convex` after each step.
      z_init: of the raw non-negative weights, a name in ``INITIALISERS`` or a flax initialiser.
      activate_output: whether g is applied to the scalar as well, as the paper's BLNN does.

    Reference:
      Amos, Xu, Kolter, "Input Convex Neural Networks", ICML 2017; arXiv 2404.09821, section 3.
    """

    features: Sequence[int]
    activation: Any = softplus(10.0)
    weight_map: str = "clamp"
    z_init: Any = "glorot_normal"
    activate_output: bool = True

    @property
    def maths(self) -> ICNNPotential:
        """The network as a function of its parameters: value, Hessian, constants."""
        return ICNNPotential(as_activation(self.activation), self.weight_map, self.activate_output)

    @nn.compact
    def __call__(self, y: jax.Array) -> jax.Array:
        """F(y), shape `[...]`, for ``y`` `[..., d]`."""
        widths = (*check_features(self.features), 1)
        if y.ndim < 1 or y.shape[-1] < 1:
            raise ValueError(f"y must have shape [..., d] with d >= 1, got {y.shape}.")
        dim, params = y.shape[-1], {}
        free, positive = (
            uniform(-(dim**-0.5), dim**-0.5),
            convex_init(self.z_init, self.weight_map),
        )
        for i, width in enumerate(widths):
            if self.has_variable("params", f"y_kernel_{i}"):
                found: int = self.get_variable("params", f"y_kernel_{i}").shape[0]
                if found != dim:
                    raise ValueError(f"y has width {dim}, but the parameters are for {found}.")
            params[f"y_kernel_{i}"] = self.param(f"y_kernel_{i}", free, (dim, width), y.dtype)
            params[f"bias_{i}"] = self.param(f"bias_{i}", free, (width,), y.dtype)
            if i:
                shape = (widths[i - 1], width)
                params[f"z_kernel_{i}"] = self.param(f"z_kernel_{i}", positive, shape, y.dtype)
        flat = y.reshape(-1, dim)
        return jax.vmap(lambda y: self.maths.value(params, y))(flat).reshape(y.shape[:-1])

    def bounds(self) -> tuple[float, jax.Array]:
        """Certified ``(smallest, largest)`` slope of F in l2, from the weights as they are.

        Called as ``net.apply(params, method="bounds")``.
        """
        return 0.0, self.constants()[0]

    def constants(self) -> tuple[jax.Array, jax.Array]:
        """Certified ``(lipschitz, smoothness)`` of F, each `[]`: largest slope and curvature."""
        return self.maths.bounds(dict(self.variables["params"]))


class PartialICNN(Frozen):
    r"""A scalar function of (context, w), convex in w and arbitrary in the context.

    Maps `[..., p]` and `[..., d]` to `[...]`. With :math:`u_0 = c` and :math:`\circ` elementwise,

    .. math::
      u_{i+1} &= g(\hat W_i u_i + \hat b_i) \\
      a_i &= [W^z_i]_+(z_i \circ g(W^{zu}_i u_i + b^{zu}_i))
             + W^y_i (w \circ (W^{yu}_i u_i + b^{yu}_i)) + W^u_i u_i + b^u_i

    :math:`z_{i+1} = g(a_i)` without the first term at i = 0, and :math:`F = a_k`, linear.

    Attributes:
      features: widths of the hidden blocks, k of them; the context path has the same widths.
      activation: convex and non-decreasing; ``softplus(10)`` by default. Where it is not known to
        be non-negative (``Activation.lower_bound``), the gates are softplus.
      weight_map: of the weights between convex units, as in :class:`ICNN`.
      z_init: of those raw weights.

    Reference:
      Amos, Xu, Kolter, ICML 2017, equation 3; arXiv 2404.09821, appendix on PBLNN.
    """

    features: Sequence[int]
    activation: Any = softplus(10.0)
    weight_map: str = "clamp"
    z_init: Any = "glorot_normal"

    @nn.compact
    def __call__(self, context: jax.Array, w: jax.Array) -> jax.Array:
        """F(w; c), shape `[...]`, for ``context`` `[..., p]` and ``w`` `[..., d]`."""
        widths = (*check_features(self.features), 1)
        if context.ndim < 1 or w.ndim < 1 or context.shape[:-1] != w.shape[:-1]:
            raise ValueError(
                "context [..., p] and w [..., d] must have the same leading shape, got "
                f"{context.shape} and {w.shape}."
            )
        g, dim = as_activation(self.activation), w.shape[-1]
        gate = _positive_gate(g)
        positive = convex_init(self.z_init, self.weight_map)
        dense = lambda width, name, bias=True: nn.Dense(width, use_bias=bias, name=name)
        u, z = context, None
        for i, width in enumerate(widths):
            scaled = w * dense(dim, f"yu_{i}")(u)
            a = dense(width, f"y_{i}", bias=False)(scaled) + dense(width, f"u_{i}")(u)
            if z is not None:
                raw = self.param(f"z_kernel_{i}", positive, (z.shape[-1], width), w.dtype)
                gated = z * gate(dense(z.shape[-1], f"zu_{i}")(u))
                a = a + gated @ WEIGHT_MAPS[self.weight_map](raw)
            if i == len(widths) - 1:
                return a[..., 0]
            z = g(a)
            u = g(dense(width, f"context_{i}")(u))
        raise AssertionError("check_features returns at least one width.")


class PairwiseICNN(Frozen):
    r"""Convex in w with non-positive mixed derivatives: maps (context `[..., p]`, w `[..., d]`).

    .. math:: F(w; c) = \sum_u v_u(c)\, g\big(a_u(c)\, w_{p(u)} - b_u(c)\, w_{q(u)} + e_u(c)\big),
       \qquad a, b, v \ge 0,\ p(u) \ne q(u),

    with g convex; a, b, v, e are outputs of a network of the context.

    **The conjugate's gradient is non-decreasing in every coordinate.** Unit u adds
    :math:`v g'' \ge 0` times :math:`(a e_p - b e_q)(a e_p - b e_q)^\top` to the Hessian, whose only
    off-diagonal entries are :math:`-ab \le 0`. So :math:`H = \nabla^2 F + kI`, k > 0, is symmetric
    positive definite with non-positive off-diagonal entries (a Stieltjes matrix). Write
    H = s (I - N) with :math:`s = \max_i H_{ii}`: N is symmetric and elementwise non-negative, so
    its spectral radius is an eigenvalue (Perron-Frobenius), and :math:`H \succ 0` puts it below 1;
    hence :math:`H^{-1} = \frac1s\sum_n N^n \ge 0` elementwise. The Jacobian of the conjugate's
    gradient is H^-1.

    Every ordered pair (p, q) is used in turn, so interactions between all coordinates are open.
    Not every function with such a Hessian is of this form (one layer, pairs only).

    Attributes:
      features: widths of the context network; the last one is the number of units per coordinate.
      activation: convex, smooth; ``softplus(10)`` by default.
    """

    features: Sequence[int]
    activation: Any = softplus(10.0)

    @nn.compact
    def __call__(self, context: jax.Array, w: jax.Array) -> jax.Array:
        """F(w; c), shape `[...]`."""
        g, dim = as_activation(self.activation), w.shape[-1]
        units = self.features[-1] * dim
        u = context
        for i, width in enumerate(self.features):
            u = jnp.tanh(nn.Dense(width, name=f"context_{i}")(u))
        spread = nn.initializers.normal(1.0)
        heads = nn.Dense(4 * units, name="heads", bias_init=spread)(u)
        heads = heads.reshape(*context.shape[:-1], 4, units)
        a, b, v = (jax.nn.softplus(heads[..., i, :]) for i in range(3))
        p = jnp.arange(units) % dim
        q = (p + 1 + (jnp.arange(units) // dim) % max(dim - 1, 1)) % dim
        pull = b * w[..., q] if dim > 1 else 0.0
        inner = a * w[..., p] - pull + heads[..., 3, :]
        # Divided by the count so that the curvature does not grow with the width.
        return jnp.sum(v * g(inner), axis=-1) / self.features[-1]


def _positive_gate(g: Activation) -> Callable[[jax.Array], jax.Array]:
    """Gates must be non-negative: g itself, as in the paper, where that is known; else softplus."""
    return g if g.lower_bound is not None and g.lower_bound >= 0 else jax.nn.softplus
