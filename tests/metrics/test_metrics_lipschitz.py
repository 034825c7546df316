"""Measured Lipschitz constants against closed forms; what each of them cannot see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from monojax.metrics.lipschitz import adjacent_differences, empirical_lipschitz, local_gains
from monojax.metrics.lipschitz_search import exact_lipschitz_1d, search_lipschitz

KEY = jax.random.key(0)
RTOL = 1e-5  # float32 rounding of a difference of values of order 1 over distances of order 1
MATRIX = jnp.array([[3.0, 1.0, 0.0], [0.0, 2.0, -1.0], [1.0, 0.0, 1.0]])
SIGMA = np.linalg.svd(np.asarray(MATRIX, np.float64), compute_uv=False)


def linear(x):
    return MATRIX @ x


@pytest.mark.slow
def test_linear_map_has_its_singular_values():
    """The Jacobians give them exactly, pairs lie in between, at every batch size."""
    points = jax.random.normal(KEY, (30, 3))
    for batch in (1, 7, 256):
        lower, upper = empirical_lipschitz(linear, points, batch_size=batch)
        np.testing.assert_allclose([lower, upper], [SIGMA[-1], SIGMA[0]], rtol=RTOL)
    lower, upper = empirical_lipschitz(linear, points, key=KEY, num_pairs=100)
    assert SIGMA[-1] < lower < upper < SIGMA[0]
    lower, upper = adjacent_differences(linear, points)
    assert SIGMA[-1] < lower < upper < SIGMA[0]
    low, high = local_gains(linear, points)
    assert low.shape == high.shape == (30,)
    np.testing.assert_allclose(high, np.full(30, SIGMA[0]), rtol=RTOL)


@pytest.mark.slow
def test_all_pairs_by_hand():
    """x^2 at 0, 1, 3: pairs 1, 3, 4; slopes 0, 2, 6."""
    points = jnp.array([[0.0], [1.0], [3.0]])
    square = lambda x: x**2
    np.testing.assert_allclose(empirical_lipschitz(square, points), (0, 6), rtol=RTOL)
    np.testing.assert_allclose(adjacent_differences(square, points), (1, 4), rtol=RTOL)
    np.testing.assert_allclose(local_gains(square, points), [[0, 2, 6]] * 2, rtol=RTOL)


@pytest.mark.slow
def test_pairs_count_beside_jacobians():
    """A step between points of slope 0 shows in the pairs only."""
    points = jnp.array([[-1.0], [1.0]])
    ramp = lambda x: jnp.clip(10 * x, -0.5, 0.5)
    np.testing.assert_allclose(empirical_lipschitz(ramp, points), (0, 0.5), rtol=RTOL)


@pytest.mark.slow
def test_deterministic_without_key_and_random_with():
    points = jax.random.normal(KEY, (40, 2))
    fn = lambda x: jnp.sin(3 * x)
    assert empirical_lipschitz(fn, points) == empirical_lipschitz(fn, points)
    a, b = (empirical_lipschitz(fn, points, key=jax.random.key(i), num_pairs=50) for i in (1, 2))
    assert a == empirical_lipschitz(fn, points, key=jax.random.key(1), num_pairs=50)
    assert a != b
    jitted = jax.jit(lambda p, k: empirical_lipschitz(fn, p, key=k, num_pairs=50))
    np.testing.assert_allclose(jitted(points, jax.random.key(1)), a, rtol=RTOL)


@pytest.mark.slow
def test_random_pairs_miss_a_narrow_ramp():
    """What makes the papers' number an under-estimate: the ramp is 0.02 of a window of 4."""
    ramp = lambda x: jnp.clip(50 * x, 0, 1)
    points = jnp.linspace(-2, 2, 2000)[:, None]
    pairs = empirical_lipschitz(ramp, points, key=KEY)[1]
    assert pairs < 48
    np.testing.assert_allclose(adjacent_differences(ramp, points)[1], 50, rtol=1e-3)
    np.testing.assert_allclose(exact_lipschitz_1d(ramp, -2, 2).upper, 50, rtol=RTOL)


@pytest.mark.slow
def test_fewer_outputs_than_inputs_hide_a_direction():
    points = jax.random.normal(KEY, (10, 3))
    lower, upper = empirical_lipschitz(lambda x: x.sum(), points)
    np.testing.assert_allclose([lower, upper], [0, np.sqrt(3)], rtol=RTOL)


@pytest.mark.slow
def test_equal_points_are_left_out():
    same = jnp.ones((4, 2))
    assert empirical_lipschitz(lambda x: 5 * x, same, key=KEY) == (jnp.inf, 0)
    np.testing.assert_allclose(empirical_lipschitz(lambda x: 5 * x, same), (5, 5), rtol=RTOL)
    twice = jnp.concatenate([same, 2 * same])
    np.testing.assert_allclose(adjacent_differences(lambda x: 5 * x, twice), (5, 5), rtol=RTOL)


@pytest.mark.slow
def test_nan_is_passed_on():
    points = jnp.array([[-1.0], [1.0], [2.0]])
    assert jnp.isnan(empirical_lipschitz(jnp.sqrt, points)[1])
    assert jnp.isnan(exact_lipschitz_1d(jnp.log, -1.0, 1.0).upper)


@pytest.mark.slow
def test_search_climbs_to_the_steepest_point():
    """sinh-like: 0.5 + tanh(5x) has slopes up to 5 at 0, starts are where it is 0.001."""
    starts = 1.0 + 0.1 * jax.random.normal(KEY, (6, 1))
    lower, upper = search_lipschitz(lambda x: jnp.tanh(5 * x) + 0.5 * x, starts, low=-2, high=2)
    np.testing.assert_allclose(upper, 5.5, rtol=1e-3)  # the last Adam steps circle the optimum
    np.testing.assert_allclose(lower, 0.5, rtol=1e-3)


@pytest.mark.slow
def test_search_stays_in_its_box():
    """x^3 on [-1, 2]: slopes from 0 to 12; without a box it runs away."""
    starts = jnp.array([[0.5], [1.0]])
    cube = lambda x: x**3
    lower, upper = search_lipschitz(cube, starts, low=-1, high=2)
    np.testing.assert_allclose([lower, upper], [0, 12], atol=1e-3)
    assert search_lipschitz(cube, starts)[1] > 20


@pytest.mark.slow
def test_search_finds_the_linear_gains_and_carries_over_kinks():
    """A kinked map without slope in its Jacobian: the offset sees the steep piece nearby."""
    lower, upper = search_lipschitz(linear, jax.random.normal(KEY, (4, 3)))
    np.testing.assert_allclose([lower, upper], [SIGMA[-1], SIGMA[0]], rtol=1e-4)
    kinked = lambda x: jnp.maximum(x, 7 * x)
    near = -0.02 - 0.01 * jax.random.uniform(KEY, (5, 1))
    assert local_gains(kinked, near)[1].max() == 1
    np.testing.assert_allclose(search_lipschitz(kinked, near)[1], 7, rtol=1e-4)


@pytest.mark.parametrize("slope", [1.0, 50.0, 3e5])
def test_one_dimension_piecewise_linear(slope):
    """Also a ramp 3e-6 wide, far narrower than the first grid."""
    ramp = lambda x: jnp.clip(slope * x, 0, 1) + 0.25 * x
    found = exact_lipschitz_1d(ramp, -1, 1)
    np.testing.assert_allclose(found.upper, slope + 0.25, rtol=RTOL)
    np.testing.assert_allclose(found.lower, 0.25, rtol=RTOL)
    assert 0 <= found.at_upper <= 1 / slope


def test_one_dimension_smooth():
    """x + sin(3x)/2: slopes 1 + 1.5 cos(3x), largest 2.5 at 0, with a sign change: lower 0."""
    found = exact_lipschitz_1d(lambda x: x + jnp.sin(3 * x) / 2, -1, 1)
    np.testing.assert_allclose(found.upper, 2.5, rtol=RTOL)
    assert found.lower == 0
    np.testing.assert_allclose(found.at_upper, 0, atol=1e-3)  # flat top: float32 cannot tell
    rising = exact_lipschitz_1d(lambda x: jnp.exp(x), -1, 2, num=101)
    np.testing.assert_allclose(rising[:2], (np.exp(-1), np.exp(2)), rtol=1e-4)


@pytest.mark.slow
def test_one_dimension_sees_a_jump():
    """A discontinuity has no constant: what is reported grows with the grid."""
    jump = lambda x: jnp.where(x > 0, x + 1, x)
    coarse, fine = (exact_lipschitz_1d(jump, -1, 1, num=n).upper for n in (1001, 10001))
    assert coarse > 400
    assert fine > 4000


def test_one_dimension_against_a_blnn_like_bound():
    """The extremes lie in what a 1-Lipschitz layer allows, to rounding."""
    net = lambda x: jnp.maximum(x, 0) - jnp.maximum(x - 0.3, 0)
    found = exact_lipschitz_1d(lambda x: net(x[0]), -1, 1)
    assert (found.lower, found.upper) == (0, 1)


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", [empirical_lipschitz, adjacent_differences, local_gains])
def test_rejects_bad_points(measure):
    with pytest.raises(ValueError, match=r"\[n, d\]"):
        measure(jnp.sin, jnp.ones(3))
    with pytest.raises(ValueError, match="NaN"):
        measure(jnp.sin, jnp.full((3, 1), jnp.nan))
    with pytest.raises(TypeError, match="floating"):
        measure(jnp.sin, jnp.ones((3, 1), int))
    with pytest.raises(ValueError, match="scalar or a vector"):
        measure(lambda x: x[None], jnp.ones((3, 1)))


def test_rejects_one_point_and_bad_counts():
    for measure in (empirical_lipschitz, adjacent_differences):
        with pytest.raises(ValueError, match="at least two"):
            measure(jnp.sin, jnp.ones((1, 1)))
    with pytest.raises(ValueError, match="num_pairs"):
        empirical_lipschitz(jnp.sin, jnp.ones((3, 1)), key=KEY, num_pairs=0)
    with pytest.raises(ValueError, match="batch_size"):
        local_gains(jnp.sin, jnp.ones((3, 1)), batch_size=0)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"steps": 0}, "steps"),
        ({"radius": 0.0}, "radius"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"low": 0.0}, "both low and high"),
        ({"low": 1.0, "high": 0.0}, "empty region"),
    ],
)
def test_search_rejects_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        search_lipschitz(jnp.sin, jnp.ones((3, 1)), **options)


@pytest.mark.parametrize(
    ("low", "high", "options", "match"),
    [
        (1.0, 0.0, {}, "empty region"),
        (1.0, 1.0, {}, "below"),
        (0.0, float("inf"), {}, "finite"),
        (0.0, 1.0, {"num": 2}, "num"),
        (0.0, 1.0, {"keep": 0}, "keep"),
    ],
)
def test_one_dimension_rejects_bad_intervals(low, high, options, match):
    with pytest.raises(ValueError, match=match):
        exact_lipschitz_1d(jnp.sin, low, high, **options)
    with pytest.raises(ValueError, match="one number"):
        exact_lipschitz_1d(lambda x: jnp.ones(2), 0.0, 1.0)
