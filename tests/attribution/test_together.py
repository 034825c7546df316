"""All methods at once: each map is what its own function gives, and what is wrong is told."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import drawn

import monojax as mj
from monojax import attribution
from monojax.attribution import together
from monojax.base.compat import enable_x64
from monojax.models import MLP


class Net(nn.Module):
    """A small classifier of images."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), name="first")(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        return nn.Conv(3, (3, 3), name="last")(x).mean((1, 2))


X = np.random.default_rng(0).normal(size=(8, 8, 2)).astype(np.float32)
NET = Net()
V = drawn(NET, X[None])
FN = lambda x: NET.apply(V, x[None])[0]


@pytest.fixture(scope="module")
def found():
    return attribution.explain(FN, X)


@pytest.mark.slow
def test_maps_are_those_of_the_methods(found):
    logits = np.asarray(FN(X))
    assert found.target == logits.argmax() and not found.left_out
    np.testing.assert_allclose(found.logits, logits, rtol=1e-5)
    assert tuple(found.maps) == together.ALL
    one = {name: getattr(attribution, name) for name in ("gradient", "grad_cam", "split_cam")}
    one["lrp_gamma"] = lambda *a: attribution.lrp(*a, rule="gamma")
    one["integrated_gradients"] = lambda *a: attribution.integrated_gradients(*a, steps=32)
    for name, method in one.items():
        want = jax.jit(lambda x, method=method: method(FN, x, found.target))(X)
        top = np.abs(want).max()
        np.testing.assert_allclose(found.maps[name] / top, want / top, atol=1e-5)
    with enable_x64():
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), V)
        run = jax.jit(lambda x: attribution.split_lrp(lambda x: NET.apply(wide, x[None])[0], x, 0))
        want = np.asarray(run(np.float64(X)))
    alone = attribution.explain(FN, X, 0, methods="split_lrp").maps["split_lrp"]
    np.testing.assert_allclose(alone, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


def test_layers_are_named(found):
    assert found.layers["gradient"] == found.layers["lrp_zplus"] == "input"
    assert found.layers["grad_cam"] == found.layers["split_cam"] == "Net/last"
    assert found.maps["grad_cam"].shape == (4, 4) and found.maps["gradient"].shape == (8, 8)
    deep = attribution.explain(
        FN, X, 1, methods=["split_grad", "integrated_gradients"], layer="last", alpha=0.3
    )
    assert deep.layers == {"split_grad": "Net/last", "integrated_gradients": "input"}
    want = jax.jit(lambda x: attribution.split_grad(FN, x, 1, layer="last", alpha=0.3))(X)
    np.testing.assert_allclose(deep.maps["split_grad"], want, rtol=1e-4, atol=1e-6)


def test_one_program_serves_many_images_and_alphas():
    runs = []

    def fn(x, v):
        runs.append(1)
        return NET.apply(v, x[None])[0]

    explainer = together.Explainer(fn, (V,), methods=["gradient", "split_grad"])
    first = explainer(X, 0, alpha=0.2)
    count = len(runs)
    other = explainer(2 * X, 1, alpha=0.4)
    assert len(runs) == count
    np.testing.assert_allclose(
        other.maps["split_grad"],
        attribution.explain(FN, 2 * X, 1, methods=["split_grad"]).maps["split_grad"],
        rtol=1e-4,
        atol=1e-6,
    )
    assert np.abs(first.maps["split_grad"] - explainer(X, 0).maps["split_grad"]).max() > 0
    balanced = explainer(X, 0, alpha="balanced").maps["split_grad"]
    assert np.isfinite(balanced).all()


def test_a_network_without_convolutions_has_no_cams():
    net = MLP((4,), 3)
    v = drawn(net, X[:, 0])
    fn = lambda x: net.apply(v, x)
    found = attribution.explain(fn, X[0, 0])
    assert {"grad_cam", "split_cam"} <= found.left_out.keys()
    assert "no convolution" in found.left_out["grad_cam"]
    assert found.maps.keys() | found.left_out.keys() == set(together.ALL)
    with pytest.raises(ValueError, match="no convolution"):
        attribution.explain(fn, X[0, 0], methods=["grad_cam"])
    score = attribution.explain(lambda x: fn(x)[0], X[0, 0], methods=["gradient"])
    assert score.target == 0 and score.logits.shape == (1,)


def test_mistakes_are_told():
    bad = np.array(X)
    bad[0, 0, 0] = np.nan
    cases = {
        "methods must be one of.*did you mean 'grad_cam'": lambda: attribution.explain(
            FN, X, methods=["gradcam"]
        ),
        "image must be floats.*uint8": lambda: attribution.explain(FN, np.zeros((8, 8, 2), "u1")),
        "image has .*NaN": lambda: attribution.explain(FN, bad),
        "target 3 is out of range": lambda: attribution.explain(FN, X, 3),
        r"logits \[c\] of ONE image": lambda: attribution.explain(lambda x: FN(x)[None], X),
        "alpha": lambda: attribution.explain(FN, X, alpha=0.7),
        "no layer is called 'lats'": lambda: attribution.explain(
            FN, X, methods=["gradient"], layer="lats"
        ),
        "NaN or infinite logits": lambda: attribution.explain(lambda x: FN(x) * jnp.nan, X),
    }
    for message, call in cases.items():
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="fn must be a function"):
        mj.attribution.explain(X, FN)
