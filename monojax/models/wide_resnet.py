"""Wide residual networks for 32x32 images."""

from typing import Any

import flax.linen as nn
import jax

from monojax.models.pooled import ExtraMaps, PooledClassifier

_he = nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")


class WideBlock(nn.Module):
    """Batch norm, ReLU and 3x3 convolution, twice, dropout between, and a shortcut."""

    width: int
    """Channels."""
    stride: int = 1
    """Of the first convolution and the shortcut."""
    dropout: float = 0.0
    """Probability that a number is dropped."""
    dtype: Any = None
    """Of the computation; None follows the input and parameters."""
    axis_name: str | None = None
    """The `pmap` axis over which batch statistics are taken."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """`[b, h, w, c]` to `[b, h/stride, w/stride, width]`."""
        norm = lambda name, y: nn.relu(_norm(self, name)(y, use_running_average=not train))
        step = (self.stride, self.stride)
        y = norm("bn1", x)
        same = self.stride == 1 and x.shape[-1] == self.width
        # Where the shape changes, the shortcut starts after the first activation.
        shortcut = x if same else _conv(self, "shortcut", 1, step)(y)
        y = norm("bn2", _conv(self, "conv1", 3, step)(y))
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        return shortcut + _conv(self, "conv2", 3)(y)


class WideResNet(PooledClassifier):
    """WRN-depth-width of Zagoruyko and Komodakis (2016): three stages before one pooling.

    Methods ``features`` and ``head`` as in :class:`monojax.models.pooled.PooledClassifier`: maps
    after the last batch norm and ReLU, `[b, h/4, w/4, 64 width]` (or `maps`).

    Args:
      num_classes: number of logits.
      depth: 6 n + 4 layers; 28 in the group-monotonicity paper's setting as we read it.
      width: factor on the channels 16, 32, 64; 10 there, hence 640 maps.
      dropout: probability inside the blocks, drawn with the rng "dropout"; 0.3 there.
      dtype: of the computation; None follows the input and parameters.
      axis_name: the `pmap` axis over which batch statistics are taken.
      maps: number of maps of an added last convolution (:class:`monojax.models.ExtraMaps`), a
        multiple of ``num_classes``, for widths whose own 64 width maps do not divide; 0 adds none.

    Reference:
      Zagoruyko, Komodakis, "Wide Residual Networks", BMVC 2016, arXiv 1605.07146.
    """

    num_classes: int = 10
    depth: int = 28
    width: int = 10
    dropout: float = 0.3
    dtype: Any = None
    axis_name: str | None = None
    maps: int = 0

    def setup(self):
        """Names the parts: conv1, block1_0, ..., bn, fc."""
        if self.depth < 10 or (self.depth - 4) % 6:
            below = max(10, (self.depth - 4) // 6 * 6 + 4)
            near = f"{below} or {below + 6}"
            raise ValueError(f"depth must be 6 n + 4 with n >= 1, got {self.depth}; use {near}.")
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}.")
        self.conv1 = nn.Conv(
            16, (3, 3), padding=1, use_bias=False, kernel_init=_he, dtype=self.dtype
        )
        for stage in range(3):
            for i in range((self.depth - 4) // 6):
                module = WideBlock(
                    16 * self.width * 2**stage,
                    2 if stage > 0 and i == 0 else 1,
                    self.dropout,
                    self.dtype,
                    self.axis_name,
                )
                setattr(self, f"block{stage + 1}_{i}", module)
        self.bn = _norm(self, None)
        if self.maps:
            self.extra = ExtraMaps(self.maps, self.num_classes, self.dtype, self.axis_name)
        self.fc = nn.Dense(self.num_classes, dtype=self.dtype)

    @nn.nowrap
    def _features(self, x, train):
        x = self.conv1(x)
        for stage in range(3):
            for i in range((self.depth - 4) // 6):
                x = getattr(self, f"block{stage + 1}_{i}")(x, train)
        x = nn.relu(self.bn(x, use_running_average=not train))
        return self.extra(x, train) if self.maps else x


def _norm(module: Any, name: str | None) -> nn.BatchNorm:
    return nn.BatchNorm(
        momentum=0.9, epsilon=1e-5, dtype=module.dtype, axis_name=module.axis_name, name=name
    )


def _conv(block: Any, name: str, size: int, step: tuple[int, int] = (1, 1)) -> nn.Conv:
    return nn.Conv(
        block.width,
        (size, size),
        step,
        padding=size // 2,
        use_bias=False,
        kernel_init=_he,
        dtype=block.dtype,
        name=name,
    )
