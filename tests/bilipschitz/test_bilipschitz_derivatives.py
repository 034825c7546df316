"""Every derivative of a BLNN: spec section 4 against plain Newton and central differences."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import drawn

from monojax.bilipschitz import BLNN, PartialBLNN
from monojax.conjugate import Solver, softplus
from monojax.conjugate.potentials import ScaledICNN

pytestmark = pytest.mark.slow

FINE = Solver("newton", tolerance=1e-13)


def newton_unrolled(potential, p, x, steps=40):
    """Plain Newton, differentiated through its steps: another way to the same derivatives."""

    def step(y, rate):
        H = jax.hessian(potential, argnums=1)(p, y)
        return y + rate * jnp.linalg.solve(H, x - jax.grad(potential, argnums=1)(p, y)), None

    # Damped until close: the last half is pure, so the derivatives converge as well.
    rates = jnp.where(jnp.arange(steps) < steps // 2, 0.5, 1.0)
    return jax.lax.scan(step, jnp.zeros_like(x), rates)[0]


def test_derivatives_against_unrolled_newton(x64):
    """x-bar, theta-bar, alpha-bar, beta-bar of spec section 4; 1e-8: both end at round-off.

    With sharpness s the core is F(y; s W^y, s b) / s, here by hand, so s-bar is checked as well.
    """
    net = BLNN((4, 3), 0.5, 4.0, softplus(3.0), FINE, train_alpha=True, train_beta=True)
    x = jnp.array([0.4, -1.1])
    params = drawn(net, x)
    params["params"] = {**params["params"], "log_alpha": jnp.log(0.5), "log_beta": jnp.log(4.0)}
    params["params"]["log_sharpness"] = jnp.log(1.3)
    v = jnp.array([0.7, -1.3])
    potential = ScaledICNN(net.bind(params).core.maths)

    def reference(params, x):
        p = params["params"]
        beta = jnp.exp(p["log_beta"])
        s = jnp.exp(p["log_sharpness"])
        core = {k: leaf if k.startswith("z") else s * leaf for k, leaf in p["core"].items()}
        q = {"core": core, "weight": 1 / s, "curvature": 1 / beta}
        return v @ (jnp.exp(p["log_alpha"]) * x + newton_unrolled(potential, q, x))

    got = jax.jit(jax.grad(lambda p, x: v @ net.apply(p, x), argnums=(0, 1)))(params, x)
    want = jax.jit(jax.grad(reference, argnums=(0, 1)))(params, x)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(want))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9 * scale)
    assert abs(got[0]["params"]["log_beta"]) > 1e-3 and abs(got[0]["params"]["log_alpha"]) > 1e-3


TRAINED = dict(train_alpha=True, train_beta=True, weight_map="softplus")


def flatten(net, *inputs):
    """Parameters, log alpha, log beta and inputs as one float64 vector, and f of it."""
    tree = jax.tree.map(lambda a: a.astype(jnp.float64), (drawn(net, *inputs), *inputs))
    flat, unravel = jax.flatten_util.ravel_pytree(tree)
    return flat, lambda z: net.apply(*unravel(z))


def flat_blnn():
    """With the core's own Hessian; every entry matters."""
    net = BLNN((2,), 0.5, 4.0, softplus(2.0), FINE, **TRAINED)
    return *flatten(net, jnp.array([0.4, -1.1])), 0


def flat_partial():
    """By automatic differentiation; 3 entries (u_1) add to F a function of the context alone."""
    net = PartialBLNN((2,), 0.5, 4.0, activation=softplus(2.0), solver=FINE, **TRAINED)
    return *flatten(net, jnp.array([0.7]), jnp.array([0.4, -1.1])), 3


def twice_reverse(fn):
    """The Hessian in reverse over reverse."""
    return jax.jacrev(jax.jacrev(fn))


NESTINGS = {"forward over reverse": jax.hessian, "reverse over reverse": twice_reverse}


@pytest.mark.parametrize(
    "case, nestings",
    [
        (flat_blnn, tuple(NESTINGS)),
        (flat_partial, ("reverse over reverse",)),
        pytest.param(flat_partial, ("forward over reverse",), marks=pytest.mark.slow),
    ],
)
def test_all_derivatives_against_central_differences(x64, case, nestings):
    """Orders 1 and 2 in parameters, alpha, beta, context and x at once, under jit and vmap.

    1e-6 relative: central differences with h = 1e-5 err by h^2 = 1e-10 times the next derivative
    but one, and by 1e-15 / h of rounding.
    """
    flat, f, idle = case()
    loss = lambda z: jnp.sin(f(z)) @ jnp.array([1.0, 2.0])
    points = jnp.stack([flat, 0.9 * flat])
    h, eye = 1e-5, jnp.eye(flat.size)
    around = lambda fn: jax.vmap(lambda z: (fn(z + h * eye) - fn(z - h * eye)) / (2 * h))

    @jax.jit
    def differences(points):
        gradient = jax.grad(loss)
        return around(jax.vmap(f))(points), around(jax.vmap(gradient))(points)

    @jax.jit
    def first(points):
        return [jax.vmap(mode(f))(points) for mode in (jax.jacfwd, jax.jacrev)]

    @jax.jit
    def second(points):
        return [jax.vmap(NESTINGS[name](loss))(points) for name in nestings]

    slopes, curvatures = differences(points)
    moves = np.abs(slopes).max(axis=(0, 2)) > 1e-6
    assert moves.sum() == flat.size - idle and np.abs(curvatures).max() > 0.1
    for got in first(points):
        np.testing.assert_allclose(
            np.swapaxes(got, 1, 2), slopes, rtol=1e-6, atol=1e-7 * np.abs(slopes).max()
        )
    for got in second(points):
        np.testing.assert_allclose(got, curvatures, rtol=1e-6, atol=1e-7 * np.abs(curvatures).max())
