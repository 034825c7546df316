"""Reading a CSV file of named columns into a matrix, as a layout says."""

import csv
import gzip
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

Cells = dict[str, list[str]]  # column name -> the text of every row


@dataclass(frozen=True)
class Column:
    """One column of a CSV file and how it becomes numbers.

    Attributes:
      name: the column's name in the header line.
      unit: unit of the raw values, ``""`` for counts, codes and shares.
      direction: +1 if the target should not decrease with it, -1 if not increase, 0 if free.
      codes: values for cells that are not to be read as a number, by their text.
      levels: if given, the column is one-hot encoded into these levels, in this order.
    """

    name: str
    unit: str = ""
    direction: int = 0
    codes: Mapping[str, float] = field(default_factory=dict)
    levels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Feature:
    """One input after encoding: its name, the unit of its raw values, its direction."""

    name: str
    unit: str
    direction: int


@dataclass(frozen=True)
class RawTable:
    """A data set before splitting and scaling.

    Attributes:
      features: the inputs in order, length d.
      x: raw inputs, float64, shape `[n, d]`.
      y: raw targets, float64, shape `[n]`.
      part: ``"train"`` or ``"test"`` per row, shape `[n]`, or None if the set comes unsplit.
      dropped: number of rows of the file that are left out.
    """

    features: tuple[Feature, ...]
    x: np.ndarray
    y: np.ndarray
    part: np.ndarray | None
    dropped: int


@dataclass(frozen=True)
class Split:
    """How a file's column says which rows are for training and which for testing.

    Attributes:
      column: the column that decides.
      rule: maps its cell to ``"train"``, ``"test"``, or ``"drop"`` (the row is left out).
    """

    column: str
    rule: Callable[[str], str]


@dataclass(frozen=True)
class Layout:
    """What to read from a CSV file.

    Attributes:
      columns: the inputs, in order.
      target: the target.
      split: how rows are assigned, or None if the file has no split.
      drop_incomplete: leave out rows with an empty cell in a column that is read; otherwise such
        a cell is an error.
    """

    columns: tuple[Column, ...]
    target: Column
    split: Split | None = None
    drop_incomplete: bool = False


def split_column(*drop: str) -> Split:
    """The file's own ``split`` column: ``train``, ``test``, and the values ``drop`` to skip."""
    parts = {"train": "train", "test": "test", **dict.fromkeys(drop, "drop")}

    def rule(cell: str) -> str:
        if cell not in parts:
            raise ValueError(f"column 'split' has {cell!r}, expected one of {sorted(parts)}.")
        return parts[cell]

    return Split("split", rule)


def split_from(column: str, first_test: str) -> Split:
    """Rows whose ``column`` sorts at or after ``first_test`` are for testing (dates yyyy-mm)."""
    return Split(column, lambda cell: "test" if cell >= first_test else "train")


def read_table(content: bytes, where: str, layout: Layout) -> RawTable:
    """Reads, filters and encodes a CSV file.

    Args:
      content: the file, UTF-8, gzip-compressed or not.
      where: path for messages.
      layout: what to read.

    Returns:
      The rows in file order.

    Raises:
      ValueError: on a missing column, a row of another length, a cell that is no finite number,
        an unknown level, or an empty cell where none is allowed; names column and row.
    """
    needed = [c.name for c in (*layout.columns, layout.target)]
    if layout.split is not None:
        needed.append(layout.split.column)
    cells = read_cells(content, needed, where)
    num_rows = len(cells[layout.target.name])
    part = np.full(num_rows, "train", dtype="<U5")
    if layout.split is not None:
        rule = layout.split.rule
        part = np.array([rule(cell) for cell in cells[layout.split.column]], dtype="<U5")
    kept = np.flatnonzero(part != "drop")
    if layout.drop_incomplete:
        kept = kept[_complete(cells, layout, kept)]
    x, features = [], []
    for column in layout.columns:
        values = [cells[column.name][i] for i in kept]
        x.append(encode(column, values, where, kept))
        features.extend(_features(column))
    y = encode(layout.target, [cells[layout.target.name][i] for i in kept], where, kept)[:, 0]
    return RawTable(
        features=tuple(features),
        x=np.concatenate(x, axis=1),
        y=y,
        part=part[kept] if layout.split is not None else None,
        dropped=num_rows - len(kept),
    )


def read_cells(content: bytes, needed: Sequence[str], where: str) -> Cells:
    """The text of the needed columns of a CSV file, row by row.

    Args:
      content: the file, UTF-8, gzip-compressed or not.
      needed: names of the columns to read.
      where: path for messages.

    Returns:
      Column name to list of cells, stripped of white space.

    Raises:
      ValueError: if a column is missing, or a row has another number of cells than the header.
    """
    if content[:2] == b"\x1f\x8b":  # gzip's magic number
        content = gzip.decompress(content)
    rows = csv.reader(io.StringIO(content.decode("utf-8"), newline=""))
    header = next(rows, [])
    missing = [name for name in needed if name not in header]
    if missing:
        raise ValueError(f"{where} has no column {missing}; its columns are {header}.")
    places = {name: header.index(name) for name in needed}
    cells: Cells = {name: [] for name in needed}
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise ValueError(
                f"{where}: data row {number} has {len(row)} cells, the header {len(header)}."
            )
        for name, place in places.items():
            cells[name].append(row[place].strip())
    return cells


def encode(column: Column, values: Sequence[str], where: str, rows: np.ndarray) -> np.ndarray:
    """One column as numbers: `[n, 1]`, or `[n, levels]` if it is one-hot encoded.

    Args:
      column: how to encode.
      values: the cells, length n.
      where: path for messages.
      rows: 0-based row of each cell in the file, for messages.

    Returns:
      float64 array, finite.

    Raises:
      ValueError: on an empty cell, text that is no finite number, or an unknown level.
    """
    if column.levels:
        return _one_hot(column, values, where, rows)
    out = np.empty((len(values), 1))
    for i, cell in enumerate(values):
        try:
            number = column.codes[cell] if cell in column.codes else float(cell)
        except ValueError:
            number = np.nan
        if not np.isfinite(number):
            known = f" or one of {sorted(column.codes)}" if column.codes else ""
            raise ValueError(
                f"{where}: column {column.name!r}, data row {rows[i] + 1}: {cell!r} is not a "
                f"finite number{known}. Missing values must be filled or the row left out first."
            )
        out[i] = number
    return out


def _one_hot(column: Column, values: Sequence[str], where: str, rows: np.ndarray) -> np.ndarray:
    places = {level: k for k, level in enumerate(column.levels)}
    out = np.zeros((len(values), len(places)))
    for i, cell in enumerate(values):
        if cell not in places:
            raise ValueError(
                f"{where}: column {column.name!r}, data row {rows[i] + 1}: {cell!r} is not one of "
                f"the levels {list(column.levels)}."
            )
        out[i, places[cell]] = 1.0
    return out


def _features(column: Column) -> list[Feature]:
    if column.levels:
        return [Feature(f"{column.name}={level}", "", column.direction) for level in column.levels]
    return [Feature(column.name, column.unit, column.direction)]


def _complete(cells: Cells, layout: Layout, kept: np.ndarray) -> np.ndarray:
    """True for the kept rows without an empty cell, unless the column has a code for it."""
    read = [c for c in (*layout.columns, layout.target) if "" not in c.codes]
    return np.array([all(cells[c.name][i] != "" for c in read) for i in kept], dtype=bool)
