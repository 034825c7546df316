"""Search for violations of promised directions by any fitted model: measured, never a proof.

Three searches, all of them along one constrained column at a time, at values that the data have:
random pairs of rows, of which one lends the other its value of the column (their violations are
counted: the rate); sweeps of random rows through a grid of the column's values; and fine sweeps of
the rows that were worst so far.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from monojax.base.checks import check_function, check_number, check_width
from monojax.base.directions import check_directions
from monojax.certify.search import typed_key

BATCH = 16_384
"""Rows that are predicted in one call."""
COARSE, FINE = 32, 512
"""Values of a column in a first and in a second sweep, at most."""
REDRAWS = 20
"""How often a pair of equal values is drawn again."""

Predict = Callable[[np.ndarray], Any]


class Audit(NamedTuple):
    """Violations of promised directions that were found; none found is no proof."""

    rate: float
    """Share of random pairs that violate, in [0, 1]."""
    feature: np.ndarray
    """int `[k]`: the column in which the rows of a pair differ."""
    lower: np.ndarray
    """`[k, d]`: the row that is promised the smaller prediction, of at most."""
    upper: np.ndarray
    """`[k, d]`: the same row but for its column, moved in the promised direction."""
    drop: np.ndarray
    """float64 `[k]`: ``predict(lower) - predict(upper)``, positive, the largest first."""


class _Found(NamedTuple):
    """Pairs that were compared: rows of X, their column, and its two values in order."""

    row: np.ndarray
    feature: np.ndarray
    low: np.ndarray
    high: np.ndarray
    drop: np.ndarray


def audit_monotone(
    predict: Predict,
    X: Any,
    monotonic_cst: Any,
    *,
    key: jax.Array,
    pairs: int = 100_000,
    worst: int = 10,
    tolerance: float | None = None,
) -> Audit:
    """Measures how often a fitted model breaks its promised directions, and where it does worst.

    For any model: XGBoost, LightGBM, scikit-learn, torch. A rate of 0 says that these pairs keep
    the promise and nothing of others; `certify_monotone` proves it, for functions of jax.

    Args:
      predict: map of rows `[m, d]` (numpy, the dtype of ``X``) to finite predictions `[m]` or
        `[m, 1]`; of a classifier, ``lambda X: model.predict_proba(X)[:, 1]``.
      X: rows `[n, d]`, numbers; NaN where a value is missing. Constrained columns take values that
        they have here.
      monotonic_cst: `[d]`: +1 rising, -1 falling, 0 free.
      key: PRNG key of the random rows.
      pairs: random pairs; the sweeps take about as many predictions again.
      worst: how many pairs are returned at most, each of another row or column.
      tolerance: a drop up to this much is rounding and not counted; None is 16 units in the last
        place of the largest prediction, in the predictions' own dtype.

    Returns:
      Audit.

    Raises:
      ValueError: on wrong shapes, options or directions, on predictions of another shape or that
        are not finite, and if no two rows differ in a constrained column.
    """
    check_function(predict, "predict", "audit_monotone(predict, X, monotonic_cst, key=key)")
    check_width(pairs, "pairs")
    check_width(worst, "worst")
    if tolerance is not None:
        check_number(tolerance, "tolerance", least=0)
    X = _rows(X)
    signs = np.asarray(check_directions(monotonic_cst, X.shape[1]))
    values = {int(i): np.unique(X[~np.isnan(X[:, i]), i]) for i in np.flatnonzero(signs)}
    values = {i: column for i, column in values.items() if len(column) > 1}
    if not values:
        raise ValueError("no two rows of X differ in a constrained column: nothing to compare.")
    rng = np.random.default_rng(np.asarray(jax.random.key_data(typed_key(key))).tolist())
    model = _Model(predict, X)
    drawn = _random_pairs(model, signs, values, rng, pairs)
    slack = model.rounding() if tolerance is None else float(tolerance)
    rate = float(np.mean(drawn.drop > slack)) if len(drawn.drop) else 0.0
    rows = max(1, pairs // sum(min(len(column), COARSE) for column in values.values()))
    coarse = [
        _sweep(model, signs, i, rng.permutation(len(X))[:rows], _grid(column, COARSE))
        for i, column in values.items()
    ]
    best = _top(_joined([drawn, *coarse]), worst)
    fine = [
        _sweep(model, signs, int(i), best.row[k : k + 1], _grid(values[int(i)], FINE))
        for k, i in enumerate(best.feature)
    ]
    return _reported(model, signs, _top(_joined([best, *fine]), worst), rate, slack)


def _rows(X: Any) -> np.ndarray:
    X = np.asarray(X)
    if X.ndim != 2 or len(X) < 2 or X.dtype.kind not in "biuf":
        raise ValueError(
            f"X must be numbers of shape [n, d] with n >= 2, got {X.dtype} of shape {X.shape}."
        )
    return X if X.dtype.kind == "f" else X.astype(np.float64)


class _Model:
    """Predictions in batches, checked, and the largest that was seen."""

    def __init__(self, predict: Predict, X: np.ndarray) -> None:
        self.predict, self.X = predict, X
        self.largest, self.eps = 0.0, 0.0

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        parts = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
        return np.concatenate([self._batch(part) for part in parts])

    def moved(self, row: np.ndarray, feature: Any, value: np.ndarray) -> np.ndarray:
        """Predictions for rows of X that got another value in one column."""
        parts = []
        feature = np.broadcast_to(feature, row.shape)
        for i in range(0, len(row), BATCH):
            part = slice(i, i + BATCH)
            rows = self.X[row[part]]
            rows[np.arange(len(rows)), feature[part]] = value[part]
            parts.append(self._batch(rows))
        return np.concatenate(parts)

    def rounding(self) -> float:
        return 16 * self.eps * self.largest

    def _batch(self, rows: np.ndarray) -> np.ndarray:
        out = np.asarray(self.predict(rows))
        if out.shape not in ((len(rows),), (len(rows), 1)) or out.dtype.kind not in "biuf":
            raise ValueError(
                f"predict must map [{len(rows)}, d] to one number a row, got {out.dtype} of shape "
                f"{out.shape}; choose one, for example lambda X: model.predict_proba(X)[:, 1]."
            )
        if out.dtype.kind == "f":
            self.eps = max(self.eps, float(np.finfo(out.dtype).eps))
        out = out.reshape(-1).astype(np.float64)
        if not np.isfinite(out).all():
            raise ValueError("predict gave a value that is not finite.")
        self.largest = max(self.largest, float(np.abs(out).max()))
        return out


def _random_pairs(model, signs, values, rng, pairs) -> _Found:
    """Pairs of rows: the first one as it is, and with the second one's value of a column."""
    X, columns = model.X, np.fromiter(values, int)
    row = rng.integers(len(X), size=pairs)
    feature = rng.choice(columns, size=pairs)
    own, other = X[row, feature], X[row, feature]
    for _ in range(REDRAWS):
        same = ~(own != other) | np.isnan(other)  # a missing value has no order
        if not same.any():
            break
        other = np.where(same, X[rng.integers(len(X), size=pairs), feature], other)
    keep = (own < other) | (own > other)
    row, feature, own, other = row[keep], feature[keep], own[keep], other[keep]
    if not len(row):
        return _Found(row, feature, own, other, np.zeros(0))
    used, back = np.unique(row, return_inverse=True)
    here, there = model(X[used])[back.reshape(-1)], model.moved(row, feature, other)
    rises = (other > own) == (signs[feature] > 0)  # the value moves in the promised direction
    low, high = np.where(rises, own, other), np.where(rises, other, own)
    return _Found(row, feature, low, high, np.where(rises, here - there, there - here))


def _grid(column: np.ndarray, most: int) -> np.ndarray:
    """All values of a column, or as many of them, evenly by rank, its ends among them."""
    if len(column) <= most:
        return column
    return column[np.unique(np.linspace(0, len(column) - 1, most).round().astype(int))]


def _sweep(model, signs, i: int, rows: np.ndarray, grid: np.ndarray) -> _Found:
    """Each row's largest drop from any value of a grid to any later one."""
    grid = grid if signs[i] > 0 else grid[::-1]
    many = np.repeat(rows, len(grid))
    found = model.moved(many, i, np.tile(grid, len(rows))).reshape(len(rows), len(grid))
    peak = np.maximum.accumulate(found, axis=1)
    end = np.argmax(peak - found, axis=1)
    at = np.arange(len(rows))
    start = np.argmax(found == peak[at, end][:, None], axis=1)
    drop = found[at, start] - found[at, end]
    return _Found(rows, np.full(len(rows), i), grid[start], grid[end], drop)


def _joined(parts: list[_Found]) -> _Found:
    return _Found(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def _top(found: _Found, count: int) -> _Found:
    """The largest drops, of each row and column one."""
    order = np.argsort(-found.drop, kind="stable")[: 100 * count]
    pairs = np.stack([found.row[order], found.feature[order]], axis=1)
    _, first = np.unique(pairs, axis=0, return_index=True)
    keep = order[np.sort(first)][:count]
    return _Found(*(field[keep] for field in found))


def _reported(model, signs, best: _Found, rate: float, slack: float) -> Audit:
    """The pairs as rows, with their drop as it is predicted for them together."""
    lower, upper = model.X[best.row], model.X[best.row]
    at = np.arange(len(best.row))
    lower[at, best.feature], upper[at, best.feature] = best.low, best.high
    both = model(np.concatenate([lower, upper]))
    drop = both[: len(at)] - both[len(at) :]
    order = np.argsort(-drop, kind="stable")
    order = order[drop[order] > slack]
    return Audit(rate, best.feature[order], lower[order], upper[order], drop[order])
