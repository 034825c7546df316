"""Gains at the ends of the number formats, in half precision, and what rounding explains."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import monojax as mj
from monojax.metrics import (
    adjacent_differences,
    empirical_lipschitz,
    exact_lipschitz_1d,
    local_gains,
    search_lipschitz,
)

KEY = jax.random.key(0)
DOUBLE = lambda x: 2 * x
SECANTS = {
    "adjacent": jax.jit(functools.partial(adjacent_differences, DOUBLE)),
    "random pairs": jax.jit(functools.partial(empirical_lipschitz, DOUBLE, key=KEY)),
    "all pairs": jax.jit(functools.partial(empirical_lipschitz, DOUBLE)),
}


@pytest.mark.parametrize("size", [1e-37, 1e-25, 1e-5, 1e25, 1e38])
@pytest.mark.parametrize("name", SECANTS)
def test_gains_of_points_of_any_size(name, size):
    """1e-25 apart gave (inf, 0): the squares of the distances were 0."""
    points = np.float32(size) * np.array([[0.0, 0.0], [1.0, 0.0], [0.0, -1.0]], np.float32)
    np.testing.assert_allclose(SECANTS[name](points), (2, 2), rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("name", SECANTS)
def test_gains_of_half_precision_pixels(name, dtype):
    """Squares of pixels do not fit float16: the answer was (0, 0)."""
    points = jnp.asarray([[0.0] * 4, [255.0] * 4, [0.0, 255.0, 128.0, 0.0]], dtype)
    lower, upper = SECANTS[name](points)
    assert lower.dtype == upper.dtype == jnp.float32
    # Twice a pixel is exact in both; what counts as rounding is 4 units of 2^-11 or 2^-8.
    np.testing.assert_allclose([lower, upper], [2, 2], rtol=20 * float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_jacobians_in_half_precision(dtype):
    """There are no singular values in half precision; entries of 300 have squares beyond it."""
    matrix = jnp.asarray([[300.0, 0.0, 0.0], [0.0, 0.0, -200.0]], dtype)
    points = jnp.ones((3, 3), dtype)
    lower, upper = local_gains(lambda x: matrix.T @ (matrix @ x / 256), points)
    sigma = np.array([300.0, 200.0]) ** 2 / 256
    np.testing.assert_allclose(upper, np.full(3, sigma[0]), rtol=0.02)
    np.testing.assert_allclose(lower, np.zeros(3), atol=1)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_searches_in_half_precision(dtype):
    points = jnp.ones((3, 3), dtype)
    smallest, largest = search_lipschitz(DOUBLE, points, steps=3)
    assert 1.8 <= smallest <= 2.2 and 1.8 <= largest <= 2.2
    found = exact_lipschitz_1d(DOUBLE, jnp.asarray(0, dtype), jnp.asarray(1, dtype), num=101)
    np.testing.assert_allclose(found[:2], (2, 2), rtol=1e-5)


SHIFTED = {
    "a constant": (lambda x: x + 1000, 0.0),
    "values far from 0": (lambda x: 0.5 * x + 3e4, 0.0),
    "inputs far from 0": (lambda x: (x - 1000) * 0.3 + 7, 1000.0),
    "a product that cancels": (lambda x: x @ jnp.array([[0.7]]) - 700, 1000.0),
}


@pytest.mark.parametrize("name", SHIFTED)
def test_rounding_is_not_taken_for_slope(name):
    """Steps of 5e-5 on values whose last bit is 6e-5: x + 1000 seemed to have slopes of 1.2."""
    fn, start = SHIFTED[name]
    points = (start + 5e-5 * np.arange(64)).astype(np.float32)[:, None]
    slope = float(jax.grad(lambda t: fn(jnp.full(1, t))[0])(1.0))
    measures = jax.jit(
        lambda points: (
            adjacent_differences(fn, points),
            empirical_lipschitz(fn, points, key=KEY),
            empirical_lipschitz(fn, points),
        )
    )
    for lower, upper in measures(points):
        assert upper <= slope * (1 + 1e-5) and lower >= slope * (1 - 1e-5)
    # Where it matters less than the slope, the slope is still seen.
    wide = (start + np.arange(64)).astype(np.float32)[:, None]
    (lower, upper), *_ = measures(wide)
    assert 0.9 * slope < upper <= slope * (1 + 1e-5) and slope * (1 - 1e-5) <= lower < 1.1 * slope


BROKEN = {
    "where": lambda x: jnp.where(x > 0.5, x, jnp.nan),
    "infinite": lambda x: jnp.where(x > 0.5, x, jnp.inf),
    "log": lambda x: jnp.log(x - 0.5),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_value_that_is_not_finite_is_not_a_small_gain(name):
    """The search said (0, 1) of a function that is NaN on half of its box."""
    points = np.linspace(0, 1, 6, dtype=np.float32)[:, None]
    fn = BROKEN[name]
    measures = jax.jit(
        lambda points: (
            adjacent_differences(fn, points),
            empirical_lipschitz(fn, points),
            empirical_lipschitz(fn, points, key=KEY),
            local_gains(fn, points),
        )
    )
    *found, (low, high) = measures(points)
    assert np.isnan(found).all()
    np.testing.assert_array_equal(np.isnan(low), points[:, 0] <= 0.5)
    np.testing.assert_array_equal(np.isnan(high), points[:, 0] <= 0.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["where", *(pytest.param(n, marks=pytest.mark.slow) for n in ("infinite", "log"))]
)
def test_a_search_passes_on_what_is_not_finite(name):
    starts = np.linspace(0, 1, 6, dtype=np.float32)[:, None]
    assert np.isnan(search_lipschitz(BROKEN[name], starts, low=0, high=1, steps=5)).all()


@pytest.mark.slow
def test_concrete_jax_scalars_are_options_inside_jit():
    starts = jnp.ones((2, 1))
    third, minus = jnp.float32(0.3), jnp.float32(-1)
    call = lambda radius, rate: search_lipschitz(
        jnp.sin, starts, low=jnp.float32(0), high=jnp.float32(2), steps=4, radius=radius,
        learning_rate=rate,
    )  # fmt: skip
    want = jax.jit(call)(third, third)
    np.testing.assert_allclose(jax.jit(lambda: call(third, third))(), want, rtol=1e-4)
    for bad in ((minus, third), (third, minus)):
        with pytest.raises(ValueError, match="must be finite and > 0, got -1"):
            jax.jit(lambda bad=bad: call(*bad))()
    low = jnp.float32(0)
    found = jax.jit(lambda: exact_lipschitz_1d(jnp.sin, low, jnp.float32(1), num=101))()
    np.testing.assert_allclose(found.upper, 1, rtol=1e-4)
    with pytest.raises(ValueError, match="low must be below high"):
        jax.jit(lambda: exact_lipschitz_1d(jnp.sin, low, low))()


# --- order of scores ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("normal", "unfamiliar"),
    [
        (np.array([1 + 1e-12, 2.0]), np.array([1.0, 0.5])),  # equal in float32
        (np.array([2**24 + 1, 2**25]), np.array([2**24, 3])),  # integers beyond float32
        (np.array([2**32 + 1, 2**33]), np.array([7, 2**32])),  # beyond int32
        (np.array([1e39, 1e300]), np.array([-1e39, 1e38])),  # beyond float32
    ],
)
def test_scores_keep_their_order(normal, unfamiliar):
    """Only the order counts; float32 and int32 made ties of it."""
    assert float(mj.metrics.auroc(normal, unfamiliar)) == 1
    assert float(mj.metrics.detection_rate_at_equal_error(normal, unfamiliar)) == 1
