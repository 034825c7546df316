"""The bootstrap against the normal approximation, and what it draws."""

import jax
import numpy as np
import pytest

from monojax.metrics import auroc, bootstrap

KEY = jax.random.key(0)


def test_mean_has_the_interval_of_the_normal_approximation():
    value, low, high = bootstrap(np.mean, np.array([0.0, 1.0] * 50), key=KEY)
    assert value == 0.5 and 0.38 < low < 0.43 and 0.57 < high < 0.62  # 0.5 -+ 1.96 * 0.05
    wide = bootstrap(np.mean, np.array([0.0, 1.0] * 50), key=KEY, level=0.99)
    assert wide[1] < low and wide[2] > high


def test_the_same_key_gives_the_same_draws():
    x = np.random.default_rng(0).normal(size=30)
    same = [bootstrap(np.median, x, key=jax.random.key(k), draws=50) for k in (1, 1, 2)]
    assert same[0] == same[1] != same[2]
    assert bootstrap(np.mean, x, key=jax.random.PRNGKey(1)) == bootstrap(
        np.mean, x, key=jax.random.key(1)
    )


def test_paired_arrays_are_drawn_together():
    x = np.random.default_rng(0).normal(size=40)
    gap = lambda a, b: np.mean(a - b)
    assert bootstrap(gap, x, x + 1, key=KEY, draws=20) == pytest.approx((-1, -1, -1))
    value, low, high = bootstrap(gap, x, x + 1, key=KEY, draws=200, paired=False)
    assert value == pytest.approx(-1) and low < -1.2 and high > -0.8


def test_two_groups_of_other_sizes():
    rng = np.random.default_rng(1)
    normal, strange = rng.normal(1, 1, 60), rng.normal(0, 1, 40)
    value, low, high = bootstrap(jax.jit(auroc), normal, strange, key=KEY, draws=100, paired=False)
    assert value == pytest.approx(float(auroc(normal, strange)), abs=1e-6)
    assert low < value < high


def test_a_draw_without_a_value_shows():
    value, low, high = bootstrap(
        lambda x: x.mean() if (x == 1).any() else np.nan, np.array([0.0, 0, 0, 1]), key=KEY
    )
    assert value == 0.25 and np.isnan(low) and np.isnan(high)


@pytest.mark.parametrize(
    ("arrays", "options", "match"),
    [
        ((), {}, "at least one example"),
        ((np.ones(0),), {}, "at least one example"),
        ((np.ones(3), np.ones(4)), {}, "3, 4 examples.*paired=False"),
        ((np.ones(3),), {"draws": 0}, "draws"),
        ((np.ones(3),), {"level": 1.0}, "level"),
        ((np.ones((3, 2)),), {}, "one number"),
    ],
)
def test_bad_input_is_named(arrays, options, match):
    with pytest.raises(ValueError, match=match):
        bootstrap(lambda *a: np.mean(a[0], axis=0), *arrays, key=KEY, **options)
