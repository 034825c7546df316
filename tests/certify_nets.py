"""Random networks of many kinds, and their slopes as jax alone computes them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.compat import enable_x64
from monojax.certify import gradient_bounds
from monojax.certify.bounds import bounds_of

WIDTH = 4


def pairs(z):
    """Sorts pairs."""
    a, b = z[::2], z[1::2]
    return jnp.concatenate([jnp.minimum(a, b), jnp.maximum(a, b)])


def layer_norm(z):
    return jnp.tanh((z - z.mean()) * jax.lax.rsqrt(jnp.square(z - z.mean()).mean() + 0.1))


def maxout(z):
    return z.reshape(-1, 2).max(axis=-1).repeat(2)


def convolved(z):
    kernel = jnp.asarray([[[0.5, -0.2]], [[0.3, 0.4]], [[-0.1, 0.6]]], z.dtype)
    out = jax.lax.conv_general_dilated(
        z[None, :, None], kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )
    return jnp.tanh(out[0, :, 0])


ACTIVATIONS = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "elu": jax.nn.elu,
    "group_sort": pairs,
    "maxout": maxout,
    "layer_norm": layer_norm,
    "convolution": convolved,
}


def weights_of(seed, positive=False, deep=True):
    """Weights of one or two hidden layers, float32; ``positive``: none is negative."""
    rng = np.random.default_rng(seed)
    shapes = [(WIDTH, WIDTH), (WIDTH, WIDTH), (WIDTH, 1)] if deep else [(WIDTH, WIDTH), (WIDTH, 1)]
    weights = [rng.standard_normal(s) / np.sqrt(s[0]) for s in shapes]
    weights = [np.abs(w) for w in weights] if positive else weights
    return [jnp.asarray(w, jnp.float32) for w in (*weights, rng.standard_normal(WIDTH))]


def forward(name, weights, x):
    """The network at ONE example, scalar."""
    *layers, last, bias = weights
    hidden = ACTIVATIONS[name](x @ layers[0] + bias)
    for layer in layers[1:]:
        hidden = ACTIVATIONS[name](hidden @ layer)
    return (hidden @ last)[0]


def network(name, seed, positive=False, deep=True):
    """A random network as a function of ONE example `[4]`."""
    return functools.partial(forward, name, weights_of(seed, positive, deep))


def gradients64(fn, points):
    """Float64 gradients by `jax.grad`, apart from the code under test."""
    with enable_x64():
        return np.asarray(jax.jit(jax.vmap(jax.grad(fn)))(jnp.asarray(points, jnp.float64)))


def slopes(fn, low, high, bound="interval", dtype=jnp.float64):
    """Bounds on a box in float64, as the search asks for them."""
    with enable_x64():
        ends = np.asarray(low, dtype), np.asarray(high, dtype)
        box = jax.jit(lambda a, b: gradient_bounds(fn, a, b, bound=bound))(*ends)
        return np.asarray(box.lo), np.asarray(box.hi)


def single_bounds(fn, low, high, bound):
    """Bounds on the values of a program, as on a derivative's."""
    with enable_x64():
        ends = np.asarray(low, np.float64), np.asarray(high, np.float64)
        closed = jax.make_jaxpr(fn)(ends[0])
        box = jax.jit(lambda a, b: bounds_of(closed, a, b, bound=bound))(*ends)
        return float(box.lo[0]), float(box.hi[0])
