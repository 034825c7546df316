"""Conjugates against closed forms, and every derivative against finite differences."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from monojax.conjugate import Potential, Solver, conjugate, solve_report

# optax.lbfgs and the loops take seconds to compile, so shapes are few and small.
TIGHT = Solver("newton", tolerance=1e-12)
# Short to compile; for derivatives, where only the solution matters. Curvatures are in [0.2, 20].
PLAIN = Solver("fixed", learning_rate=0.05, tolerance=1e-12, max_steps=20_000)
run = jax.jit(conjugate, static_argnums=(0, 3))


def quadratic(params, y):
    """0.5 y'Ay + b'y + c; conjugate 0.5 (x-b)'A^-1(x-b) - c."""
    return 0.5 * y @ params["A"] @ y + params["b"] @ y + params["c"]


def quadratic_params(dim):
    m = np.random.default_rng(dim).normal(size=(dim, dim))
    return {
        "A": jnp.asarray(m @ m.T + np.eye(dim)),
        "b": jnp.arange(dim) * 0.5,
        "c": jnp.asarray(0.7),
    }


def log_partition(_, y):
    """log(1 + sum exp y_i); conjugate: negative entropy of (x, 1 - sum x) inside the simplex."""
    return jax.nn.logsumexp(jnp.concatenate([y, jnp.zeros(1, y.dtype)]))


def separable(scale, y):
    """sum scale_i cosh(y_i); argmax asinh(x_i / scale_i)."""
    return jnp.sum(scale * jnp.cosh(y))


def softplus_net(params, y):
    """A small convex network, every parameter of which matters, plus |y|^2 / (2 beta)."""
    z = jax.nn.softplus(params["w0"] @ y + params["b0"])
    top = jax.nn.softplus(jnp.square(params["w1"]) @ z + params["wy"] @ y)
    return top + y @ y / (2 * params["beta"])


hessian_in_y = jax.jit(jax.hessian(softplus_net, argnums=1))


def net_params(dim, hidden=5):
    rng = np.random.default_rng(3)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape))
    return {
        "w0": draw(hidden, dim),
        "b0": draw(hidden),
        "w1": draw(hidden),
        "wy": draw(dim),
        "beta": jnp.asarray(5.0),
    }


@pytest.mark.parametrize("dim", [1, 2, 7])
def test_quadratic_closed_form(x64, dim):
    """1e-10: round-off of one d x d solve at condition numbers below 100."""
    p, x = quadratic_params(dim), jnp.linspace(-2.0, 3.0, dim)
    got = run(quadratic, p, x, TIGHT)
    y = np.linalg.solve(p["A"], x - p["b"])
    np.testing.assert_allclose(got.argmax, y, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(got.value, 0.5 * (x - p["b"]) @ y - 0.7, rtol=1e-10)
    assert got.converged and got.steps <= 2


@pytest.mark.parametrize("x", [[0.2, 0.3, 0.1], [0.01, 0.98, 0.005], [0.25, 0.25, 0.25]])
def test_log_partition_closed_form(x64, x):
    """Not strongly convex and the argmax grows near the simplex's faces; 1e-10 all the same."""
    x = np.asarray(x)
    got = run(log_partition, None, jnp.asarray(x), TIGHT)
    rest = 1 - x.sum()
    np.testing.assert_allclose(got.argmax, np.log(x / rest), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(got.value, (x * np.log(x)).sum() + rest * np.log(rest), rtol=1e-10)
    assert got.converged


def test_separable_closed_form(x64):
    scale, x = jnp.array([0.1, 1.0, 30.0]), jnp.array([5.0, -2.0, 0.3])
    got = run(separable, scale, x, TIGHT)
    y = np.arcsinh(x / scale)
    np.testing.assert_allclose(got.argmax, y, rtol=1e-10)
    np.testing.assert_allclose(got.value, x @ y - scale @ np.cosh(y), rtol=1e-10)


METHODS = {
    "auto": Solver(),
    "newton_cg": Solver("newton_cg"),
    "lbfgs": Solver("lbfgs"),
    "gradient": Solver("gradient", strong_convexity=0.5, max_steps=3000),
    "fixed": Solver("fixed", smoothness=4.5, strong_convexity=0.5, max_steps=500),
    "nesterov": Solver("nesterov", smoothness=4.5, strong_convexity=0.5, max_steps=500),
    "adam": Solver("adam", max_steps=2000),
    "optax": Solver(optax.chain(optax.trace(0.5), optax.scale(-0.2)), max_steps=500),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_meets_its_tolerance(name):
    """Eigenvalues in [1/2, 9/2]: the residual bound 1e-4 (1 + |x|) moves y by at most twice it."""
    diagonal = jnp.array([0.5, 1.0, 4.5])
    x = jax.random.normal(jax.random.key(0), (4, 3))
    solve = lambda x: conjugate(lambda d, y: 0.5 * y @ (d * y), diagonal, x, METHODS[name])
    got = jax.jit(jax.vmap(solve))(x)
    bound = 1e-4 * (1 + np.linalg.norm(x, axis=-1))
    assert got.converged.all() and (got.residual <= bound).all()
    assert (np.linalg.norm(got.argmax - x / diagonal[None], axis=-1) <= 2 * bound + 1e-6).all()


def test_paper_schedule_is_the_released_one(x64):
    """y <- y + 2 beta / (i + 1) r, i from 0: three steps by hand."""
    beta, x = 5.0, jnp.array([0.3, -0.8])
    p = net_params(2)
    solver = Solver("gradient", strong_convexity=1 / beta, max_steps=3)
    got = run(softplus_net, p, x, solver, start=jnp.ones(2))
    y, seen, slope = jnp.ones(2), [], jax.jit(jax.grad(softplus_net, 1))
    for i in range(3):
        y = y + 2 * beta / (i + 1) * (x - slope(p, y))
        seen.append((np.linalg.norm(x - slope(p, y)), y))
    residual, y = min(seen, key=lambda pair: pair[0])
    np.testing.assert_allclose(got.argmax, y, rtol=1e-12)
    np.testing.assert_allclose(got.residual, residual, rtol=1e-10)


def central(fn, x, h):
    """Central differences of ``fn`` in every entry of the array ``x``, last axis the entry."""
    x = np.asarray(x)
    rows = []
    for i in range(x.size):
        e = np.zeros(x.size)
        e[i] = h
        e = e.reshape(x.shape)
        rows.append((np.asarray(fn(x + e)) - np.asarray(fn(x - e))) / (2 * h))
    return np.stack(rows, -1)


def test_first_derivatives(x64):
    """1e-6 relative: central differences with h = 1e-5 err by h^2 = 1e-10 and 1e-13 / h = 1e-8."""
    flat, unravel = jax.flatten_util.ravel_pytree((net_params(2), jnp.array([0.4, -1.1])))

    @jax.jit
    def solve(flat):
        got = conjugate(softplus_net, *unravel(flat), Solver("newton", tolerance=1e-13))
        return jnp.append(got.argmax, got.value)

    want = central(solve, flat, 1e-5)
    for got in jax.jit(lambda z: [jax.jacfwd(solve)(z), jax.jacrev(solve)(z)])(flat):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_spec_rules_of_section_4(x64):
    """beta-bar = <u, y> / beta^2 and x-bar = u with u = H^-1 v."""
    p, x, v = net_params(2), jnp.array([0.4, -1.1]), jnp.array([0.3, 2.0])
    loss = lambda p, x: v @ conjugate(softplus_net, p, x, PLAIN).argmax
    p_bar, x_bar = jax.jit(jax.grad(loss, argnums=(0, 1)))(p, x)
    y = run(softplus_net, p, x, PLAIN).argmax
    u = np.linalg.solve(hessian_in_y(p, y), v)
    np.testing.assert_allclose(x_bar, u, rtol=1e-10)
    np.testing.assert_allclose(p_bar["beta"], u @ y / 25.0, rtol=1e-10)
    along = lambda p: jax.jvp(lambda y: softplus_net(p, y), (y,), (jnp.asarray(u),))[1]
    directional = jax.jit(jax.grad(along))(p)
    np.testing.assert_allclose(p_bar["w0"], -directional["w0"], rtol=1e-10)


@pytest.mark.slow
def test_envelope_and_second_derivatives(x64):
    """grad value = argmax; hessian value = jacobian of argmax = H^-1, in every nesting."""
    p, x = net_params(2), jnp.array([0.4, -1.1])
    value = lambda x: conjugate(softplus_net, p, x, PLAIN).value
    y = run(softplus_net, p, x, PLAIN).argmax
    inverse = np.linalg.inv(hessian_in_y(p, y))

    @jax.jit
    def nestings(x):
        modes = (jax.jacfwd, jax.jacrev)
        return jax.grad(value)(x), [outer(inner(value))(x) for outer in modes for inner in modes]

    gradient, hessians = nestings(x)
    np.testing.assert_allclose(gradient, y, rtol=1e-12)
    for hessian in hessians:
        np.testing.assert_allclose(hessian, inverse, rtol=1e-9)


@pytest.mark.slow
def test_third_derivatives(x64):
    """A penalty on the Jacobian, in reverse over reverse and forward over reverse."""
    p, x = net_params(2), jnp.array([0.4, -1.1])
    argmax = lambda x: conjugate(softplus_net, p, x, PLAIN).argmax
    penalty = jax.jit(lambda x: jnp.sum(jax.jacrev(argmax)(x) ** 2))
    want = central(penalty, x, 1e-5)
    for got in jax.jit(lambda x: [jax.grad(penalty)(x), jax.jacfwd(penalty)(x)])(x):
        np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.slow
def test_gradient_penalty_in_parameters(x64):
    """A loss on the argmax's Jacobian, differentiated in the parameters, under jit and vmap."""
    p, xs = net_params(2), jax.random.normal(jax.random.key(1), (3, 2), jnp.float64)

    @jax.jit
    def loss(w0):
        argmax = lambda x: conjugate(softplus_net, {**p, "w0": w0}, x, PLAIN).argmax
        return jnp.mean(jax.vmap(jax.jacrev(argmax))(xs) ** 2)

    want = central(loss, p["w0"], 1e-5).reshape(p["w0"].shape)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(p["w0"]), want, rtol=1e-6, atol=1e-9)


def test_large_d_solves_by_conjugate_gradients(x64):
    """d = 170 is above DENSE_LIMIT, so both the argmax and its tangent come from CG."""
    scale = jnp.linspace(0.5, 3.0, 170)
    x = jnp.sin(jnp.arange(170.0))
    solve = jax.jit(lambda x: conjugate(separable, scale, x, Solver(tolerance=1e-12)).argmax)
    np.testing.assert_allclose(solve(x), np.arcsinh(x / scale), atol=1e-10)
    got = jax.jit(jax.grad(lambda x: solve(x).sum()))(x)
    np.testing.assert_allclose(got, 1 / np.sqrt(scale**2 + x**2), rtol=1e-9)


@pytest.mark.slow
def test_unrolled_agrees_with_implicit(x64):
    """2000 steps of the paper's schedule reach 1e-9 here, so both gradients agree to 1e-6."""
    p, x = net_params(2), jnp.array([0.4, -1.1])
    unrolled = Solver(
        "gradient",
        strong_convexity=0.2,
        max_steps=2000,
        differentiation="unrolled",
        tolerance=1e-10,
    )
    loss = lambda p, s: jnp.sum(conjugate(softplus_net, p, x, s).argmax ** 2)
    got, want = (jax.jit(jax.grad(loss), static_argnums=1)(p, s) for s in (unrolled, TIGHT))
    for name in p:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_batch_equals_single_examples(x64):
    """Finished samples are frozen: the batch neither helps nor hurts one example."""
    p = net_params(2)
    xs = jnp.array([[0.0, 0.1], [40.0, -30.0], [0.4, -1.1]])
    solve = lambda x: run(softplus_net, p, x, TIGHT)
    batch = jax.jit(jax.vmap(lambda x: conjugate(softplus_net, p, x, TIGHT)))(xs)
    for i, x in enumerate(xs):
        one = solve(x)
        assert batch.steps[i] == one.steps
        np.testing.assert_allclose(batch.argmax[i], one.argmax, rtol=1e-9, atol=1e-12)


def test_step_limit_is_flagged():
    p = {"d": jnp.array([1.0, 1000.0])}
    bowl = lambda p, y: 0.5 * y @ (p["d"] * y)
    got = run(bowl, p, jnp.ones(2), Solver("adam", max_steps=3))
    assert not got.converged and got.steps == 3 and got.residual > 1e-3
    assert solve_report(got).unsolved == 1 and not solve_report(got).ok


@pytest.mark.slow
@pytest.mark.parametrize("method", ["newton", "lbfgs"])
def test_unbounded_problem_is_flagged(method):
    """Outside the simplex the supremum is infinite; beyond a linear function it always is."""
    x = jnp.array([[0.2, 0.3], [0.9, 0.8], [-0.5, 0.2]])
    got = jax.jit(jax.vmap(lambda x: conjugate(log_partition, None, x, Solver(method))))(x)
    np.testing.assert_array_equal(got.converged, [True, False, False])
    flat = run(lambda _, y: y.sum(), None, jnp.array([1.0, 2.0]), Solver(method))
    assert not flat.converged


@pytest.mark.slow
@pytest.mark.parametrize("method", ["newton", "newton_cg", "lbfgs"])
def test_nan_is_flagged_and_stays_in_its_row(method):
    x = jnp.array([[0.4, -1.1], [jnp.nan, 0.0], [jnp.inf, 0.0]])
    p = jax.tree.map(lambda a: a.astype(jnp.float32), net_params(2))
    got = jax.jit(jax.vmap(lambda x: conjugate(softplus_net, p, x, Solver(method))))(x)
    np.testing.assert_array_equal(got.converged, [True, False, False])
    assert solve_report(got).not_finite == 2 and np.isfinite(got.argmax[0]).all()


def test_missing_convexity_is_reported():
    """A double well leaves a negative secant curvature; a weak bowl breaks its promise."""
    well = lambda _, y: jnp.sum((y**2 - 1) ** 2)
    start = jnp.array([0.3])
    got = run(well, None, jnp.zeros(1), Solver("gradient", strong_convexity=40.0), start=start)
    assert got.curvature < 0 and solve_report(got).not_convex == 1
    bowl = lambda _, y: 0.05 * y @ y
    got = run(bowl, None, jnp.ones(2), Solver("newton", strong_convexity=1.0))
    assert got.converged and solve_report(got).ok
    assert solve_report(got, strong_convexity=1.0).not_convex == 1


def test_error_bound_holds():
    """The bound is residual / mu; without mu none is known."""
    diagonal, x = jnp.array([0.5, 4.0]), jnp.array([1.0, 1.0])
    bowl = lambda d, y: 0.5 * y @ (d * y)
    got = run(bowl, diagonal, x, Solver("fixed", 0.1, smoothness=4.0, strong_convexity=0.5))
    assert got.converged
    assert 0 < np.linalg.norm(got.argmax - x / diagonal) <= got.error_bound * (1 + 1e-5)
    assert np.isinf(run(bowl, diagonal, x, Solver("newton")).error_bound)


def test_piecewise_linear_needs_unrolling():
    class Kinked(Potential):
        piecewise_linear = True

        def __call__(self, w, y):
            return jax.nn.relu(w @ y) + 0.5 * y @ y

    kinked, w, x = Kinked(), jnp.array([1.0, 0.0]), jnp.array([3.0, 2.0])
    with pytest.raises(ValueError, match="piecewise linear"):
        conjugate(kinked, w, x)
    unrolled = Solver("gradient", strong_convexity=1.0, max_steps=200, differentiation="unrolled")
    got = run(kinked, w, x, unrolled)  # argmax x - w where that keeps w @ y > 0
    np.testing.assert_allclose(got.argmax, [2.0, 2.0], atol=1e-3)
    slope = jax.jit(jax.grad(lambda w: conjugate(kinked, w, x, unrolled).argmax[0]))(w)
    np.testing.assert_allclose(slope, [-1.0, 0.0], atol=1e-2)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_step_limit():
    """Temporary bytes of the compiled gradient at 10, 100 and 1000 steps."""
    p = jax.tree.map(lambda a: a.astype(jnp.float32), net_params(2))
    xs = jnp.ones((8, 2))

    def size(steps):
        solver = Solver("newton", max_steps=steps)
        loss = lambda p: jnp.sum(
            jax.vmap(lambda x: conjugate(softplus_net, p, x, solver).argmax)(xs)
        )
        return jax.jit(jax.grad(loss)).lower(p).compile().memory_analysis().temp_size_in_bytes

    assert size(10) == size(1000) > 0


@pytest.mark.parametrize(
    "kwargs, match",
    [
        ({"method": "bfgs"}, "method must be one of"),
        ({"tolerance": 0.0}, "tolerance must be > 0"),
        ({"strong_convexity": -1.0}, "strong_convexity must be > 0"),
        ({"max_steps": 0}, "max_steps must be >= 1"),
        ({"differentiation": "both"}, "one of 'implicit', 'unrolled'"),
        ({"differentiation": "unrolled"}, "line search"),
    ],
)
def test_bad_solvers(kwargs, match):
    with pytest.raises(ValueError, match=match):
        Solver(**kwargs)


def test_bad_arguments():
    bowl = lambda _, y: 0.5 * y @ y
    with pytest.raises(TypeError, match="optax"):
        Solver(method=3)
    with pytest.raises(TypeError, match="Solver"):
        conjugate(bowl, None, jnp.ones(2), "newton")
    with pytest.raises(TypeError, match="floating"):
        conjugate(bowl, None, jnp.arange(2))
    for x in (jnp.ones((2, 2)), jnp.ones(()), jnp.ones(0)):
        with pytest.raises(ValueError, match=r"one point \[d\]"):
            conjugate(bowl, None, x)
    with pytest.raises(ValueError, match="scalar"):
        conjugate(lambda _, y: y, None, jnp.ones(2))
    with pytest.raises(ValueError, match="shape of x"):
        conjugate(bowl, None, jnp.ones(2), start=jnp.ones(3))
    with pytest.raises(ValueError, match="strong_convexity"):
        conjugate(bowl, None, jnp.ones(2), Solver("gradient"))
    with pytest.raises(ValueError, match="smoothness"):
        conjugate(bowl, None, jnp.ones(2), Solver("fixed"))


@pytest.mark.slow
def test_overflow_is_no_success():
    """Where norms are inf in float32, inf <= inf must not pass for converged."""
    G = lambda _, y: 2.0 * y @ y
    for x in ([1e20, 0.0], [jnp.inf, 0.0]):
        out = conjugate(G, 0.0, jnp.array(x, jnp.float32), start=jnp.zeros(2))
        assert not bool(out.converged)
