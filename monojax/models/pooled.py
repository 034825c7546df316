"""What the networks share whose last feature maps are averaged and read by one linear layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp


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
