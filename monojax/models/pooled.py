"""What the networks share whose last feature maps are averaged and read by one linear layer."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from monojax.base.checks import check_maps


class PooledClassifier(nn.Module):
    """Logits from the mean of each of the last feature maps; a subclass makes the maps.

    ``model.apply(variables, x, method="features")`` gives the maps that feed the pooling,
    ``model.apply(variables, maps, method="head")`` their logits: what the group penalty needs.
    A subclass names its last layer ``fc`` and defines ``_features(x, train)``, unwrapped
    (`flax.linen.nowrap`): an unwrapped method adds no name to the path of the layers inside.
    """

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """`[b, h, w, c]` to logits `[b, num_classes]`."""
        return self._head(self._features(x, train))

    def features(self, x: jax.Array, train: bool = False) -> jax.Array:
        """`[b, h, w, c]` to the maps before the pooling, `[b, h', w', W]`."""
        return self._features(x, train)

    def head(self, maps: jax.Array) -> jax.Array:
        """Maps `[..., h, w, W]`, of a batch or of one example, to logits `[..., num_classes]`."""
        return self._head(maps)

    @nn.nowrap
    def _head(self, maps):
        return self.fc(jnp.mean(maps, axis=(-3, -2)))


class ExtraMaps(nn.Module):
    """The added last convolution: 1x1, batch norm, ReLU; gives a chosen number of maps.

    It goes between the last stage and the pooling of a pretrained network, whose own maps are
    too few or do not divide by the classes: W = 15,000 for 1000 classes in the paper.
    """

    maps: int
    """W."""
    num_classes: int
    """K; W must divide by it."""
    dtype: Any = None
    """Of the computation; None follows the input and parameters."""
    axis_name: str | None = None
    """The `pmap` axis over which the batch statistics are taken."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """`[b, h, w, c]` to `[b, h, w, maps]`, non-negative."""
        check_maps(self.maps, self.num_classes)
        x = nn.Conv(self.maps, (1, 1), use_bias=False, dtype=self.dtype, name="conv")(x)
        x = nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
            axis_name=self.axis_name,
            name="bn",
        )(x)
        return nn.relu(x)
