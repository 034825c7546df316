"""Encoders that the MonoCon experiments train: each maps a batch of inputs to features `[b, d]`."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from monojax.models.efficientnet import InvertedResidual


class Perceptron(nn.Module):
    """Dense layers with a ReLU after each, so that features are >= 0 as a ResNet's are.

    Attributes:
      features: widths.
    """

    features: Sequence[int]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """`[b, n]` to `[b, features[-1]]`."""
        for width in self.features:
            x = nn.relu(nn.Dense(width)(x))
        return x


class SmallConv(nn.Module):
    """Two convolutions that halve the image, and a dense layer that knows left from right.

    Attributes:
      channels: of the convolutions.
      features: d, of the dense layer; a ReLU follows, so that features are >= 0.
    """

    channels: Sequence[int]
    features: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """`[b, h, w, c]` to `[b, d]`."""
        for width in self.channels:
            x = nn.relu(nn.Conv(width, (3, 3), (2, 2))(x))
        return nn.relu(nn.Dense(self.features)(x.reshape(len(x), -1)))


class Pooled(nn.Module):
    """The mean over positions of a convolutional network's last maps.

    Attributes:
      net: a module with a method ``features(x, train)`` to maps `[b, h, w, d]`.
    """

    net: nn.Module

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """`[b, h, w, 3]` to `[b, d]`."""
        return jnp.mean(self.net.features(x, train), axis=(1, 2))


class LiteTail(nn.Module):
    """EfficientNet-Lite0's last block on the maps before it, and the mean over positions."""

    @nn.compact
    def __call__(self, maps: jax.Array, train: bool = False) -> jax.Array:
        """`[b, h, w, 192]` to `[b, 320]`."""
        block = InvertedResidual(320, kernel=3, stride=1, expansion=6, name="block")
        return jnp.mean(block(maps), axis=(1, 2))


class Cached(nn.Module):
    """Features that were computed before: no parameters."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """`[b, d]`, unchanged."""
        return x


def stored_encoder(encoder: nn.Module, variables: Any) -> tuple[Any, Any]:
    """Splits variables into parameters and the rest.

    Args:
      encoder: its module, for the message.
      variables: with "params", or `{}` for an encoder without any.

    Returns:
      ``(params, other collections)``.

    Raises:
      ValueError: if there are collections but no parameters.
    """
    rest = {name: value for name, value in variables.items() if name != "params"}
    if rest and "params" not in variables:
        raise ValueError(f"the variables of {type(encoder).__name__} hold no params.")
    return variables.get("params", {}), rest
