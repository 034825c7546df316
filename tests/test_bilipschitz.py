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
# Short to compile, for properties that hold whatever finds the solution.
PLAIN = Solver("fixed", learning_rate=0.02, tolerance=1e-12, max_steps=20_000)
SLOW = pytest.mark.slow


def make(dim=3, alpha=0.5, beta=4.0, dtype=None, **kwargs):
    net = BLNN((6, 5), alpha, beta, **{"activation": softplus(3.0), **kwargs})
    x = jax.random.normal(jax.random.key(1), (20, dim), dtype or jnp.zeros(0).dtype)
    params = net.init(jax.random.key(0), x)
    return net, jax.tree.map(lambda a: 2 * a, params), x


def slopes_and_values(f, argnums=0):
    """Jacobians and outputs of ``f`` over a batch, by one solve per example."""
    twice = lambda *args: (out := f(*args), out)
    return jax.vmap(jax.jacrev(twice, argnums, has_aux=True))


@pytest.mark.parametrize(
    "dim, alpha, beta", [(1, 0.0, 9.0), (3, 0.5, 4.0), pytest.param(3, 2.0, 60.0, marks=SLOW)]
)
def test_slopes_inverse_and_root(x64, dim, alpha, beta):
    """J symmetric with eigenvalues in [alpha, alpha + beta], grad G(y*) = x, f^-1 f = id."""
    net, params, x = make(dim, alpha, beta, solver=FINE)
    f = lambda x: net.apply(params, x)
    potential = ScaledICNN(net.bind(params).core.maths)
    p = {"core": params["params"]["core"], "weight": 1.0, "curvature": 1 / beta}

    @jax.jit
    def run(x):
        J, out = slopes_and_values(f)(x)
        slope = jax.vmap(jax.grad(potential, argnums=1), in_axes=(None, 0))(p, out - alpha * x)
        back = net.apply(params, out, method="inverse")
        return J, slope, back, net.apply(params, method="core_bounds")[1]

    J, slope, back, M = run(x)
    np.testing.assert_allclose(J, np.swapaxes(J, -1, -2), atol=1e-11 * beta)
    eigs = np.linalg.eigvalsh(J)
    assert eigs.min() >= alpha - 1e-11 * beta and eigs.max() <= (alpha + beta) * (1 + 1e-12)
    assert np.ptp(eigs) > 1e-3 * beta  # the core bends it
    assert eigs.min() >= alpha + 1 / (M + 1 / beta) - 1e-11 * beta  # the sharper lower bound
    np.testing.assert_allclose(slope, x, atol=1e-10)
    np.testing.assert_allclose(back, x, atol=1e-9)
    assert net.apply(params, method="bounds") == (alpha, alpha + beta)


def test_float32_pairs():
    """Secants in float32 respect both constants up to 2 beta residual / |dx|."""
    net, params, x = make()
    run = jax.jit(lambda x: (net.apply(params, x), net.apply(params, x, method="diagnostics")))
    out, info = run(x)
    i, j = np.array(list(itertools.combinations(range(20), 2))).T
    dx = np.linalg.norm(x[i] - x[j], axis=-1)
    ratio = np.linalg.norm(out[i] - out[j], axis=-1) / dx
    slack = (info.error_bound[i] + info.error_bound[j]) / dx + 1e-5
    assert (ratio >= 0.5 - slack).all() and (ratio <= 4.5 + slack).all()
    assert info.converged.all() and info.steps.shape == (20,) and report(info, 1 / 4.0).ok


def test_leading_dimensions():
    """Any leading shape gives what the flat batch gives; two plain steps, short to compile."""
    net, params, x = make(solver=Solver("gradient", max_steps=2))
    shapes = ((20, 3), (4, 5, 3), (1, 20, 1, 3))
    f = lambda x: net.apply(params, x)
    run = jax.jit(lambda x: [*(f(x.reshape(s)) for s in shapes), f(x[0])])
    want, *others, one = run(x)
    for got, shape in zip(others, shapes[1:], strict=True):
        assert got.shape == shape
        np.testing.assert_allclose(got.reshape(20, 3), want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one, want[0], rtol=1e-5, atol=1e-6)


def newton_unrolled(potential, p, x, steps=40):
    """Plain Newton, differentiated through its steps: another way to the same derivatives."""

    def step(y, rate):
        H = jax.hessian(potential, argnums=1)(p, y)
        return y + rate * jnp.linalg.solve(H, x - jax.grad(potential, argnums=1)(p, y)), None

    # Damped until close: the last half is pure, so the derivatives converge as well.
    rates = jnp.where(jnp.arange(steps) < steps // 2, 0.5, 1.0)
    return jax.lax.scan(step, jnp.zeros_like(x), rates)[0]


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
    direct = jax.vmap(lambda x: 0.5 * x + conjugate(plain, p, x, FINE).argmax)

    def both(f):
        loss = lambda x: (jnp.sum(jnp.sin(out := f(x))), out)
        (_, out), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(x)
        return out, slope

    for got, want in zip(both(lambda x: net.apply(params, x)), both(direct), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-9)


def test_constants_given_at_the_call():
    """Annealing: the call's constants replace the module's, without another module."""
    net, params, x = make()
    other = BLNN((6, 5), 1.0, 9.0, activation=softplus(3.0))
    f = jax.jit(lambda beta: net.apply(params, x, alpha=1.0, beta=beta))
    want = jax.jit(other.apply)(params, x)
    np.testing.assert_allclose(f(9.0), want, atol=2e-3)  # 9 * tolerance


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
    run = jax.jit(lambda x: (net.apply(params, x, method="diagnostics"), net.apply(params, x)))
    info, out = run(x)
    counts = report(info)
    assert counts.unsolved > 1 and counts.not_finite == 1 and not info.converged[3]
    assert np.isfinite(out[:3]).all()


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


def partial_net(dim=2, alpha=1.0, beta=2.0, features=(6, 5), **kwargs):
    """The module, the shapes of its parameters, and inputs: enough for every error."""
    net = PartialBLNN(features, alpha, beta, activation=softplus(4.0), **kwargs)
    c = jax.random.normal(jax.random.key(1), (12, 2), jnp.zeros(0).dtype)
    y = 2 * jax.random.normal(jax.random.key(2), (12, dim), jnp.zeros(0).dtype)
    return net, jax.eval_shape(net.init, jax.random.key(0), c, y), c, y


def make_partial(*args, **kwargs):
    net, _, c, y = partial_net(*args, **kwargs)
    params = net.init(jax.random.key(0), c, y)
    return net, jax.tree.map(lambda a: 2 * a, params), c, y


@pytest.mark.parametrize("core", ["picnn", pytest.param("pairwise", marks=SLOW)])
def test_partial_slopes_context_and_inverse(x64, core):
    """Per context: symmetric Jacobian in [alpha, alpha + beta]; context derivative; inverse."""
    net, params, c, y = make_partial(3, core=core, solver=FINE)
    params = jax.tree.map(lambda a: a.astype(jnp.float64), params)
    f = lambda c, y: net.apply(params, c, y)

    @jax.jit
    def run(c, y):
        (slopes, J), out = slopes_and_values(f, argnums=(0, 1))(c, y)
        back = net.apply(params, c, out, method="inverse")
        return slopes, J, out, back, net.apply(params, c, y, method="diagnostics")

    slopes, J, _, back, info = run(c, y)
    np.testing.assert_allclose(J, np.swapaxes(J, -1, -2), atol=1e-10)
    eigs = np.linalg.eigvalsh(J)
    assert eigs.min() >= 1.0 - 1e-9 and eigs.max() <= 3.0 + 1e-9
    np.testing.assert_allclose(back, y, atol=1e-8)
    f, h = lambda c, y: run(c, y)[2], 1e-5
    for k in range(2):
        e = jnp.zeros(2).at[k].set(h)
        np.testing.assert_allclose(
            slopes[..., k], (f(c + e, y) - f(c - e, y)) / (2 * h), rtol=1e-6, atol=1e-8
        )
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
    partial_net(dim, alpha=need * (1 + 1e-9), beta=beta, **options)
    with pytest.raises(ValueError, match="certify_monotone with d"):
        partial_net(dim, alpha=need * 0.99, beta=beta, **options)


def test_mean_is_monotone_at_the_certified_alpha(x64):
    """No negative slope of the mean at random weights, at the smallest certified alpha."""
    alpha = 2.0 * (np.sqrt(3) - 1) / 2 * (1 + 1e-12)
    net, params, c, y = make_partial(3, alpha, output="mean", certify_monotone=True, solver=PLAIN)
    f = lambda c, y: net.apply(params, c, y)
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(f, argnums=1)))(c, y)
    assert values.shape == (12,) and slopes.min() >= 0


def test_pairwise_is_monotone_in_every_output_with_alpha_zero(x64):
    """H^-1 >= 0 elementwise, with interactions: some off-diagonal slope is clearly positive."""
    net, params, c, y = make_partial(
        4, 0.0, 5.0, core="pairwise", certify_monotone=True, solver=PLAIN
    )
    J = jax.jit(jax.vmap(jax.jacrev(lambda c, y: net.apply(params, c, y), argnums=1)))(c, y)
    off = np.asarray(J)[:, ~np.eye(4, dtype=bool)]
    assert J.min() >= -1e-12 and off.max() > 0.05
    assert np.ptp(np.asarray(J), axis=0).max() > 0.05  # not one fixed matrix


def test_picnn_outputs_can_decrease(x64):
    """Why the certificate refuses vectors: a slope below -0.01 at some of these random weights."""
    net, params, c, y = make_partial(2, 0.0, 5.0, solver=PLAIN)
    sharp = jax.tree.map(lambda a: 2 * a, params)
    jac = jax.jit(jax.vmap(jax.jacrev(lambda c, y: net.apply(sharp, c, y), argnums=1)))
    assert jac(c, y).min() < -0.01
    with pytest.raises(ValueError, match="single outputs"):
        partial_net(2, 10.0, 5.0, certify_monotone=True)


def test_partial_certificate_and_input_errors():
    def apply(net, *args, **kwargs):
        return jax.eval_shape(lambda *args: net.apply(*args, **kwargs), *args)

    partial_net(1, 0.0, certify_monotone=True)  # one coordinate needs nothing
    with pytest.raises(ValueError, match="fixed constants"):
        partial_net(2, 9.0, output="mean", certify_monotone=True, train_beta=True)
    with pytest.raises(ValueError, match="output must be"):
        partial_net(output="sum")
    with pytest.raises(ValueError, match="core must be"):
        partial_net(core="mlp")
    with pytest.raises(ValueError, match="features"):
        partial_net(features=())
    net, params, c, y = partial_net(output="mean")
    with pytest.raises(ValueError, match="no inverse"):
        apply(net, params, c, y, method="inverse")
    with pytest.raises(ValueError, match="same leading shape"):
        apply(net, params, c[:3], y)
    with pytest.raises(TypeError, match="floating"):
        apply(net, params, c, jnp.ones((12, 2), int))
    for core in ("picnn", "pairwise"):
        net, params, c, y = partial_net(core=core)
        for wide in ((c, jnp.ones((12, 3))), (jnp.ones((12, 5)), y)):
            with pytest.raises(ValueError, match="parameters are for 2 and 2"):
                apply(net, params, *wide)


# Chains.


def test_chain_multiplies_constants_and_inverts(x64):
    chain = Chain(
        (BLNN((4,), 0.5, 1.5, solver=PLAIN), Rotation(), BLNN((4,), 1.0, 2.0, solver=PLAIN))
    )
    x = jax.random.normal(jax.random.key(1), (6, 2))
    params = jax.jit(chain.init)(jax.random.key(0), x)
    f = lambda x: chain.apply(params, x)

    @jax.jit
    def run(x):
        J, out = slopes_and_values(f)(x)
        return J, chain.apply(params, out, method="inverse")

    J, back = run(x)
    assert chain.apply(params, method="bounds") == (0.5, 6.0)
    gains = np.linalg.svd(J, compute_uv=False)
    assert gains.min() >= 0.5 - 1e-9 and gains.max() <= 6.0 + 1e-9
    assert np.abs(J - np.swapaxes(J, -1, -2)).max() > 1e-3  # no longer a gradient
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
