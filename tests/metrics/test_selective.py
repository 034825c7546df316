"""Precision, false acceptance, risk and calibration: by hand, by counting, by scikit-learn."""

import functools

import jax
import numpy as np
import pytest

from monojax.metrics import (
    auprc,
    aurc,
    auroc,
    bootstrap,
    coverage_at_risk,
    expected_calibration_error,
    fpr_at_tpr,
)

# Means of at most 200 float32 numbers in [0, 1].
ATOL = 2e-6
RNG = np.random.default_rng(0)


def draws(levels, shift=0.2):
    normal = (RNG.integers(0, levels, 157) / levels + shift).astype(np.float32)
    return normal, (RNG.integers(0, levels, 111) / levels).astype(np.float32)


@pytest.mark.parametrize("levels", [2, 10_000])
def test_average_precision_is_that_of_scikit_learn(levels):
    sklearn = pytest.importorskip("sklearn.metrics", reason="the oracle is scikit-learn")
    normal, strange = draws(levels)
    truth, scores = np.r_[np.ones(157), np.zeros(111)], np.r_[normal, strange]
    want = sklearn.average_precision_score(truth, scores)
    np.testing.assert_allclose(auprc(normal, strange), want, atol=ATOL)
    np.testing.assert_allclose(jax.jit(auprc)(normal, strange), want, atol=ATOL)
    want = sklearn.average_precision_score(1 - truth, -scores)
    found = auprc(normal, strange, positive="unfamiliar")
    np.testing.assert_allclose(found, want, atol=ATOL)


def test_false_acceptance_by_counting():
    normal, strange = draws(1000)
    for tpr in (0.01, 0.5, 0.95, 1.0):
        accepting = [t for t in normal if np.mean(normal >= t) >= tpr - 1e-9]
        want = np.mean(strange >= max(accepting))
        np.testing.assert_allclose(fpr_at_tpr(normal, strange, tpr=tpr), want, atol=ATOL)
    assert float(fpr_at_tpr(np.ones(3), np.ones(4))) == 1
    assert float(fpr_at_tpr(np.arange(20), np.array([0.5, 1.0, 2.5, 0.2]))) == 0.5


def risks(scores, correct):
    """Errors among the k best, for every k, ties in the given order."""
    order = np.argsort(-scores, kind="stable")
    return np.cumsum(1 - correct[order]) / np.arange(1, len(scores) + 1)


def test_risk_and_coverage_by_counting():
    scores, correct = RNG.permutation(200) / 200, RNG.random(200) < 0.8
    each = risks(scores, correct)
    np.testing.assert_allclose(jax.jit(aurc)(scores, correct), each.mean(), atol=ATOL)
    want = max((k + 1 for k in range(200) if each[k] <= 0.15 + 1e-9), default=0) / 200
    within = jax.jit(lambda s, c, risk: coverage_at_risk(s, c, risk=risk))
    np.testing.assert_allclose(within(scores, correct, 0.15), want, atol=ATOL)
    # 10 errors of 200 are 5%.
    right = np.arange(200) < 190
    assert float(within(-np.arange(200.0), right, 0.05)) == 1
    assert float(within(np.arange(200.0), right, 0.0)) == 0  # the most certain one is wrong


@pytest.mark.slow
def test_ties_count_in_any_order():
    scores, correct = RNG.integers(0, 4, 60) / 4.0, RNG.random(60) < 0.7
    shuffled = []
    for _ in range(3000):
        order = RNG.permutation(60)
        shuffled.append(risks(scores[order], correct[order]).mean())
    # The mean over orders; its standard error is 0.0006 here.
    assert float(aurc(scores, correct)) == pytest.approx(np.mean(shuffled), abs=3e-3)
    assert float(aurc(np.zeros(10), np.arange(10) < 7)) == pytest.approx(0.3)
    # A threshold takes both of the tied or none.
    assert float(coverage_at_risk(np.array([1.0, 1.0]), np.array([1, 0]), risk=0.4)) == 0


def test_calibration_by_hand():
    confidence, correct = np.array([0.95, 0.95, 0.55, 0.1]), np.array([1, 1, 0, 0])
    want = (0.1 + 0.55 + 0.1) / 4
    found = jax.jit(expected_calibration_error)(confidence, correct)
    np.testing.assert_allclose(found, want, atol=ATOL)
    edges = np.array([0.0, 1.0, 0.0, 1.0]), np.array([1, 1, 0, 0])
    assert float(expected_calibration_error(*edges)) == pytest.approx(0.5)


@pytest.mark.slow
def test_each_has_a_bootstrap_interval():
    scores, correct = RNG.random(80), RNG.random(80) < 0.9
    key = jax.random.key(0)
    for metric in (aurc, coverage_at_risk, expected_calibration_error):
        value, low, high = bootstrap(jax.jit(metric), scores, correct, key=key, draws=40)
        assert low <= value <= high or (metric is not aurc and low <= high)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: auprc(np.ones((2, 2)), np.ones(2)), "normal must be scores"),
        (lambda: auprc(np.ones(2), np.ones(2), positive="ood"), "positive"),
        (lambda: fpr_at_tpr(np.ones(2), np.ones(0)), "unfamiliar must be scores"),
        (lambda: fpr_at_tpr(np.ones(2), np.ones(2), tpr=0.0), "tpr must be finite and > 0"),
        (lambda: aurc(np.ones(2), np.ones(3)), "one shape"),
        (lambda: aurc(np.array([1.0, np.nan]), np.ones(2)), "NaN"),
        (lambda: aurc(np.ones(2), np.array([0, 2])), "True or False"),
        (lambda: coverage_at_risk(np.ones(2), np.ones(2), risk=1.5), "risk"),
        (lambda: expected_calibration_error(np.array([1.2]), np.ones(1)), r"\[0, 1\]"),
        (lambda: expected_calibration_error(np.ones(1), np.ones(1), bins=0), "bins"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_unsigned_and_least_scores_under_jit():
    correct = np.array([0, 1, 1, 1])
    for scores in (np.array([0, 1, 2, 3], np.uint8), np.array([-(2**31), 1, 2, 3], np.int32)):
        assert float(jax.jit(aurc)(scores, correct)) == float(aurc(scores, correct)) == 0.0625
        assert float(jax.jit(coverage_at_risk)(scores, correct)) == 0.75


def test_calibration_of_millions():
    n = 2_000_000
    found = expected_calibration_error(np.full(n, 0.9, np.float32), np.ones(n, bool))
    assert float(found) == pytest.approx(0.1, abs=1e-5)


def test_detectors_of_unsigned_and_large_integers_under_jit():
    normal, strange = np.array([3, 2, 5], np.uint8), np.array([0, 1, 4], np.uint8)
    both = functools.partial(auprc, positive="unfamiliar")
    assert float(jax.jit(both)(normal, strange)) == float(both(normal, strange)) > 0.8
    near = np.array([2**24 + 1]), np.array([2**24])  # float32 holds them as one number
    assert float(jax.jit(auroc)(*near)) == float(auroc(*near)) == 1.0
    assert float(jax.jit(auroc)(np.array([3000.0], np.float16), np.array([2999]))) == 1.0


def test_a_float32_share_of_the_normal_ones():
    assert float(fpr_at_tpr(np.arange(5.0), [1.5], tpr=np.float32(0.6))) == 0.0
