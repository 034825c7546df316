"""How well single codes stand for single factors: DCI, MIG, SAP, and rank correlation.

All take codes and the factors' values as integers, and numpy on both sides. High scores need that
every factor has a code of its own; a rotation of good codes brings them down.
"""

from typing import Any, NamedTuple

import numpy as np

from monojax.base.checks import check_number

BINS = 20


class DCI(NamedTuple):
    """Eastwood and Williams' three scores, each in [0, 1]."""

    disentanglement: float
    """Each code matters to one factor only."""
    completeness: float
    """Each factor is told by one code only."""
    informativeness: float
    """Share of held-out values that are predicted, mean over factors."""
    importance: np.ndarray
    """`[codes, factors]`: what each code contributes; columns sum to 1, or to 0 where a factor
    cannot be told at all."""


def dci(codes: Any, factors: Any, *, bins: int = BINS, rounds: int = 30) -> DCI:
    """Disentanglement, completeness, informativeness (Eastwood and Williams, ICLR 2018).

    The predictor is ours: boosted one-code trees with ``bins`` leaves, fitted to the indicator of
    every value by squared error; importance is the error that splits on a code have removed. It
    is additive in the codes, so what only a combination of codes tells counts as not told.

    Args:
      codes: `[n, k]`.
      factors: integers `[n, f]`.
      bins: leaves per tree, of equal counts.
      rounds: trees per factor.

    Returns:
      DCI; the last third of the rows is held out.

    Raises:
      ValueError: on other shapes, NaN, fewer than 30 rows.
    """
    codes, factors = _checked(codes, factors, bins)
    fit = len(codes) - len(codes) // 3
    places = _places(codes, bins, codes[:fit])
    importance = np.zeros((codes.shape[1], factors.shape[1]))
    right = []
    for f in range(factors.shape[1]):
        values, labels = np.unique(factors[:, f], return_inverse=True)
        one_hot = np.eye(len(values))[labels]
        scores, importance[:, f] = _boosted(places, one_hot, fit, bins, rounds)
        right.append((scores[fit:].argmax(1) == labels[fit:]).mean())
    total = importance.sum(0, keepdims=True)
    importance = np.divide(importance, total, out=np.zeros_like(importance), where=total > 1e-9)
    by_code, by_factor = _concentration(importance), _concentration(importance.T)
    weight = importance.sum(1)
    known = importance.sum() > 0
    return DCI(
        disentanglement=float((by_code * weight).sum() / weight.sum()) if known else 0.0,
        completeness=float(by_factor.mean()),
        informativeness=float(np.mean(right)),
        importance=importance,
    )


def mig(codes: Any, factors: Any, *, bins: int = BINS) -> float:
    """Mutual information gap (Chen et al., NeurIPS 2018): mean over factors.

    Per factor: the mutual information of the best code less that of the second, over the factor's
    entropy. Codes are cut into bins of equal counts.

    Args:
      codes: `[n, k]`, k at least 2.
      factors: integers `[n, f]`.
      bins: per code.

    Returns:
      In [0, 1].

    Raises:
      ValueError: as :func:`dci`, and on a single code.
    """
    codes, factors = _checked(codes, factors, bins, least=2)
    places = _places(codes, bins, codes)
    gaps = []
    for f in range(factors.shape[1]):
        values, labels = np.unique(factors[:, f], return_inverse=True)
        told = sorted(_information(place, labels, bins, len(values)) for place in places.T)
        share = np.bincount(labels) / len(labels)
        entropy = -(share * np.log(share)).sum()
        gaps.append((told[-1] - told[-2]) / entropy if entropy > 0 else 0.0)
    return float(np.mean(gaps))


def sap(codes: Any, factors: Any, *, bins: int = BINS) -> float:
    """Separated attribute predictability (Kumar et al., ICLR 2018): mean over factors.

    Per factor: held-out accuracy of the best single code less that of the second. A code predicts
    the commonest value of its bin, where the original has a linear classifier, which cannot tell
    more than two of a factor's values from one code.

    Args:
      codes: `[n, k]`, k at least 2.
      factors: integers `[n, f]`.
      bins: per code.

    Returns:
      In [0, 1].

    Raises:
      ValueError: as :func:`mig`.
    """
    codes, factors = _checked(codes, factors, bins, least=2)
    fit = len(codes) - len(codes) // 3
    places = _places(codes, bins, codes[:fit])
    gaps = []
    for f in range(factors.shape[1]):
        values, labels = np.unique(factors[:, f], return_inverse=True)
        right = []
        for place in places.T:
            counts = np.zeros((bins, len(values)))
            np.add.at(counts, (place[:fit], labels[:fit]), 1)
            right.append((counts.argmax(1)[place[fit:]] == labels[fit:]).mean())
        best = sorted(right)
        gaps.append(best[-1] - best[-2])
    return float(np.mean(gaps))


def spearman(a: Any, b: Any) -> float:
    """Rank correlation; ties share their mean rank.

    Args:
      a: `[n]`.
      b: `[n]`.

    Returns:
      In [-1, 1]; 0 where either is constant.

    Raises:
      ValueError: on different lengths, or NaN.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 1 or a.shape != b.shape or len(a) < 2:
        raise ValueError(f"two lists of equal length are compared, got {a.shape} and {b.shape}.")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("rank correlation of NaN or infinite values; drop them first.")
    a, b = (_ranks(v) - (len(v) - 1) / 2 for v in (a, b))
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count + 1) / 2)[place]


def _checked(codes, factors, bins, least=1) -> tuple[np.ndarray, np.ndarray]:
    codes, factors = np.asarray(codes, np.float64), np.asarray(factors)
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors) or len(codes) < 30:
        raise ValueError(
            "codes must have shape [n, k] and factors [n, f] with n >= 30, got "
            f"{codes.shape} and {factors.shape}."
        )
    if codes.shape[1] < least:
        raise ValueError(f"a gap needs at least {least} codes, got {codes.shape[1]}.")
    if not np.isfinite(codes).all():
        raise ValueError("codes have NaN or infinite values.")
    if not np.issubdtype(factors.dtype, np.integer):
        raise ValueError(f"factors must be integers, one per value, got {factors.dtype}.")
    check_number(bins, "bins", least=2)
    return codes, factors


def _places(codes: np.ndarray, bins: int, of: np.ndarray) -> np.ndarray:
    """The bin of each code, by quantiles of ``of``."""
    columns = zip(codes.T, of.T, strict=True)
    return np.stack([np.searchsorted(_edges(w, bins), v, "right") for v, w in columns], 1)


def _edges(values: np.ndarray, bins: int) -> np.ndarray:
    """Where bins begin, fewer than ``bins``; a value that fills a bin alone has one of its own."""
    levels = np.unique(values)
    edges, times = np.unique(np.quantile(values, np.arange(1, bins) / bins), return_counts=True)
    alone = edges[(times > 1) | (edges <= levels[0])]
    after = np.searchsorted(levels, alone, "right")
    return np.union1d(edges[edges > levels[0]], levels[after[after < len(levels)]])


def _boosted(places, one_hot, fit, bins, rounds) -> tuple[np.ndarray, np.ndarray]:
    """Scores of all rows, and the squared error that each code has removed on the first ones."""
    scores = np.tile(one_hot[:fit].mean(0), (len(places), 1))
    importance = np.zeros(places.shape[1])
    counts = np.stack([np.bincount(place[:fit], minlength=bins) for place in places.T])
    least = 0.01 * ((one_hot[:fit] - scores[:fit]) ** 2).sum()  # a split that removes less is noise
    for _ in range(rounds):
        rest = one_hot[:fit] - scores[:fit]
        best, leaves, removed = -1, np.zeros(0), least
        for code, place in enumerate(places.T):
            sums = np.stack(
                [np.bincount(place[:fit], weights=r, minlength=bins) for r in rest.T], axis=1
            )
            means = sums / (counts[code][:, None] + 1)  # a small pull to 0
            gain = (2 * sums * means - counts[code][:, None] * means**2).sum()
            # What chance removes: one variance per leaf.
            gain -= (rest**2).sum() / fit * bins
            if gain > removed:
                best, leaves, removed = code, means, gain
        if best < 0:
            break
        importance[best] += removed
        scores = scores + 0.5 * leaves[places[:, best]]
    return scores, importance


def _concentration(weights: np.ndarray) -> np.ndarray:
    """1 less the normalised entropy of each row; 0 for a row of zeros."""
    total = weights.sum(1, keepdims=True)
    share = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    entropy = -(share * np.log(np.maximum(share, 1e-300))).sum(1)
    if weights.shape[1] == 1:
        return np.where(total[:, 0] > 0, 1.0, 0.0)
    return np.where(total[:, 0] > 0, 1 - entropy / np.log(weights.shape[1]), 0.0)


def _information(place: np.ndarray, labels: np.ndarray, bins: int, values: int) -> float:
    joint = np.zeros((bins, values))
    np.add.at(joint, (place, labels), 1 / len(place))
    product = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    return float((joint * np.log(np.maximum(joint, 1e-300) / np.maximum(product, 1e-300))).sum())
