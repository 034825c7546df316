"""Networks for tabular inputs."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def _uniform_fan_in(fan_in: int) -> nn.initializers.Initializer:
    """Uniform in +-1/sqrt(fan_in), for weights and biases: the authors' framework's default."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class _Linear(nn.Module):
    """Dense layer with the fan-in initialisation of weights and biases."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., d]` to `[..., features]`."""
        init = _uniform_fan_in(x.shape[-1])
        return nn.Dense(self.features, kernel_init=init, bias_init=init)(x)


class MLP(nn.Module):
    """Plain multi-layer perceptron: no guarantee, the thing to put a penalty on.

    Attributes:
      features: widths of the hidden layers.
      outputs: number of outputs c; None for a scalar.
      activation: between the layers.
    """

    features: Sequence[int] = (256, 256)
    outputs: int | None = None
    activation: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., d]` to `[...]`, or `[..., c]` with ``outputs``."""
        for width in self.features:
            x = self.activation(_Linear(width)(x))
        y = _Linear(1 if self.outputs is None else self.outputs)(x)
        return y[..., 0] if self.outputs is None else y


class TwoBranch(nn.Module):
    """The two-branch regression network of the penalties' proof of concept.

    One branch sees the free inputs alone, the other all of them and the first one's bottleneck;
    the output is the sum of both. Source: the authors' public code of the 2021 workshop
    precursor; formulas only, no code.

    Attributes:
      monotone: indices of the monotone inputs M.
      hidden: width of the hidden layers.
      bottleneck: width of the clipped layers; None means d // 2.
    """

    monotone: tuple[int, ...]
    hidden: int = 100
    bottleneck: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., d]` to `[...]`."""
        d = x.shape[-1]
        if not self.monotone or not all(0 <= i < d for i in self.monotone):
            raise ValueError(f"monotone must name inputs in 0..{d - 1}, got {self.monotone}.")
        free = np.setdiff1d(np.arange(d), self.monotone)
        width = d // 2 if self.bottleneck is None else self.bottleneck
        u = nn.relu(_Linear(self.hidden)(x))
        u = jnp.clip(_Linear(width)(u), -1, 1)
        if free.size == 0:  # nothing free: the first branch has no input
            return _Linear(1)(nn.relu(_Linear(self.hidden)(u)))[..., 0]
        y = nn.relu(_Linear(self.hidden)(x[..., free]))
        y = jnp.clip(_Linear(width)(y), -1, 1)
        u = nn.relu(_Linear(self.hidden)(jnp.concatenate([u, y], axis=-1)))
        y = nn.relu(_Linear(self.hidden)(y))
        return (_Linear(1)(u) + _Linear(1)(y))[..., 0]
