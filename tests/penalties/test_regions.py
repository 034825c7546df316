"""Points of the regions: where they lie, how they are spread, and that they can be cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import monojax as mj

KEY = jax.random.key(7)
LOW, HIGH = np.array([0.0, -2.0, 5.0], np.float32), np.array([1.0, 3.0, 5.0], np.float32)
DATA = jax.random.normal(jax.random.key(1), (16, 3))


def test_uniform_points_fill_the_box():
    x = np.asarray(mj.uniform_points(KEY, 4000, LOW, HIGH))
    assert x.shape == (4000, 3) and x.dtype == np.float32
    assert (x >= LOW).all() and (x <= HIGH).all() and (x[:, 2] == 5).all()
    # Kolmogorov-Smirnov at a level where a right generator fails once in 10,000 keys.
    for i in (0, 1):
        unit = (np.asarray(x[:, i]) - LOW[i]) / (HIGH[i] - LOW[i])
        assert stats.kstest(unit, "uniform").pvalue > 1e-4


def test_columns_and_rows_are_independent():
    x = np.asarray(mj.uniform_points(KEY, 5000, np.zeros(6), np.ones(6)))
    corr = np.corrcoef(x, rowvar=False) - np.eye(6)
    assert np.abs(corr).max() < 5 / np.sqrt(5000)  # five standard errors
    assert abs(np.corrcoef(x[:-1, 0], x[1:, 0])[0, 1]) < 5 / np.sqrt(5000)
    assert len(np.unique(x)) > 0.99 * x.size


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_any_kind_of_key(impl):
    a = mj.uniform_points(jax.random.key(0, impl=impl), 5, LOW, HIGH)
    b = mj.uniform_points(jax.random.key(1, impl=impl), 5, LOW, HIGH)
    assert (a != b)[:, :2].all()


@pytest.mark.slow
def test_parts_are_cut_from_the_whole():
    """Point i depends on the key and i alone: devices draw their own part of one set."""
    whole = mj.uniform_points(KEY, 12, LOW, HIGH)
    mixed = mj.mixup_points(KEY, 12, DATA, LOW, HIGH)
    pairs = mj.data_mixup_points(KEY, 12, DATA)
    for first in (0, 4, 9):
        part = jax.jit(lambda f: mj.uniform_points(KEY, 3, LOW, HIGH, first=f))(first)
        # The bits are equal; -2 + 5 u under jit may be rounded once less (fused multiply-add).
        np.testing.assert_allclose(part, whole[first : first + 3], rtol=0, atol=5e-7)
        part = mj.mixup_points(KEY, 3, DATA, LOW, HIGH, first=first)
        np.testing.assert_array_equal(part, mixed[first : first + 3])
        part = mj.data_mixup_points(KEY, 3, DATA, first=first)
        np.testing.assert_array_equal(part, pairs[first : first + 3])


def test_the_same_under_jit_and_for_the_same_key():
    draw = lambda k: mj.mixup_points(k, 9, DATA, LOW, HIGH)
    # Fused multiply-adds under jit: one rounding of values up to about 5.
    np.testing.assert_allclose(draw(KEY), jax.jit(draw)(KEY), rtol=1e-6, atol=1e-6)
    assert (draw(KEY) != draw(jax.random.key(8))).any()


def test_mixtures_lie_between_distinct_rows():
    """One-hot rows show which pair was mixed: exactly two weights, summing to one."""
    rows = jnp.eye(8)
    x = np.asarray(mj.data_mixup_points(KEY, 500, rows))
    np.testing.assert_allclose(x.sum(axis=1), 1, rtol=1e-6)
    assert ((x > 0).sum(axis=1) == 2).all()
    used = (x > 0).mean(axis=0)  # every row in 2 of 8 mixtures; five standard errors
    assert np.abs(used - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / 500)


def test_mixup_pairs_data_with_random_points_one_to_two_to_one():
    """Data rows are (1, 1) in a box [0, 1] x {0}: the second coordinate is the weight on data."""
    data = jnp.ones((32, 2))
    x = mj.mixup_points(KEY, 4000, data, jnp.array([0.0, 0.0]), jnp.array([1.0, 0.0]))
    weight = np.asarray(x[:, 1])
    both_data, none = (weight > 1 - 1e-6).mean(), (weight == 0).mean()
    # Pairs of distinct rows of 64: 32*31/(64*63) data-data, the same random-random.
    want = 32 * 31 / (64 * 63)
    error = 5 * np.sqrt(want * (1 - want) / 4000)
    assert abs(both_data - want) < error and abs(none - want) < error
    inside = weight[(weight > 0) & (weight < 1 - 1e-6)]
    assert stats.kstest(inside, "uniform").pvalue > 1e-4


def test_radius_narrows_the_mixing_factor():
    rows = jnp.eye(2)
    x = np.asarray(mj.data_mixup_points(KEY, 200, rows, radius=0.1))
    assert x.min() >= 0.4 - 1e-6 and x.max() <= 0.6 + 1e-6
    assert (mj.data_mixup_points(KEY, 5, rows, radius=0.0) == 0.5).all()


def test_random_train_keeps_the_data_and_fills_up():
    x = np.asarray(mj.random_train_points(KEY, 20, DATA, LOW, HIGH))
    np.testing.assert_array_equal(x[:16], DATA)
    assert (x[16:] >= LOW).all() and (x[16:] <= HIGH).all() and x.shape == (20, 3)
    np.testing.assert_array_equal(mj.random_train_points(KEY, 5, DATA, LOW, HIGH), DATA[:5])


def test_half_points():
    x = np.asarray(mj.half_points(KEY, 9, DATA, LOW, HIGH))
    assert x.shape == (9, 3) and (x[:4] >= LOW).all() and (x[:4] <= HIGH).all()
    # Data reach outside the box, so mixtures do as well.
    assert not ((x[4:] >= LOW).all() and (x[4:] <= HIGH).all())


def test_data_range_with_margin():
    low, high = mj.data_range(jnp.array([[0.0, 4.0], [2.0, 4.0]]), margin=0.25)
    assert low.tolist() == [-0.5, 4.0] and high.tolist() == [2.5, 4.0]


def test_float64_and_bfloat16_points_stay_below_high(x64):
    for dtype in (jnp.float64, jnp.bfloat16):
        x = mj.uniform_points(KEY, 3000, jnp.zeros(4, dtype), jnp.ones(4, dtype))
        assert x.dtype == dtype and (x < 1).all() and (x >= 0).all()


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: mj.uniform_points(KEY, 3, [0.0, 2.0], [1.0, 1.0]), "input 1 \\(2 > 1\\)"),
        (lambda: mj.uniform_points(KEY, 3, [0.0], [1.0, 1.0]), "must both have shape"),
        (lambda: mj.uniform_points(KEY, 3, [0.0], [np.inf]), "finite"),
        (lambda: mj.uniform_points(KEY, 0, [0.0], [1.0]), "at least 1"),
        (lambda: mj.mixup_points(KEY, 3, DATA, [0.0, 0.0], [1.0, 1.0]), r"\(3,\)"),
        (lambda: mj.mixup_points(KEY, 3, DATA.at[0, 0].set(jnp.nan), 0.0, 1.0), "data has 1 of 16"),
        (lambda: mj.mixup_points(KEY, 3, DATA, 0.0, 1.0, radius=0.6), "radius"),
        (lambda: mj.data_mixup_points(KEY, 3, DATA[:1]), "two rows"),
        (lambda: mj.half_points(KEY, 1, DATA, 0.0, 1.0), "at least 2"),
        (lambda: mj.data_range(DATA, margin=-1), "margin"),
        (lambda: mj.random_train_points(KEY, 0, DATA, 0.0, 1.0), "at least 1"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()
