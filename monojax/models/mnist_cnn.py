"""A small network for 28x28 grey images whose last maps are few enough to be looked at."""

from typing import Any

import flax.linen as nn

from monojax.models.pooled import PooledClassifier


class MNISTNet(PooledClassifier):
    """Three 3x3 convolutions with batch norm and ReLU, average pooling, one linear layer.

    The architecture of the group-monotonicity paper's MNIST network is not known; this one is
    our choice: small, and with as many maps as its classes divide: `[b, 7, 7, maps]`.

    Args:
      num_classes: number of logits.
      maps: W, of the last convolution; a multiple of ``num_classes`` to be read by groups.
      widths: channels of the first two convolutions, each of stride 2.
      dtype: of the computation; None follows the input and parameters.
    """

    num_classes: int = 10
    maps: int = 40
    widths: tuple[int, int] = (16, 32)
    dtype: Any = None

    def setup(self):
        """Names the parts: conv1, bn1, ..., conv3, bn3, fc."""
        sizes = (*self.widths, self.maps)
        for i, size in enumerate(sizes, start=1):
            stride = (2, 2) if i < 3 else (1, 1)
            conv = nn.Conv(size, (3, 3), stride, padding=1, use_bias=False, dtype=self.dtype)
            setattr(self, f"conv{i}", conv)
            norm = nn.BatchNorm(momentum=0.9, epsilon=1e-5, dtype=self.dtype)
            setattr(self, f"bn{i}", norm)
        self.fc = nn.Dense(self.num_classes, dtype=self.dtype)

    @nn.nowrap
    def _features(self, x, train):
        for i in (1, 2, 3):
            norm = getattr(self, f"bn{i}")
            x = nn.relu(norm(getattr(self, f"conv{i}")(x), use_running_average=not train))
        return x
