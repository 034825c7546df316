"""ResNet18: residual blocks of two 3x3 convolutions."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; names as in torchvision."""

    width: int
    """Channels."""
    stride: int = 1
    """Of the first convolution and the shortcut."""
    dtype: Any = None
    """Of the computation; None follows the input and parameters."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """`[b, h, w, c]` to `[b, h/stride, w/stride, width]`."""
        norm = lambda name, y: nn.BatchNorm(
            use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype, name=name
        )(y)
        step = (self.stride, self.stride)
        y = nn.Conv(
            self.width, (3, 3), step, padding=1, use_bias=False, dtype=self.dtype, name="conv1"
        )(x)
        y = nn.relu(norm("bn1", y))
        y = nn.Conv(self.width, (3, 3), padding=1, use_bias=False, dtype=self.dtype, name="conv2")(
            y
        )
        y = norm("bn2", y)
        if self.stride != 1 or x.shape[-1] != self.width:
            x = nn.Conv(
                self.width, (1, 1), step, use_bias=False, dtype=self.dtype, name="downsample_conv"
            )(x)
            x = norm("downsample_bn", x)
        return nn.relu(x + y)


class ResNet18(nn.Module):
    """ResNet18 of He et al. (2016), laid out and named as torchvision's.

    Args:
      num_classes: number of logits.
      width: channels of the first stage; 64 is the original.
      stem: "imagenet" (7x7 convolution of stride 2, max-pooling) or "cifar" (3x3, neither).
      dtype: of the computation; None follows the input and parameters.
    """

    num_classes: int = 1000
    width: int = 64
    stem: str = "imagenet"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """`[b, h, w, c]` to logits `[b, num_classes]`."""
        if self.stem not in ("imagenet", "cifar"):
            raise ValueError(f"stem must be 'imagenet' or 'cifar', got {self.stem!r}.")
        large = self.stem == "imagenet"
        kernel, stride, padding = ((7, 7), (2, 2), 3) if large else ((3, 3), (1, 1), 1)
        x = nn.Conv(
            self.width, kernel, stride, padding, use_bias=False, dtype=self.dtype, name="conv1"
        )(x)
        x = nn.BatchNorm(
            use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype, name="bn1"
        )(x)
        x = nn.relu(x)
        if large:
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage in range(4):
            for block in range(2):
                stride_here = 2 if stage > 0 and block == 0 else 1
                name = f"layer{stage + 1}_{block}"
                x = BasicBlock(self.width * 2**stage, stride_here, self.dtype, name=name)(x, train)
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(x)
