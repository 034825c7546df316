"""split: g - h = fn, convex and monotone parts, calibrated shifts, module systems, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from split_nets import Plain, build, example, net64

import monojax as mj
from monojax.models.resnet import ResNet18
from monojax.models.vgg import VGG16
from monojax.splitting import SplitError, SplitMode, calibrate
from monojax.splitting.reading import prepare, read

# float64 without stabilisation: streams reach 1e5, of which 1e-16 is lost per operation.
RAW = 1e-9


@pytest.fixture
def net(x64):
    return net64()


@pytest.mark.parametrize("pool", ["full", "wta"])
@pytest.mark.parametrize("recentre", ["full", "scale", "none"])
@pytest.mark.parametrize("kind", ["centre", "positive"])
def test_the_difference_is_the_network(net, pool, recentre, kind):
    fn, x = net
    x = jnp.abs(x) if kind == "positive" else x
    run = mj.split(fn, pool=pool, recentre=recentre, input=kind)
    pair = run(x)
    np.testing.assert_allclose(pair.g - pair.h, fn(x), atol=RAW)
    assert pair.kind == ("dc" if pool == "full" else "exact")
    g, h = pair
    assert g.shape == h.shape == (4,)
    assert (h >= 0).all()


def test_toy_network_unstabilised_to_1e_10(x64):
    w1 = jax.random.normal(jax.random.key(0), (7, 3))
    w2 = jax.random.normal(jax.random.key(1), (4, 7))
    fn = lambda x: w2 @ jax.nn.relu(w1 @ x - 0.3)
    x = jax.random.normal(jax.random.key(2), (50, 3))
    g, h = jax.vmap(mj.split(fn, recentre="none"))(x)
    np.testing.assert_allclose(g - h, jax.vmap(fn)(x), atol=1e-10)


def test_one_neuron_closed_form(x64):
    """ReLU(2a - 3b + 1) at (a, b): p = 2a+ + 3b- + 1, n = 2a- + 3b+, g = max(p, n), h = n."""
    fn = lambda x: jax.nn.relu(2 * x[0] - 3 * x[1] + 1)
    for a, b in [(1.0, -2.0), (-1.0, 2.0), (0.5, 0.25)]:
        p = 2 * max(a, 0) + 3 * max(-b, 0) + 1
        n = 2 * max(-a, 0) + 3 * max(b, 0)
        g, h = mj.split(fn, recentre="none")(jnp.array([a, b]))
        np.testing.assert_allclose([g, h], [max(p, n), n], atol=1e-12)


@pytest.mark.parametrize("recentre", ["full", "scale", "none"])
def test_companion_value_is_the_models_own(net, recentre):
    """Carrying (value, mass), the value is the model's computation bit by bit."""
    fn, x = net
    ready = prepare(fn, x, (), SplitMode("full", recentre))
    _, out = read(ready, [], [], 0)
    np.testing.assert_array_equal(out.f, fn(x))


def trials(streams, shape, num=400):
    """How often a midpoint lies above the chord, and a larger input has a smaller value."""

    def one(key):
        p, n, q, m = jnp.abs(jax.random.normal(key, (4, *shape)))
        pair = jax.vmap(streams)(
            jnp.stack([p, q, (p + q) / 2, p + q]), jnp.stack([n, m, (n + m) / 2, n + m])
        )
        first, second, middle, larger = jnp.concatenate([pair.g, pair.h], -1)
        tolerance = 1e-12 * (1 + jnp.abs(first) + jnp.abs(second))  # a few hundred roundings
        convex = middle <= (first + second) / 2 + tolerance
        return ~convex.all(), ~(larger >= first - tolerance).all()

    not_convex, not_monotone = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(5), num))
    return int(not_convex.sum()), int(not_monotone.sum())


def test_parts_are_convex_and_monotone_without_recentring(net):
    fn, x = net
    assert trials(mj.split(fn, recentre="none").streams, x.shape) == (0, 0)


def test_parts_are_convex_and_monotone_with_frozen_shifts(net):
    fn, x = net
    shifts = calibrate(fn, x)
    assert trials(mj.split(fn, recentre=shifts).streams, x.shape) == (0, 0)
    g, h = mj.split(fn, recentre=shifts)(x)
    np.testing.assert_allclose(g - h, fn(x), atol=RAW)
    assert g.max() < 0.01 * mj.split(fn, recentre="none")(x).g.max()


@pytest.mark.slow
def test_wta_and_live_recentring_lose_convexity(net):
    """The known limits: what the docs say does not hold is seen not to hold."""
    fn, x = net
    assert sum(trials(mj.split(fn, pool="wta", recentre="none").streams, x.shape)) > 0
    assert sum(trials(mj.split(fn, recentre="full").streams, x.shape)) > 0


def test_input_positive_is_monotone_in_x_itself(net):
    fn, x = net
    run = jax.jit(jax.vmap(mj.split(fn, recentre="none", input="positive")))
    keys = jax.random.split(jax.random.key(0), 2)
    x = jnp.abs(jax.random.normal(keys[0], (100, *x.shape)))
    y = x + jnp.abs(jax.random.normal(keys[1], x.shape))
    (g1, h1), (g2, h2) = run(x), run(y)
    assert (g2 >= g1 - 1e-9).all() and (h2 >= h1 - 1e-9).all()


def test_derivatives_at_x_do_not_depend_on_recentring(net):
    fn, x = net
    p, n = jnp.maximum(x, 0), jnp.maximum(-x, 0)

    def slope(recentre):
        run = mj.split(fn, recentre=recentre)
        return jax.jit(jax.grad(lambda p: run.streams(p, n).g[1]))(p)

    slopes = {recentre: slope(recentre) for recentre in ["none", "full", "scale"]}
    scale = jnp.abs(slopes["none"]).max()
    for recentre in ["full", "scale"]:
        np.testing.assert_allclose(slopes[recentre], slopes["none"], atol=1e-12 * scale)


def test_weights_as_arguments_and_pytree_inputs(x64):
    fn = lambda x, w, n: {"out": w @ jax.nn.relu(x["a"] - x["b"]) / n, "w": w}
    x = {"a": jnp.arange(3.0), "b": jnp.ones(3)}
    w = jnp.array([[1.0, -2.0, 3.0]])
    g, h = mj.split(fn)(x, w, 4)
    np.testing.assert_allclose(g["out"] - h["out"], [6 / 4 - 0.0 - 2 * 0.0 - 3 / 4], atol=1e-12)
    np.testing.assert_allclose(g["w"] - h["w"], w)


def test_nnx_closure_is_never_stale(x64):
    """An nnx module changed in place: the same function object gives the new values."""
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    fn = lambda x: jax.nn.relu(model(x))
    run, x = mj.split(fn), jnp.array([1.0, -2.0, 0.5])
    for _ in range(2):
        g, h = run(x)
        np.testing.assert_allclose(g - h, fn(x), atol=1e-12)
        model.kernel[...] = model.kernel[...] * -1.5


def test_nnx_gives_the_same_parts_as_linen(x64):
    module = Plain()
    variables, x = build(module)
    params = variables["params"]

    class Net2(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Conv(2, 5, (3, 3), rngs=rngs)
            self.second = nnx.Conv(5, 6, (3, 3), rngs=rngs)
            self.hidden = nnx.Linear(96, 8, rngs=rngs)
            self.out = nnx.Linear(8, 4, rngs=rngs)

        def __call__(self, x):
            x = nnx.max_pool(nnx.relu(self.first(x)), (2, 2), (2, 2))
            x = nnx.relu(self.second(x)).reshape(x.shape[0], -1)
            return self.out(nnx.relu(self.hidden(x)))

    other = Net2(nnx.Rngs(0))
    for name in params:
        layer = getattr(other, name)
        layer.kernel = nnx.Param(params[name]["kernel"])
        layer.bias = nnx.Param(params[name]["bias"])
    ours = jax.jit(mj.split(example(module, variables)))(x)
    theirs = jax.jit(mj.split(lambda x: other(x[None])[0]))(x)
    np.testing.assert_allclose(ours.g, theirs.g, rtol=1e-12)
    np.testing.assert_allclose(ours.h, theirs.h, rtol=1e-12)


@pytest.mark.parametrize(
    "large",
    [
        ResNet18(10, width=8),
        VGG16(10, width=0.125, dense=(64,), pooled=1),
        pytest.param(ResNet18(10), marks=pytest.mark.slow),
        pytest.param(VGG16(10, dense=(64,), pooled=1), marks=pytest.mark.slow),
    ],
)
def test_float32_error_of_deep_networks(large):
    """He-initialised, full re-centring: 1e-4 of the largest logit."""
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    variables = jax.jit(large.init)(jax.random.key(1), x)
    fn = lambda x: large.apply(variables, x)
    values, (g, h) = jax.jit(fn)(x), jax.jit(mj.split(fn))(x)
    assert jnp.abs(g - h - values).max() < 1e-4 * jnp.abs(values).max()


def test_no_overflow_in_100_layers():
    w = jax.random.normal(jax.random.key(0), (100, 64, 64)) * np.sqrt(2 / 64)
    fn = lambda x: jax.lax.scan(lambda c, w: (jax.nn.relu(w @ c), None), x, w)[0]
    x = jax.random.normal(jax.random.key(1), (64,))
    g, h = jax.jit(mj.split(fn))(x)
    assert jnp.isfinite(g).all() and jnp.abs(g - h - fn(x)).max() < 1e-4 * jnp.abs(fn(x)).max()


@pytest.mark.parametrize(
    "fn, name",
    [
        (lambda x: jnp.exp(x).sum(), "exp"),
        (lambda x: jax.nn.softmax(x), "exp"),
        (lambda x: x * x[::-1], "mul"),
        (lambda x: x[0] / x[1], "div"),
        (lambda x: x @ x, "dot_general"),
        (lambda x: jnp.sin(x), "sin"),
        (lambda x: jnp.prod(x), "reduce_prod"),
        (lambda x: (x - x.mean()) / jnp.sqrt(x.var() + 1e-5), "square"),
    ],
)
def test_unsupported_primitives_are_named(fn, name):
    def inside(x):
        with jax.named_scope("Block_3"):
            return fn(x)

    with pytest.raises(SplitError, match=f"'{name}' in 'Block_3'.*register_rule"):
        mj.split(inside)(jnp.array([0.5, 1.5, -0.5]))
    report = mj.split_report(inside, jnp.ones(3))
    assert report.kind == "missing" and report.missing[0].primitive == name
    assert name in str(report)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(pool="max"), "pool must be one of .*'max'"),
        (dict(recentre="half"), r"recentre .*must be one of .*'half'"),
        (dict(input="center"), "input must be one of .*'center'"),
    ],
)
def test_unknown_options_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        mj.split(jax.nn.relu, **change)


def test_bad_inputs_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        mj.split(jax.nn.relu)(jnp.array([1.0, jnp.nan]))
    with pytest.raises(TypeError, match="int32"):
        mj.split(jax.nn.relu)(jnp.arange(3))
    with pytest.raises(ValueError, match="calibrate"):
        shifts = calibrate(lambda x: jnp.ones((2, 3)) @ x, jnp.ones(3))
        mj.split(lambda x: jnp.ones((2, 4)) @ x, recentre=shifts)(jnp.ones(4))
    with pytest.raises(ValueError, match="tag"):
        mj.tag(jnp.ones(3), "")


class Trained(nnx.Module):
    def __init__(self, *layers, rngs):
        self.first = nnx.Linear(3, 4, rngs=rngs)
        self.layers = nnx.List([layer(rngs) for layer in layers])

    def __call__(self, x):
        x = self.first(x)
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize(
    "layers",
    [
        [lambda rngs: nnx.BatchNorm(4, rngs=rngs)],
        [lambda rngs: nnx.Dropout(0.5, rngs=rngs)],
        [lambda rngs: nnx.BatchNorm(4, rngs=rngs), lambda rngs: nnx.Dropout(0.5, rngs=rngs)],
    ],
)
def test_nnx_modules_in_train_mode_say_what_to_do(layers):
    model, x = Trained(*layers, rngs=nnx.Rngs(0)), jnp.ones(3)
    fn = lambda x: model(x[None])[0]
    for method in (
        lambda: mj.split(fn)(x),
        lambda: mj.split_report(fn, x),
        lambda: mj.attribution.gradient(fn, x, 0),
    ):
        with pytest.raises(ValueError, match=r"model\.eval\(\)"):
            method()
    model.eval()
    pair = mj.split(fn)(x)
    np.testing.assert_allclose(pair.g - pair.h, fn(x), atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 8, 8, 2), (2, 8, 8), (8, 8, 3), (8, 8)])
def test_batches_and_other_axes_say_what_to_do(shape):
    module = Plain()
    variables, _ = build(module, dtype=jnp.float32)
    fn, x = example(module, variables), jnp.ones(shape)
    message = rf"x of shape \({shape[0]}, .*jax\.vmap.*\[height, width, channels\]"
    for method in (
        lambda: mj.split(fn)(x),
        lambda: mj.split_report(fn, x),
        lambda: mj.attribution.split_grad(fn, x, 0),
    ):
        with pytest.raises(ValueError, match=message):
            method()


def test_an_error_of_fn_itself_is_passed_on():
    class Own(RuntimeError):
        pass

    def fn(x):
        raise Own("mine")

    with pytest.raises(Own, match="mine"):
        mj.split(fn)(jnp.ones(3))
    with pytest.raises(jax.errors.TracerBoolConversionError):
        mj.split(lambda x: x if x[0] > 0 else -x)(jnp.ones(3))


def test_models_have_torchvisions_number_of_parameters():
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    for model, number in [(ResNet18(), 11_689_512), (VGG16(), 138_357_544)]:
        params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == number
    with pytest.raises(ValueError, match="stem"):
        jax.eval_shape(ResNet18(stem="tiny").init, jax.random.key(0), x)


def test_old_names_say_the_new_one():
    with pytest.raises(AttributeError, match="named Pair now"):
        mj.splitting.Split  # noqa: B018


def test_every_public_name_is_documented():
    for name in mj.splitting.__all__:
        assert getattr(mj.splitting, name).__doc__, name


@pytest.mark.parametrize("given", [{"params": {"kernel": 1.0}}, jnp.ones(3), None])
def test_parameters_in_the_place_of_the_function(given):
    for call in (
        lambda: mj.split(given),
        lambda: calibrate(given, jnp.ones(3)),
        lambda: mj.split_report(given, jnp.ones(3)),
        lambda: mj.attribution.lrp(given, jnp.ones(3), 0),
        lambda: mj.attribution.attention_rollout(given, jnp.ones(3)),
    ):
        with pytest.raises(
            TypeError, match=r"fn must be a function, got .*net\.apply\(params, x\)"
        ):
            call()


@pytest.mark.parametrize("wrong", [-1, 4])
def test_a_traced_target_that_is_no_output_is_nan(wrong):
    """It cannot raise under jit; a map of zeros would pass for "nothing matters"."""
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)
    fn = lambda x: jnp.maximum(x @ weights, 0)
    explain = lambda target: mj.attribution.split_grad(fn, jnp.ones(3), target)
    assert np.isnan(jax.jit(explain)(wrong)).all()
    np.testing.assert_array_equal(jax.jit(explain)(2), explain(2))
