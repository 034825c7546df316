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


def worst_gains(apply, variables, starts, steps=30):
    """Largest Jacobian norm along gradient ascent on it, from many starts, per set of weights."""

    def norm(x, v):
        return jnp.linalg.norm(jax.jacfwd(lambda z: apply(v, z))(x), 2)

    def climb(x, v):
        def step(x, _):
            value, slope = jax.value_and_grad(norm)(x, v)
            length = jnp.linalg.norm(slope)
            noise = jnp.sin(1e3 * x + jnp.arange(x.shape[0]))  # kinked layers have no slope
            move = jnp.where(length > 1e-6, slope / jnp.maximum(length, 1e-6), noise)
            return x + 0.2 * move, value

        return jax.lax.scan(step, x, None, length=steps)[1].max()

    search = jax.jit(lambda v: jax.vmap(climb, (0, None))(starts, v).max())
    return [float(search(v)) for v in variables]
