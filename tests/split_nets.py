"""Small networks for the tests of the split."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


class Net(nn.Module):
    """Convolution, batch norm, residual, max- and average-pooling, dense: all of ResNet and VGG."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(5, (3, 3), name="stem")(x)))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        y = nn.relu(nn.Conv(5, (3, 3), name="mid")(x))
        x = nn.relu(x + nn.Conv(5, (3, 3), name="back")(y))
        x = nn.avg_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Conv(6, (3, 3), name="last")(x)).reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(8, name="hidden")(x))
        return nn.Dense(4, name="out")(x)


class Plain(nn.Module):
    """Without residuals and batch norm, where SplitLRP has known limits."""

    bias: bool = True

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(5, (3, 3), use_bias=self.bias, name="first")(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Conv(6, (3, 3), use_bias=self.bias, name="second")(x))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(8, use_bias=self.bias, name="hidden")(x))
        return nn.Dense(4, use_bias=self.bias, name="out")(x)


def build(module, shape=(8, 8, 2), seed=0, dtype=jnp.float64):
    """Variables with non-trivial biases and statistics, and one input."""
    key = jax.random.key(seed)
    x = jax.random.normal(jax.random.fold_in(key, 1), shape, dtype)
    variables = jax.jit(module.init)(key, x[None])
    leaves, tree = jax.tree.flatten(variables)
    rng = np.random.default_rng(seed)
    # Positive noise: variances stay positive, biases and shifts are no longer zero.
    leaves = [jnp.asarray(a + 0.05 * np.abs(rng.normal(size=a.shape)), dtype) for a in leaves]
    return jax.tree.unflatten(tree, leaves), x


def example(module, variables):
    """The function of one example."""
    return lambda x: module.apply(variables, x[None])[0]


@functools.cache
def net64():
    """The function of `Net` and one input, in float64 (call it where that is enabled)."""
    module = Net()
    variables, x = build(module)
    return example(module, variables), x
