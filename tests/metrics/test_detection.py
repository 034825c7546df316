"""AUROC and the rate at equal error: by hand, and against scikit-learn's ROC curve."""

import jax
import numpy as np
import pytest

from monojax.metrics import auroc, detection_rate_at_equal_error

# Means of at most 300 float32 numbers in [0, 1].
ATOL = 2e-6


def brute_force(normal, unfamiliar):
    """All pairs: 1 for a win, 1/2 for a tie."""
    a, b = np.asarray(normal)[:, None], np.asarray(unfamiliar)[None]
    return np.mean((a > b) + 0.5 * (a == b))


@pytest.mark.parametrize("levels", [2, 5, 1000])
@pytest.mark.parametrize("jit", [False, True])
def test_auroc_counts_pairs(levels, jit):
    rng = np.random.default_rng(levels)
    normal = (rng.integers(0, levels, 200) / levels + 0.2).astype(np.float32)
    unfamiliar = (rng.integers(0, levels, 300) / levels).astype(np.float32)
    got = (jax.jit(auroc) if jit else auroc)(normal, unfamiliar)
    np.testing.assert_allclose(got, brute_force(normal, unfamiliar), atol=ATOL)
    np.testing.assert_allclose(auroc(unfamiliar, normal), 1 - got, atol=ATOL)


@pytest.mark.parametrize("levels", [2, 10, 10_000])
@pytest.mark.parametrize("shift", [-0.3, 0.0, 0.5])
def test_agrees_with_scikit_learn(levels, shift):
    sklearn = pytest.importorskip("sklearn.metrics", reason="the oracle is scikit-learn")
    rng = np.random.default_rng(levels)
    normal = (rng.integers(0, levels, 157) / levels + shift).astype(np.float32)
    unfamiliar = (rng.integers(0, levels, 211) / levels).astype(np.float32)
    truth = np.r_[np.ones(157), np.zeros(211)]
    scores = np.r_[normal, unfamiliar]
    want = sklearn.roc_auc_score(truth, scores)
    np.testing.assert_allclose(auroc(normal, unfamiliar), want, atol=ATOL)
    # Unfamiliar inputs are the positives of a detector: they have low scores.
    false_alarms, detected, _ = sklearn.roc_curve(1 - truth, -scores, drop_intermediate=False)
    grid = np.linspace(0, 1, 200_001)
    curve = np.interp(grid, false_alarms, detected)
    # The crossing with detected = 1 - false_alarms; vertical steps are crossed inside.
    i = int(np.argmax(curve + grid >= 1))
    want = 1 - grid[i]
    got = float(detection_rate_at_equal_error(normal, unfamiliar))
    assert got == pytest.approx(want, abs=1e-5)  # the grid's spacing, with a factor 2


@pytest.mark.slow
def test_extremes_and_ties():
    low, high = np.zeros(4), np.ones(7)
    for jit in (False, True):
        area, rate = (jax.jit(f) if jit else f for f in (auroc, detection_rate_at_equal_error))
        assert (float(area(high, low)), float(rate(high, low))) == (1.0, 1.0)
        assert (float(area(low, high)), float(rate(low, high))) == (0.0, 0.0)
        assert (float(area(low, low)), float(rate(low, low))) == (0.5, 0.5)


def test_equal_error_by_hand():
    """Threshold between 2 and 3: one of four wrong on either side."""
    assert float(detection_rate_at_equal_error([2, 4, 5, 6], [0, 1, 1, 3])) == pytest.approx(0.75)


def test_booleans_are_scores_too():
    assert float(auroc(np.array([True, True]), np.array([True, False]))) == 0.75


@pytest.mark.parametrize("metric", [auroc, detection_rate_at_equal_error])
@pytest.mark.parametrize(
    "normal, unfamiliar, message",
    [
        (np.ones((2, 2)), np.ones(2), "normal must be scores of shape"),
        (np.ones(2), np.ones(0), "unfamiliar must be scores of shape"),
        (np.array([1.0, np.nan]), np.ones(2), "normal has NaN"),
        (np.ones(2), 1.0, "unfamiliar must be scores"),
    ],
)
def test_bad_scores_are_refused(metric, normal, unfamiliar, message):
    with pytest.raises(ValueError, match=message):
        metric(normal, unfamiliar)
