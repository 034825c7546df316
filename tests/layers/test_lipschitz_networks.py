"""Networks of 1-Lipschitz layers: their constant, sizes, derivatives; bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import drawn, times, worst_gains

from monojax.layers.lipschitz import LipschitzMLP

KEY = jax.random.key(0)
X = jnp.ones((2, 3))
SLOW = pytest.mark.slow


NETWORKS = {
    "spectral": ((45, 45, 45, 1), 4276),
    "aol": ((45, 45, 45, 1), 4276),
    "cayley": ((45, 45, 45, 1), 4280),
    "sll": ((45, 45, 1), 4230),
    "sandwich": ((65, 1), 4489),
}


@pytest.mark.parametrize("layer", list(NETWORKS))
def test_toy_networks_have_the_published_sizes(layer):
    features, count = NETWORKS[layer]
    model = LipschitzMLP(features, 2.0, layer)
    variables = jax.eval_shape(model.init, KEY, jnp.ones((2, 1)))
    assert sum(p.size for p in jax.tree.leaves(variables)) == count


@pytest.mark.parametrize("activation", ["relu", pytest.param("groupsort", marks=SLOW)])
@pytest.mark.parametrize("layer", list(NETWORKS))
def test_network_keeps_its_constant(layer, activation):
    if activation == "groupsort" and layer in ("sll", "sandwich"):
        with pytest.raises(ValueError, match="activation must be one of"):
            jax.eval_shape(
                LipschitzMLP((12, 2), 1.0, layer, activation).init, KEY, jnp.ones((1, 3))
            )
        return
    x = jax.random.normal(KEY, (10, 3))

    def apply(v, z):  # the constant travels with the weights: one compilation for both
        return LipschitzMLP((12, 2), v["L"], layer, activation).apply(v["weights"], z)

    variables = drawn(LipschitzMLP((12, 2), 1.0, layer, activation), x)
    weights = [variables, times(10, variables), variables]
    constants = [0.5, 50.0, 50.0]
    cases = [{"L": c, "weights": w} for c, w in zip(constants, weights, strict=True)]
    for gain, constant in zip(worst_gains(apply, cases, x, steps=10), constants, strict=True):
        assert gain <= constant * (1 + 1e-4)  # two layers, each to TOL, and the scale


@pytest.mark.parametrize("layer", list(NETWORKS))
def test_transforms_and_dtypes(layer, x64):
    """vmap and derivatives agree with the call; float64 in, float64 out; L can be traced."""
    x = jax.random.normal(KEY, (6, 3), jnp.float64)
    model = LipschitzMLP((4, 2), 3.0, layer, dtype=None)
    variables = drawn(model, x)

    @jax.jit
    def run(c):  # one program: compiling is what costs
        traced = lambda c: LipschitzMLP((4, 2), c, layer).apply(variables, x)
        rows = jax.vmap(lambda z: model.apply(variables, z))(x)
        return model.apply(variables, x), traced(c), rows, jax.jacfwd(traced)(c)

    out, traced, one_by_one, by_l = run(3.0)
    assert out.dtype == jnp.float64
    assert jax.eval_shape(model.apply, variables, x.astype(jnp.float32)).dtype == jnp.float32
    np.testing.assert_allclose(traced, out, rtol=1e-12)
    np.testing.assert_allclose(one_by_one, out, rtol=1e-10, atol=1e-12)
    near = [run(3.0 + e)[1] for e in (-1e-5, 1e-5)]
    np.testing.assert_allclose(by_l, (near[1] - near[0]) / 2e-5, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("layer", list(NETWORKS))
def test_gradients_match_differences(layer, x64):
    """Along a random direction of all parameters; 1e-6: central differences at 1e-6."""
    x = jax.random.normal(KEY, (6, 3), jnp.float64)
    model = LipschitzMLP((4, 2), 3.0, layer, "softplus", param_dtype=jnp.float64)
    variables = drawn(model, x)
    loss = lambda v: jnp.sin(model.apply(v, x)).sum()
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    move = [jax.random.normal(k, p.shape, p.dtype) for k, p in zip(keys, leaves, strict=True)]

    @jax.jit
    def run(leaves, move):
        moved = lambda t: [p + t * m for p, m in zip(leaves, move, strict=True)]
        at = lambda t: loss(jax.tree.unflatten(tree, moved(t)))
        slopes = jax.tree.leaves(jax.grad(loss)(jax.tree.unflatten(tree, leaves)))
        got = sum((g * m).sum() for g, m in zip(slopes, move, strict=True))
        return got, jax.lax.map(at, jnp.array([1e-6, -1e-6]))

    got, (ahead, behind) = run(leaves, move)
    np.testing.assert_allclose(got, (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-7)


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [(), [], 5, "64", (4, 0), (4, -1), (4, 2.5), (4, True)])
def test_rejects_bad_features(features):
    with pytest.raises(ValueError, match="features"):
        LipschitzMLP(features, 1.0).init(KEY, X)


@pytest.mark.parametrize("lipschitz", [0.0, -1.0, float("nan"), float("inf"), (1.0, 2.0)])
def test_rejects_bad_constants(lipschitz):
    with pytest.raises(ValueError, match="lipschitz"):
        LipschitzMLP((4, 1), lipschitz).init(KEY, X)


@pytest.mark.parametrize(
    ("name", "near"), [("caley", "cayley"), ("Sandwich", "sandwich"), ("spectrall", "spectral")]
)
def test_unknown_layer_names_the_nearest(name, near):
    with pytest.raises(ValueError, match=f"one of .*got '{name}'.*did you mean '{near}'"):
        LipschitzMLP((4, 1), 1.0, name).init(KEY, X)


def test_unknown_names_list_the_choices():
    init = lambda *args: jax.eval_shape(LipschitzMLP((4, 1), 1.0, *args).init, KEY, X)
    with pytest.raises(ValueError, match=r"layer must be one of .*aol.*cayley.*got 'lstm'"):
        init("lstm")
    with pytest.raises(ValueError, match=r"activation must be one of .*got 'groupsort'"):
        init("sandwich", "groupsort")


def test_sll_needs_a_hidden_width():
    with pytest.raises(ValueError, match="at least one hidden width"):
        jax.eval_shape(LipschitzMLP((1,), 1.0, "sll").init, KEY, X)
