"""Penalties against closed forms on polynomials and finite differences in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import monojax as mj
from monojax.models import MLP

# float32: a handful of multiplications and a mean over few points, with a factor 10 to spare.
RTOL = 2e-6


def polynomial(x):
    """f = x0^3 - 2 x0 x1 + x2^2; gradient (3 x0^2 - 2 x1, -2 x0, 2 x2)."""
    return x[0] ** 3 - 2 * x[0] * x[1] + x[2] ** 2


def slopes(x):
    x = np.float64(x)
    return np.stack([3 * x[:, 0] ** 2 - 2 * x[:, 1], -2 * x[:, 0], 2 * x[:, 2]], axis=1)


def closed_form(x, directions, margin=0.0, reduce="mean"):
    hinge = np.maximum(0, margin - np.asarray(directions) * slopes(x))
    v = np.where(np.asarray(directions) != 0, hinge**2, 0)
    return v.sum(axis=1).mean() if reduce == "mean" else v.max()


@pytest.mark.parametrize(
    ("n", "jit"),
    [
        (2, True),
        (2, False),
        pytest.param(1, True, marks=pytest.mark.slow),
        pytest.param(1, False, marks=pytest.mark.slow),
        pytest.param(33, True, marks=pytest.mark.slow),
        pytest.param(33, False, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("directions", [(1, 1, 1), (-1, 1, 0), (0, 0, -1), (0, 0, 0)])
@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_polynomial_matches_closed_form(n, jit, directions, reduce):
    x = np.random.default_rng(n).normal(size=(n, 3)).astype(np.float32)
    penalty = lambda x, margin: mj.monotonicity_penalty(
        polynomial, x, directions, reduce=reduce, margin=margin
    )
    penalty = jax.jit(penalty) if jit else penalty
    for margin in (0.0, 0.7):
        want = closed_form(x, directions, margin, reduce)
        np.testing.assert_allclose(penalty(x, margin), want, rtol=RTOL, atol=1e-7)


def test_values_come_with_the_penalty():
    x = jax.random.normal(jax.random.key(0), (5, 3))
    values, penalty = mj.value_and_penalty(polynomial, x, (1, -1, 0))
    np.testing.assert_allclose(values, jax.vmap(polynomial)(x), rtol=1e-6)
    np.testing.assert_allclose(penalty, closed_form(x, (1, -1, 0)), rtol=RTOL)


def linear_map(x):
    """Two outputs with known gradients: rows of [[1, -2], [-3, 4]]."""
    return jnp.array([[1.0, -2.0], [-3.0, 4.0]]) @ x


@pytest.mark.parametrize(
    "outputs, directions, labels, mean, largest",
    [
        # At x = (1, 0) output 0 is larger (1 > -3), at (0, 1) output 1 is (4 > -2).
        ("max", (1, 1), None, (4 + 9) / 2, 9),
        ("all", (1, 1), None, 4 + 9, 9),
        ("label", (1, 1), [0, 0], 4, 4),
        ("label", (1, -1), [1, 1], 9 + 16, 16),
        ("paired", [[1, 0], [0, 1]], None, 0, 0),
        ("paired", [[0, 1], [1, 0]], None, 4 + 9, 9),
    ],
)
def test_outputs_of_a_vector_function(outputs, directions, labels, mean, largest):
    x = jnp.eye(2)
    call = functools.partial(
        mj.monotonicity_penalty, linear_map, x, directions, outputs=outputs, labels=labels
    )
    assert float(call()) == pytest.approx(mean)
    assert float(call(reduce="max")) == pytest.approx(largest)


def test_a_scalar_and_a_vector_of_one_agree():
    x = jax.random.normal(jax.random.key(1), (7, 3))
    vector = lambda x: polynomial(x)[None]
    for outputs in ("max", "all"):
        got = mj.monotonicity_penalty(vector, x, (1, 1, 1), outputs=outputs)
        np.testing.assert_allclose(got, closed_form(x, (1, 1, 1)), rtol=RTOL)


def mlp_penalty(params, x, *, reduce, outputs="max", labels=None, margin=0.1):
    fn = functools.partial(MODEL.apply, params)
    return mj.monotonicity_penalty(
        fn, x, (1, -1, 0, 1), reduce=reduce, margin=margin, outputs=outputs, labels=labels
    )


MODEL = MLP((6, 5), outputs=3, activation=jnp.tanh)


@pytest.mark.slow
@pytest.mark.parametrize("reduce", ["mean", "max"])
@pytest.mark.parametrize("outputs", ["max", "all", "label"])
def test_parameter_gradient_matches_finite_differences(x64, reduce, outputs):
    """Directional derivative in the parameters, central differences in float64."""
    x = jax.random.normal(jax.random.key(0), (9, 4))
    labels = jnp.arange(9) % 3 if outputs == "label" else None
    params = jax.tree.map(jnp.float64, MODEL.init(jax.random.key(1), x))
    flat, unravel = ravel_pytree(params)
    fn = jax.jit(
        lambda v: mlp_penalty(unravel(v), x, reduce=reduce, outputs=outputs, labels=labels)
    )
    gradient = jax.grad(fn)(flat)
    step = 1e-6
    for seed in range(3):
        way = jax.random.normal(jax.random.key(seed), flat.shape)
        numeric = (fn(flat + step * way) - fn(flat - step * way)) / (2 * step)
        # Error of central differences: step^2 times third derivatives, and 1e-16 / step.
        np.testing.assert_allclose(gradient @ way, numeric, rtol=1e-7, atol=1e-8)


@pytest.mark.slow
def test_max_takes_the_gradient_of_the_worst_point():
    """The one-point shortcut is the derivative of the plain maximum."""
    x = jax.random.normal(jax.random.key(3), (50, 4))
    params = MODEL.init(jax.random.key(4), x)

    def plain(params):
        fn = lambda point: jnp.max(MODEL.apply(params, point))
        directions = jnp.array([[1, -1, 0, 1]])
        g = jax.vmap(jax.grad(fn))(x) * directions
        hinge = jnp.where(directions != 0, jnp.maximum(0.1 - g, 0), 0)
        return jnp.square(hinge).max()

    got = jax.grad(lambda p: mlp_penalty(p, x, reduce="max"))(params)
    want = jax.grad(plain)(params)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # two orders of float32 sums


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_no_gradient_flows_through_the_points(reduce):
    x = jax.random.normal(jax.random.key(0), (4, 3))
    g = jax.grad(lambda x: mj.monotonicity_penalty(polynomial, x, (1, 1, 1), reduce=reduce))(x)
    assert not g.any()


@pytest.mark.parametrize("reduce, passes", [("mean", 1), ("max", 2)])
def test_values_and_penalty_share_one_forward(reduce, passes):
    """Counted in the traced program, since XLA would merge equal passes; "max" adds one point's."""
    x = jnp.ones((64, 30))
    params = MLP((8,)).init(jax.random.key(0), x)

    def both(p):
        fn = functools.partial(MLP((8,), activation=jax.nn.tanh).apply, p)
        return mj.value_and_penalty(fn, x, np.ones(30, int), reduce=reduce)

    def calls(fn):
        return str(jax.make_jaxpr(fn)(params)).count("= tanh")

    assert calls(both) == passes
    apart = lambda p: (
        jax.vmap(lambda x: MLP((8,), activation=jax.nn.tanh).apply(p, x))(x),
        both(p),
    )
    assert calls(apart) == passes + 1


def test_works_under_vmap_over_models():
    x = jax.random.normal(jax.random.key(0), (4, 3))
    scale = jnp.array([1.0, 2.0])
    got = jax.vmap(lambda s: mj.monotonicity_penalty(lambda p: s * polynomial(p), x, (1, 1, 1)))(
        scale
    )
    np.testing.assert_allclose(got, closed_form(x, (1, 1, 1)) * scale**2, rtol=RTOL)


def test_traced_directions():
    x = jax.random.normal(jax.random.key(0), (4, 3))
    penalty = jax.jit(lambda d: mj.monotonicity_penalty(polynomial, x, d))
    for d in ((1, 0, -1), (0, 1, 1)):
        np.testing.assert_allclose(penalty(jnp.array(d)), closed_form(x, d), rtol=RTOL)


def test_bfloat16_runs_and_stays_bfloat16():
    x = jnp.ones((4, 3), jnp.bfloat16)
    got = mj.monotonicity_penalty(polynomial, x, (-1, 0, 0))
    # slopes at ones: 3 - 2 = 1, so the violation is 1 exactly.
    assert got.dtype == jnp.bfloat16 and float(got) == 1.0


X = jnp.ones((2, 3))


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: mj.monotonicity_penalty(polynomial, jnp.ones(3), (1, 1, 1)), r"\[n, d\]"),
        (lambda: mj.monotonicity_penalty(polynomial, jnp.ones((0, 3)), (1, 1, 1)), "n >= 1"),
        (lambda: mj.monotonicity_penalty(polynomial, X.at[1, 0].set(jnp.nan), (1, 1, 1)), "1 of 2"),
        (lambda: mj.monotonicity_penalty(polynomial, X.at[0, 0].set(jnp.inf), (1, 1, 1)), "NaN or"),
        (lambda: mj.monotonicity_penalty(polynomial, X, (1, 1, 1), reduce="sum"), "'sum'"),
        (lambda: mj.monotonicity_penalty(polynomial, X, (1, 1, 1), margin=-1.0), "margin"),
        (lambda: mj.monotonicity_penalty(polynomial, X, (1, 1, 1), margin=jnp.nan), "margin"),
        (lambda: mj.monotonicity_penalty(polynomial, X, (1, 1, 1), margin=np.float32(-1)), ">= 0"),
        (lambda: mj.monotonicity_penalty(polynomial, X, (1, 1, 1), margin=jnp.ones(1)), "one numb"),
        (lambda: mj.monotonicity_penalty(polynomial, X, (1, 1, 1), outputs="every"), "'every'"),
        (lambda: mj.monotonicity_penalty(polynomial, X, (1, 1, 1), outputs="label"), "vector"),
        (lambda: mj.monotonicity_penalty(polynomial, X, (1, 1, 1), labels=[0, 0]), "labels are"),
        (lambda: mj.monotonicity_penalty(lambda x: x[None], X, (1, 1, 1)), "one example"),
        (
            lambda: mj.monotonicity_penalty(linear_map, X[:, :2], (1, 1), outputs="label"),
            "needs labels",
        ),
        (
            lambda: mj.monotonicity_penalty(
                linear_map, X[:, :2], (1, 1), outputs="label", labels=[0, 2]
            ),
            r"\[0, 1\].*0 to 2",
        ),
        (
            lambda: mj.monotonicity_penalty(
                linear_map, X[:, :2], (1, 1), outputs="label", labels=[0]
            ),
            r"shape \(2,\)",
        ),
        (
            lambda: mj.monotonicity_penalty(linear_map, X[:, :2], (1, 1), outputs="paired"),
            r"\(2, 2\)",
        ),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_integer_points_are_refused():
    with pytest.raises(TypeError, match="floating"):
        mj.monotonicity_penalty(polynomial, jnp.ones((2, 3), int), (1, 1, 1))


def test_points_of_another_width():
    """Against the directions: our error, before the model is traced."""
    params = MODEL.init(jax.random.key(0), jnp.ones(4))
    with pytest.raises(ValueError, match=r"directions must have shape \(5,\).*got \(4,\)"):
        mlp_penalty(params, jnp.ones((2, 5)), reduce="mean")


def test_integer_valued_functions_are_refused():
    with pytest.raises(TypeError, match="floating point values to have slopes, got int32"):
        mj.monotonicity_penalty(lambda x: jnp.int32(x), X, (1, 1, 1), outputs="all")


@pytest.mark.parametrize(
    "call",
    [
        lambda: mj.monotonicity_penalty(polynomial, np.full((2, 3), np.nan), (1, 1, 1)),
        lambda: mj.monotonicity_penalty(
            linear_map, np.ones((2, 2)), (1, 1), outputs="label", labels=np.array([0, 2**32])
        ),
        lambda: mj.uniform_points(jax.random.key(0), 3, np.ones(2), np.zeros(2)),
        lambda: mj.monotonicity_penalty(polynomial, np.ones((2, 3)), [1, 1, 2]),
    ],
)
def test_known_values_are_checked_inside_jit(call):
    """numpy arguments of a jitted step are known when it is traced."""
    with pytest.raises(ValueError):
        jax.jit(call)()
