"""EfficientNet-Lite0: inverted residual blocks with ReLU6, batch norms folded in."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from monojax.layers.depthwise import linen_depthwise

# (repeats, kernel, stride of the first, expansion, output channels) of each stage.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, projection; a shortcut where shapes agree."""

    features: int
    """Channels of the output."""
    kernel: int
    """Side of the depthwise kernel."""
    stride: int
    """Of the depthwise convolution."""
    expansion: int
    """Channels in the middle by channels of the input; 1 leaves the expansion out."""
    dtype: Any = None
    """Of the computation; None follows the input and parameters."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b, h, w, c]` to `[b, h/stride, w/stride, features]`."""
        conv = lambda width, size, name, **options: nn.Conv(
            width, (size, size), padding="SAME", dtype=self.dtype, name=name, **options
        )
        middle = x.shape[-1] * self.expansion
        y = nn.relu6(conv(middle, 1, "expand")(x)) if self.expansion != 1 else x
        step = (self.stride, self.stride)
        y = conv(
            middle,
            self.kernel,
            "depthwise",
            strides=step,
            feature_group_count=middle,
            conv_general_dilated=linen_depthwise,
        )(y)
        y = conv(self.features, 1, "project")(nn.relu6(y))
        return x + y if y.shape == x.shape else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 (Tan and Le 2019, in its form for phones), as it predicts.

    Input: images as `efficientnet_input` makes them. Weights:
    ``load_pretrained("efficientnet_lite0", file)``.

    Args:
      num_classes: number of logits.
      dtype: of the computation; None follows the input and parameters.
    """

    num_classes: int = 1000
    dtype: Any = None

    def setup(self) -> None:
        """Names as in the published file."""
        conv = lambda width, size, **options: nn.Conv(
            width, (size, size), padding="SAME", dtype=self.dtype, **options
        )
        self.stem = conv(32, 3, strides=(2, 2))
        blocks = [
            InvertedResidual(width, kernel, stride if i == 0 else 1, expansion, self.dtype)
            for repeats, kernel, stride, expansion, width in _STAGES
            for i in range(repeats)
        ]
        self.block = blocks
        self.head = conv(1280, 1)
        self.fc = nn.Dense(self.num_classes, dtype=self.dtype)

    def maps(self, x: jax.Array, blocks: int = 16) -> jax.Array:
        """The last maps before the mean, or those after the first ``blocks`` blocks.

        Args:
          x: `[b, h, w, 3]`.
          blocks: 16 for all, with the head's convolution; fewer stop after that many blocks.

        Returns:
          `[b, h/32, w/32, 1280]` with all blocks.
        """
        x = nn.relu6(self.stem(x))
        for block in self.block[:blocks]:
            x = block(x)
        return self.tail_maps(x, 16) if blocks == 16 else x

    def tail_maps(self, x: jax.Array, blocks: int) -> jax.Array:
        """The last maps from those after the first ``blocks`` blocks.

        Args:
          x: what ``maps(images, blocks)`` gave.
          blocks: how many blocks that had passed.

        Returns:
          `[b, h/32, w/32, 1280]`.
        """
        for block in self.block[blocks:]:
            x = block(x)
        return nn.relu6(self.head(x))

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b, h, w, 3]` to logits `[b, num_classes]`."""
        return self.fc(jnp.mean(self.maps(x), axis=(1, 2)))


def efficientnet_input(images: jax.Array) -> jax.Array:
    """RGB images as the published EfficientNet-Lite takes them: (x - 127) / 128.

    Args:
      images: `[..., h, w, 3]`, RGB, 0 to 255, any dtype.

    Returns:
      `[..., h, w, 3]` floats.
    """
    images = jnp.asarray(images)
    dtype = images.dtype if jnp.issubdtype(images.dtype, jnp.floating) else jnp.float32
    return (images.astype(dtype) - 127) / 128
