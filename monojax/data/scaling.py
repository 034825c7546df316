"""Affine scaling of columns, and the rows of the training, validation and test parts."""

from typing import NamedTuple

import numpy as np


class Scaling(NamedTuple):
    """An affine map per column, ``(raw - offset) / scale``; all arrays float64, shape `[d]`.

    ``raw_low`` and ``raw_high`` are the range of the rows it was fitted on, ``low`` and ``high``
    the box that they are mapped into.
    """

    offset: np.ndarray
    scale: np.ndarray
    raw_low: np.ndarray
    raw_high: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def __call__(self, raw: np.ndarray) -> np.ndarray:
        """Scales raw values `[..., d]`; nothing is clipped."""
        return (raw - self.offset) / self.scale


def min_max(rows: np.ndarray) -> Scaling:
    """Maps the range of each column of ``rows`` `[n, d]` to [0, 1]; a constant column to 0."""
    low, high = rows.min(axis=0), rows.max(axis=0)
    width = np.where(high > low, high - low, 1.0)
    return Scaling(low, width, low, high, np.zeros_like(low), np.ones_like(low))


def standardise(rows: np.ndarray) -> Scaling:
    """Maps each column of ``rows`` `[n, d]` to mean 0 and standard deviation 1 (ddof=1)."""
    low, high = rows.min(axis=0), rows.max(axis=0)
    mean = rows.mean(axis=0)
    sd = np.where(high > low, rows.std(axis=0, ddof=1), 1.0)
    return Scaling(mean, sd, low, high, (low - mean) / sd, (high - mean) / sd)


def identity(rows: np.ndarray) -> Scaling:
    """Leaves the columns of ``rows`` `[n, d]` as they are."""
    low, high = rows.min(axis=0), rows.max(axis=0)
    return Scaling(np.zeros_like(low), np.ones_like(low), low, high, low, high)


class Rows(NamedTuple):
    """Row numbers of the three parts, sorted, disjoint."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def hold_out(
    rows: np.ndarray, share: float, rng: np.random.Generator, classes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Splits row numbers at random into (kept, held out), each sorted.

    Args:
      rows: row numbers, shape `[n]`.
      share: the share to hold out, rounded to whole rows (per class if stratified).
      rng: source of the permutation.
      classes: the class of each row, shape `[n]`, to hold out the same share of every class.

    Returns:
      ``(kept, held_out)``.

    Raises:
      ValueError: if one of the two would be empty.
    """
    groups = [rows] if classes is None else [rows[classes == c] for c in np.unique(classes)]
    held = [rng.permutation(g)[: round(share * len(g))] for g in groups]
    held_out = np.sort(np.concatenate(held))
    kept = np.setdiff1d(rows, held_out)
    if not len(kept) or not len(held_out):
        raise ValueError(
            f"holding out a share of {share} of {len(rows)} rows leaves {len(kept)} and "
            f"{len(held_out)} rows; both parts need at least one."
        )
    return kept, held_out
