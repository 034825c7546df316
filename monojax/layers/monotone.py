r"""Networks that are monotone in their inputs, for any parameters.

:class:`MonotoneMLP` can fit every continuous monotone function; :class:`MonotoneHead` is the
published head of MonoCon, whose units are almost all convex.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from monojax.base.checks import check_positive, check_width, check_widths, choose, is_concrete
from monojax.base.directions import check_directions
from monojax.layers.lipschitz_common import prepare, weight
from monojax.layers.nonnegative import NonNegativeDense, fan_in_uniform, nonnegative_init

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "leaky_relu": nn.leaky_relu,
    "elu": nn.elu,
    "softplus": nn.softplus,
}
"""Convex and non-decreasing."""

RELU_MEAN = (2 * math.pi) ** -0.5
"""E relu(z) of a standard normal z."""

RELU_VARIANCE = 0.5 - 0.5 / math.pi
"""Var relu(z)."""


def split_units(
    t: jax.Array, activation: Callable[[jax.Array], jax.Array], num_concave: int
) -> jax.Array:
    r"""Units :math:`\phi(t)`, and :math:`-\phi(-t)` for the last ``num_concave`` of them.

    Args:
      t: `[..., n]`.
      activation: :math:`\phi`, elementwise, non-decreasing.
      num_concave: how many, 0 to n.

    Returns:
      `[..., n]`.
    """
    count = t.shape[-1] - num_concave
    return jnp.concatenate([activation(t[..., :count]), -activation(-t[..., count:])], axis=-1)


class MonotoneMLP(nn.Module):
    r"""A multilayer perceptron that is monotone in the inputs that ``directions`` names.

    Weights are non-negative after the inputs with direction -1 are negated; free inputs
    (direction 0) enter the first layer through a column of any sign. For every value of the
    parameters the output is non-decreasing in inputs with +1, non-increasing in those with -1.

    **Universal.** With non-negative weights and a convex :math:`\phi` alone every unit is a
    convex function of the inputs, so sqrt or tanh are out of reach, at any depth. So a share of
    the units of each layer is :math:`-\phi(-t)`, which is concave and non-decreasing as well;
    with both, three or more hidden layers can come close to every continuous monotone function
    (orthants, their unions, sums of levels); for one input two will do (sums of ramps).

    The initialisation keeps variance (see ``nonnegative_init``) for inputs with the mean and the
    variance that are given, in the first layer exactly for uncorrelated inputs; deeper units are
    correlated, and it grows by about 2 a layer. The biases take off the mean of what comes in,
    and spread the kinks.

    Attributes:
      features: widths, the output's last: ``(64, 64, 1)``.
      directions: +1, -1 or 0 per input, `[d]`; None is +1 for all.
      activation: :math:`\phi`: "relu", "leaky_relu", "elu", "softplus", or a callable, which must
        be non-decreasing.
      concave: share of the units that are :math:`-\phi(-t)`, 0 to 1; 0 gives convex functions.
      reparam: of the weights, see :class:`NonNegativeDense`.
      spread: of the initial weights, see ``nonnegative_init``.
      input_mean: roughly the mean of the inputs with a direction, after the sign flips; used at
        init only.
      input_variance: roughly their variance; used at init only.
      dtype: of the output; by default that of x and the parameters together.
      param_dtype: of the parameters.

    Call with ``x`` `[..., d]`, returns `[..., features[-1]]`; raises ValueError on empty
    features, directions of another length or value, an unknown name, a share out of range, or
    another width than at init.

    Reference:
      Runje, Shankaranarayana, "Constrained monotonic neural networks", ICML 2023 (convex and
      concave units), https://arxiv.org/abs/2205.11775.
    """

    features: Sequence[int]
    directions: Any = None
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    concave: float = 0.5
    reparam: str = "square"
    spread: float = 2.0
    input_mean: float = 0.0
    input_variance: float = 1.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., d]` to `[..., features[-1]]`."""
        widths = check_widths(self.features)
        if not 0 <= self.concave <= 1:
            raise ValueError(f"concave must be a share between 0 and 1, got {self.concave}.")
        phi = self.activation
        phi = phi if callable(phi) else choose("activation", phi, ACTIVATIONS)
        x, _ = prepare(x, 1, self.dtype, self.param_dtype)
        x = self._first(x, widths[0])
        for i, width in enumerate(widths[1:], start=1):
            num_concave = round(self.concave * widths[i - 1])
            x = split_units(x, phi, num_concave)
            mean = np.full(widths[i - 1], RELU_MEAN)
            mean[widths[i - 1] - num_concave :] *= -1
            x = self._dense(width, i, 1 / RELU_VARIANCE, tuple(mean.tolist()))(x)
        return x

    def _first(self, x: jax.Array, width: int) -> jax.Array:
        """The first layer, where directions come in."""
        check_positive(self.input_variance, "input_variance")
        dense = self._dense(width, 0, 1 / self.input_variance, self.input_mean)
        if self.directions is None:
            return dense(x)
        if not is_concrete(self.directions):
            raise ValueError("directions of a MonotoneMLP must be known; they cannot be traced.")
        signs = np.asarray(check_directions(self.directions, x.shape[-1]))
        bound, free = np.flatnonzero(signs), np.flatnonzero(signs == 0)
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if not len(bound):
            return nn.Dense(width, name="free", **options)(x)
        y = dense(x[..., bound] * signs[bound].astype(x.dtype))
        if len(free):
            y = y + nn.Dense(width, use_bias=False, name="free", **options)(x[..., free])
        return y

    def _dense(self, width: int, index: int, scale: float, mean: Any) -> nn.Module:
        return NonNegativeDense(
            width,
            reparam=self.reparam,
            kernel_init=nonnegative_init(self.reparam, scale, self.spread),
            input_mean=mean,
            bias_spread=0.0 if index == len(self.features) - 1 else 1.0,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=f"dense_{index}",
        )


class MonotoneHead(nn.Module):
    r"""MonoCon's head, as published: :math:`y = \phi(x\,W_1^{\circ 2} + b_1)\,W_2^{\circ 2} + b_2`.

    Weights are squared elementwise, biases are free, :math:`\phi` is a leaky ReLU with slope 0.01
    and nothing follows the last layer. With :math:`V = W^{\circ 2}` and one hidden layer, for
    every value of the parameters,

    .. math:: 0 \le 0.01\,(V_1 V_2)^\top \le \partial y/\partial x \le (V_1 V_2)^\top

    elementwise, so :math:`x \le x'` implies :math:`y(x) \le y(x')`. It says nothing about inputs
    of the encoder before, nor about the normalised embedding.

    Raw weights and biases start uniform on :math:`\pm 1/\sqrt{n}`, n being the layer's input
    width. So V has mean 1/(3n) and hardly varies: each layer starts as nearly a plain average,
    and the outputs as nearly one number. That is part of the method (its low effective
    dimension); for fitting functions take :class:`MonotoneMLP`.

    Attributes:
      dim: output width.
      hidden: width of hidden layers; None is 2 * dim.
      num_layers: hidden layers, 1 as published; 2 is the paper's ablation.
      monotone: False gives the standard perceptron of the ablation, :math:`V = W`, with the same
        parameters and initialisation.
      negative_slope: of the leaky ReLU, in [0, 1].
      dtype: of the output; by default that of x and the parameters together.
      param_dtype: of the parameters.

    Call with ``x`` `[..., d]`, returns `[..., dim]`; raises ValueError on an option out of range
    or another width than at init.

    Reference:
      Gokhale, "MonoCon", section 3 and the published code's initialisation.
    """

    dim: int
    hidden: int | None = None
    num_layers: int = 1
    monotone: bool = True
    negative_slope: float = 0.01
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., d]` to `[..., dim]`."""
        dim = check_width(self.dim, "dim")
        hidden = 2 * dim if self.hidden is None else check_width(self.hidden, "hidden")
        if self.num_layers not in (1, 2):
            raise ValueError(f"num_layers must be 1 or 2 hidden layers, got {self.num_layers!r}.")
        if not 0 <= self.negative_slope <= 1:
            raise ValueError(f"negative_slope must be in [0, 1], got {self.negative_slope}.")
        x, _ = prepare(x, 1, self.dtype, self.param_dtype)
        for i, width in enumerate((*[hidden] * self.num_layers, dim)):
            if i:
                x = jax.nn.leaky_relu(x, self.negative_slope)
            init = fan_in_uniform(x.shape[-1])
            options = {
                "kernel_init": init,
                "bias_init": init,
                "dtype": self.dtype,
                "param_dtype": self.param_dtype,
                "name": f"dense_{i}",
            }
            layer = NonNegativeDense(width, **options) if self.monotone else _Free(width, **options)
            x = layer(x)
        return x


class _Free(nn.Module):
    """A dense layer of any sign with the parameters of :class:`NonNegativeDense`."""

    features: int
    kernel_init: Callable[..., jax.Array]
    bias_init: Callable[..., jax.Array]
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x, build = prepare(x, 1, self.dtype, self.param_dtype)
        shape = (x.shape[-1], self.features)
        kernel = weight(self, "kernel", self.kernel_init, shape, build)
        bias = weight(self, "bias", self.bias_init, (self.features,), build)
        return x @ kernel.astype(x.dtype) + bias.astype(x.dtype)
