"""An unchanged Equinox model gives the maps of the linen model with the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from split_nets import Plain, build, example

import monojax as mj
from monojax import attribution

pytestmark = pytest.mark.oracle
eqx = pytest.importorskip("equinox")


def test_same_parts_and_maps(x64):
    module = Plain()
    variables, x = build(module)
    params = variables["params"]
    key = jax.random.key(0)
    layers = {
        "first": eqx.nn.Conv2d(2, 5, 3, padding=1, key=key),
        "second": eqx.nn.Conv2d(5, 6, 3, padding=1, key=key),
        "hidden": eqx.nn.Linear(96, 8, key=key),
        "out": eqx.nn.Linear(8, 4, key=key),
    }
    for name, layer in layers.items():
        kernel, bias = params[name]["kernel"], params[name]["bias"]
        conv = kernel.ndim == 4
        weight = kernel.transpose(3, 2, 0, 1) if conv else kernel.T
        new = (weight, bias[:, None, None] if conv else bias)
        layers[name] = eqx.tree_at(lambda m: (m.weight, m.bias), layer, new)

    pool = eqx.nn.MaxPool2d(2, 2)

    @eqx.filter_jit
    def fn(x):
        x = pool(jax.nn.relu(layers["first"](x)))
        x = jax.nn.relu(layers["second"](x))
        x = jax.nn.relu(layers["hidden"](jnp.moveaxis(x, 0, -1).ravel()))
        return layers["out"](x)

    ours, image = example(module, variables), jnp.moveaxis(x, -1, 0)
    a, b = mj.split(ours)(x), mj.split(fn)(image)
    np.testing.assert_allclose(a.g, b.g, rtol=1e-10)
    np.testing.assert_allclose(a.h, b.h, rtol=1e-10)
    for layer in (None, 0, 1):  # both number their contractions alike; the input is channels-first
        here = attribution.split_grad(ours, x, 2, layer=layer)
        there = attribution.split_grad(fn, image, 2, layer=layer)
        np.testing.assert_allclose(here, there, atol=1e-10)
    np.testing.assert_allclose(
        attribution.split_cam(ours, x, 2), attribution.split_cam(fn, image, 2), atol=1e-10
    )
