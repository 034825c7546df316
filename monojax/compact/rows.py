"""What rows of an index are called, and what is told of them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Metadata = tuple[dict[str, Any], ...]


def check_ids(ids: Any, num: int, like: np.ndarray | None = None) -> np.ndarray:
    """One name per row, none twice: integers or texts.

    Args:
      ids: array-like `[num]`.
      num: of rows.
      like: names of the same index, whose kind these must have.

    Returns:
      int64 or text `[num]`.

    Raises:
      ValueError: on another length or kind, or on a name that is there twice.
    """
    found = np.asarray(ids)
    if found.shape != (num,):
        raise ValueError(f"ids must be one per row, shape ({num},), got shape {found.shape}.")
    if found.dtype.kind not in "iuU" or (found.dtype.kind == "u" and found.max() >= 2**63):
        raise ValueError(f"ids must be integers (64 bits) or texts, got {found.dtype}.")
    found = found if found.dtype.kind == "U" else found.astype(np.int64)
    if like is not None and like.dtype.kind != found.dtype.kind:
        kinds = {"i": "integers", "U": "texts"}
        raise ValueError(
            f"the ids of this index are {kinds[like.dtype.kind]}, got {kinds[found.dtype.kind]}."
        )
    names, counts = np.unique(found, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"ids repeat: {shown(names[counts > 1])}.")
    return found


def places(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Rows of names.

    Args:
      ids: of the index, all different.
      wanted: some of them.

    Returns:
      int64, as many.

    Raises:
      ValueError: naming those that are not there.
    """
    order = np.argsort(ids, kind="stable")
    where = np.searchsorted(ids[order], wanted).clip(0, len(ids) - 1)
    rows = order[where]
    absent = ids[rows] != wanted
    if absent.any():
        raise ValueError(f"the index has no ids {shown(wanted[absent])}.")
    return rows


def check_metadata(metadata: Any, num: int) -> Metadata | None:
    """One dictionary per row, of what JSON can hold.

    Args:
      metadata: sequence of mappings, or None.
      num: of rows.

    Returns:
      The dictionaries, None for None.

    Raises:
      ValueError: on another length, or on what JSON does not hold.
    """
    if metadata is None:
        return None
    if isinstance(metadata, (str, Mapping)) or not isinstance(metadata, Sequence):
        raise ValueError("metadata must be a list with one dictionary per row.")
    if len(metadata) != num or not all(isinstance(each, Mapping) for each in metadata):
        raise ValueError(
            f"metadata must be one dictionary per row: {len(metadata)} entries for {num} rows."
        )
    for row, each in enumerate(metadata):
        try:
            json.dumps(dict(each), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"metadata of row {row}: JSON does not hold it ({error}).") from error
    return tuple(dict(each) for each in metadata)


def to_lines(ids: np.ndarray, metadata: Metadata) -> str:
    """JSON lines, one per row: its id, and what is told of it.

    Args:
      ids: of the rows.
      metadata: of the rows.

    Returns:
      Text.
    """
    pairs = zip(ids.tolist(), metadata, strict=True)
    return "".join(json.dumps({"id": id, "metadata": each}) + "\n" for id, each in pairs)


def from_lines(text: str, ids: np.ndarray) -> Metadata:
    """The inverse of :func:`to_lines`.

    Args:
      text: JSON lines.
      ids: of the index's rows.

    Returns:
      The metadata.

    Raises:
      ValueError: if the lines are not those of these rows.
    """
    lines = [json.loads(line) for line in text.split("\n") if line]
    if [line["id"] for line in lines] != ids.tolist():
        raise ValueError("the lines of metadata are not those of the rows")
    return tuple(line["metadata"] for line in lines)


def shown(names: np.ndarray) -> str:
    """A few names, and how many more there are."""
    some = ", ".join(map(repr, names[:5].tolist()))
    return some + (f" and {len(names) - 5} more" if len(names) > 5 else "")
