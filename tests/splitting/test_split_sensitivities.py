"""Stabilised sensitivities: the identities of the (d, s) recursion, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from split_nets import net64

from monojax.splitting import sensitivities, split_report

IDENTITY = 1e-10


@functools.cache
def maps(pool, recentre="full", balanced=False, shift_at="module"):
    """A compiled function of (x, alpha): all maps of class 2 at all places."""
    fn, _ = net64()
    options = dict(pool=pool, recentre=recentre, shift_at=shift_at)
    shift = lambda alpha: "balanced" if balanced else alpha
    return jax.jit(lambda x, alpha: sensitivities(fn, x, 2, alpha=shift(alpha), **options))


def spread(array):
    return max(float(jnp.abs(array).max()), 1.0)


@pytest.mark.parametrize("pool", ["full", "wta"])
@pytest.mark.parametrize(
    ("shift_at", "alpha"),
    [("module", a) for a in (0.0, 0.2, 0.4, "balanced", 0.5)]
    + [("contraction", a) for a in (0.2, 0.35)],
)
def test_identities_of_the_four_maps(x64, pool, shift_at, alpha):
    """g_p - h_p = grad, g_n - h_n = -grad, both sums are s, and the invariant is 2 grad."""
    fn, x = net64()
    balanced = alpha == "balanced"
    found = maps(pool, "full", balanced, shift_at)(x, 0.0 if balanced else alpha)
    assert sorted(found) == [-1, *range(len(split_report(fn, x).layers))]
    for one in found.values():
        at = dict(atol=IDENTITY * spread(one.s))
        np.testing.assert_allclose(one.g_p - one.h_p, one.grad, **at)
        np.testing.assert_allclose(one.g_n - one.h_n, -one.grad, **at)
        np.testing.assert_allclose(one.g_p + one.g_n, one.s, **at)
        np.testing.assert_allclose(one.h_p + one.h_n, one.s, **at)
        four = (one.g_p - one.g_n) - (one.h_p - one.h_n)
        np.testing.assert_allclose(four, 2 * one.grad, **at)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.4, 0.45, 0.5])
def test_a_shift_after_every_module_is_two_per_contraction(x64, alpha):
    """(1 - 2 alpha)^2 = 1 - 2 alpha': the poster's 0.40 is 0.48 once per contraction."""
    _, x = net64()
    module = maps("full")(x, alpha)
    once = maps("full", shift_at="contraction")(x, (1 - (1 - 2 * alpha) ** 2) / 2)
    for i, one in module.items():
        at = dict(atol=1e-12 * spread(one.s))
        np.testing.assert_allclose(one.s, once[i].s, **at)
        np.testing.assert_allclose(one.g_p, once[i].g_p, **at)
    assert pytest.approx(0.48) == (1 - (1 - 2 * 0.4) ** 2) / 2


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["full", "wta"])
def test_balanced_mass_is_as_large_as_the_gradient(x64, pool):
    """At every contraction's input, whatever the widths and scales of the layers are."""
    _, x = net64()
    for one in maps(pool, balanced=True)(x, 0.0).values():
        np.testing.assert_allclose(one.s.mean(), jnp.abs(one.grad).mean(), rtol=1e-12)
    rng = np.random.default_rng(0)
    w = [rng.normal(size=s) for s in [(40, 5), (60, 40), (3, 60)]]
    sizes = [1e6, 1e-5, 3.0]
    net = lambda x, k: w[2] @ jax.nn.relu(w[1] @ jax.nn.relu(w[0] @ x * k[0]) * k[1]) * k[2]
    point = jnp.asarray(rng.normal(size=5))
    plain, scaled = (
        sensitivities(lambda x, k=k: net(x, k), point, 1, alpha="balanced")[-1]
        for k in ([1.0, 1.0, 1.0], sizes)
    )
    np.testing.assert_allclose(scaled.g_p, np.prod(sizes) * plain.g_p, rtol=1e-10)


@pytest.mark.slow
def test_balanced_under_vmap_and_second_derivatives(x64):
    """Each example of a batch has its own factors; a derivative of a map is finite."""
    fn, x = net64()
    one = lambda x: sensitivities(fn, x, 2, layers=["input"], alpha="balanced")[-1].g_p
    many = jax.jit(jax.vmap(one))(jnp.stack([x, -x[::-1]]))
    np.testing.assert_allclose(many[1], one(-x[::-1]), atol=1e-12)
    assert jnp.isfinite(jax.grad(lambda x: (one(x) ** 2).sum())(x)).all()


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["full", "wta"])
def test_gradient_and_alpha_one_half(x64, pool):
    """grad is jax.grad's; at alpha = 0.5 s vanishes and g_p is half the gradient."""
    fn, x = net64()
    found = maps(pool)(x, 0.5)
    np.testing.assert_allclose(found[-1].grad, jax.grad(lambda x: fn(x)[2])(x), atol=1e-12)
    for one in found.values():
        np.testing.assert_allclose(one.g_p, one.grad / 2, atol=1e-12)
        assert not one.s.any()


def test_raw_maps_are_non_negative_and_the_mass_ignores_the_input(x64):
    """alpha = 0, full pooling: g and h are monotone, and s is a chain of |W| alone."""
    _, x = net64()
    first, second = maps("full")(x, 0.0), maps("full")(-x[::-1], 0.0)
    for i, one in first.items():
        scale = spread(one.s)
        for part in (one.g_p, one.g_n, one.h_p, one.h_n):
            assert part.min() >= -1e-12 * scale
        np.testing.assert_allclose(one.s, second[i].s, atol=1e-12 * scale)


def test_shift_invariance(x64):
    """Re-centring changes no derivative, at any alpha."""
    _, x = net64()
    want = maps("full", "none")(x, 0.3)
    for recentre in ["full", "scale"]:
        found = maps("full", recentre)(x, 0.3)
        for i, one in want.items():
            np.testing.assert_allclose(found[i].g_p, one.g_p, atol=1e-12 * spread(one.g_p))
            np.testing.assert_allclose(found[i].h_n, one.h_n, atol=1e-12 * spread(one.h_n))


@pytest.mark.parametrize(("shift_at", "power"), [("module", 2), ("contraction", 1)])
def test_the_recursion_by_hand(x64, shift_at, power):
    """Two dense layers: d <- W^T (M d - (1 - M) s / 2), s <- (1 - 2 alpha)^power |W|^T s."""
    w1, w2 = (np.random.default_rng(i).normal(size=s) for i, s in enumerate([(7, 3), (4, 7)]))
    x, alpha = np.array([0.3, -1.2, 0.8]), 0.3
    net = lambda x: w2 @ jax.nn.relu(w1 @ x)
    one = sensitivities(net, x, 1, alpha=alpha, shift_at=shift_at)[-1]
    lam, active = (1 - 2 * alpha) ** power, w1 @ x > 0
    d, s = w2[1] / 2, lam * np.abs(w2[1])
    d = d * active - (~active) * s / 2
    d, s = w1.T @ d, lam * np.abs(w1).T @ s
    # At the second layer the gate acts before the tap: s there is lam |w2|, d is w2 / 2.
    np.testing.assert_allclose(one.g_p, d + s / 2, atol=1e-12)
    np.testing.assert_allclose(one.g_n, -d + s / 2, atol=1e-12)


@pytest.mark.slow
def test_batch_norm_folding_changes_nothing(x64):
    rng = np.random.default_rng(0)
    kernel, scale, shift = rng.normal(size=(3, 3, 2, 4)), rng.normal(size=4), rng.normal(size=4)
    head, x = rng.normal(size=(3, 4)), rng.normal(size=(6, 6, 2))
    numbers = ("NHWC", "HWIO", "NHWC")

    def net(x, kernel, scale):
        y = jax.lax.conv_general_dilated(x[None], kernel, (1, 1), "SAME", dimension_numbers=numbers)
        y = jax.nn.relu(y * scale[None, None, None] + shift[None, None, None])[0]
        return head @ y.mean((0, 1))

    apart = sensitivities(lambda x: net(x, kernel, scale), x, 1, alpha=0.3)[-1]
    folded = sensitivities(
        lambda x: net(x, kernel * scale[None, None, None], np.ones(4)), x, 1, alpha=0.3
    )[-1]
    for name in ["g_p", "g_n", "h_p", "h_n"]:
        np.testing.assert_allclose(getattr(apart, name), getattr(folded, name), atol=1e-13)


def test_at_zero_relu_has_no_slope(x64):
    """ReLU'(0) = 0, and what is inactive leaks -s/2 into d."""
    one = sensitivities(lambda x: jax.nn.relu(2 * x), jnp.zeros(1), 0, alpha=0.0)[-1]
    assert float(one.grad[0]) == 0.0
    one = sensitivities(lambda x: jax.nn.relu(jnp.array([[2.0]]) @ x), jnp.zeros(1), 0, alpha=0.0)[
        -1
    ]
    # p = n = 0: max(p, n) follows n, so g = 2 n.
    np.testing.assert_allclose([one.g_p[0], one.g_n[0]], [0.0, 2.0], atol=1e-15)


@pytest.mark.slow
def test_layers_by_name_and_inside_a_scan(x64):
    fn, x = net64()
    assert list(sensitivities(fn, x, 2, layers=["last", "input"])) == [3, -1]
    w = np.random.default_rng(0).normal(size=(3, 5, 5))
    loop = lambda x: jax.lax.scan(lambda c, w: (jax.nn.relu(w @ c), None), x, w)[0]
    flat = lambda x: jax.nn.relu(w[2] @ jax.nn.relu(w[1] @ jax.nn.relu(w[0] @ x)))
    x = jnp.arange(5.0) - 1
    for alpha in (0.4, "balanced"):  # the point lies on no kink
        scanned, unrolled = (sensitivities(f, x, 1, alpha=alpha) for f in (loop, flat))
        for i in range(3):
            np.testing.assert_allclose(scanned[0].g_p[i], unrolled[i].g_p, atol=1e-12)
        np.testing.assert_allclose(scanned[-1].h_n, unrolled[-1].h_n, atol=1e-12)


@pytest.mark.slow
def test_bad_alpha_and_layers():
    fn = lambda x: jnp.ones((2, 3)) @ x
    with pytest.raises(ValueError, match=r"alpha must lie in \[0, 0.5\], got 0.7"):
        sensitivities(fn, jnp.ones(3), 0, alpha=0.7)
    with pytest.raises(ValueError, match="or 'balanced', got 'balance'"):
        sensitivities(fn, jnp.ones(3), 0, alpha="balance")
    with pytest.raises(ValueError, match="shift_at must be one of 'module', 'contraction'"):
        sensitivities(fn, jnp.ones(3), 0, shift_at="modul")
    with pytest.raises(ValueError, match="one number"):
        sensitivities(fn, jnp.ones(3), 0, alpha=jnp.ones(2))
    # Known at trace time, and so checked with numpy.
    fine, wrong = jnp.float32(0.4), jnp.float32(0.75)
    known = jax.jit(lambda x: sensitivities(fn, x, 0, alpha=fine)[-1].g_p)
    assert known(jnp.ones(3)).shape == (3,)
    with pytest.raises(ValueError, match=r"got 0\.75"):
        jax.jit(lambda x: sensitivities(fn, x, 0, alpha=wrong)[-1].g_p)(jnp.ones(3))
    with pytest.raises(ValueError, match="layer 3 does not exist"):
        sensitivities(fn, jnp.ones(3), 0, layers=[3])
