"""ResNet 18, 34 and 50: one definition, laid out and named as torchvision's."""

from typing import Any

import flax.linen as nn
import jax

from monojax.base.checks import one_of
from monojax.models.pooled import ExtraMaps, PooledClassifier

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; names as in torchvision."""

    width: int
    """Channels."""
    stride: int = 1
    """Of the first convolution and the shortcut."""
    dtype: Any = None
    """Of the computation; None follows the input and parameters."""
    axis_name: str | None = None
    """The `pmap` axis over which batch statistics are taken."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """`[b, h, w, c]` to `[b, h/stride, w/stride, width]`."""
        conv, norm = _parts(self, train)
        y = nn.relu(norm("bn1", conv("conv1", x, self.width, 3, self.stride)))
        y = norm("bn2", conv("conv2", y, self.width, 3))
        if self.stride != 1 or x.shape[-1] != self.width:
            x = norm("downsample_bn", conv("downsample_conv", x, self.width, 1, self.stride))
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; the stride is the 3x3's, as in torchvision."""

    width: int
    """Channels of the 3x3 convolution; four times as many come out."""
    stride: int = 1
    """Of the 3x3 convolution and the shortcut."""
    dtype: Any = None
    """Of the computation; None follows the input and parameters."""
    axis_name: str | None = None
    """The `pmap` axis over which batch statistics are taken."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """`[b, h, w, c]` to `[b, h/stride, w/stride, 4 width]`."""
        conv, norm = _parts(self, train)
        out = 4 * self.width
        y = nn.relu(norm("bn1", conv("conv1", x, self.width, 1)))
        y = nn.relu(norm("bn2", conv("conv2", y, self.width, 3, self.stride)))
        y = norm("bn3", conv("conv3", y, out, 1))
        if self.stride != 1 or x.shape[-1] != out:
            x = norm("downsample_bn", conv("downsample_conv", x, out, 1, self.stride))
        return nn.relu(x + y)


class ResNet(PooledClassifier):
    """ResNet of He et al. (2016), laid out and named as torchvision's.

    Methods ``features`` and ``head`` as in :class:`monojax.models.pooled.PooledClassifier`: maps
    of `[b, h/32, w/32, W]` (cifar: h/8).

    Args:
      num_classes: number of logits.
      width: channels of the first stage; 64 is the original.
      stem: "imagenet" (7x7 convolution of stride 2, max-pooling) or "cifar" (3x3, neither).
      dtype: of the computation; None follows the input and parameters.
      depth: 18, 34 or 50.
      maps: number of maps of an added last convolution (:class:`monojax.models.ExtraMaps`), a
        multiple of ``num_classes``; 0 adds none.
      axis_name: the `pmap` axis over which batch statistics are taken; None keeps each
        device's own.
    """

    num_classes: int = 1000
    width: int = 64
    stem: str = "imagenet"
    dtype: Any = None
    depth: int = 50
    maps: int = 0
    axis_name: str | None = None

    def setup(self):
        """Names the parts: conv1, bn1, layer1_0, ..., extra, fc."""
        one_of(self.stem, ("imagenet", "cifar"), "stem")
        one_of(self.depth, _BLOCKS, "depth")
        kernel, stride, padding = ((7, 7), (2, 2), 3) if self._large else ((3, 3), (1, 1), 1)
        self.conv1 = nn.Conv(self.width, kernel, stride, padding, use_bias=False, dtype=self.dtype)
        self.bn1 = nn.BatchNorm(
            momentum=0.9, epsilon=1e-5, dtype=self.dtype, axis_name=self.axis_name
        )
        block = Bottleneck if self.depth == 50 else BasicBlock
        for stage, count in enumerate(_BLOCKS[self.depth]):
            for i in range(count):
                stride_here = 2 if stage > 0 and i == 0 else 1
                module = block(self.width * 2**stage, stride_here, self.dtype, self.axis_name)
                setattr(self, f"layer{stage + 1}_{i}", module)
        if self.maps:
            self.extra = ExtraMaps(self.maps, self.num_classes, self.dtype, self.axis_name)
        self.fc = nn.Dense(self.num_classes, dtype=self.dtype)

    @property
    def _large(self) -> bool:
        return self.stem == "imagenet"

    @nn.nowrap
    def _features(self, x, train):
        x = nn.relu(self.bn1(self.conv1(x), use_running_average=not train))
        if self._large:
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, count in enumerate(_BLOCKS[self.depth]):
            for i in range(count):
                x = getattr(self, f"layer{stage + 1}_{i}")(x, train)
        return self.extra(x, train) if self.maps else x


class ResNet18(ResNet):
    """ResNet of depth 18; 512 maps."""

    depth: int = 18


class ResNet34(ResNet):
    """ResNet of depth 34; 512 maps."""

    depth: int = 34


class ResNet50(ResNet):
    """ResNet of depth 50; 2,048 maps."""

    depth: int = 50


def _parts(block: Any, train: bool):
    """Functions that add a named convolution and a named batch norm to a block."""

    def conv(name, x, features, size, stride=1):
        return nn.Conv(
            features,
            (size, size),
            (stride, stride),
            padding=size // 2,
            use_bias=False,
            dtype=block.dtype,
            name=name,
        )(x)

    def norm(name, x):
        return nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=block.dtype,
            axis_name=block.axis_name,
            name=name,
        )(x)

    return conv, norm
