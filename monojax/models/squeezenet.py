"""SqueezeNet 1.1: a small classifier of convolutions, ReLU, max-pooling and a mean."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

_FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
_POOL_AFTER = (3, 5)
_BGR_MEAN = (103.939, 116.779, 123.68)


class Fire(nn.Module):
    """Squeeze by 1x1 convolutions, expand by 1x1 and 3x3 ones side by side."""

    squeeze: int
    """Channels in the middle."""
    expand: int
    """Channels of each expansion."""
    dtype: Any = None
    """Of the computation; None follows the input and parameters."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b, h, w, c]` to `[b, h, w, 2 * expand]`."""
        conv = lambda width, size, name: nn.Conv(
            width, (size, size), padding="SAME", dtype=self.dtype, name=name
        )
        x = nn.relu(conv(self.squeeze, 1, "squeeze1x1")(x))
        left = nn.relu(conv(self.expand, 1, "expand1x1")(x))
        right = nn.relu(conv(self.expand, 3, "expand3x3")(x))
        return jnp.concatenate([left, right], axis=-1)


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1 of Iandola et al. (2016), as it predicts (no dropout).

    Input: images as `squeezenet_input` makes them. Weights: ``load_pretrained("squeezenet1_1",
    file)``.

    Args:
      num_classes: number of logits.
      dtype: of the computation; None follows the input and parameters.
    """

    num_classes: int = 1000
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b, h, w, 3]` to logits `[b, num_classes]`."""
        x = nn.relu(nn.Conv(64, (3, 3), (2, 2), padding="SAME", dtype=self.dtype, name="conv1")(x))
        x = nn.max_pool(x, (3, 3), (2, 2))
        for i, (squeeze, expand) in enumerate(_FIRES, start=2):
            x = Fire(squeeze, expand, self.dtype, name=f"fire{i}")(x)
            if i in _POOL_AFTER:
                x = nn.max_pool(x, (3, 3), (2, 2))
        x = nn.Conv(self.num_classes, (1, 1), dtype=self.dtype, name="conv10")(x)
        return jnp.mean(x, axis=(1, 2))


def squeezenet_input(images: jax.Array) -> jax.Array:
    """RGB images as the published SqueezeNet takes them: BGR minus the channels' means.

    Args:
      images: `[..., h, w, 3]`, RGB, 0 to 255, any dtype.

    Returns:
      `[..., h, w, 3]` floats.
    """
    images = jnp.asarray(images)
    dtype = images.dtype if jnp.issubdtype(images.dtype, jnp.floating) else jnp.float32
    # One axis for each of the images': promotion of ranks may be forbidden.
    mean = jnp.asarray(_BGR_MEAN, dtype).reshape(*(1,) * (images.ndim - 1), 3)
    return images[..., ::-1].astype(dtype) - mean
