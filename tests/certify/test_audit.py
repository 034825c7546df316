"""Audits: violations that are there are found, and none are made up."""

import jax
import numpy as np
import pytest

from monojax.certify import audit_monotone

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.standard_normal((500, 3))


def test_a_monotone_model_has_no_violation():
    model = lambda rows: 2 * rows[:, 0] - np.exp(rows[:, 1]) + np.sin(rows[:, 2])
    found = audit_monotone(model, X, [1, -1, 0], key=KEY, pairs=2000)
    assert found.rate == 0
    assert found.feature.shape == found.drop.shape == (0,)
    assert found.lower.shape == found.upper.shape == (0, 3)


def test_a_falling_model_violates_with_every_pair():
    """The worst pair of a linear model joins the column's smallest and largest value."""
    found = audit_monotone(lambda rows: -2 * rows[:, :1], X, [1, 0, 0], key=KEY, pairs=2000)
    assert found.rate == 1
    assert (found.feature == 0).all() and len(found.drop) == 10
    spread = X[:, 0].max() - X[:, 0].min()
    np.testing.assert_allclose(found.drop, 2 * spread, rtol=1e-12)
    np.testing.assert_array_equal(found.lower[:, 1:], found.upper[:, 1:])
    assert (found.lower[:, 0] < found.upper[:, 0]).all()


def test_directions_and_drops_are_those_of_the_model():
    model = lambda rows: np.square(rows[:, 0]) * rows[:, 1]
    found = audit_monotone(model, X, np.asarray([0, -1, 1]), key=KEY, pairs=3000, worst=4)
    assert 0.3 < found.rate < 0.7  # the second column violates with every pair, the third with none
    assert (found.feature == 1).all() and len(found.drop) == 4
    assert (found.upper[:, 1] < found.lower[:, 1]).all()  # moved as promised: down
    drop = model(found.lower) - model(found.upper)
    np.testing.assert_array_equal(found.drop, drop)
    assert (drop > 0).all() and (np.diff(drop) <= 0).all()


def test_a_rare_violation_is_found_by_the_sweeps():
    """One value of a column in 500 breaks the promise, for rows of one kind alone."""
    rare = np.sort(X[:, 0])[250]

    def model(rows):
        return rows[:, 0] - 5.0 * ((rows[:, 0] == rare) & (rows[:, 1] > 1))

    found = audit_monotone(model, X, [1, 0, 0], key=KEY, pairs=20_000)
    assert 0 < found.rate < 0.01
    assert 4.9 < found.drop[0] < 5  # from the value just below it
    assert (found.upper[:, 0] == rare).all() and (found.upper[:, 1] > 1).all()


def test_the_result_repeats_and_rounding_is_no_violation():
    model = lambda rows: (1.0 + 1e-9 * rows[:, 0] ** 2).astype(np.float32)
    found = audit_monotone(model, X.astype(np.float32), [1, 0, 0], key=KEY, pairs=500)
    assert found.rate == 0 and not len(found.drop)
    exact = lambda rows: 1.0 - 1e-9 * rows[:, 0]
    assert audit_monotone(exact, X, [1, 0, 0], key=KEY, pairs=500).rate == 1
    assert audit_monotone(exact, X, [1, 0, 0], key=KEY, pairs=500, tolerance=1e-6).rate == 0
    wave = lambda rows: np.sin(3 * rows[:, 0])
    one, two = (audit_monotone(wave, X, [1, 0, 0], key=KEY, pairs=500) for _ in range(2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def test_missing_values_and_constant_columns_are_left_out():
    holed = X.copy()
    holed[::2, 0] = np.nan
    holed[:, 1] = 7
    model = lambda rows: -np.nan_to_num(rows[:, 0])
    found = audit_monotone(model, holed, [1, 1, 0], key=KEY, pairs=500)
    assert found.rate == 1 and (found.feature == 0).all()
    assert np.isfinite(found.lower[:, 0]).all() and np.isfinite(found.upper[:, 0]).all()


def test_integers_and_old_keys():
    counts = RNG.integers(0, 3, (50, 2))
    found = audit_monotone(lambda r: -r[:, 0], counts, [1, 0], key=jax.random.PRNGKey(1), pairs=9)
    assert found.rate == 1 and found.drop[0] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(X=X[:1]), "n >= 2"),
        (dict(X=np.asarray([["a"], ["b"]])), "numbers"),
        (dict(monotonic_cst=[1, 0]), "3 inputs, directions name 2"),
        (dict(monotonic_cst=[0, 0, 0]), "nothing to compare"),
        (dict(predict=lambda rows: rows), "predict_proba"),
        (dict(predict=lambda rows: rows[:, 0] / 0 * 0), "not finite"),
        (dict(predict=1), "must be a function"),
        (dict(pairs=0), "pairs"),
        (dict(tolerance=-1.0), "tolerance"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*encountered")
def test_mistakes_are_told(options, message):
    call = dict(predict=lambda rows: rows[:, 0], X=X, monotonic_cst=[1, 0, 0], key=KEY, pairs=10)
    with pytest.raises((ValueError, TypeError), match=message):
        audit_monotone(**call | options)
