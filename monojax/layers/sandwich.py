"""Sandwich layers: every dense (and circular convolutional) layer with gain at most 1."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from monojax.base.checks import check_width, choose
from monojax.layers.cayley import apply_frequency, cayley, frequency_kernel, scaled_cayley
from monojax.layers.guarantee import Guaranteed
from monojax.layers.lipschitz_common import (
    SLOPE_RESTRICTED,
    along,
    frobenius_init,
    prepare,
    rescaled,
    weight,
)

SQRT2 = 2.0**0.5
PSI_LIMIT = 4.0
"""Largest size of the logarithms in Psi that is used."""


class SandwichDense(Guaranteed):
    r""":math:`y = \sqrt2 A^T \Psi\,\sigma(\sqrt2\,\Psi^{-1} B x + b)`, 1-Lipschitz in l2.

    :math:`[A\ B]` has orthonormal rows (Cayley) and :math:`\Psi = e^{\psi}` is diagonal. At
    slopes :math:`0 \le D \le I` the Jacobian is :math:`2A^T D B`, whose norm is at most 1
    because :math:`AA^T + BB^T = I`: by construction, for every value of the parameters.

    **Range.** The parameter ``log_psi`` is used between -4 and 4: the output's offset is up to
    :math:`e^\psi` times the bias, and so is its rounding, which no bound of slopes covers.

    Attributes:
      features: output width; any, not only that of x.
      activation: a name of an elementwise activation with slopes in [0, 1]; None for the linear
        output layer :math:`y = Bx + b`.
      use_bias: whether to add a bias.
      kernel_init: initialiser of the raw kernel `[features + d, features]`.
      dtype: of the output; by default that of x and the parameters together.
      param_dtype: of the parameters.

    Call with ``x`` `[..., d]`, returns `[..., features]`; raises ValueError on another width
    than at init.

    Reference:
      Wang, Manchester, "Direct parameterization of Lipschitz-bounded deep networks", ICML 2023,
      https://arxiv.org/abs/2301.11526.
    """

    features: int
    activation: str | None = "relu"
    use_bias: bool = True
    kernel_init: Callable[..., jax.Array] = nn.initializers.glorot_normal()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., d]` to `[..., features]`."""
        n = check_width(self.features)
        x, build = prepare(x, 1, self.dtype, self.param_dtype)
        stacked = scaled_cayley(self, self.kernel_init, (n + x.shape[-1], n), build)
        a, b = stacked[:n].astype(x.dtype), stacked[n:].astype(x.dtype)  # A^T and B^T
        bias = jnp.zeros((n,), build)
        if self.use_bias:
            bias = weight(self, "bias", nn.initializers.zeros, (n,), build)
        t = x @ b
        if self.activation is None:
            return t + along(bias, t)
        act = choose("activation", self.activation, SLOPE_RESTRICTED)
        psi = jnp.exp(_log_psi(self, n, build))
        # At least in float32: the roundings of psi and 1/psi would not cancel below.
        t = t.astype(build)
        hidden = along(SQRT2 * psi, t) * act(along(SQRT2 / psi, t) * t + along(bias, t))
        return hidden.astype(x.dtype) @ a.T


class SandwichConv(Guaranteed):
    """Circular convolutional :class:`SandwichDense`: A and B are Cayley at every frequency.

    Attributes:
      features: output channels.
      kernel_size: (kh, kw) of the raw kernel.
      activation: a name of an elementwise activation with slopes in [0, 1].
      kernel_init: initialiser of the raw kernel `[kh, kw, features + channels, features]`.
      dtype: of the output; by default that of x and the parameters together.
      param_dtype: of the parameters.

    Call with ``x`` `[..., h, w, channels]`, returns `[..., h, w, features]`; raises ValueError
    on other channels than at init or images smaller than the kernel.

    Reference:
      Wang, Manchester, ICML 2023, the convolutional layer, without its strided form.
    """

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    activation: str = "relu"
    kernel_init: Callable[..., jax.Array] = nn.initializers.glorot_normal()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., h, w, channels]` to `[..., h, w, features]`."""
        n = check_width(self.features)
        act = choose("activation", self.activation, SLOPE_RESTRICTED)
        x, build = prepare(x, 3, self.dtype, self.param_dtype)
        shape = (*self.kernel_size, n + x.shape[-1], n)
        kernel = weight(self, "kernel", self.kernel_init, shape, build)
        scale = weight(self, "scale", frobenius_init(kernel), (), build)
        bias = weight(self, "bias", nn.initializers.zeros, (n,), build)
        psi = jnp.exp(_log_psi(self, n, build))
        stacked = cayley(frequency_kernel(rescaled(kernel, scale), x.shape[-3:-1]))
        outer, inner = stacked[..., :n, :], stacked[..., n:, :]
        images = x.reshape(-1, *x.shape[-3:]).astype(build)
        t = apply_frequency(images, inner)
        hidden = along(SQRT2 * psi, t) * act(along(SQRT2 / psi, t) * t + along(bias, t))
        y = apply_frequency(hidden, jnp.conj(jnp.swapaxes(outer, -1, -2)))
        return y.astype(x.dtype).reshape(*x.shape[:-1], n)


def _log_psi(module: nn.Module, n: int, build: Any) -> jax.Array:
    log_psi = weight(module, "log_psi", nn.initializers.zeros, (n,), build)
    return jnp.clip(log_psi, -PSI_LIMIT, PSI_LIMIT)
