"""How numbers of an index are kept: float32, float16, or one byte each with a scale."""

from typing import Any, Literal, NamedTuple

import numpy as np

from monojax.base.checks import one_of

Storage = Literal["float32", "float16", "int8"]
STORAGES = ("float32", "float16", "int8")
LARGEST = 127
"""Of the codes, on both sides: 0 stays 0."""


class Stored(NamedTuple):
    """Rows as they are kept."""

    codes: np.ndarray
    """`[n, k]`, float32, float16 or int8."""
    scale: np.ndarray | None
    """float32 `[k]`: what one step of an int8 code is worth, None otherwise."""
    row_scale: np.ndarray | None
    """float32 `[n]`: rows beyond the range of ``scale`` are divided by it; None if all are 1."""


def store(rows: np.ndarray, storage: str, scale: np.ndarray | None = None) -> Stored:
    """Rows in their stored form. What a row becomes depends on it and on ``scale`` alone.

    Args:
      rows: floats `[n, k]`.
      storage: "float32", "float16" or "int8".
      scale: of an index that is there; None takes the largest entry of each column.

    Returns:
      Stored.

    Raises:
      ValueError: on another storage.
    """
    one_of(storage, STORAGES, "storage")
    if storage != "int8":
        return Stored(rows.astype(storage), None, None)
    rows = np.asarray(rows, np.float64)
    if scale is None:
        largest = np.abs(rows).max(axis=0) / LARGEST
        scale = np.where(largest > 0, largest, 1).astype(np.float32)
    steps = rows / np.asarray(scale, np.float64)
    reach = np.abs(steps).max(axis=1) / LARGEST
    # The rounding of `scale` to float32 may leave the largest entry a hair beyond the range.
    row_scale = np.where(reach > 1 + 1e-6, reach, 1).astype(np.float32)
    codes = np.rint(steps / row_scale[:, None].astype(np.float64))
    codes = np.clip(codes, -LARGEST, LARGEST).astype(np.int8)
    return Stored(codes, scale, None if (row_scale == 1).all() else row_scale)


def restore(stored: Stored, rows: Any = slice(None)) -> np.ndarray:
    """Numbers of stored rows.

    Args:
      stored: from :func:`store`.
      rows: which, a slice or indices.

    Returns:
      float32 `[m, k]`; float16 codes stay float16.
    """
    codes = stored.codes[rows]
    if stored.scale is None:
        return codes
    numbers = codes.astype(np.float32) * stored.scale[None, :]
    if stored.row_scale is None:
        return numbers
    return numbers * stored.row_scale[rows][:, None]


def joined(one: Stored, other: Stored) -> Stored:
    """The rows of both, which have one scale."""
    return Stored(
        np.concatenate([one.codes, other.codes]),
        one.scale,
        _tidy(np.concatenate([_row_scale(one), _row_scale(other)])),
    )


def taken(stored: Stored, rows: np.ndarray) -> Stored:
    """Some of the rows."""
    return Stored(stored.codes[rows], stored.scale, _tidy(_row_scale(stored)[rows]))


def exchanged(stored: Stored, rows: np.ndarray, new: Stored) -> Stored:
    """Other rows in those places."""
    codes, row_scale = np.array(stored.codes), np.array(_row_scale(stored))
    codes[rows], row_scale[rows] = new.codes, _row_scale(new)
    return Stored(codes, stored.scale, _tidy(row_scale))


def num_bytes(stored: Stored) -> int:
    """Bytes that the rows take, scales included."""
    return sum(part.nbytes for part in stored if part is not None)


def _row_scale(stored: Stored) -> np.ndarray:
    if stored.row_scale is None:
        return np.ones(len(stored.codes), np.float32)
    return stored.row_scale


def _tidy(row_scale: np.ndarray) -> np.ndarray | None:
    return None if (row_scale == 1).all() else row_scale
