"""VGG16: thirteen 3x3 convolutions, five poolings, three dense layers."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


class VGG16(nn.Module):
    """VGG16 of Simonyan and Zisserman (2015); convolutions are named by torchvision's indices.

    ``features_0`` is conv1_1, ``features_26`` conv5_2. Dropout is left out: this is the network
    as it predicts.

    Args:
      num_classes: number of logits.
      width: share of the original's channels in the convolutions, 1.0 for the original.
      dense: widths of the two hidden dense layers.
      pooled: positions per side that adaptive average pooling leaves, 7 in the original.
      dtype: of the computation; None follows the input and parameters.
    """

    num_classes: int = 1000
    width: float = 1.0
    dense: Sequence[int] = (4096, 4096)
    pooled: int = 7
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b, h, w, c]` to logits `[b, num_classes]`."""
        index = 0
        for channels, repeats in _STAGES:
            for _ in range(repeats):
                features = max(1, round(channels * self.width))
                name = f"features_{index}"
                x = nn.relu(nn.Conv(features, (3, 3), padding=1, dtype=self.dtype, name=name)(x))
                index += 2
            x = nn.max_pool(x, (2, 2), (2, 2))
            index += 1
        x = _adaptive_mean(x, self.pooled)
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.dense):
            x = nn.relu(nn.Dense(width, dtype=self.dtype, name=f"classifier_{3 * i}")(x))
        return nn.Dense(
            self.num_classes, dtype=self.dtype, name=f"classifier_{3 * len(self.dense)}"
        )(x)


def _adaptive_mean(x: jax.Array, size: int) -> jax.Array:
    """Mean over bins as torch's adaptive average pooling cuts them, `[b, size, size, c]`."""
    if x.shape[1] == x.shape[2] == size:
        return x
    for axis in (1, 2):
        n = x.shape[axis]
        bins = [(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]
        means = [
            jax.lax.slice_in_dim(x, a, b, axis=axis).mean(axis, keepdims=True) for a, b in bins
        ]
        x = jnp.concatenate(means, axis)
    return x
