"""Attention rollout: found weights, closed forms, other layouts, bad input."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from monojax.attribution import attention_rollout, attention_weights
from monojax.models import ViT


def head(x, w):
    return jax.nn.softmax((x @ w[0]) @ (x @ w[1]).T) @ (x @ w[2])


@pytest.fixture
def problem(x64):
    x = jax.random.normal(jax.random.key(0), (4, 3), jnp.float64)
    w = jax.random.normal(jax.random.key(1), (2, 3, 3, 3), jnp.float64)
    return x, w


def by_hand(x, w, residual):
    rollout = np.eye(len(x))
    for part in np.asarray(w):
        logits = (x @ part[0]) @ (x @ part[1]).T
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        rollout = ((1 - residual) * weights + residual * np.eye(len(x))) @ rollout
        x = x + weights @ (x @ part[2])
    return rollout


@pytest.mark.parametrize("residual", [0.0, 0.5, 1.0])
def test_rollout_of_plain_attention(problem, residual):
    x, w = problem

    def fn(x):
        for part in w:
            x = x + head(x, part)
        return x.sum(0)

    want = by_hand(np.asarray(x), w, residual)
    np.testing.assert_allclose(attention_rollout(fn, x, residual=residual), want, atol=1e-13)
    row = attention_rollout(fn, x, 2, query=1, residual=residual)
    np.testing.assert_allclose(row, want[1], atol=1e-13)
    mean = jax.jit(lambda x: attention_rollout(fn, x, query="mean", residual=residual))(x)
    np.testing.assert_allclose(mean, want.mean(0), atol=1e-13)


def test_rollout_of_a_scan_and_of_vmapped_heads(problem):
    x, w = problem
    scanned = lambda x: jax.lax.scan(lambda x, p: (x + head(x, p), None), x, w)[0]
    np.testing.assert_allclose(
        attention_rollout(scanned, x), by_hand(np.asarray(x), w, 0.5), atol=1e-13
    )
    both = lambda x: jax.vmap(lambda p: head(x, p))(w).sum(0)
    (weights,) = attention_weights(both, x)
    single = [attention_weights(lambda x, p=p: head(x, p), x)[0][0] for p in w]
    np.testing.assert_allclose(weights, np.stack(single), atol=1e-13)
    for name in ("mean", "max", "min"):
        mixed = getattr(np.stack(single), name)(0) / 2 + np.eye(4) / 2
        got = attention_rollout(both, x, heads=name)
        np.testing.assert_allclose(got, mixed / mixed.sum(1, keepdims=True), atol=1e-13)


def test_weights_are_those_that_linen_sows(x64):
    """Heads, masks and layouts as the library has them; hidden keys have weight 0."""
    module = nn.MultiHeadDotProductAttention(2)
    x = jax.random.normal(jax.random.key(0), (1, 5, 8), jnp.float64)
    mask = jnp.array([True, True, False, True, True])[None, None, None]
    variables = jax.jit(module.init)(jax.random.key(1), x, mask=mask)
    _, sown = module.apply(variables, x, mask=mask, sow_weights=True, mutable="intermediates")
    (want,) = sown["intermediates"]["attention_weights"]
    fn = lambda x: module.apply(variables, x[None], mask=mask)[0]
    (weights,) = attention_weights(fn, x[0])
    np.testing.assert_allclose(weights, want[0], atol=1e-12)
    assert (weights[:, :, 2] == 0).all()


@pytest.mark.slow
def test_rollout_of_a_vit_and_of_jax_attention(x64):
    module = ViT(3, patch=4, width=8, depth=2, heads=2)
    x = jax.random.normal(jax.random.key(1), (8, 8, 1))
    variables = jax.jit(module.init)(jax.random.key(0), x[None])
    fn = lambda x: module.apply(variables, x[None])[0]
    assert [w.shape for w in attention_weights(fn, x)] == [(2, 5, 5)] * 2
    rollout = jax.jit(lambda x: attention_rollout(fn, x))(x)
    np.testing.assert_allclose(rollout.sum(1), 1, atol=1e-6)  # float32 sums
    x = jax.random.normal(jax.random.key(1), (6, 2, 4))
    library = lambda x: jax.nn.dot_product_attention(x, x, x)
    (weights,) = attention_weights(library, x)
    want = jax.nn.softmax(jnp.einsum("qhd,khd->hqk", x, x) / 2, axis=-1)
    np.testing.assert_allclose(weights, want, atol=1e-6)


LATE = {
    "divided behind the product": lambda s, v: (jnp.exp(s) @ v) / jnp.exp(s).sum(-1, keepdims=True),
    "in powers of two": lambda s, v: (jnp.exp2(s) @ v) * (1 / jnp.exp2(s).sum(-1))[:, None],
    "by a column of ones": lambda s, v: (lambda both: both[:, :-1] / both[:, -1:])(
        jnp.exp(s - s.max()) @ jnp.concatenate([v, jnp.ones_like(v[:, :1])], 1)
    ),
    "keys first": lambda s, v: (
        (jnp.einsum("kq,kd->qd", jnp.exp(s.T), v).T / jnp.exp(s).sum(-1)[None]).T
    ),
}


@pytest.mark.parametrize("name", LATE)
def test_weights_that_are_normalised_behind_the_product(problem, name):
    """The same shares as of a softmax before it."""
    x, w = problem

    def late(x, part):
        scores = (x @ part[0]) @ (x @ part[1]).T
        base = jnp.log(2.0) if name == "in powers of two" else 1.0
        return x + LATE[name](scores / base, x @ part[2])

    def fn(x):
        for part in w:
            x = late(x, part)
        return x.sum(0)

    scanned = lambda x: jax.lax.scan(lambda x, part: (late(x, part), None), x, w)[0]
    given, looped, weights = jax.jit(
        lambda x: (
            attention_rollout(fn, x),
            attention_rollout(scanned, x),
            attention_weights(fn, x),
        )
    )(x)
    want = by_hand(np.asarray(x), w, 0.5)
    np.testing.assert_allclose(given, want, atol=1e-12)
    np.testing.assert_allclose(looped, want, atol=1e-12)
    np.testing.assert_allclose(np.stack(weights).sum(-1), 1, atol=1e-12)


def test_options_as_jax_scalars(problem):
    x, w = problem
    fn = lambda x: head(x, w[0])
    half, two, one = jnp.float32(0.5), jnp.float32(2), jnp.int32(1)
    found = jax.jit(lambda x: attention_rollout(fn, x, residual=half, query=one))(x)
    np.testing.assert_allclose(found, attention_rollout(fn, x)[1], atol=1e-7)
    with pytest.raises(ValueError, match="residual must lie"):
        jax.jit(lambda x: attention_rollout(fn, x, residual=two))(x)


def test_bad_input(problem):
    x, w = problem
    fn = lambda x: head(x, w[0])
    with pytest.raises(ValueError, match=r"found weights.*nowhere"):
        attention_rollout(jnp.tanh, x)
    with pytest.raises(ValueError, match=r"\(1, 4\)"):
        attention_rollout(
            lambda x: head(head(x, w[0])[:1], w[0]) + jax.nn.softmax(x[:1] @ x.T) @ x, x
        )
    with pytest.raises(ValueError, match="query must be in 0 to 3"):
        attention_rollout(fn, x, query=4)
    with pytest.raises(ValueError, match="heads must be"):
        attention_rollout(fn, x, heads="all")
    with pytest.raises(ValueError, match="residual must lie"):
        attention_rollout(fn, x, residual=2)
    with pytest.raises(ValueError, match="NaN"):
        attention_rollout(fn, x.at[0, 0].set(jnp.nan))
