"""Rules of single primitives and calls: exact, and of the kind they claim."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import monojax as mj
from monojax.splitting import RULES, both, register_rule

W = np.random.default_rng(0).normal(size=(8, 8))
STACK = np.random.default_rng(1).normal(size=(5, 8, 8)) / 3


def image(x):
    return (jnp.concatenate([x] * 8) * jnp.arange(64.0)).reshape(1, 8, 8, 1)


def conv(x, **options):
    channels = options.get("feature_group_count", 1)
    data = jnp.concatenate([image(x)] * 2, -1)
    kernel = np.random.default_rng(2).normal(size=(3, 3, 2 // channels, 4))
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        data, kernel, (1, 1), ((1, 1), (2, 2)), dimension_numbers=numbers, **options
    ).ravel()


def conv_nchw(x):
    data = jnp.moveaxis(image(x), -1, 1)
    kernel = np.random.default_rng(2).normal(size=(4, 1, 3, 3))
    return jax.lax.conv_general_dilated(data, kernel, (2, 2), "VALID").ravel()


def scanned(x):
    def body(c, w):
        c = jax.nn.relu(w @ c + 0.3)
        return c, c.sum()

    c, ys = jax.lax.scan(body, x, STACK)
    return jnp.concatenate([c, ys])


def scanned_from_constant(x):
    c, ys = jax.lax.scan(lambda c, a: (c + jax.nn.relu(a - 1.0), c), jnp.zeros(()), x, reverse=True)
    return ys * 2 + c


def while_loop(x):
    step = lambda c: (c[0] + 1, jax.nn.relu(W @ c[1]) / 5)
    return jax.lax.while_loop(lambda c: c[0] < 3, step, (0, x))[1]


DC = {
    "affine": lambda x: (1 - W @ x) / 3 - x + 0.5 * x[::-1],
    "relu": lambda x: jax.nn.relu(W @ x),
    "numpy relu": lambda x: jnp.maximum(W @ x, 0),
    "relu by a mask": lambda x: x * (x > 0),
    "where": lambda x: jnp.where(x > 0, x, 0),
    "leaky_relu": lambda x: jax.nn.leaky_relu(W @ x, 0.2),
    "relu6": lambda x: jax.nn.relu6(W @ x),
    "hard_tanh": jax.nn.hard_tanh,
    "clip": lambda x: jnp.clip(x, -0.5, 0.7),
    "abs": lambda x: jnp.abs(W @ x) - jnp.abs(x),
    "max of two": lambda x: jnp.maximum(x, W @ x),
    "min of two": lambda x: jnp.minimum(x, W @ x),
    "max and min over axes": lambda x: jnp.stack([x.max(), x.min(), (W @ x).max()]),
    "cummax": lambda x: jax.lax.cummax(x) - jax.lax.cummin(x),
    "group sort": lambda x: jnp.sort((W @ x).reshape(2, 4), axis=-1).ravel(),
    "top_k": lambda x: jax.lax.top_k(x, 3)[0],
    "moves": lambda x: jnp.concatenate(
        [x[2:5], jnp.pad(x, 1, constant_values=-2.0), jnp.flip(x), x[jnp.array([0, 3, 3])]]
    ),
    "places": lambda x: jnp.zeros(8).at[jnp.array([1, 2])].set(x[:2]).at[0].add(x[3]),
    "dynamic slices": lambda x: jax.lax.dynamic_update_slice(
        x, jax.lax.dynamic_slice(x, (2,), (3,)), (4,)
    ),
    "known predicate": lambda x: jnp.where(jnp.arange(8) > 3, x, 1.0),
    "sums": lambda x: jnp.stack(
        [x.sum(), x.mean(), jnp.cumsum(x)[3], jnp.einsum("i,i->", W[0], x)]
    ),
    "stack and split": lambda x: jnp.stack([x, -x])[0] + jnp.concatenate(jnp.split(x, 2)[::-1]),
    "max_pool": lambda x: nn.max_pool(image(x), (3, 3), (2, 2), "SAME").ravel(),
    "min_pool": lambda x: -nn.max_pool(-image(x), (2, 2), (1, 1)).ravel(),
    "lax min_pool": lambda x: jax.lax.reduce_window(
        image(x), jnp.inf, jax.lax.min, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
    ).ravel(),
    "avg_pool": lambda x: nn.avg_pool(image(x), (2, 2), (2, 2)).ravel(),
    "conv": conv,
    "grouped conv": lambda x: conv(x, feature_group_count=2),
    "dilated conv": lambda x: conv(x, rhs_dilation=(2, 2)),
    "transposed conv": lambda x: conv(x, lhs_dilation=(2, 2)),
    "NCHW": conv_nchw,
    "batched product": lambda x: jnp.einsum(
        "bij,bj->bi", W.reshape(2, 4, 8), x.reshape(1, 8).repeat(2, 0)
    ),
    "constants": lambda x: jnp.full(2, 3.0),
    "scan": scanned,
    "scan from a constant": scanned_from_constant,
    "while": while_loop,
    "fori": lambda x: jax.lax.fori_loop(0, 3, lambda i, c: jax.nn.relu(W @ c) / 5, x),
    "remat": lambda x: jax.checkpoint(lambda y: jax.nn.relu(W @ y))(x),
    "jit": jax.jit(lambda x: jax.nn.relu(W @ x)),
    "vmap": lambda x: jax.vmap(lambda a: jax.nn.relu(a * 2 - 1))(x.reshape(4, 2)).ravel(),
    "stop_gradient": lambda x: x + jax.lax.stop_gradient(W @ x),
    "softplus": lambda x: jax.nn.softplus(W @ x),
    "log_sigmoid": jax.nn.log_sigmoid,
    "gelu": lambda x: jax.nn.gelu(W @ x, approximate=True),
    "exact gelu": lambda x: jax.nn.gelu(W @ x, approximate=False),
    "silu": jax.nn.silu,
    "mish": jax.nn.mish,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "hard_silu": jax.nn.hard_silu,
}
EXACT = {
    "branch on the input": lambda x: jax.lax.cond(
        x[0] > 0, lambda y: jax.nn.relu(y), lambda y: -y, x
    ),
    "mask of another value": lambda x: jnp.where(W @ x > 0, x, 2 * x),
    "gather at an argmax": lambda x: x[jnp.argmax(W @ x)],
}
LOCAL = {
    "a held factor": lambda x: x * jnp.argmax(x),
    "slopes that settle slowly": jax.nn.soft_sign,
}
ALL = {**{k: (f, "dc") for k, f in DC.items()}, **{k: (f, "exact") for k, f in EXACT.items()}}
ALL |= {k: (f, "local") for k, f in LOCAL.items()}


# Every third by README's command, all by .ci/run.
SHARED = [pytest.param(n, marks=[pytest.mark.slow] if i % 3 else []) for i, n in enumerate(ALL)]


@pytest.mark.parametrize("name", SHARED)
def test_exact_and_of_the_kind_it_claims(x64, name):
    """g - h = fn at 200 pairs; where it claims "dc", no midpoint above a chord, no fall."""
    fn, kind = ALL[name]
    run = mj.split(fn, recentre="none")

    def one(key):
        p, n, q, m = 2 * jnp.abs(jax.random.normal(key, (4, 8)))
        ps, ns = (
            jnp.stack([p, q, (p + q) / 2, p + q / 9]),
            jnp.stack([n, m, (n + m) / 2, n + m / 9]),
        )
        pair = jax.vmap(run.streams)(ps, ns)
        error = jnp.abs(pair.g - pair.h - jax.vmap(fn)(ps - ns)).max()
        parts = jnp.concatenate([pair.g.reshape(4, -1), pair.h.reshape(4, -1)], axis=1)
        first, second, middle, larger = parts
        chord = (first + second) / 2
        worst = jnp.maximum(middle - chord, first - larger) / (1 + jnp.abs(chord))
        return error, worst.max()

    error, worst = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), 200))
    assert error.max() < 1e-10  # streams of some hundreds in float64
    assert mj.split_report(fn, jnp.ones(8), recentre="none").kind == kind
    # Knots of smooth functions are found to about 1e-5, which bends a part by 1e-10 at most.
    if kind == "dc" and name != "stop_gradient":
        assert worst.max() < 1e-9


@pytest.mark.parametrize("name", ["affine", "gelu", "group sort", "scan", "branch on the input"])
def test_eagerly_and_recentred(x64, name):
    fn, kind = ALL[name]
    x = 3 * jax.random.normal(jax.random.key(0), (8,))
    pair = mj.split(fn)(x)
    np.testing.assert_allclose(pair.g - pair.h, fn(x), atol=1e-11)
    assert pair.kind == kind


@pytest.mark.parametrize(
    "name", ["max_pool", "lax min_pool", "cummax", "max of two", "group sort", "top_k"]
)
def test_wta_is_exact_and_says_that_it_is_not_convex(x64, name):
    fn, x = DC[name], 3 * jax.random.normal(jax.random.key(3), (8,))
    pair = mj.split(fn, pool="wta", recentre="none")(x)
    np.testing.assert_allclose(pair.g - pair.h, fn(x), atol=1e-11)
    assert pair.kind == "exact"


def test_max_of_pairs_closed_form(x64):
    """n' = n1 + n2, p' = max(p1 + n2, p2 + n1)."""
    p, n = jnp.array([3.0, 2.5]), jnp.array([1.0, 0.2])
    g, h = mj.split(lambda x: jnp.maximum(x[0], x[1]), recentre="none").streams(p, n)
    np.testing.assert_allclose([g, h], [max(3.2, 3.5), 1.2], atol=1e-12)


def test_padding_takes_no_part_in_max_pooling(x64):
    fn = lambda x: nn.max_pool(x.reshape(1, 2, 2, 1), (3, 3), (3, 3), ((1, 1), (1, 1))).ravel()
    p, n = jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.array([5.0, 6.0, 7.0, 8.0])
    g, h = mj.split(fn, recentre="none").streams(p, n)
    np.testing.assert_allclose([g[0], h[0]], [26 - 4, 26], atol=1e-12)


def test_traced_branch_index_and_condition(x64):
    fn = lambda x, k: jax.lax.switch(k, [lambda y: W @ y, lambda y: -y, lambda y: jnp.ones(8)], x)
    x = jax.random.normal(jax.random.key(0), (8,))
    for k in range(3):
        g, h = jax.jit(mj.split(fn))(x, jnp.array(k))
        np.testing.assert_allclose(g - h, fn(x, k), atol=1e-12)
        g, h = mj.split(fn)(x, k)
        np.testing.assert_allclose(g - h, fn(x, k), atol=1e-12)


def test_loops_of_unknown_length_are_refused():
    loop = lambda x, n: jax.lax.while_loop(
        lambda c: c[0] < n, lambda c: (c[0] + 1, -c[1]), (0.0, x)
    )
    with pytest.raises(ValueError, match=r"'while'.*depends on the input"):
        mj.split(lambda x: loop(x, x[0])[1])(jnp.ones(3))
    with pytest.raises(ValueError, match=r"'while'.*not known while tracing"):
        jax.jit(mj.split(lambda x, n: loop(x, n)[1]))(jnp.ones(3), jnp.array(2.0))


def test_a_reader_can_add_a_rule():
    fn = lambda x: jax.lax.reduce_prod(x, (0,))
    with pytest.raises(ValueError, match="reduce_prod"):
        mj.split(fn)(jnp.ones(1))
    try:

        @register_rule("reduce_prod")
        def rule(walk, eqn, x):
            return both(lambda a: walk.bind(eqn, a), x)  # of one number, the product is linear

        pair = mj.split(fn)(jnp.array([-2.0]))
        assert float(pair.g - pair.h) == -2.0
    finally:
        del RULES["reduce_prod"]
    with pytest.raises(ValueError, match="names of primitives"):
        register_rule()


def test_report_lists_places_and_counts():
    def fn(x):
        x = mj.tag(jax.nn.relu(W @ x), "hidden")
        return jnp.asarray(STACK[0]) @ x

    report = mj.split_report(fn, jnp.ones(8))
    assert [site.kind for site in report.layers] == ["dot", "tag", "dot"]
    assert report.layers[1].path == "hidden" and report.layers[2].index == 2
    assert report.primitives["dot_general"] == 2 and report.kind == "dc"
    assert "hidden" in str(report)
