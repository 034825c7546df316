"""freeze: the local split of attention, normalisation, products and gates."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import monojax as mj
from monojax import attribution
from monojax.models import ViT
from monojax.splitting import SplitError, sensitivities

GATE = ("softmax", "normalizer", "product", "gate")


def toy_weights(width=6, hidden=8, classes=3):
    shapes = dict(q=(width, width), k=(width, width), v=(width, width), up=(width, hidden))
    shapes |= dict(down=(hidden, width), head=(width, classes), scale=(2, width))
    keys = jax.random.split(jax.random.key(0), len(shapes))
    draw = lambda key, shape: jax.random.normal(key, shape, jnp.float64) / np.sqrt(shape[0])
    return {name: draw(key, shapes[name]) for key, name in zip(keys, shapes, strict=True)}


def toy(x, w, held=None):
    """One block of a transformer in plain jax; ``held`` gives what freeze would hold, as arrays."""
    held = {} if held is None else held
    kept = {}

    def keep(name, value):
        kept[name] = held[name] if name in held else value()
        return kept[name]

    def norm(name, x, scale):
        x = x - x.mean(-1, keepdims=True)
        return (
            x
            * keep(name, lambda: 1 / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-5))
            * scale[None]
        )

    y = norm("norm1", x, w["scale"][0])
    logits = lambda: (y @ w["q"]) @ (y @ w["k"]).T / np.sqrt(x.shape[-1])
    attention = keep("attention", lambda: jax.nn.softmax(logits(), axis=-1))
    x = x + attention @ (y @ w["v"])
    x = x + jax.nn.relu(norm("norm2", x, w["scale"][1]) @ w["up"]) @ w["down"]
    return x.mean(0) @ w["head"], kept


@functools.cache
def toy64():
    w = toy_weights()
    return lambda x: toy(x, w)[0], w, jax.random.normal(jax.random.key(1), (4, 6), jnp.float64)


@functools.cache
def vit64(activation="gelu", reduce="cls"):
    module = ViT(4, patch=4, width=8, depth=1, heads=2, activation=activation, reduce=reduce)
    x = jax.random.normal(jax.random.key(1), (8, 8, 1), jnp.float64)
    variables = jax.jit(module.init)(jax.random.key(0), x[None])
    variables = jax.tree.map(lambda a: a.astype(jnp.float64) + 0.05, variables)
    return lambda x: module.apply(variables, x[None])[0], module, variables, x


@pytest.mark.parametrize("recentre", ["full", "scale", "none"])
@pytest.mark.parametrize("pool", ["full", "wta"])
def test_toy_transformer_identity(x64, recentre, pool):
    """Unstabilised streams reach 1e4 here, so 1e-10 leaves a factor 100 to float64's rounding."""
    fn, _, x = toy64()
    pair = jax.jit(mj.split(fn, pool=pool, recentre=recentre, freeze=True))(x)
    np.testing.assert_allclose(pair.g - pair.h, fn(x), atol=1e-10, rtol=0)
    assert pair.kind == "local"


@pytest.mark.slow
@pytest.mark.parametrize(
    "activation, freeze",
    [
        ("gelu", True),
        pytest.param("gelu", GATE, marks=pytest.mark.slow),
        pytest.param("relu", ("softmax", *GATE[1:3]), marks=pytest.mark.slow),
    ],
)
def test_vit_identity(x64, activation, freeze):
    fn, _, _, x = vit64(activation)
    pair = jax.jit(mj.split(fn, freeze=freeze))(x)
    np.testing.assert_allclose(pair.g - pair.h, fn(x), atol=1e-12)  # sums of 1e2 roundings
    report = mj.split_report(fn, x, freeze=freeze)
    assert pair.kind == report.kind == "local" and not report.missing
    held = {note.primitive for note in report.local}
    assert {"square", "dot_general", "exp"} <= held
    assert ("mul" in held) == (activation == "gelu" and freeze == GATE)


def test_gradient_is_that_of_a_frozen_network_written_by_hand(x64):
    fn, w, x = toy64()
    _, kept = toy(x, w)
    by_hand = jax.jit(jax.grad(lambda x: toy(x, w, kept)[0][1]))(x)
    gradient = jax.jit(lambda x: attribution.gradient(fn, x, 1, freeze=True))(x)
    np.testing.assert_allclose(gradient, by_hand, atol=1e-12)
    assert (
        jnp.abs(by_hand - jax.jit(jax.grad(lambda x: fn(x)[1]))(x)).max() > 1e-3
    )  # freezing matters
    four = jax.jit(lambda x: sensitivities(fn, x, 1, layers=["input"], freeze=True))(x)[-1]
    np.testing.assert_allclose(four.grad, by_hand, atol=1e-12)
    np.testing.assert_allclose(four.g_p - four.h_p, by_hand, atol=1e-12)


def test_split_of_the_frozen_network_is_the_split_written_by_hand(x64):
    """What is held enters as a constant: the same streams, not only the same difference."""
    fn, w, x = toy64()
    _, kept = toy(x, w)
    ours = jax.jit(mj.split(fn, recentre="none", freeze=True))(x)
    theirs = jax.jit(mj.split(lambda x: toy(x, w, kept)[0], recentre="none"))(x)
    np.testing.assert_allclose(ours.g, theirs.g, rtol=1e-12)
    np.testing.assert_allclose(ours.h, theirs.h, rtol=1e-12)
    assert theirs.kind == "dc"


@pytest.mark.parametrize("layer", ["block_0/up", pytest.param("tokens_0", marks=pytest.mark.slow)])
def test_alpha_one_half_and_zero_on_a_vit(x64, layer):
    fn, _, _, x = vit64()
    options = dict(layer=layer, freeze=True)
    half, gradient, cam, both, four = jax.jit(
        lambda x: (
            attribution.split_grad(fn, x, 2, alpha=0.5, **options),
            attribution.gradient(fn, x, 2, **options),
            attribution.split_cam(fn, x, 2, alpha=0.5, **options),
            attribution.split_cam(fn, x, 2, alpha=0.5, stream="both", **options),
            sensitivities(fn, x, 2, layers=[layer], alpha=0.0, freeze=True),
        )
    )(x)
    np.testing.assert_allclose(half, gradient / 2, atol=1e-13)
    product = attribution.gradient_x_input(fn, x, 2, **options)
    np.testing.assert_allclose(both, product / 2, atol=1e-12)
    if layer == "block_0/up":  # re-centred there: p is the positive part of the value
        value = product / jnp.where(gradient == 0, 1, gradient)
        np.testing.assert_allclose(cam, gradient / 2 * jnp.maximum(value, 0), atol=1e-12)
    (four,) = four.values()
    for name in ("g_p", "g_n", "h_p", "h_n"):
        assert (getattr(four, name) >= -1e-9 * jnp.abs(four.s).max()).all(), name


def test_lrp_of_a_network_without_biases_keeps_its_sum(x64):
    """The frozen network is homogeneous, so relevance sums to the logit; epsilon takes 1e-6."""
    fn, _, x = toy64()
    relevance = jax.jit(lambda x: attribution.lrp(fn, x, 1, epsilon=1e-12, freeze=True))(x)
    np.testing.assert_allclose(relevance.sum(), fn(x)[1], atol=1e-8)


def test_split_lrp_without_recentring_is_stream_times_stream_gradient(x64):
    fn, _, x = toy64()
    given = dict(layers=["input"], alpha=0.0, freeze=True)
    four = jax.jit(lambda x: sensitivities(fn, x, 1, **given))(x)[-1]
    p, n = jnp.maximum(x, 0), jnp.maximum(-x, 0)
    options = dict(recentre="none", pool="full", epsilon=1e-12, freeze=True)
    got = jax.jit(lambda x: attribution.split_lrp(fn, x, 1, **options))(x)
    want = p * four.g_p - n * four.g_n
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6 * float(jnp.abs(want).max()))


@pytest.mark.parametrize(
    "fn, slope",
    [
        (jax.nn.silu, lambda x: jax.nn.sigmoid(x)),
        (lambda x: x / (1 + jnp.exp(-x)), lambda x: jax.nn.sigmoid(x)),
        (
            lambda x: jax.nn.gelu(x, approximate=False),
            lambda x: jax.scipy.stats.norm.cdf(x),
        ),
        (lambda x: 2 * x * jnp.tanh(3 * x), lambda x: 2 * jnp.tanh(3 * x)),
    ],
)
def test_gates_are_held(x64, fn, slope):
    x = jnp.linspace(-2.0, 3.0, 5)
    given = dict(freeze="gate", reduce="none")
    got = jnp.stack([attribution.gradient(lambda x: fn(x), x, i, **given)[i] for i in range(5)])
    np.testing.assert_allclose(got, slope(x), rtol=1e-12)
    pair = mj.split(fn, freeze="gate")(x)
    np.testing.assert_allclose(pair.g - pair.h, fn(x), atol=1e-13)
    assert pair.kind == "local" and mj.split(fn)(x).kind != "local"


def test_products_roots_and_denominators(x64):
    """Closed forms: GLU holds its gate; normalisation by any norm holds the norm."""
    a, b, c = jax.random.normal(jax.random.key(0), (3, 5), jnp.float64)
    matrix = jnp.outer(a, c)
    first = lambda fn: attribution.gradient(fn, b, None, freeze=True)
    glu = lambda x: (jax.nn.sigmoid(matrix @ x) * (matrix.T @ x)).sum()
    np.testing.assert_allclose(first(glu), matrix @ jax.nn.sigmoid(matrix @ b), atol=1e-13)
    rms = lambda x: a @ (x * jax.lax.rsqrt((x**2).mean() + 1e-6))
    np.testing.assert_allclose(first(rms), a / jnp.sqrt((b**2).mean() + 1e-6), atol=1e-13)
    cosine = lambda x: a @ x / jnp.linalg.norm(x)
    np.testing.assert_allclose(first(cosine), a / jnp.linalg.norm(b), atol=1e-13)
    share = lambda x: a @ (x / jnp.abs(x).sum())
    np.testing.assert_allclose(first(share), a / jnp.abs(b).sum(), atol=1e-13)
    for fn in (glu, rms, cosine, share):
        pair = mj.split(fn, freeze=True)(b)
        np.testing.assert_allclose(pair.g - pair.h, fn(b), atol=1e-12)


@pytest.mark.parametrize("freeze", [True, GATE])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_gated_unit_holds_its_gate_in_either_order(x64, freeze, swapped):
    """SwiGLU: silu(U x) is held, and V x keeps its slope, however the product is written."""
    u, v = jax.random.normal(jax.random.key(0), (2, 4, 4), jnp.float64)
    x = jax.random.normal(jax.random.key(1), (4,), jnp.float64)

    def fn(x):
        gate, value = jax.nn.silu(u @ x), v @ x
        return (value * gate if swapped else gate * value).sum()

    got = attribution.gradient(fn, x, None, freeze=freeze)
    np.testing.assert_allclose(got, v.T @ jax.nn.silu(u @ x), atol=1e-12)
    pair = mj.split(fn, freeze=freeze)(x)
    np.testing.assert_allclose(pair.g - pair.h, fn(x), atol=1e-12)


@pytest.mark.slow
def test_gradients_without_freeze_are_the_ordinary_ones(x64):
    """The methods that need no split work on any function."""
    fn, _, _, x = vit64()
    slope = jax.jit(jax.grad(lambda x: fn(x)[3]))
    given = jax.jit(lambda x: [method(fn, x, 3) for method in (
        attribution.gradient,
        attribution.gradient_x_input,
        lambda *given: attribution.integrated_gradients(*given, steps=2),
    )])(x)  # fmt: skip
    nodes = 0.5 + np.array([-1, 1]) / np.sqrt(12)  # of Gauss's formula, weights 1/2
    want = [slope(x), slope(x) * x, x * (slope(nodes[0] * x) + slope(nodes[1] * x)) / 2]
    for ours, theirs in zip(given, want, strict=True):
        np.testing.assert_allclose(ours, theirs[..., 0], atol=1e-12)


@pytest.mark.slow
def test_scan_vmap_and_jit(x64):
    w, x = toy_weights(), toy64()[2]
    stack = jax.tree.map(lambda a: jnp.stack([a, 0.5 * a, -a]), {k: w[k] for k in w if k != "head"})

    def deep(x):
        def block(x, part):
            y, _ = toy(x, part | {"head": jnp.eye(6)})
            return x + jnp.tanh(y)[None], None

        return jax.lax.scan(block, x, stack)[0].mean(0)

    def unrolled(x):
        for i in range(3):
            y, _ = toy(x, jax.tree.map(lambda a, i=i: a[i], stack) | {"head": jnp.eye(6)})
            x = x + jnp.tanh(y)[None]
        return x.mean(0)

    xs = jnp.stack([x, 2 * x, -x])
    pair = jax.jit(jax.vmap(mj.split(deep, freeze=True)))(xs)
    np.testing.assert_allclose(pair.g - pair.h, jax.vmap(deep)(xs), atol=1e-12)
    explain = lambda fn: jax.jit(
        jax.vmap(lambda x: attribution.split_grad(fn, x, 1, layer="input", freeze=True))
    )(xs)
    np.testing.assert_allclose(explain(deep), explain(unrolled), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_errors_name_the_primitive_and_freeze(x64):
    fn, _, _, x = vit64()
    with pytest.raises(SplitError, match=r"'square' in 'ViT/block_0/norm1'.*freeze='normalizer'"):
        mj.split(fn)(x)
    with pytest.raises(SplitError, match=r"'dot_general' in .*attention.*freeze='product'"):
        mj.split(fn, freeze="normalizer")(x)
    with pytest.raises(SplitError, match=r"'exp' in .*attention.*freeze='softmax'"):
        attribution.split_cam(fn, x, 1, layer="tokens_0", freeze=("normalizer", "product"))
    with pytest.raises(SplitError, match=r"'mul' in .*norm1.*freeze='product'"):
        attribution.lrp(fn, x, 1)
    with pytest.raises(ValueError, match=r"freeze .*must be one of .*'layernorm'"):
        mj.split(fn, freeze="layernorm")
    for fine in (False, (), None):
        assert mj.split_report(fn, x, freeze=fine).kind == "missing"
    # What is no factor is not held: sin has no form, and freezing it would explain nothing.
    with pytest.raises(SplitError, match=r"'sin'.*register_rule"):
        mj.split(jnp.sin, freeze=True)(jnp.ones(3))
    with pytest.raises(SplitError, match="logits instead"):
        attribution.gradient(lambda x: jax.nn.softmax(fn(x)), x, 1, freeze=True)
    pair = mj.split(lambda x: jax.nn.softmax(fn(x)), freeze=True)(x)
    np.testing.assert_allclose(pair.g - pair.h, jax.nn.softmax(fn(x)), atol=1e-14)


@pytest.mark.slow
def test_vit_hides_patches_and_refuses_bad_options(x64):
    for reduce in ("cls", "mean"):
        _, module, variables, x = vit64(reduce=reduce)
        keep = jnp.array([[True, False, True, True]])
        other = x.at[:4, 4:].set(7.0)  # the second patch, row by row
        logits = module.apply(variables, x[None], keep)
        np.testing.assert_allclose(module.apply(variables, other[None], keep), logits, atol=1e-12)
        assert jnp.abs(module.apply(variables, other[None]) - logits).max() > 1e-3
    shape = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    for change, message in [
        (dict(reduce="max"), "reduce must be"),
        (dict(activation="tanh"), "activation must be"),
        (dict(patch=3), "divisible by patch 3"),
        (dict(width=10, heads=4), "not divisible by 4 heads"),
    ]:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(ViT(**(dict(heads=2) | change)).init, jax.random.key(0), shape)
    with pytest.raises(TypeError, match="the option 'pool' is named 'reduce' now"):
        ViT(pool="mean")


@pytest.mark.slow
def test_linen_attention_with_a_mask_and_dropout_off(x64):
    """The usual module, masked: hidden tokens have no share in the frozen split either."""
    module = nn.MultiHeadDotProductAttention(2, dropout_rate=0.1, deterministic=True)
    x = jax.random.normal(jax.random.key(0), (5, 8), jnp.float64)
    mask = jnp.array([True, True, False, True, False])[None, None, None]
    variables = module.init(jax.random.key(1), x[None], mask=mask)
    variables = jax.tree.map(lambda a: a.astype(jnp.float64), variables)
    fn = lambda x: module.apply(variables, x[None], mask=mask)[0].sum(0)
    pair = mj.split(fn, freeze=True)(x)
    np.testing.assert_allclose(pair.g - pair.h, fn(x), atol=1e-12)
    grad = attribution.gradient(fn, x, 0, freeze=True)
    assert (grad[jnp.array([2, 4])] == 0).all() and (grad[0] != 0).any()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["split_grad", "lrp", "gradient"])
def test_many_layers_at_once(x64, method):
    fn, _, x = toy64()
    given = dict(rule="gamma") if method == "lrp" else {}
    (got,) = attribution.at_layers(fn, x, 1, method, ["input"], freeze=True, **given)
    want = getattr(attribution, method)(fn, x, 1, layer="input", freeze=True, **given)
    np.testing.assert_allclose(got, want, rtol=1e-10)
