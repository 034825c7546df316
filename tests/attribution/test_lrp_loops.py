"""LRP through loops and branches: what the unrolled network gives."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import monojax as mj
from monojax import attribution

RNG = np.random.default_rng(0)
STEPS, WIDTH = 4, 5
A, B, C = (RNG.normal(size=(WIDTH, WIDTH)) for _ in range(3))
START, SHIFT = RNG.normal(size=WIDTH), RNG.normal(size=WIDTH)
HEAD = RNG.normal(size=(3, WIDTH))
X = RNG.normal(size=(STEPS, WIDTH))
RULES = ["epsilon", "zplus", "gamma"]


def unrolled(body, init, xs, reverse=False):
    """The same as jax.lax.scan, step by step."""
    order = range(len(xs))[::-1] if reverse else range(len(xs))
    carry, ys = init, {}
    for i in order:
        carry, ys[i] = body(carry, xs[i])
    return carry, jax.tree.map(lambda *a: jnp.stack(a), *(ys[i] for i in range(len(xs))))


def recurrent(c, a):
    c = jax.nn.relu(A @ c + B @ a + SHIFT)
    return c, C @ c


def lagged(c, a):
    """The second state is the first of the step before: constant for two steps."""
    new = jax.nn.relu(B @ a + A @ c[1] + SHIFT)
    return (new, c[0]), jax.nn.relu(C @ c[1])


def untouched(c, a):
    """A part of the state never depends on the input."""
    return (jax.nn.relu(A @ c[0] + B @ a + c[1]), c[1] * 0.5), c[1] + a


LOOPS = {
    "zero start": (recurrent, np.zeros(WIDTH), False),
    "constant start": (recurrent, START, False),
    "backwards": (recurrent, START, True),
    "two lags": (lagged, (START, SHIFT), False),
    "a constant state": (untouched, (START, SHIFT), False),
}


def outputs(loop, body, init, reverse, x):
    carry, ys = loop(body, init, x, reverse=reverse)
    first = jax.tree.leaves(carry)[0]
    return HEAD @ (first + jnp.tanh(ys.sum(0)) * 0 + ys[1] + 2 * ys[0])


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", LOOPS)
def test_scans_with_a_constant_start(x64, name, rule):
    body, init, reverse = LOOPS[name]
    scan = lambda x: outputs(jax.lax.scan, body, init, reverse, x)
    flat = lambda x: outputs(unrolled, body, init, reverse, x)
    found, want = jax.jit(lambda x: [attribution.lrp(fn, x, 1, rule=rule) for fn in (scan, flat)])(
        X
    )
    np.testing.assert_allclose(scan(X), flat(X), rtol=1e-12)
    np.testing.assert_allclose(found, want, atol=1e-10 * np.abs(want).max())
    assert np.abs(want).max() > 1e-3


@pytest.mark.parametrize("rule", RULES)
def test_places_in_a_peeled_loop_keep_their_numbers(x64, rule):
    """The state's contraction is a place that the first step does not meet: nothing there."""

    def fn(x):
        c, _ = jax.lax.scan(recurrent, jnp.asarray(START), x)
        return HEAD @ c

    sites = mj.split_report(fn, X).layers
    assert [site.steps for site in sites] == [(4,), (4,), (4,), ()]
    places = [(0, i) for i in range(4)] + [(1, i) for i in range(4)] + [None]
    *maps, at_input = jax.jit(lambda x: attribution.at_layers(fn, x, 1, "lrp", places, rule=rule))(
        X
    )
    state, slices = maps[:4], maps[4:]
    assert not np.any(state[0]) and all(np.abs(part).max() > 1e-6 for part in state[1:])
    np.testing.assert_allclose(np.stack(slices), at_input, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_branches_with_constants(x64, rule):
    """The branch that is taken decides; a constant branch passes nothing on."""

    def fn(x, way):
        y = jax.nn.relu(A @ x + SHIFT)
        y = jax.lax.switch(way, [lambda y: jnp.asarray(START), lambda y: B @ y, lambda y: y], y)
        return HEAD @ y

    x = X[0]
    traced = jax.jit(lambda x, way: attribution.lrp(fn, x, 1, args=(way,), rule=rule))
    for way in range(3):
        want = attribution.lrp(lambda x, w=way: fn(x, w), x, 1, rule=rule)
        np.testing.assert_allclose(traced(x, way), want, atol=1e-10)
    assert not np.any(traced(x, 0)) and np.any(traced(x, 1))
    by_input = lambda x: (
        HEAD
        @ jax.lax.cond(x[0] > 100, lambda y: jnp.asarray(START), lambda y: jax.nn.relu(A @ y), x)
    )
    want = attribution.lrp(lambda x: HEAD @ jax.nn.relu(A @ x), x, 1, rule=rule)
    np.testing.assert_allclose(attribution.lrp(by_input, x, 1, rule=rule), want, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("cell", ["simple", "lstm", "gru"])
def test_recurrent_modules(x64, cell, rule):
    """nn.RNN over a cell, against the cell called step by step."""
    make = {
        "simple": lambda: nn.SimpleCell(WIDTH, activation_fn=nn.relu, param_dtype=float),
        "lstm": lambda: nn.OptimizedLSTMCell(WIDTH, param_dtype=float),
        "gru": lambda: nn.GRUCell(WIDTH, param_dtype=float),
    }[cell]
    options = dict(freeze=("product", "softmax", "normalizer")) if cell != "simple" else {}
    module = nn.RNN(make())
    params = jax.tree.map(
        lambda a: jnp.asarray(RNG.normal(size=a.shape)), module.init(jax.random.key(0), X)
    )
    inner = {"params": next(iter(params["params"].values()))}

    def flat(x):
        one = make()
        carry = one.initialize_carry(jax.random.key(0), (WIDTH,))
        for i in range(STEPS):
            carry, y = one.apply(inner, carry, x[i])
        return HEAD @ y

    scanned = lambda x: HEAD @ module.apply(params, x)[-1]
    found, want = jax.jit(
        lambda x: [attribution.lrp(fn, x, 1, rule=rule, **options) for fn in (scanned, flat)]
    )(X)
    np.testing.assert_allclose(scanned(X), flat(X), rtol=1e-6)
    np.testing.assert_allclose(found, want, atol=1e-8 * np.abs(want).max(), rtol=1e-6)
