"""Fenchel-Young losses: closed forms, the bound on the squared error, derivatives, training."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from monojax import BLNN
from monojax.conjugate import Solver, conjugate, fenchel_young_loss, softplus

DIM = 3
MATRIX = jnp.array([[3.0, 0.5, 0.0], [0.5, 2.0, 0.2], [0.0, 0.2, 1.0]])
NET = BLNN((8, 8), 0.5, 4.0, softplus(5.0))


def quadratic(matrix, y):
    return 0.5 * y @ matrix @ y


def smooth(params, y):
    """Strongly convex with constant 0.5, and not quadratic."""
    return jnp.logaddexp(0.0, params["w"] @ y).sum() + 0.25 * y @ y


def points(seed, *shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


@pytest.mark.slow
def test_quadratic_closed_form(x64):
    """For G = y'My/2 the loss is the squared distance to M^-1 x in the norm of M, halved."""
    matrix = MATRIX.astype(jnp.float64)
    x, y = points(0, DIM, dtype=jnp.float64), points(1, DIM, dtype=jnp.float64)
    gap = y - jnp.linalg.solve(matrix, x)
    # 1e-10: Newton solves a quadratic in one step, up to rounding.
    np.testing.assert_allclose(
        fenchel_young_loss(quadratic, matrix, x, y), 0.5 * gap @ matrix @ gap, rtol=1e-10
    )


@pytest.mark.slow
def test_zero_at_the_maximiser_and_bounds_the_squared_error(x64):
    params = {"w": points(2, 5, DIM, dtype=jnp.float64)}
    x = points(3, 20, DIM, dtype=jnp.float64)
    best = jax.vmap(lambda x: conjugate(smooth, params, x).argmax)(x)
    targets = best + points(4, 20, DIM, dtype=jnp.float64)
    loss = jax.jit(jax.vmap(lambda x, y: fenchel_young_loss(smooth, params, x, y)))
    # residual <= 1e-9 (1 + ||x||) leaves residual^2 / (2 mu) and rounding of O(1) terms
    np.testing.assert_allclose(loss(x, best), 0, atol=1e-13)
    bound = 0.25 * jnp.sum((targets - best) ** 2, axis=-1)
    assert bool((loss(x, targets) >= bound - 1e-12).all())


@pytest.mark.slow
def test_gradients_are_the_envelope_s(x64):
    """In x: argmax - y. In y: grad G(y) - x. In the parameters: a central difference."""
    params = {"w": points(2, 5, DIM, dtype=jnp.float64)}
    x, y = points(5, DIM, dtype=jnp.float64), points(6, DIM, dtype=jnp.float64)
    loss = jax.jit(lambda p, x, y: fenchel_young_loss(smooth, p, x, y))
    grads = jax.grad(loss, (0, 1, 2))(params, x, y)
    # 1e-8: the solver's tolerance on the argmax is 1e-9 (1 + ||x||) / mu.
    np.testing.assert_allclose(grads[1], conjugate(smooth, params, x).argmax - y, atol=1e-8)
    np.testing.assert_allclose(grads[2], jax.grad(smooth, 1)(params, y) - x, atol=1e-12)
    direction = {"w": points(7, 5, DIM, dtype=jnp.float64)}
    h = 1e-5  # central difference: error O(h^2) + 1e-16 / h, both below 1e-9
    ends = [
        loss(jax.tree.map(lambda a, b, s=s: a + s * h * b, params, direction), x, y)
        for s in (1, -1)
    ]
    slope = jnp.vdot(grads[0]["w"], direction["w"])
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * h), rtol=1e-6)


@chex.variants(with_jit=True, without_jit=True)
class Blnn(chex.TestCase):
    def test_bounds_the_squared_error_of_the_network(self):
        x, targets = points(8, 6, DIM), points(9, 6, DIM)
        variables = NET.init(jax.random.key(0), x)
        loss = self.variant(lambda v, x, t: NET.apply(v, x, t, method="fenchel_young"))
        squared = jnp.sum((NET.apply(variables, x) - targets) ** 2, axis=-1)
        # 1e-4: float32 cancellation between terms of order 10
        assert bool((loss(variables, x, targets) >= squared / (2 * 4.0) - 1e-4).all())
        np.testing.assert_allclose(
            loss(variables, x, NET.apply(variables, x)), np.zeros(6), atol=1e-4
        )


@pytest.mark.slow
def test_gradient_uses_no_hessian():
    """The rule's cost: no Hessian and no linear solve in the backward pass."""
    x, targets = points(8, 2, DIM), points(9, 2, DIM)
    variables = NET.init(jax.random.key(0), x)

    def gradient(variables):
        # A method without Hessians of its own, so that any found would be the rule's.
        net = NET.clone(solver=Solver("adam"))
        return jax.grad(lambda v: net.apply(v, x, targets, method="fenchel_young").mean())(
            variables
        )

    text = str(jax.make_jaxpr(gradient)(variables))
    assert "cholesky" not in text and "linear_solve" not in text


@pytest.mark.slow
def test_trains_a_step_function():
    """Slopes in [1, 10] on a unit step: the loss finds the steepest ramp in 200 steps."""
    net = BLNN((16,), 1.0, 9.0, softplus(300.0))
    x = jnp.linspace(-2, 2, 60)[:, None]
    targets = x + (x > 0)
    variables = net.init(jax.random.key(0), x)
    rule = optax.adam(optax.cosine_decay_schedule(0.06, 200), b2=0.99)

    @jax.jit
    def train(variables):
        def step(carry, _):
            variables, state = carry
            loss = lambda v: net.apply(v, x, targets, method="fenchel_young").mean()
            updates, state = rule.update(jax.grad(loss)(variables), state)
            return (optax.apply_updates(variables, updates), state), None

        return jax.lax.scan(step, (variables, rule.init(variables)), length=200)[0][0]

    fresh = jnp.linspace(-2, 2, 2001)[:, None]
    found = net.apply(train(variables), fresh)
    best = 1 / (48 * 9)
    error = float(jnp.mean((found - fresh - (fresh > 0)) ** 2))
    # Below 1 is impossible but for the grid; a straight line has about 0.06 / best = 27.
    assert 0.95 < error / best < 2


@pytest.mark.slow
def test_noise_makes_slopes_steep():
    """The documented bias: slope 1 with unit noise is fitted as sqrt(2), exactly by least squares.

    0.05: the means of 20,000 draws are known to about 0.01.
    """
    x, noise = points(10, 20_000), points(11, 20_000)
    y = x + noise
    G = lambda log_b, y: 0.5 * y @ y / jnp.exp(log_b)
    # The maximiser is b x, so the loss has a closed form: y^2 / 2b + b x^2 / 2 - x y.
    closed = lambda log_b: jnp.mean(y**2 / (2 * jnp.exp(log_b)) + jnp.exp(log_b) * x**2 / 2 - x * y)
    few = slice(0, 5)
    own = jax.vmap(lambda x, y: fenchel_young_loss(G, 0.3, x[None], y[None]))(x[few], y[few])
    want = y[few] ** 2 / (2 * jnp.exp(0.3)) + jnp.exp(0.3) * x[few] ** 2 / 2 - x[few] * y[few]
    np.testing.assert_allclose(own, want, rtol=1e-4, atol=1e-4)
    slopes = jnp.linspace(0.5, 2, 301)
    best = slopes[jnp.argmin(jax.vmap(closed)(jnp.log(slopes)))]
    np.testing.assert_allclose(best, jnp.sqrt(2.0), atol=0.05)


@pytest.mark.parametrize(
    ("targets", "message"), [(jnp.ones((4, 2)), "width 2"), (jnp.ones((3, DIM)), "x's shape")]
)
def test_refuses_targets_of_another_shape(targets, message):
    x = jnp.ones((4, DIM))
    variables = NET.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=message):
        NET.apply(variables, x, targets, method="fenchel_young")


def test_refuses_points_of_another_shape():
    with pytest.raises(ValueError, match="one shape"):
        fenchel_young_loss(quadratic, MATRIX, jnp.ones(3), jnp.ones(2))
