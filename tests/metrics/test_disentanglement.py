"""Scores on codes that are made up: perfect, permuted, duplicated, rotated, noise."""

import numpy as np
import pytest

from monojax.metrics import DCI, dci, mig, sap, spearman

RNG = np.random.default_rng(0)
FACTORS = np.stack([RNG.integers(n, size=3000) for n in (10, 8, 4)], 1)
UNIT = (FACTORS - FACTORS.mean(0)) / FACTORS.std(0)
NOISE = 0.01 * RNG.normal(size=UNIT.shape)


def scores(codes):
    found = dci(codes, FACTORS)
    return (*found[:3], mig(codes, FACTORS), sap(codes, FACTORS))


def test_perfect_codes_score_one():
    """In any order, direction and scale, and as a curve of the factor."""
    for codes in (UNIT, -3 * UNIT[:, ::-1], np.exp(UNIT)):
        disentangled, complete, informative, gap, apart = scores(codes + NOISE)
        assert disentangled > 0.98 and complete > 0.98
        assert informative > 0.88  # bins of equal counts hold rows of two values at their ends
        assert gap > 0.9
        assert apart > 0.7  # the second best still guesses one of 4, 8 or 10
    order = dci(-UNIT[:, ::-1], FACTORS).importance.argmax(0)
    assert order.tolist() == [2, 1, 0]


def test_a_second_copy_costs_completeness_and_gaps_only():
    codes = np.concatenate([UNIT, UNIT + 0.3 * RNG.normal(size=UNIT.shape)], 1)
    disentangled, complete, _, gap, _ = scores(codes)
    assert disentangled > 0.95 and complete > 0.8 and gap < 0.7
    twice = np.concatenate([UNIT, UNIT], 1)
    assert mig(twice, FACTORS) == pytest.approx(0, abs=1e-12)
    assert sap(twice, FACTORS) == 0


def test_entangled_codes_score_low():
    """A rotation that spreads every factor over all codes alike."""
    turn = np.array([[1, 1, 1], [1, -0.5, -0.5], [0, 1, -1]]) / np.sqrt([[3], [1.5], [2]])
    disentangled, complete, informative, gap, apart = scores(UNIT @ turn + NOISE)
    assert disentangled < 0.45 and complete < 0.45 and gap < 0.2 and apart < 0.2
    assert informative < 0.9
    one = np.repeat(UNIT.sum(1, keepdims=True), 3, 1) + NOISE
    assert dci(one, FACTORS).disentanglement < 0.1


def test_noise_tells_nothing():
    found = dci(RNG.normal(size=UNIT.shape), FACTORS)
    assert isinstance(found, DCI) and found.importance.max() == 0
    assert found.informativeness < 0.25  # the mean of 1/10, 1/8 and 1/4 is 0.16
    assert mig(RNG.normal(size=UNIT.shape), FACTORS) < 0.02
    constant = dci(np.ones((60, 2)), FACTORS[:60])
    assert constant.disentanglement == 0 and constant.completeness == 0


def test_spearman_by_hand():
    assert spearman([1, 2, 3, 4], [1, 8, 27, 64]) == pytest.approx(1)
    assert spearman([1, 2, 3], [5, 1, 0]) == pytest.approx(-1)
    # Ranks 0.5 0.5 2 3 against 0 1 2 3.
    assert spearman([1, 1, 2, 3], [0, 1, 2, 3]) == pytest.approx(4.5 / np.sqrt(4.5 * 5))
    assert spearman([1, 1], [0, 1]) == 0
    with pytest.raises(ValueError, match="equal length"):
        spearman([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="NaN"):
        spearman([1, np.nan], [1, 2])


def test_wrong_arguments_are_named():
    for call in (dci, mig, sap):
        with pytest.raises(ValueError, match="n >= 30"):
            call(UNIT[:20], FACTORS[:20])
        with pytest.raises(ValueError, match="must be integers"):
            call(UNIT, UNIT)
        with pytest.raises(ValueError, match="NaN"):
            call(np.full_like(UNIT, np.nan), FACTORS)
    with pytest.raises(ValueError, match="at least 2 codes"):
        mig(UNIT[:, :1], FACTORS)


def test_sparse_codes_in_either_direction():
    """A code that is one value nearly everywhere has a bin for it, whichever end it is."""
    codes = np.zeros((1000, 2))
    codes[::25, 0] = 1
    codes[1::40, 1] = 1
    factors = codes.astype(int)
    for sign in (1, -1):
        assert mig(sign * codes, factors) > 0.98
        assert dci(sign * codes, factors)[:3] == pytest.approx((1, 1, 1), abs=1e-9)
    middle = np.repeat([0.0, 1.0, 2.0], [15, 970, 15])
    twice = np.stack([middle, np.random.default_rng(0).normal(size=1000)], 1)
    assert mig(twice, np.stack([middle.astype(int)] * 2, 1)) > 0.5
