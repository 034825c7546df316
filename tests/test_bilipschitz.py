"""BLNN: certified slopes, inverses, derivatives, sign certificates."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from monojax.bilipschitz import BLNN, PartialBLNN
from monojax.conjugate import Solver, conjugate, report, softplus
from monojax.conjugate.icnn import ScaledICNN
from monojax.layers import Chain, Rotation

FINE = Solver("newton", tolerance=1e-12)


def make(dim=3, alpha=0.5, beta=4.0, dtype=None, **kwargs):
    net = BLNN((6, 5), alpha, beta, **{"activation": softplus(3.0), **kwargs})
    x = jax.random.normal(jax.random.key(1), (20, dim), dtype or jnp.zeros(0).dtype)
    params = net.init(jax.random.key(0), x)
    return net, jax.tree.map(lambda a: 2 * a, params), x


def jacobians(fn, x):
    return jax.jit(jax.vmap(jax.jacrev(fn)))(x)


@pytest.mark.parametrize("dim, alpha, beta", [(1, 0.0, 9.0), (3, 0.5, 4.0), (3, 2.0, 60.0)])
def test_slopes_inverse_and_root(x64, dim, alpha, beta):
    """J symmetric with eigenvalues in [alpha, alpha + beta], grad G(y*) = x, f^-1 f = id."""
    net, params, x = make(dim, alpha, beta, solver=FINE)
    f = jax.jit(lambda x: net.apply(params, x))
    J = jacobians(lambda x: net.apply(params, x), x)
    np.testing.assert_allclose(J, np.swapaxes(J, -1, -2), atol=1e-11 * beta)
    eigs = np.linalg.eigvalsh(J)
    assert eigs.min() >= alpha - 1e-11 * beta and eigs.max() <= (alpha + beta) * (1 + 1e-12)
    assert np.ptp(eigs) > 1e-3 * beta  # the core bends it
    M = net.apply(params, method="core_bounds")[1]
    assert eigs.min() >= alpha + 1 / (M + 1 / beta) - 1e-11 * beta  # the sharper lower bound
    y = f(x) - alpha * x
    potential = ScaledICNN(net.bind(params).core.maths)
    p = {"core": params["params"]["core"], "weight": 1.0, "curvature": 1 / beta}
    slope = jax.jit(jax.vmap(jax.grad(potential, argnums=1), in_axes=(None, 0)))(p, y)
    np.testing.assert_allclose(slope, x, atol=1e-10)
    back = jax.jit(lambda y: net.apply(params, y, method="inverse"))(f(x))
    np.testing.assert_allclose(back, x, atol=1e-9)
    assert net.apply(params, method="bounds") == (alpha, alpha + beta)


def test_float32_pairs_and_leading_dimensions():
    """Secants in float32 respect both constants up to 2 beta residual / |dx|."""
    net, params, x = make()
    f = jax.jit(lambda x: net.apply(params, x))
    out, info = f(x), net.apply(params, x, method="diagnostics")
    i, j = np.array(list(itertools.combinations(range(20), 2))).T
    dx = np.linalg.norm(x[i] - x[j], axis=-1)
    ratio = np.linalg.norm(out[i] - out[j], axis=-1) / dx
    slack = (info.error_bound[i] + info.error_bound[j]) / dx + 1e-5
    assert (ratio >= 0.5 - slack).all() and (ratio <= 4.5 + slack).all()
    assert info.converged.all() and info.steps.shape == (20,) and report(info, 1 / 4.0).ok
    np.testing.assert_allclose(f(x.reshape(4, 5, 3)), out.reshape(4, 5, 3), atol=1e-4)
    np.testing.assert_allclose(f(x[0]), out[0], atol=1e-4)


def newton_unrolled(potential, p, x, steps=40):
    """Plain Newton, differentiated through its steps: another way to the same derivatives."""
    y = x / p["curvature"] * 0
    for _ in range(steps):
        H = jax.hessian(potential, argnums=1)(p, y)
        step = jnp.linalg.solve(H, x - jax.grad(potential, argnums=1)(p, y))
        # Damped until close: the last 20 steps are pure, so the derivatives converge as well.
        y = y + step * jnp.where(_ < 20, 0.5, 1.0)
    return y


def test_derivatives_against_unrolled_newton(x64):
    """x-bar, theta-bar, alpha-bar, beta-bar of spec section 4; 1e-8: both end at round-off."""
    net, params, x = make(2, solver=FINE, train_alpha=True, train_beta=True)
    params["params"] = {**params["params"], "log_alpha": jnp.log(0.5), "log_beta": jnp.log(4.0)}
    v = jnp.array([0.7, -1.3])
    potential = ScaledICNN(net.bind(params).core.maths)

    def reference(params, x):
        p = params["params"]
        beta = jnp.exp(p["log_beta"])
        q = {"core": p["core"], "weight": 1.0, "curvature": 1 / beta}
        return v @ (jnp.exp(p["log_alpha"]) * x + newton_unrolled(potential, q, x))

    got = jax.jit(jax.grad(lambda p, x: v @ net.apply(p, x), argnums=(0, 1)))(params, x[0])
    want = jax.jit(jax.grad(reference, argnums=(0, 1)))(params, x[0])
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(want))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9 * scale)
    assert abs(got[0]["params"]["log_beta"]) > 1e-3 and abs(got[0]["params"]["log_alpha"]) > 1e-3


def test_wide_input_reduces_to_the_units(x64):
    """d = 40 with 12 units is solved in 12 unknowns: same argmax and derivative as in 40."""
    net, params, x = make(40, solver=FINE)
    x = x[:3]
    p = {"core": params["params"]["core"], "weight": 1.0, "curvature": 0.25}
    plain = lambda p, y: ScaledICNN(net.bind(params).core.maths)(p, y)
    whole = jax.jit(jax.vmap(lambda x: conjugate(plain, p, x, FINE).argmax))(x)
    np.testing.assert_allclose(jax.jit(net.apply)(params, x) - 0.5 * x, whole, atol=1e-9)
    loss = lambda params, x: jnp.sum(jnp.sin(net.apply(params, x)))
    direct = lambda x: jnp.sum(jnp.sin(0.5 * x + conjugate(plain, p, x, FINE).argmax))
    want = jax.jit(jax.grad(direct))(x[0])
    np.testing.assert_allclose(jax.jit(jax.grad(loss, argnums=1))(params, x[0]), want, atol=1e-9)


def test_constants_given_at_the_call():
    """Annealing: the call's constants replace the module's, without another module."""
    net, params, x = make()
    other = BLNN((6, 5), 1.0, 9.0, activation=softplus(3.0))
    f = jax.jit(lambda beta: net.apply(params, x, alpha=1.0, beta=beta))
    np.testing.assert_allclose(f(9.0), other.apply(params, x), atol=2e-3)  # 9 * tolerance


def test_trained_constants_move():
    net, params, x = make(train_alpha=True, train_beta=True)
    grads = jax.jit(jax.grad(lambda p: jnp.sum(net.apply(p, x) ** 2)))(params)["params"]
    assert abs(grads["log_alpha"]) > 0 and abs(grads["log_beta"]) > 0
    low, high = net.apply(params, method="bounds")
    assert 0 < low < high
    with pytest.raises(ValueError, match="must start > 0"):
        make(alpha=0.0, train_alpha=True)


def test_relu_needs_the_unrolled_rule():
    with pytest.raises(ValueError, match="kinks"):
        make(activation="relu")
    unrolled = Solver("gradient", max_steps=1000, differentiation="unrolled", tolerance=1e-3)
    net, params, x = make(1, activation="relu", solver=unrolled)
    out = jax.jit(lambda x: net.apply(params, x))(jnp.linspace(-2, 2, 9)[:, None])
    # At a kink the residual never falls; the schedule's own error, about 2 beta |dF| / steps,
    # is below 0.05 here, over a spacing of 0.5.
    slopes = np.diff(out[:, 0]) / 0.5
    assert slopes.min() >= 0.5 - 0.2 and slopes.max() <= 4.5 + 0.2
    grads = jax.jit(jax.grad(lambda p: net.apply(p, x).sum()))(params)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    flat = BLNN((6, 5), 0.0, 4.0, activation="relu", solver=unrolled)
    with pytest.raises(ValueError, match="no inverse"):
        flat.apply(params, x, method="inverse")


def test_step_limit_and_nan_are_flagged():
    net, params, x = make(beta=400.0, solver=Solver("newton", max_steps=1))
    x = x.at[3].set(jnp.nan)
    info = jax.jit(lambda x: net.apply(params, x, method="diagnostics"))(x)
    counts = report(info)
    assert counts.unsolved > 1 and counts.not_finite == 1 and not info.converged[3]
    assert np.isfinite(net.apply(params, x)[:3]).all()


def test_core_that_is_not_convex_is_reported():
    """Projected weights pushed below zero void the guarantee; the record shows it."""
    _, params, x = make(weight_map="projected", beta=30.0, activation=softplus(1.0))
    core = dict(params["params"]["core"])
    # softplus(50 - 3 sum z) is about 50 - 3 sum z for small y: concave.
    core["z_kernel_2"] = -3 * jnp.ones_like(core["z_kernel_2"])
    core["bias_2"] = 50 * jnp.ones_like(core["bias_2"])
    x = 0.05 * x
    broken = {"params": {"core": core}}
    slow = BLNN(
        (6, 5),
        0.5,
        30.0,
        softplus(1.0),
        Solver("fixed", learning_rate=0.05, smoothness=30.0),
        weight_map="projected",
    )
    diagnose = jax.jit(lambda p: slow.apply(p, x, method="diagnostics"))
    info = diagnose(broken)
    assert report(info, 1 / 30.0).not_convex > 0
    good = diagnose(params)
    assert report(good, 1 / 30.0).not_convex == 0


@pytest.mark.parametrize(
    "kwargs, match",
    [
        ({"alpha": -1.0}, "alpha must be >= 0"),
        ({"beta": 0.0}, "beta must be > 0"),
        ({"beta": -2.0}, "beta must be > 0"),
        ({"alpha": float("nan")}, "alpha must be >= 0"),
    ],
)
def test_bad_constants(kwargs, match):
    with pytest.raises(ValueError, match=match):
        make(**kwargs)
    with pytest.raises(ValueError, match=match):
        PartialBLNN((4,), **{"alpha": 1.0, "beta": 1.0, **kwargs}).init(
            jax.random.key(0), jnp.ones(2), jnp.ones(2)
        )


def test_bad_input():
    net, params, x = make()
    for method in ("__call__", "inverse", "diagnostics"):
        with pytest.raises(ValueError, match="parameters are for 3"):
            net.apply(params, jnp.ones((2, 4)), method=method)
    with pytest.raises(TypeError, match="floating"):
        net.apply(params, jnp.ones((2, 3), int))
    with pytest.raises(ValueError, match="features"):
        BLNN((), 1.0, 1.0).init(jax.random.key(0), x)
    with pytest.raises(TypeError, match="Solver"):
        make(solver="newton")
    with pytest.raises(ValueError, match="alpha must be"):
        net.apply(params, x, alpha=-1.0)


# Partially bi-Lipschitz networks.


def make_partial(dim=2, alpha=1.0, beta=2.0, features=(6, 5), **kwargs):
    net = PartialBLNN(features, alpha, beta, activation=softplus(4.0), **kwargs)
    c = jax.random.normal(jax.random.key(1), (12, 2), jnp.zeros(0).dtype)
    y = 2 * jax.random.normal(jax.random.key(2), (12, dim), jnp.zeros(0).dtype)
    params = net.init(jax.random.key(0), c, y)
    return net, jax.tree.map(lambda a: 2 * a, params), c, y


@pytest.mark.parametrize("core", ["picnn", "pairwise"])
def test_partial_slopes_context_and_inverse(x64, core):
    """Per context: symmetric Jacobian in [alpha, alpha + beta]; context derivative; inverse."""
    net, params, c, y = make_partial(3, core=core, solver=FINE)
    params = jax.tree.map(lambda a: a.astype(jnp.float64), params)
    f = jax.jit(lambda c, y: net.apply(params, c, y))
    J = jax.jit(jax.vmap(jax.jacrev(f, argnums=1)))(c, y)
    np.testing.assert_allclose(J, np.swapaxes(J, -1, -2), atol=1e-10)
    eigs = np.linalg.eigvalsh(J)
    assert eigs.min() >= 1.0 - 1e-9 and eigs.max() <= 3.0 + 1e-9
    back = jax.jit(lambda c, z: net.apply(params, c, z, method="inverse"))(c, f(c, y))
    np.testing.assert_allclose(back, y, atol=1e-8)
    slopes = jax.jit(jax.vmap(jax.jacrev(f, argnums=0)))(c, y)
    h = 1e-5
    for k in range(2):
        e = jnp.zeros(2).at[k].set(h)
        np.testing.assert_allclose(
            slopes[..., k], (f(c + e, y) - f(c - e, y)) / (2 * h), rtol=1e-6, atol=1e-8
        )
    info = net.apply(params, c, y, method="diagnostics")
    assert info.converged.all() and info.steps.shape == (12,)


def quadratic_core(dim, beta):
    """The worst H of spec section 5: P = H^-1 with 1'Pe_0 = -beta (sqrt(d) - 1) / 2."""
    ones, e = np.ones(dim) / np.sqrt(dim), np.eye(dim)[0]
    # P = beta u u' with u halfway between e and -ones: u'e u'1 is as negative as it gets.
    u = e - ones if dim == 1 else (e - ones) / np.linalg.norm(e - ones)
    return beta * np.outer(u, u)


@pytest.mark.parametrize("dim", [2, 3, 5])
def test_condition_for_the_mean_is_tight(dim):
    """The spec's counter-example: at the certified alpha the slope is 0, below it negative."""
    beta = 2.0
    P = quadratic_core(dim, beta)
    need = beta * (np.sqrt(dim) - 1) / 2
    np.testing.assert_allclose((P + need * np.eye(dim)).sum(0)[0], 0, atol=1e-12)
    options = {"output": "mean", "certify_monotone": True}
    make_partial(dim, alpha=need * (1 + 1e-9), beta=beta, **options)
    with pytest.raises(ValueError, match="certify_monotone with d"):
        make_partial(dim, alpha=need * 0.99, beta=beta, **options)


def test_mean_is_monotone_at_the_certified_alpha(x64):
    """No negative slope of the mean at random weights, at the smallest certified alpha."""
    alpha = 2.0 * (np.sqrt(3) - 1) / 2 * (1 + 1e-12)
    net, params, c, y = make_partial(3, alpha, output="mean", certify_monotone=True, solver=FINE)
    slopes = jax.jit(jax.vmap(jax.grad(lambda c, y: net.apply(params, c, y), argnums=1)))(c, y)
    assert net.apply(params, c, y).shape == (12,) and slopes.min() >= 0


def test_pairwise_is_monotone_in_every_output_with_alpha_zero(x64):
    """H^-1 >= 0 elementwise, with interactions: some off-diagonal slope is clearly positive."""
    net, params, c, y = make_partial(
        4, 0.0, 5.0, core="pairwise", certify_monotone=True, solver=FINE
    )
    J = jax.jit(jax.vmap(jax.jacrev(lambda c, y: net.apply(params, c, y), argnums=1)))(c, y)
    off = np.asarray(J)[:, ~np.eye(4, dtype=bool)]
    assert J.min() >= -1e-12 and off.max() > 0.05
    assert np.ptp(np.asarray(J), axis=0).max() > 0.05  # not one fixed matrix


def test_picnn_outputs_can_decrease(x64):
    """Why the certificate refuses vectors: a slope below -0.01 at some of these random weights."""
    net, params, c, y = make_partial(2, 0.0, 5.0, solver=FINE)
    sharp = jax.tree.map(lambda a: 2 * a, params)
    jac = jax.jit(jax.vmap(jax.jacrev(lambda c, y: net.apply(sharp, c, y), argnums=1)))
    assert jac(c, y).min() < -0.01
    with pytest.raises(ValueError, match="single outputs"):
        make_partial(2, 10.0, 5.0, certify_monotone=True)


def test_partial_certificate_and_input_errors():
    make_partial(1, 0.0, certify_monotone=True)  # one coordinate needs nothing
    with pytest.raises(ValueError, match="fixed constants"):
        make_partial(2, 9.0, output="mean", certify_monotone=True, train_beta=True)
    with pytest.raises(ValueError, match="output must be"):
        make_partial(output="sum")
    with pytest.raises(ValueError, match="core must be"):
        make_partial(core="mlp")
    with pytest.raises(ValueError, match="features"):
        make_partial(features=())
    net, params, c, y = make_partial(output="mean")
    with pytest.raises(ValueError, match="no inverse"):
        net.apply(params, c, y, method="inverse")
    with pytest.raises(ValueError, match="same leading shape"):
        net.apply(params, c[:3], y)
    with pytest.raises(TypeError, match="floating"):
        net.apply(params, c, jnp.ones((12, 2), int))
    for core in ("picnn", "pairwise"):
        net, params, c, y = make_partial(core=core)
        for wide in ((c, jnp.ones((12, 3))), (jnp.ones((12, 5)), y)):
            with pytest.raises(ValueError, match="parameters are for 2 and 2"):
                net.apply(params, *wide)


# Chains.


def test_chain_multiplies_constants_and_inverts(x64):
    chain = Chain(
        (BLNN((4,), 0.5, 1.5, solver=FINE), Rotation(), BLNN((4,), 1.0, 2.0, solver=FINE))
    )
    x = jax.random.normal(jax.random.key(1), (6, 2))
    params = chain.init(jax.random.key(0), x)
    f = jax.jit(lambda x: chain.apply(params, x))
    assert chain.apply(params, method="bounds") == (0.5, 6.0)
    J = jacobians(lambda x: chain.apply(params, x), x)
    gains = np.linalg.svd(J, compute_uv=False)
    assert gains.min() >= 0.5 - 1e-9 and gains.max() <= 6.0 + 1e-9
    assert np.abs(J - np.swapaxes(J, -1, -2)).max() > 1e-3  # no longer a gradient
    back = jax.jit(lambda y: chain.apply(params, y, method="inverse"))(f(x))
    np.testing.assert_allclose(back, x, atol=1e-9)


def test_chain_errors():
    x = jnp.ones((2, 3))
    with pytest.raises(ValueError, match="at least one module"):
        Chain(()).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"no bounds\(\)"):
        Chain((nn.Dense(3),)).init(jax.random.key(0), x)

    class Slice(nn.Module):
        def __call__(self, x):
            return x[..., :2]

        def bounds(self):
            return 0.0, 1.0

    with pytest.raises(ValueError, match="Slice in the chain has none"):
        Chain((Slice(),)).apply({}, x, method="inverse")
