"""Structured curvature, the start and the row space of the convex core; stiff inner problems."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from monojax import layers
from monojax.conjugate import Solver, as_activation, conjugate, newton, softplus
from monojax.conjugate.icnn import ICNNPotential, orthonormal
from monojax.conjugate.newton import Model, plain_model
from monojax.conjugate.potentials import ScaledICNN

BETA = 49.0


def draw(dim, widths=(16, 16), scale=1.0, seed=0, dtype=jnp.float64):
    """Parameters of G with the last width 1, all core weights times ``scale``, and 32 points."""
    rng = np.random.default_rng(seed)
    core, previous = {}, 0
    for i, h in enumerate((*widths, 1)):
        core[f"y_kernel_{i}"] = rng.uniform(-1, 1, (dim, h)) / np.sqrt(dim)
        core[f"bias_{i}"] = rng.uniform(-1, 1, h) / np.sqrt(dim)
        if i:
            core[f"z_kernel_{i}"] = rng.normal(size=(previous, h)) * np.sqrt(2 / (previous + h))
        previous = h
    core = {name: jnp.asarray(scale * a, dtype) for name, a in core.items()}
    params = {
        "core": core,
        "weight": jnp.ones((), dtype),
        "curvature": jnp.asarray(1 / BETA, dtype),
    }
    return params, jnp.asarray(rng.normal(size=(32, dim)), dtype)


def potential(tau=1.0):
    return ScaledICNN(ICNNPotential(softplus(tau)))


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["softplus", "elu", "squared_relu"])
@pytest.mark.parametrize("widths, activate_output", [((5, 4), True), ((5, 4), False), ((), True)])
def test_one_pass_equals_automatic_differentiation(x64, activation, widths, activate_output):
    """Value, gradient, Hessian and products; 1e-11 is float64 rounding of sums of 10 terms."""
    G = ScaledICNN(ICNNPotential(as_activation(activation), activate_output=activate_output))
    params, x = draw(3, widths)

    @jax.jit
    def both(params, y, v):
        value, gradient, terms = G.expand(params, y)
        own = value, gradient, G.hessian_at(params, terms), G.hvp_at(params, terms)(v)
        hessian = jax.hessian(G, 1)(params, y)
        return own, (G(params, y), jax.grad(G, 1)(params, y), hessian, hessian @ v)

    for got, want in zip(*both(params, x[0], x[1]), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("tau", [1.0, 30.0])
def test_softplus_from_one_exponential(x64, tau):
    """The closed forms, also where the sigmoid has rounded to 1 and the curvature has not."""
    a = np.linspace(-40, 40, 81) / tau
    value, first, second = softplus(tau).jet(jnp.asarray(a))
    np.testing.assert_allclose(value, np.logaddexp(0, tau * a) / tau, rtol=1e-14, atol=1e-16)
    np.testing.assert_allclose(first, np.exp(-np.logaddexp(0, -tau * a)), rtol=1e-14)
    want = tau * np.exp(-np.logaddexp(0, -tau * a) - np.logaddexp(0, tau * a))
    np.testing.assert_allclose(second, want, rtol=1e-13)
    low = softplus(tau).jet(jnp.asarray(a, jnp.float32))
    np.testing.assert_allclose(low[2], want, rtol=2e-5)  # float32 rounding of an exponent of 40


@pytest.mark.slow
def test_start_is_the_newton_step_from_zero(x64):
    params, x = draw(4)
    G, zero = potential(), jnp.zeros(4)
    got = jax.jit(jax.vmap(G.newton_start, (None, 0)))(params, x)
    hessian, slope = jax.hessian(G, 1)(params, zero), jax.grad(G, 1)(params, zero)
    np.testing.assert_allclose(got, np.linalg.solve(hessian, (x - slope[None]).T).T, rtol=1e-10)
    wide = jnp.ones(400)
    np.testing.assert_array_equal(G.newton_start(draw(400)[0], wide), wide / params["curvature"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "dim, scale",
    [(10, 1.0)] + [pytest.param(dim, 3.0, marks=pytest.mark.slow) for dim in (2, 40)],
)
def test_start_does_not_change_the_solution(x64, dim, scale):
    """||y - y*|| <= beta ||r||, so two solutions differ by at most the sum of their bounds."""
    params, x = draw(dim, scale=scale)
    G = potential()

    def solve(x, start):
        return conjugate(G, params, x, Solver(), start=start)

    old = jax.jit(jax.vmap(solve))(x, x * BETA)
    new = jax.jit(jax.vmap(lambda x: solve(x, None)))(x)
    assert old.converged.all() and new.converged.all()
    gap = np.linalg.norm(old.argmax - new.argmax, axis=1)
    assert (gap <= old.error_bound + new.error_bound + 1e-12).all()
    slopes = jax.vmap(jax.grad(G, 1), (None, 0))(params, new.argmax)
    residual = np.linalg.norm(x - slopes, axis=1)
    assert (residual <= 1.01e-9 * (1 + np.linalg.norm(x, axis=1))).all()


@pytest.mark.slow
@pytest.mark.parametrize("dim", [2, 10])
def test_stiff_float32_solutions_hold_in_float64(x64, dim):
    """Weights x3: every float32 sample meets 1e-4 (1 + ||x||), checked in float64.

    A tenth more is allowed for the rounding of the float32 residual.
    """
    params, x = draw(dim, (64, 64), scale=3.0, dtype=jnp.float32)
    got = jax.jit(jax.vmap(lambda x: conjugate(potential(), params, x, Solver())))(x)
    wide = jax.tree.map(lambda a: a.astype(jnp.float64), (params, x, got.argmax))
    slopes = jax.vmap(jax.grad(potential(), 1), (None, 0))(wide[0], wide[2])
    residual = np.linalg.norm(wide[1] - slopes, axis=1)
    assert got.argmax.dtype == jnp.float32 and got.converged.all()
    assert (residual <= 1.1e-4 * (1 + np.linalg.norm(x, axis=1))).all()


def test_orthonormal_basis_spans_its_columns():
    """Also of dependent columns, where Cholesky fails, and for some members of a batch only."""
    columns = jax.random.normal(jax.random.key(0), (30, 8))
    twice = columns.at[:, 3].set(columns[:, 5])
    tiny = columns * jnp.logspace(0, -5, 8)[None]
    batch = jnp.stack([columns, twice, tiny])
    run = jax.jit(orthonormal)
    for got, want in ((jax.vmap(orthonormal)(batch), batch), ([run(a) for a in batch], batch)):
        for q, a in zip(got, want, strict=True):
            # 1e-5: 100 roundings of float32, the bound that the function itself accepts twice.
            np.testing.assert_allclose(q.T @ q, np.eye(8), atol=1e-5)
            np.testing.assert_allclose(q @ (q.T @ a), a, atol=2e-5)


@pytest.mark.slow
def test_restricted_problem_has_the_full_solution(x64):
    """d = 60 above 33 units; a second y-kernel repeats the first, so the rows are dependent."""
    params, x = draw(60)
    params["core"]["y_kernel_1"] = params["core"]["y_kernel_0"]
    G = potential()
    assert G.restrict(params, x[0])[1].shape == (33,)
    got = jax.jit(jax.vmap(lambda x: conjugate(G, params, x, Solver())))(x)
    slopes = jax.vmap(jax.grad(G, 1), (None, 0))(params, got.argmax)
    assert got.converged.all()
    assert (np.linalg.norm(x - slopes, axis=1) <= 1e-8).all()


@pytest.mark.slow
@pytest.mark.parametrize("linear", ["dense", "cg"])
def test_newton_counts_its_work(linear):
    """A quadratic takes one evaluation per step; CG in exact arithmetic one product per curve."""
    diagonal = jnp.array([1.0, 1.0, 4.0])
    model = plain_model(lambda y: 0.5 * y @ (diagonal * y) - y.sum())
    assert isinstance(model, Model)
    method = newton(linear, model=model)
    y = jnp.zeros(3)
    state = method.init(y)
    np.testing.assert_array_equal(state.grad, -jnp.ones(3))
    for step in (1, 2):
        move, state = method.update(state.grad, state, y, value=state.value, grad=state.grad)
        y = y + move
        assert state.evaluations == step
    assert state.products == 0 if linear == "dense" else 2 <= state.products <= 4
    np.testing.assert_allclose(y, 1 / diagonal, atol=1e-5)


@pytest.mark.slow
def test_unrolled_start_is_differentiable():
    """The Newton start is for methods with a line search; others keep x / c and its derivative."""
    params, x = draw(2, (4,), dtype=jnp.float32)
    unrolled = Solver("gradient", max_steps=5, differentiation="unrolled")
    slope = jax.grad(lambda x: conjugate(potential(), params, x, unrolled).argmax.sum())(x[0])
    assert np.isfinite(slope).all() and (slope != 0).all()


@pytest.mark.slow
def test_newton_steps_never_climb():
    """A problem on which steps that only halved the residual went round in circles.

    Values may rise by the slack of the search, 10 roundings of the value.
    """
    module = layers.ICNN((64, 64), softplus(1.0))
    core = module.init(jax.random.key(1), jnp.ones(64))["params"]
    core = jax.tree.map(lambda a: 3 * a, core)
    G = ScaledICNN(module.maths)
    params = {"core": core, "weight": jnp.ones(()), "curvature": jnp.asarray(1 / BETA)}
    x = jax.random.normal(jax.random.key(2), (256, 64))[161]
    method = newton("dense", model=plain_model(lambda y: G(params, y) - x @ y))
    start = G.newton_start(params, x)

    def step(carry, _):
        y, state = carry
        move, new = method.update(state.grad, state, y, value=state.value, grad=state.grad)
        return (y + move, new), (new.value, jnp.linalg.norm(new.grad))

    _, (values, norms) = jax.jit(
        lambda: jax.lax.scan(step, (start, method.init(start)), length=25)
    )()
    assert (np.diff(values) <= 20 * np.finfo(np.float32).eps * np.abs(values[:-1])).all()
    assert norms.min() <= 1e-4 * (1 + np.linalg.norm(x))
