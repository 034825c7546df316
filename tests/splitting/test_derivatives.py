"""Gradient methods give jax's own derivative: complex values, rules of fn's own, loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import monojax as mj
from monojax import attribution
from monojax.splitting import SplitError, sensitivities

RNG = np.random.default_rng(0)
W, V = RNG.normal(size=(8, 8)).astype(np.float32), RNG.normal(size=(3, 8)).astype(np.float32)
X = RNG.normal(size=8).astype(np.float32)


@jax.custom_vjp
def straight_through(h):
    return jnp.round(4 * h) / 4


straight_through.defvjp(lambda h: (straight_through(h), None), lambda _, g: (g,))


@jax.custom_vjp
def reversed_gradient(h):
    return h


reversed_gradient.defvjp(lambda h: (h, None), lambda _, g: (-g,))


@jax.custom_jvp
def safe_norm(h):
    return jnp.sqrt((h * h).sum())


@safe_norm.defjvp
def _safe_norm_jvp(primals, tangents):
    norm = safe_norm(*primals)
    return norm, (primals[0] @ tangents[0]) / jnp.where(norm == 0, 1, norm)


@jax.custom_vjp
def clipped_product(w, h):
    return w @ h


clipped_product.defvjp(
    lambda w, h: (w @ h, (w, h)), lambda r, g: (jnp.outer(g, r[1]), jnp.clip(r[0].T @ g, -0.1, 0.1))
)


def counted(h):
    """A loop whose length depends on the input, through which nothing differentiable runs."""
    steps = jax.lax.while_loop(lambda n: n < h[0], lambda n: n + 1, -3.0)
    return h * jax.lax.stop_gradient(steps)


def solved(h):
    """The fixed point of y = tanh(y / 2) + h, by a loop that stops when it is found."""

    @jax.custom_vjp
    def solve(h):
        step = lambda y: jnp.tanh(y / 2) + h
        return jax.lax.while_loop(lambda y: jnp.abs(step(y) - y).max() > 1e-5, step, h)

    def backward(y, g):
        return (g / (1 - (1 - jnp.tanh(y / 2) ** 2) / 2),)

    solve.defvjp(lambda h: (solve(h),) * 2, backward)
    return solve(h)


COMPLEX = {
    "spectrum": lambda x: V @ jnp.abs(jnp.fft.fft(W @ x)),
    "beside a real branch": lambda x: (
        V @ (jnp.tanh(W @ x) + jnp.fft.ifft(jnp.fft.fft(x) ** 2).real)
    ),
    "real transform": lambda x: V[:, :5] @ jnp.abs(jnp.fft.rfft(x)) ** 2,
    "complex weights": lambda x: V @ jnp.imag((W + 1j * W.T) @ (x * jnp.exp(1j * x))),
    "parts": lambda x: V @ jnp.angle(jax.lax.complex(x, W @ x)),
    "in a scan": lambda x: (
        V @ jnp.abs(jax.lax.scan(lambda c, w: (c * (1 + 0.5j) @ w, None), x + 0j, W[None] + 0j)[0])
    ),
}
OWN = {
    "straight through": lambda x: V @ straight_through(W @ x),
    "reversed": lambda x: V @ jax.nn.relu(reversed_gradient(W @ x)),
    "safe norm": lambda x: V @ W @ (x * safe_norm(x - x)) + V @ x * safe_norm(x),
    "contraction inside": lambda x: V @ jax.nn.relu(clipped_product(W, jax.nn.relu(W @ x))),
    "in a scan": lambda x: (
        V @ jax.lax.scan(lambda c, w: (straight_through(w @ c), None), x, W[None])[0]
    ),
    "under vmap": lambda x: V @ jax.vmap(straight_through)((W @ x).reshape(2, 4)).ravel(),
}
LOOPS = {
    "counted": lambda x: V @ counted(W @ x),
    "solved": lambda x: V @ solved(W @ x),
    "index of a loop": lambda x: (
        V @ (x * jax.lax.while_loop(lambda i: x[i] < 0.1, lambda i: i + 1, 0).astype(x.dtype))
    ),
    "ties": lambda x: V @ jnp.maximum(x - x, 0) + V @ jnp.maximum(x, x),
}
ALL = COMPLEX | OWN | LOOPS


@pytest.mark.parametrize("name", ALL)
def test_gradient_methods_give_jaxs_gradient(name):
    fn = ALL[name]

    @jax.jit
    def found(x):
        return (
            attribution.gradient(fn, x, 1),
            attribution.gradient_x_input(fn, x, 1),
            attribution.integrated_gradients(fn, x, 1, steps=3),
            jax.grad(lambda x: fn(x)[1])(x),
            *(jax.grad(lambda x: fn(x)[1])(node * x) for node in nodes),
        )

    nodes, weights = np.polynomial.legendre.leggauss(3)
    nodes = ((nodes + 1) / 2).astype(np.float32)
    gradient, product, integrated, want, *slopes = found(X)
    assert np.abs(want).max() > 1e-3 or name == "ties"
    scale = np.abs(want).max()
    np.testing.assert_allclose(gradient, want, atol=1e-5 * scale, rtol=1e-5)
    np.testing.assert_allclose(product, want * X, atol=1e-5 * scale, rtol=1e-5)
    mean = np.tensordot(weights / 2, np.stack(slopes), axes=1)
    np.testing.assert_allclose(integrated, mean * X, atol=2e-5 * np.abs(mean).max(), rtol=1e-4)


def test_guided_backpropagation_keeps_rules_and_guides_every_relu():
    fn = lambda x: V @ jax.nn.relu(straight_through(W @ x))
    pre = np.round(4 * (W @ X)) / 4
    want = W.T @ (np.maximum(V[1], 0) * (pre > 0))
    np.testing.assert_allclose(attribution.guided_backprop(fn, X, 1), want, atol=1e-5)
    six = attribution.guided_backprop(lambda x: V @ jax.nn.relu6(W @ x), X, 1)
    want = W.T @ (np.maximum(V[1], 0) * ((W @ X > 0) & (W @ X < 6)))
    np.testing.assert_allclose(six, want, atol=1e-5)
    # The maximum inside softplus is no ReLU: its derivative is its own.
    smooth = lambda x: V @ jax.nn.softplus(W @ x)
    want = jax.grad(lambda x: smooth(x)[1])(X)
    np.testing.assert_allclose(attribution.guided_backprop(smooth, X, 1), want, atol=1e-5)


def test_maps_at_layers_follow_the_rules_behind_them():
    def fn(x):
        x = mj.tag(jax.nn.relu(W @ x), "hidden")
        return V @ straight_through(W @ x)

    want = jax.grad(lambda h: V[1] @ (W @ h))(jnp.asarray(X))
    got = attribution.gradient(fn, X, 1, layer="hidden")
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_places_inside_a_rule_keep_their_numbers_and_have_no_map():
    fn = OWN["contraction inside"]
    report = mj.split_report(fn, X)
    assert [site.kind for site in report.layers] == ["dot"] * 3
    assert len(report.rules) == 1 and "clipped_product" in report.rules[0].primitive
    assert "clipped_product" in str(report) and report.kind == "dc"
    got = attribution.gradient(fn, X, 1, layer=2)
    np.testing.assert_allclose(got, V[1], atol=1e-6)
    with pytest.raises(SplitError, match="derivative rule of its own"):
        attribution.gradient(fn, X, 1, layer=1)


@pytest.mark.parametrize("name", ["straight through", "safe norm"])
def test_frozen_parts_and_rules_together(name):
    """freeze holds what it names, and every other function keeps its rule."""
    fn = lambda x: OWN[name](x) * jax.nn.softmax(x)[0]
    share = jax.nn.softmax(X)[0]
    norm = np.sqrt((X * X).sum())
    want = {"straight through": V[1] @ W * share, "safe norm": V[1] * norm * share}[name]
    got = attribution.gradient(fn, X, 1, freeze=("softmax", "normalizer", "product"))
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_the_split_of_a_rule_is_of_its_values(x64):
    for fn in (lambda x: V @ jax.nn.relu(reversed_gradient(W @ x)), OWN["contraction inside"]):
        g, h = mj.split(fn)(X.astype(np.float64))
        np.testing.assert_allclose(g - h, fn(X.astype(np.float64)), atol=1e-6)
    with pytest.raises(SplitError, match="'round'"):
        mj.split(OWN["straight through"])(X)


@pytest.mark.parametrize(
    "name, primitive",
    [
        ("spectrum", "convert_element_type"),
        ("real transform", "fft"),
        ("parts", "complex"),
        ("complex weights", "convert_element_type"),
        ("beside a real branch", "convert_element_type"),
    ],
)
def test_splits_and_relevance_refuse_complex_values(name, primitive):
    fn = COMPLEX[name] if "beside" not in name else lambda x: V @ jnp.fft.fft(x).real + V @ x
    for method in (
        lambda: mj.split(fn)(X),
        lambda: attribution.lrp(fn, X, 1),
        lambda: attribution.split_grad(fn, X, 1),
        lambda: sensitivities(fn, X, 1),
    ):
        with pytest.raises(SplitError, match=f"'{primitive}'"):
            method()
    assert mj.split_report(fn, X).missing[0].primitive == primitive


def test_no_maps_of_complex_layers():
    with pytest.raises(SplitError, match="complex values"):
        attribution.gradient(COMPLEX["complex weights"], X, 1, layer=0)


def test_printing_in_a_model_changes_nothing(capfd):
    def fn(x):
        y = jax.nn.relu(W @ x)
        jax.debug.print("largest {}", y.max())
        jax.debug.callback(lambda a: None, y)
        return V @ y

    quiet = lambda x: V @ jax.nn.relu(W @ x)
    loud, still = mj.split(fn)(X), mj.split(quiet)(X)
    np.testing.assert_array_equal(loud.g, still.g)
    jax.effects_barrier()
    assert "largest" in capfd.readouterr().out and loud.kind == "dc"
    for name in ("gradient", "lrp", "split_grad", "guided_backprop"):
        method = getattr(attribution, name)
        np.testing.assert_allclose(  # compiled in two ways: a few roundings
            jax.jit(lambda x, m=method: m(fn, x, 1))(X), method(quiet, X, 1), rtol=1e-5, atol=1e-5
        )
    scanned = lambda x: jax.lax.scan(lambda c, w: (fn(w @ c)[jnp.arange(8) % 3], None), x, W[None])[
        0
    ]
    pair = mj.split(scanned)(X)
    np.testing.assert_allclose(pair.g - pair.h, scanned(X), atol=1e-3)
    assert mj.split_report(scanned, X).kind == "dc"


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision(dtype):
    """Values and maps keep the dtype; functions of one variable are analysed in float64."""
    w, x = jnp.asarray(W, dtype), jnp.asarray(X, dtype)
    loop = lambda x: jax.lax.scan(
        lambda c, m: (jax.nn.gelu(m @ c + x), None), jnp.zeros(8, dtype), jnp.stack([w, w / 2])
    )[0]

    def found(x):
        pair = mj.split(loop)(x)
        assert pair.kind == "dc"
        maps = [attribution.gradient(loop, x, 1), attribution.split_grad(loop, x, 1)]
        return pair.g - pair.h, loop(x), pair.g, *maps, jax.grad(lambda x: loop(x)[1])(x)

    difference, value, g, gradient, split, want = jax.jit(found)(x)
    assert {a.dtype for a in (difference, g, gradient, split)} == {jnp.dtype(dtype)}
    eps = float(jnp.finfo(dtype).eps)
    wide = lambda a: np.asarray(a, np.float32)
    np.testing.assert_allclose(wide(difference), wide(value), atol=8 * eps * wide(g).max())
    np.testing.assert_allclose(wide(gradient), wide(want), atol=8 * eps * np.abs(wide(want)).max())
