r"""A difference of two trained networks, both convex or both monotone in their input."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from monojax.base.checks import check_widths, one_of
from monojax.base.renamed import renamed
from monojax.conjugate.activations import as_activation
from monojax.conjugate.icnn import WEIGHT_MAPS, ICNNPotential
from monojax.layers.convex import convex_init
from monojax.layers.guarantee import Guaranteed
from monojax.layers.lipschitz_common import prepare, weight
from monojax.layers.monotone import GONE, RELU_VARIANCE, MonotoneMLP
from monojax.layers.nonnegative import spread_columns
from monojax.layers.spectral import gram_bound

KINDS = ("convex", "monotone")


@renamed(reparam="weight_map")
class ConvexMLP(Guaranteed):
    r"""Several outputs, each convex in the input: :class:`monojax.layers.ICNN` with a wide end.

    :math:`z_0 = g(W^y_0 x + b_0)`, :math:`z_{i+1} = g(r(W^z_i) z_i + W^y_{i+1} x + b_{i+1})`, no
    activation at the end; the outputs share the hidden layers.

    Weights of the input start small (a tenth of the variance that would keep the input's), those
    into later layers at 0: what training does not touch, such as the weights of pixels that never
    change, then does not show in the gradients.

    Attributes:
      features: widths, the output's last: ``(64, 64, 10)``.
      activation: convex and non-decreasing, as in :class:`monojax.layers.ICNN`.
      weight_map: of the weights between units, as in :class:`monojax.layers.ICNN`.
      spread: of those initial weights, see ``spread_columns``.
      dtype: of the output; by default that of x and the parameters together.
      param_dtype: of the parameters.

    Call with ``x`` `[..., d]`, returns `[..., features[-1]]`; raises ValueError on an option or a
    shape that does not fit.

    Reference:
      Amos, Xu, Kolter, "Input Convex Neural Networks", ICML 2017.
    """

    features: Sequence[int]
    activation: Any = "relu"
    weight_map: str = "square"
    spread: float = 1.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def bounds(self) -> tuple[float, jax.Array]:
        """Certified ``(smallest, largest)`` slope in l2, from the weights as they are.

        Called as ``net.apply(params, method="bounds")``.

        Raises:
          ValueError: if the activation's largest slope is infinite or not known.
        """
        steepest = as_activation(self.activation).slope_bound
        if steepest is None or not math.isfinite(steepest):
            raise ValueError("bounds: the activation's slopes are not bounded, or not known.")
        params, positive = self.variables["params"], WEIGHT_MAPS[self.weight_map]
        whole = jnp.abs(params["y_kernel_0"])
        for i in range(1, len(self.features)):
            onwards = steepest * whole @ positive(params[f"z_kernel_{i}"])
            whole = onwards + jnp.abs(params[f"y_kernel_{i}"])
        return 0.0, gram_bound(whole)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., d]` to `[..., features[-1]]`."""
        widths = check_widths(self.features)
        maths = ICNNPotential(
            as_activation(self.activation), self.weight_map, activate_output=False
        )
        x, build = prepare(x, 1, self.dtype, self.param_dtype)
        small = nn.initializers.variance_scaling(0.1, "fan_in", "normal")
        draw = spread_columns(1 / RELU_VARIANCE, self.spread)
        positive = convex_init(draw, self.weight_map)
        params = {}
        for i, width in enumerate(widths):
            shape = (x.shape[-1], width)
            free = nn.initializers.zeros if i else small
            params[f"y_kernel_{i}"] = weight(self, f"y_kernel_{i}", free, shape, build)
            params[f"bias_{i}"] = weight(self, f"bias_{i}", nn.initializers.zeros, (width,), build)
            if i:
                shape = (widths[i - 1], width)
                params[f"z_kernel_{i}"] = weight(self, f"z_kernel_{i}", positive, shape, build)
        layers = jax.tree.map(lambda leaf: leaf.astype(x.dtype), maths.layers(params))
        last = lambda point: maths.preactivations(layers, point)[-1]
        out = jax.vmap(last)(x.reshape(-1, x.shape[-1]))
        return out.reshape(*x.shape[:-1], widths[-1])


@renamed(reparam="weight_map", concave=GONE)
class DCNetwork(Guaranteed):
    r"""A classifier :math:`f(x) = g(x) - h(x')` of two networks of their own, convex or monotone.

    With :math:`x' = x` the convex kind is a difference of convex functions, which can come close
    to every continuous function; so can the monotone kind. With ``inverted`` the second network
    sees :math:`x' = 1 - x`. Then f of the monotone kind is non-decreasing in every input:
    :math:`g` grows with what is there, and :math:`h` takes off for what is absent. Classes still
    compete, since a softmax does not see what all logits share.

    Attributes:
      features: widths of each network, the number of classes last: ``(128, 128, 10)``.
      kind: "convex" (two input-convex networks, :class:`ConvexMLP`) or "monotone" (two
        :class:`MonotoneMLP`, every weight non-negative).
      inverted: whether the second network's input is 1 - x when it is not given.
      activation: of :class:`ConvexMLP` or :class:`MonotoneMLP`; None is "relu" for the convex kind
        and "tanh" for the monotone one, whose streams "relu" makes convex as well.
      weight_map: of non-negative weights, "square", "softplus", "abs" or "clamp" ("exp" for the
        monotone kind only).
      spread: of the initial non-negative weights; None is 2 for "monotone" and 1 for "convex".
      input_mean: roughly the mean of x; used at init only, by the monotone kind.
      input_variance: roughly its variance; likewise.
      dtype: of the output; by default that of x and the parameters together.
      param_dtype: of the parameters.

    Call with ``x`` `[..., d]` and optionally the second input of the same shape; returns
    `[..., classes]`. ``method="streams"`` gives ``(g, h)``, each of that shape. Raises ValueError
    on an unknown kind, or inputs of different shapes.

    Reference:
      Zimmermann, Loho, "Hidden Monotonicity", CVPR 2026 (the trained differences DIC and DM;
      layers and initialisation are not published there).
    """

    features: Sequence[int]
    kind: str = "convex"
    inverted: bool = False
    activation: str | None = None
    weight_map: str = "square"
    spread: float | None = None
    input_mean: float = 0.0
    input_variance: float = 1.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        """Builds the two networks."""
        mean = self.input_mean
        self.g = self._stream(mean)
        self.h = self._stream(1 - mean if self.inverted else mean)

    def __call__(self, x: jax.Array, x_second: jax.Array | None = None) -> jax.Array:
        """Logits g - h, `[..., classes]`."""
        g, h = self.streams(x, x_second)
        return g - h

    def streams(
        self, x: jax.Array, x_second: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """The two networks' outputs ``(g, h)``, each `[..., classes]`."""
        x = jnp.asarray(x)
        if x_second is None:
            x_second = 1 - x if self.inverted else x
        if jnp.shape(x_second) != x.shape:
            raise ValueError(
                f"x and x_second must have the same shape, got {x.shape} and {jnp.shape(x_second)}."
            )
        return self.g(x), self.h(x_second)

    def bounds(self) -> tuple[float, jax.Array]:
        """Certified ``(smallest, largest)`` slope of g - h in l2, from the weights as they are.

        Called as ``net.apply(params, method="bounds")``.

        For h(1 - x) or h(x); not for a second input of its own.
        """
        return 0.0, self.g.bounds()[1] + self.h.bounds()[1]

    def _stream(self, mean: float) -> nn.Module:
        shared = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if one_of(self.kind, KINDS, "kind") == "convex":
            spread = 1.0 if self.spread is None else self.spread
            activation = self.activation or "relu"
            return ConvexMLP(self.features, activation, self.weight_map, spread, **shared)
        return MonotoneMLP(
            self.features,
            activation=self.activation or "tanh",
            weight_map=self.weight_map,
            spread=2.0 if self.spread is None else self.spread,
            input_mean=mean,
            input_variance=self.input_variance,
            **shared,
        )
