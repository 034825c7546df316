"""Shared by the tests of layers, cores and networks: parameters that cost no compiling."""

import jax
import jax.numpy as jnp
import numpy as np


def drawn(module, *args, seed=0, size=0.5):
    """Normal parameters of the right shapes; bounds hold for any, and `init` takes compiling."""
    rng = np.random.default_rng(seed)
    draw = lambda leaf: jnp.asarray(size * rng.normal(size=leaf.shape), leaf.dtype)
    return jax.tree.map(draw, jax.eval_shape(module.init, jax.random.key(0), *args))


def times(factor, variables):
    """All parameters times a number."""
    return jax.tree.map(lambda p: factor * p, variables)
