"""PartialBLNN: certified slopes per context, inverses, sign certificates, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import drawn

from monojax.bilipschitz import PartialBLNN
from monojax.conjugate import Solver, softplus

FINE = Solver("newton", tolerance=1e-12)
# Short to compile, for properties that hold whatever finds the solution.
PLAIN = Solver("fixed", learning_rate=0.02, tolerance=1e-12, max_steps=20_000)
SLOW = pytest.mark.slow


def partial_net(dim=2, alpha=1.0, beta=2.0, features=(5,), **kwargs):
    """The module, the shapes of its parameters, and inputs: enough for every error."""
    net = PartialBLNN(features, alpha, beta, activation=softplus(4.0), **kwargs)
    c = jax.random.normal(jax.random.key(1), (12, 2), jnp.zeros(0).dtype)
    y = 2 * jax.random.normal(jax.random.key(2), (12, dim), jnp.zeros(0).dtype)
    return net, jax.eval_shape(net.init, jax.random.key(0), c, y), c, y


def make_partial(*args, **kwargs):
    net, _, c, y = partial_net(*args, **kwargs)
    return net, drawn(net, c, y), c, y


@pytest.mark.slow
@pytest.mark.parametrize("core", ["picnn", pytest.param("pairwise", marks=SLOW)])
def test_partial_slopes_context_and_inverse(x64, core):
    """Per context: symmetric Jacobian in [alpha, alpha + beta], inverse, record."""
    net, params, c, y = make_partial(3, core=core, solver=FINE)

    @jax.jit
    def run(c, y):
        f = lambda c, y: (out := net.apply(params, c, y), out)
        J, out = jax.vmap(jax.jacrev(f, argnums=1, has_aux=True))(c, y)
        back = net.apply(params, c, out, method="inverse")
        return J, back, net.apply(params, c, y, method="diagnostics")

    J, back, info = run(c, y)
    np.testing.assert_allclose(J, np.swapaxes(J, -1, -2), atol=1e-10)
    eigs = np.linalg.eigvalsh(J)
    assert eigs.min() >= 1.0 - 1e-9 and eigs.max() <= 3.0 + 1e-9
    assert np.ptp(eigs) > 1e-2  # the core bends it
    np.testing.assert_allclose(back, y, atol=1e-8)
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


@pytest.mark.slow
def test_mean_is_monotone_at_the_certified_alpha(x64):
    """No negative slope of the mean at random weights, at the smallest certified alpha."""
    alpha = 2.0 * (np.sqrt(3) - 1) / 2 * (1 + 1e-12)
    net, params, c, y = make_partial(3, alpha, output="mean", certify_monotone=True, solver=PLAIN)
    f = lambda c, y: net.apply(params, c, y)
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(f, argnums=1)))(c, y)
    assert values.shape == (12,) and slopes.min() >= 0


@pytest.mark.slow
def test_pairwise_is_monotone_in_every_output_with_alpha_zero(x64):
    """H^-1 >= 0 elementwise, with interactions: some off-diagonal slope is clearly positive."""
    net, params, c, y = make_partial(
        4, 0.0, 5.0, core="pairwise", certify_monotone=True, solver=PLAIN
    )
    J = jax.jit(jax.vmap(jax.jacrev(lambda c, y: net.apply(params, c, y), argnums=1)))(c, y)
    off = np.asarray(J)[:, ~np.eye(4, dtype=bool)]
    assert J.min() >= -1e-12 and off.max() > 0.05
    assert np.ptp(np.asarray(J), axis=0).max() > 0.05  # not one fixed matrix


@pytest.mark.slow
def test_picnn_outputs_can_decrease(x64):
    """Why the certificate refuses vectors: a slope below -0.01 at some of these random weights."""
    net, _, c, y = make_partial(2, 0.0, 5.0, solver=PLAIN)
    jac = jax.jit(jax.vmap(jax.jacrev(net.apply, argnums=2), in_axes=(None, 0, 0)))
    assert min(jac(drawn(net, c, y, seed=seed), c, y).min() for seed in range(10)) < -0.01
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
    unrolled = Solver("gradient", max_steps=5, differentiation="unrolled")
    flat = PartialBLNN((5,), 0.0, 2.0, activation="relu", solver=unrolled)
    with pytest.raises(ValueError, match="no inverse"):
        apply(flat, jax.eval_shape(flat.init, jax.random.key(0), c, y), c, y, method="inverse")
    with pytest.raises(ValueError, match="same leading shape"):
        apply(net, params, c[:3], y)
    with pytest.raises(TypeError, match="floating"):
        apply(net, params, c, jnp.ones((12, 2), int))
    for core in ("picnn", "pairwise"):
        net, params, c, y = partial_net(core=core)
        for wide in ((c, jnp.ones((12, 3))), (jnp.ones((12, 5)), y)):
            with pytest.raises(ValueError, match="parameters are for 2 and 2"):
                apply(net, params, *wide)
