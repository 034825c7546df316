"""Attribution methods: limits, closed forms, layers by name, one signature, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from split_nets import Plain, build, example, net64

import monojax as mj
from monojax import attribution

METHODS = {
    "gradient": attribution.gradient,
    "gradient_x_input": attribution.gradient_x_input,
    "guided_backprop": attribution.guided_backprop,
    "grad_cam": attribution.grad_cam,
    "grad_cam_pp": attribution.grad_cam_pp,
    "layer_cam": attribution.layer_cam,
    "lrp": attribution.lrp,
    "gamma": functools.partial(attribution.lrp, rule="gamma"),
    "zplus": functools.partial(attribution.lrp, rule="zplus"),
    "split_grad": attribution.split_grad,
    "split_cam": attribution.split_cam,
    "split_lrp": attribution.split_lrp,
}


@functools.cache
def plain64(bias):
    module = Plain(bias)
    variables, x = build(module)
    return example(module, variables), jnp.abs(x)


def run(method, fn, x, target, **options):
    """Compiled whole: op by op each of these would be hundreds of programs."""
    return jax.jit(lambda x, target: method(fn, x, target, **options))(x, target)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_one_signature_jitted_and_batched(x64, name):
    """Maps at the layer's own size; jit of vmap gives what one call gives."""
    fn, x = net64()
    method = METHODS[name]
    one = run(method, fn, x, 2, layer="last")
    assert one.shape == (2, 2) and one.dtype == jnp.float64
    batch = jax.jit(jax.vmap(lambda x, y: method(fn, x, y, layer="last")))
    many = batch(jnp.stack([x, -x]), jnp.array([2, 1]))
    np.testing.assert_allclose(many[0], one, atol=1e-11)
    weights = np.ones((3, 4)) * np.arange(1.0, 5.0)
    scaled = run(method, lambda x, w: w[:, 0] * fn(x)[:3], x, 2, args=(weights,), layer="last")
    np.testing.assert_allclose(scaled, one, atol=1e-11)


@pytest.mark.slow
def test_gradient_and_split_grad_at_one_half(x64):
    fn, x = net64()
    want = jax.jit(jax.grad(lambda x: fn(x)[1]))(x)
    np.testing.assert_allclose(run(attribution.gradient, fn, x, 1, reduce="none"), want, atol=1e-12)
    np.testing.assert_allclose(run(attribution.gradient, fn, x, 1), want.mean(-1), atol=1e-12)
    half = run(attribution.split_grad, fn, x, 1, alpha=0.5)
    np.testing.assert_allclose(half, want.mean(-1) / 2, atol=1e-12)
    product = run(attribution.gradient_x_input, fn, x, 1)
    np.testing.assert_allclose(product, (want * x).sum(-1), atol=1e-12)


def test_split_cam_at_one_half_is_half_gradient_times_activation(x64):
    fn, x = net64()
    for layer in ["last", "mid"]:
        cam = run(attribution.split_cam, fn, x, 1, alpha=0.5, layer=layer)
        plain = run(attribution.gradient_x_input, fn, x, 1, layer=layer)
        np.testing.assert_allclose(cam, plain / 2, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["first", "second"])
def test_split_lrp_without_recentring_is_stream_times_raw_gradient(x64, layer):
    """Up to epsilon: 1e-6 in each denominator, relative to streams of order 1."""
    fn, x = plain64(False)
    found = run(attribution.split_lrp, fn, x, 1, recentre="none", layer=layer, reduce="none")
    options = dict(layer=layer, alpha=0.0, recentre="none", pool="wta", reduce="none")
    p = run(attribution.split_grad, fn, x, 1, stream="+", **options)
    n = run(attribution.split_grad, fn, x, 1, stream="-", **options)
    ready = mj.splitting.reading.prepare(fn, x, (), mj.splitting.SplitMode("wta", "none"))
    index = {"first": 0, "second": 1}[layer]
    value = mj.splitting.reading.read(ready, [index], [], 1)[0][index].value
    want = value.p[0] * p - value.n[0] * n
    np.testing.assert_allclose(found, want, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("layer", [None, "second", "hidden"])
def test_split_lrp_with_full_recentring_is_z_plus_and_says_so(x64, layer):
    """Non-negative image, ReLU network without branches: the z+ rule, from g instead of f."""
    fn, x = plain64(True)
    with pytest.warns(UserWarning, match="z\\+ rule"):
        ours = run(attribution.split_lrp, fn, x, 1, recentre="full", layer=layer)
    zplus = run(attribution.lrp, fn, x, 1, rule="zplus", layer=layer)
    np.testing.assert_allclose(ours / ours.sum(), zplus / zplus.sum(), atol=1e-6)


@pytest.mark.slow
def test_split_lrp_conserves_g_without_biases(x64):
    """sum(R+ + R-) = g at every layer, here with R- split off by its sign of value."""
    fn, x = plain64(False)
    g, _ = mj.split(fn, pool="wta", recentre="full")(x)
    with pytest.warns(UserWarning):
        found = run(attribution.split_lrp, fn, x, 1, recentre="full", layer="second")
    np.testing.assert_allclose(found.sum(), g[1], rtol=1e-5)


@pytest.mark.parametrize("rule", ["epsilon", "gamma", "zplus"])
def test_lrp_of_one_layer_closed_form(x64, rule):
    w, b = np.array([[1.0, -2.0, 0.5], [3.0, 1.0, -1.0]]), np.array([0.3, -0.2])
    x = np.array([1.0, 2.0, 3.0])
    z = w[0] @ x + b[0]  # -1.2
    mix = {
        "epsilon": (w[0], b[0]),
        "gamma": (w[0] + 0.25 * np.minimum(w[0], 0), b[0]),  # z < 0: the negative part is favoured
        "zplus": (np.maximum(w[0], 0), b[0]),
    }[rule]
    want = x * mix[0] * z / (mix[0] @ x + mix[1])
    found = run(attribution.lrp, lambda x: w @ x + b, x, 0, rule=rule, epsilon=0.0)
    np.testing.assert_allclose(found, want, atol=1e-12)


def test_epsilon_lrp_without_biases_is_gradient_times_input(x64):
    fn, x = plain64(False)
    found = run(attribution.lrp, fn, x, 2, epsilon=1e-12)
    np.testing.assert_allclose(found, run(attribution.gradient_x_input, fn, x, 2), atol=1e-8)
    np.testing.assert_allclose(found.sum(), fn(x)[2], atol=1e-8)


@pytest.mark.slow
def test_integrated_gradients_are_complete(x64):
    fn, x = net64()
    found = run(attribution.integrated_gradients, fn, x, 2, steps=300)
    # Kinks along the line: the quadrature's error falls with 1/steps.
    np.testing.assert_allclose(found.sum(), fn(x)[2] - fn(0 * x)[2], atol=0.02)
    options = dict(baseline=1.0, steps=3, channel_axis=-1)
    line = attribution.integrated_gradients(lambda x: (2 * x).sum(), x, 0, **options)
    np.testing.assert_allclose(line, (2 * (x - 1)).sum(-1))


def test_guided_backprop_by_hand(x64):
    w1, w2 = (np.random.default_rng(i).normal(size=s) for i, s in enumerate([(9, 4), (3, 9)]))
    x = np.array([0.2, -0.7, 1.1, 0.4])
    found = run(attribution.guided_backprop, lambda x: w2 @ jax.nn.relu(w1 @ x), x, 1)
    want = w1.T @ (np.maximum(w2[1], 0) * (w1 @ x > 0))
    np.testing.assert_allclose(found, want, atol=1e-13)


def test_cams_by_hand(x64):
    fn, x = net64()
    slope = np.asarray(run(attribution.gradient, fn, x, 2, layer="last", reduce="none"))
    product = run(attribution.gradient_x_input, fn, x, 2, layer="last", reduce="none")
    value = np.asarray(product) / np.where(slope == 0, 1, slope)
    cam = np.maximum((value * slope.mean((0, 1))).sum(-1), 0)
    np.testing.assert_allclose(run(attribution.grad_cam, fn, x, 2), cam, atol=1e-11)
    layer = np.maximum((value * np.maximum(slope, 0)).sum(-1), 0)
    np.testing.assert_allclose(run(attribution.layer_cam, fn, x, 2), layer, atol=1e-11)


def test_layers_by_number_tag_and_scan_step(x64):
    w = np.random.default_rng(0).normal(size=(3, 5, 5))

    def fn(x):
        x = mj.tag(jax.nn.relu(w[0] @ x), "start")
        return jax.lax.scan(lambda c, w: (jax.nn.relu(w @ c), None), x, w)[0]

    x = jnp.arange(5.0) - 1
    by_tag = attribution.split_grad(fn, x, 1, layer="start")
    by_step = attribution.split_grad(fn, x, 1, layer=(2, 0))
    np.testing.assert_allclose(by_tag, by_step, atol=1e-12)
    with pytest.raises(ValueError, match="step"):
        attribution.split_grad(fn, x, 1, layer=2)
    with pytest.raises(ValueError, match="runs 3 times"):
        attribution.split_grad(fn, x, 1, layer=(2, 3))


@pytest.mark.slow
def test_channels_first_networks_give_the_same_maps(x64):
    fn, x = plain64(True)
    first = lambda x: fn(jnp.moveaxis(x, 0, -1))

    def conv_first(x):
        kernel = np.random.default_rng(0).normal(size=(4, 2, 3, 3))
        return jax.lax.conv(x[None], kernel, (1, 1), "SAME")[0].max((1, 2))

    kernel_map = attribution.split_grad(conv_first, jnp.moveaxis(x, -1, 0), 1)
    assert kernel_map.shape == (8, 8)
    found = attribution.split_grad(first, jnp.moveaxis(x, -1, 0), 1)
    np.testing.assert_allclose(found, attribution.split_grad(fn, x, 1), atol=1e-12)


def test_every_public_name_is_documented():
    for module in (attribution, mj.splitting):
        for name in module.__all__:
            assert getattr(module, name).__doc__, name
    for name in set(attribution.__all__) - {"metrics"}:
        assert "Args:" in getattr(attribution, name).__doc__, name


def test_resize_and_normalise(x64):
    ramp = jnp.array([[0.0, 2.0], [-4.0, 1.0]])
    np.testing.assert_allclose(attribution.normalise(ramp), [[0, 1], [-1, 0.5]])
    np.testing.assert_allclose(attribution.normalise(jnp.zeros((2, 2))), 0)
    large = attribution.resize(ramp, (4, 4))
    assert large.shape == (4, 4)
    np.testing.assert_allclose(large[0], [0, 0.5, 1.5, 2], atol=1e-12)  # half-pixel centres
    with pytest.raises(ValueError, match=r"map \[h, w\]"):
        attribution.resize(jnp.ones((2, 2, 3)), (4, 4))


def test_pictures(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    images, maps = [np.random.rand(8, 8, 3)] * 2, [[np.eye(2), -np.eye(4)]] * 2
    figure = attribution.grid(images, maps, ["a", "b"])
    assert len(figure.axes) == 6
    figure.savefig(tmp_path / "grid.png")
    with pytest.raises(ValueError, match="one row of 2 maps"):
        attribution.grid(images, [[np.eye(2)]] * 2, ["a", "b"])


@pytest.mark.parametrize("name", METHODS)
def test_bad_input_is_refused(x64, name):
    fn, x = net64()
    method = METHODS[name]
    with pytest.raises(ValueError, match="target 4 is out of range: fn has 4 outputs"):
        method(fn, x, 4)
    with pytest.raises(ValueError, match=r"'lost'.*near matches: 'last'"):
        method(fn, x, 1, layer="lost")
    with pytest.raises(ValueError, match="NaN"):
        method(fn, x.at[0, 0, 0].set(jnp.nan), 1)
    with pytest.raises(ValueError, match=r"ONE example.*vmap"):
        method(lambda x: jax.vmap(fn)(x), jnp.stack([x, x]), 1)


def test_further_bad_input(x64):
    fn, x = net64()
    with pytest.raises(ValueError, match="rule must be one of"):
        attribution.lrp(fn, x, 1, rule="delta")
    with pytest.raises(ValueError, match="float64"):
        attribution.split_lrp(fn, x.astype(jnp.float32), 1)
    with pytest.raises(ValueError, match="at the input"):
        attribution.integrated_gradients(fn, x, 1, layer="last")
    with pytest.raises(ValueError, match="part must be"):
        attribution.split_cam(fn, x, 1, part="f")
    with pytest.raises(TypeError, match="target must be one integer"):
        attribution.gradient(fn, x, 1.5)
    with pytest.raises(ValueError, match="no convolution"):
        attribution.grad_cam(lambda x: jnp.ones((2, 3)) @ x, jnp.ones(3), 0)
    with pytest.raises(ValueError, match="'exp'"):
        attribution.split_cam(lambda x: jax.nn.softmax(fn(x)), x, 1)
    with pytest.raises(ValueError, match="reduce must be"):
        attribution.gradient(fn, x, 1, reduce="max")


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_maps_have_the_inputs_dtype(dtype):
    """Weights and image in bfloat16: every map is, and so are resized ones."""
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 3, 3)), dtype)

    def fn(x):
        return jax.nn.relu(jax.lax.conv(x[None], kernel, (1, 1), "SAME"))[0].mean((1, 2))

    x = jnp.zeros((3, 8, 9), dtype)
    methods = {name: method for name, method in METHODS.items() if name != "split_lrp"}
    methods["balanced"] = functools.partial(attribution.split_cam, alpha="balanced")
    methods["line"] = attribution.integrated_gradients
    for name, method in methods.items():
        found = jax.eval_shape(lambda x, m=method: m(fn, x, 1), x)
        assert (found.shape, found.dtype) == ((8, 9), dtype), name
    large = jax.eval_shape(lambda a: attribution.resize(a, (16, 18)), x[0])
    assert large.dtype == dtype


@pytest.mark.parametrize("sign", [1, -1])
def test_zplus_in_float16_stays_in_range(sign):
    """A unit without a positive part: its quotient left float16's range (inf times 0, NaN)."""
    rng = np.random.default_rng(0)
    draws = [(rng.normal(size=(8, 16)), rng.normal(size=16), rng.normal(size=16)) for _ in range(8)]

    def fn(x, w, b, v):
        return sign * (jax.nn.relu(x @ (0.5 * w) + 0.2 * b) @ v)

    relevance = jax.jit(
        lambda x, *args: attribution.lrp(fn, x, 0, args=args, rule="zplus", reduce="none")
    )
    for i, (w, b, v) in enumerate(draws):
        v = -np.abs(v) if i % 2 else v  # all that comes in is negative
        arrays = [jnp.asarray(a, "float16") for a in (rng.normal(size=8), w, b, v)]
        got = np.asarray(relevance(*arrays), np.float64)
        want = np.asarray(relevance(*(a.astype("float32") for a in arrays)), np.float64)
        np.testing.assert_allclose(got, want, atol=0.05 * abs(want).max() + 1e-6)
