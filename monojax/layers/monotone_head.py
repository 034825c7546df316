"""MonoCon's head: a monotone network with squared weights, as published."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from monojax.base.checks import check_number, check_width
from monojax.base.renamed import renamed
from monojax.layers.guarantee import Guaranteed
from monojax.layers.lipschitz_common import along, prepare, weight
from monojax.layers.nonnegative import NonNegativeDense, fan_in_uniform
from monojax.layers.spectral import gram_bound


@renamed(
    reparam="the head's weights are squared, as published. It is named weight_map now, and "
    "MonotoneMLP and NonNegativeDense have it."
)
class MonotoneHead(Guaranteed):
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
      Gokhale, "MonoCon: A general framework for learning ultra-compact high-fidelity
      representations using monotonicity constraints", 2025, section 3; the published code's
      initialisation.
    """

    dim: int
    hidden: int | None = None
    num_layers: int = 1
    monotone: bool = True
    negative_slope: float = 0.01
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def bounds(self) -> tuple[float, jax.Array]:
        """Certified ``(smallest, largest)`` slope in l2, from the weights as they are.

        Called as ``net.apply(params, method="bounds")``.
        """
        params = self.variables["params"]
        whole = jnp.eye(params["dense_0"]["kernel"].shape[0])
        for i in range(self.num_layers + 1):
            raw = jnp.asarray(params[f"dense_{i}"]["kernel"])
            raw = raw.astype(jnp.promote_types(raw.dtype, jnp.float32))
            whole = whole @ (jnp.square(raw) if self.monotone else jnp.abs(raw))
        return 0.0, gram_bound(whole)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., d]` to `[..., dim]`."""
        dim = check_width(self.dim, "dim")
        hidden = 2 * dim if self.hidden is None else check_width(self.hidden, "hidden")
        if self.num_layers not in (1, 2):
            raise ValueError(f"num_layers must be 1 or 2 hidden layers, got {self.num_layers!r}.")
        check_number(self.negative_slope, "negative_slope", least=0)
        if not self.negative_slope <= 1:
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
        y = x @ kernel.astype(x.dtype)
        return y + along(bias, y)
