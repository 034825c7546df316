"""Many layers in one pass give what one layer at a time gives; depthwise calls; pretrained nets."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import monojax as mj
from monojax import attribution
from monojax.layers.depthwise import depthwise_conv, linen_depthwise


class Net(nn.Module):
    """A convolution, a depthwise one, a pooling, a residual and a dense layer."""

    quick: bool = True

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), name="first")(x))
        own = {"conv_general_dilated": linen_depthwise} if self.quick else {}
        y = nn.Conv(4, (3, 3), (1, 2), feature_group_count=4, name="depthwise", **own)(x)
        x = nn.max_pool(nn.relu6(y), (2, 2), (2, 2))
        x = x + nn.relu(nn.Conv(4, (1, 1), name="branch")(x))
        return nn.Dense(3, name="last")(x.mean((1, 2)))


@pytest.fixture(scope="module")
def net():
    x = jax.random.normal(jax.random.key(1), (8, 12, 2))
    model = Net()
    return model, model.init(jax.random.key(0), x[None]), x


def fn(model, x, variables):
    return model.apply(variables, x[None])[0]


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (1, 2)])
@pytest.mark.parametrize("size", [(7, 8), (8, 7), (5, 5)])
def test_depthwise_is_xlas_convolution(strides, size, x64):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, *size, 3)), rng.normal(size=(3, 5, 1, 3))
    plain = lambda x, kernel: jax.lax.conv_general_dilated(
        x, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=3,
    )  # fmt: skip
    own = lambda x, k: depthwise_conv(x, k, strides)
    cotangent = rng.normal(size=jax.eval_shape(plain, x, kernel).shape)

    @jax.jit
    def both(x, kernel, cotangent):
        (want, pull), (got, back) = jax.vjp(plain, x, kernel), jax.vjp(own, x, kernel)
        return want, got, pull(cotangent), back(cotangent)

    want, got, pulled, mine = both(x, kernel, cotangent)
    # Sums of 15 terms of size 1 in float64.
    np.testing.assert_allclose(got, want, atol=1e-13)
    for a, b in zip(mine, pulled, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_depthwise_refuses_other_shapes():
    with pytest.raises(ValueError, match="kernel \\[kh, kw, 1, c\\]"):
        depthwise_conv(jnp.zeros((1, 4, 4, 3)), jnp.zeros((3, 3, 3, 3)), (1, 1))
    with pytest.raises(ValueError, match="SAME"):
        linen_depthwise(jnp.zeros((1, 4, 4, 3)), jnp.zeros((3, 3, 1, 3)), (1, 1), "VALID")


@pytest.mark.slow
def test_split_and_lrp_see_one_convolution(net, x64):
    model, variables, x = net
    variables = jax.tree.map(lambda a: a.astype(jnp.float64), variables)
    x = x.astype(jnp.float64)
    plain = Net(quick=False)
    ours, theirs = (functools.partial(fn, m) for m in (model, plain))
    assert len(mj.split_report(ours, x, variables).layers) == 4
    for method, rule in {"split_cam": {}, "lrp": {"rule": "gamma"}, "split_grad": {}}.items():
        maps = lambda f, x, v, m=method, o=rule: attribution.at_layers(
            f, x, 1, m, ["depthwise", "input"], args=(v,), **o
        )
        a, b = jax.jit(lambda x, v, maps=maps: [maps(f, x, v) for f in (ours, theirs)])(
            x, variables
        )
        for got, want in zip(a, b, strict=True):
            # The same sums in another order, float64.
            np.testing.assert_allclose(got, want, atol=1e-11 * (1 + np.abs(want).max()))
    pair = jax.jit(mj.split(ours))(x, variables)
    np.testing.assert_allclose(pair.g - pair.h, ours(x, variables), atol=1e-12)


ALONE = {
    "gradient": attribution.gradient,
    "gradient_x_input": attribution.gradient_x_input,
    "guided_backprop": attribution.guided_backprop,
    "grad_cam": attribution.grad_cam,
    "grad_cam_pp": attribution.grad_cam_pp,
    "layer_cam": attribution.layer_cam,
    "lrp": attribution.lrp,
    "split_grad": attribution.split_grad,
    "split_cam": attribution.split_cam,
    "split_lrp": attribution.split_lrp,
}
OPTIONS = {
    "lrp": [{"rule": rule} for rule in ("epsilon", "gamma", "zplus")],
    "split_grad": [{"alpha": 0.3}, {"alpha": "balanced", "stream": "-"}],
    "split_cam": [{"alpha": 0.3, "shift_at": "contraction", "rectify": True}],
}
CASES = [(method, options) for method in ALONE for options in OPTIONS.get(method, [{}])]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "options"), CASES)
def test_many_layers_are_each_layer_alone(method, options, net, x64):
    """None too, which means what it means in the method's own function."""
    model, variables, x = net
    variables = jax.tree.map(lambda a: a.astype(jnp.float64), variables)
    x = x.astype(jnp.float64)
    run = functools.partial(fn, model)
    layers = ["depthwise", "branch", None, "input"]
    many = jax.jit(
        lambda x, v: attribution.at_layers(run, x, 2, method, layers, args=(v,), **options)
    )(x, variables)
    alone = jax.jit(
        lambda x, v: [ALONE[method](run, x, 2, args=(v,), layer=la, **options) for la in layers]
    )(x, variables)
    for found, want in zip(many, alone, strict=True):
        assert found.shape == want.shape
        np.testing.assert_allclose(found, want, atol=1e-12 * (1 + np.abs(want).max()))


def test_bad_input_of_at_layers(net):
    model, variables, x = net
    run = functools.partial(fn, model)
    with pytest.raises(ValueError, match=r"method must be one of .*did you mean 'grad_cam'"):
        attribution.at_layers(run, x, 0, "gradcam", [None], args=(variables,))
    with pytest.raises(ValueError, match=r"near matches: .*depthwise"):
        attribution.at_layers(run, x, 0, "gradient", ["deptwise"], args=(variables,))
    with pytest.raises(ValueError, match="needs float64"):
        attribution.at_layers(run, x, 0, "split_lrp", [None], args=(variables,))
    with pytest.raises(ValueError, match="out of range"):
        attribution.at_layers(run, x, 3, "gradient", [None], args=(variables,))


def test_depthwise_under_a_vmap_inside_fn(net, x64):
    """There is one axis more: the call's body is walked, and all is exact."""
    model, variables, x = net
    variables = jax.tree.map(lambda a: a.astype(jnp.float64), variables)
    both = jnp.stack([x, x[::-1]]).astype(jnp.float64)
    many = lambda x, v: jax.vmap(lambda one: fn(model, one, v))(x).sum(0)
    pair = jax.jit(mj.split(many))(both, variables)
    np.testing.assert_allclose(pair.g - pair.h, many(both, variables), atol=1e-12)


@pytest.mark.slow
def test_patches_in_step_samples_the_same_curve():
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(64, 2)))
    score = lambda x: x.reshape(-1) @ weights
    rng = np.random.default_rng(1)
    x, map_ = jnp.asarray(rng.normal(size=(8, 8))), jnp.asarray(rng.normal(size=(8, 8)))
    every = attribution.metrics.selectivity(score, x, 0, map_, patch_size=2)
    third = attribution.metrics.selectivity(score, x, 0, map_, patch_size=2, patches_in_step=3)
    assert third.scores.shape == (6,)
    np.testing.assert_allclose(third.scores[:5], every.scores[2::3], rtol=1e-6)
    np.testing.assert_allclose(third.scores[5], every.scores[-1], rtol=1e-6)
    for wrong in (0, 99):
        with pytest.raises(ValueError, match="patches_in_step"):
            attribution.metrics.selectivity(score, x, 0, map_, patch_size=2, patches_in_step=wrong)
