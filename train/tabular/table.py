"""A person's table: what each column is, what the target is, and what was left out."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from train.checks import near
from train.tabular.dialect import (
    MISSING,
    MISSING_TEXT,
    CsvError,
    Sheet,
    find_decimal,
    number,
    split_names,
)

LEVELS = 50
"""A column of texts with more of them is no category: names, ids."""
TASKS = ("auto", "regression", "classification")


@dataclasses.dataclass(frozen=True)
class Column:
    """An input column."""

    name: str
    direction: int = 0
    levels: tuple[str, ...] | None = None
    """Texts of a category, None for numbers."""
    gaps: bool = False
    """Whether cells are missing."""
    low: float = 0.0
    high: float = 0.0


@dataclasses.dataclass(frozen=True)
class Schema:
    """What is needed to read another file of the same kind."""

    columns: tuple[Column, ...]
    target: str
    task: str
    classes: tuple[str, ...] = ()
    """Of two classes: the texts of 0 and 1."""
    decimal: str = "."
    missing: tuple[str, ...] = MISSING

    @property
    def directions(self) -> list[int]:
        """Per column."""
        return [column.direction for column in self.columns]

    @property
    def categorical(self) -> list[int]:
        """Numbers of the columns that are categories."""
        return [i for i, column in enumerate(self.columns) if column.levels is not None]

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Schema":
        """From what :meth:`to_dict` gave, lists for tuples."""
        columns = tuple(
            Column(**{**c, "levels": None if c["levels"] is None else tuple(c["levels"])})
            for c in data["columns"]
        )
        lists = {key: tuple(data[key]) for key in ("classes", "missing")}
        return cls(**{**data, **lists, "columns": columns})


def seen(schema: Schema, x: np.ndarray) -> Schema:
    """The schema of some of the rows: levels, gaps and ranges that are in them.

    Args:
      schema: of all rows.
      x: the rows, `[n, columns]` of objects.

    Returns:
      Schema.
    """
    made = []
    for i, column in enumerate(schema.columns):
        if column.levels is not None:
            there = set(x[:, i])
            levels = tuple(level for level in column.levels if level in there)
            made.append(dataclasses.replace(column, levels=levels, gaps=None in there))
            continue
        values = x[:, i].astype(float)
        given = values[~np.isnan(values)]
        low, high = (float(given.min()), float(given.max())) if len(given) else (0.0, 0.0)
        gaps = len(given) < len(values)
        made.append(dataclasses.replace(column, gaps=gaps, low=low, high=high))
    return dataclasses.replace(schema, columns=tuple(made))


def filled(schema: Schema, learnt: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Rows whose categories and gaps are all in the rows that were learnt from.

    Where one is not, the commonest category or the median stands in its place: so a fold that
    has not seen a rare category can still be judged on it.

    Args:
      schema: of ``learnt``, see :func:`seen`.
      learnt: rows that were learnt from.
      x: rows to predict, `[n, columns]` of objects.

    Returns:
      A copy.
    """
    x = x.copy()
    for i, column in enumerate(schema.columns):
        if column.levels is not None:
            texts = [text for text in learnt[:, i] if text is not None]
            common = max(column.levels, key=texts.count)
            known = {*column.levels, *([None] if column.gaps else [])}
            for row in [k for k, text in enumerate(x[:, i]) if text not in known]:
                x[row, i] = common
        elif not column.gaps:
            absent = np.isnan(x[:, i].astype(float))
            x[absent, i] = float(np.median(learnt[:, i].astype(float))) if absent.any() else 0.0
    return x


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """The rows to learn from."""

    schema: Schema
    x: np.ndarray
    """`[n, columns]` of objects: float (NaN where missing) or text (None where missing)."""
    y: np.ndarray
    """float64 `[n]`; 0 and 1 for classes."""
    notes: tuple[str, ...]


def build_table(sheet: Sheet, config: Any, name: str) -> Table:
    """Reads columns and target as the config says.

    Args:
      sheet: the file's cells.
      config: target, increasing, decreasing, categorical, ignore, task, positive, decimal, missing.
      name: of the file, for messages.

    Returns:
      Table.

    Raises:
      CsvError: on unknown names, no direction, a direction for a column that is no number, a
        target that is missing, constant, or neither numbers nor two classes.
    """
    chosen = {
        key: _names(config[key], sheet, f"config.{key}", name)
        for key in ("increasing", "decreasing", "categorical", "ignore")
    }
    target = _target_name(config.target, sheet, name)
    signs = _signs(chosen, target)
    missing = (*MISSING, *(t.lower() for t in split_names(config.missing)))
    inputs = [c for c in sheet.names if c != target and c not in chosen["ignore"]]
    decimal = config.decimal
    if decimal == "auto":
        places = [(c, f"column {c!r}") for c in (*inputs, target)]
        cells = ((f"{w}, line {n}", t) for c, w in places for n, t in _lines(sheet, c))
        decimal = find_decimal(cells, name, sheet.delimiter)
    y, task, classes, kept = _target(sheet, target, config, decimal, missing, name)
    notes = list(sheet.notes)
    if (dropped := len(kept) - int(kept.sum())) > 0:
        notes.append(f"{dropped} row(s) without a value of {target!r} are left out")
    columns, values = [], []
    for column in inputs:
        forced = column in chosen["categorical"]
        read = _read(sheet, column, signs.get(column, 0), forced, decimal, missing, kept, name)
        if isinstance(read, str):
            notes.append(read)
            continue
        columns.append(read[0])
        values.append(read[1])
    if not columns:
        raise CsvError(f"{name}: no column is left to learn from: {'; '.join(notes)}.")
    if not any(column.direction for column in columns):
        raise CsvError(
            f"{name}: no column with a direction is left; give --config.increasing=NAME,NAME or "
            f"--config.decreasing=NAME; numbers are: {_numeric(columns)}."
            + (f" ({'; '.join(notes)})" if notes else "")
        )
    schema = Schema(tuple(columns), target, task, classes, decimal, missing)
    return Table(schema, np.stack(values, axis=1), y[kept], tuple(notes))


def _numeric(columns: Sequence[Column]) -> str:
    return ", ".join(column.name for column in columns if column.levels is None) or "none"


def _lines(sheet: Sheet, column: str) -> Iterable[tuple[int, str]]:
    return zip(sheet.lines, sheet.column(column), strict=True)


def _names(given: str, sheet: Sheet, option: str, name: str) -> list[str]:
    """Names in an option, which must be columns."""
    names = [given.strip()] if given.strip() in sheet.names else split_names(given)
    for column in names:
        if column not in sheet.names:
            quotes = " A name that holds a comma stands in double quotes." if "," in given else ""
            raise CsvError(
                f"{option}: {name} has no column {column!r}; {near(column, sheet.names)}{quotes}"
            )
    return names


def _target_name(target: str, sheet: Sheet, name: str) -> str:
    if not target:
        raise CsvError(
            f"give --config.target=NAME; the columns of {name} are: {', '.join(sheet.names)}."
        )
    if target not in sheet.names:
        raise CsvError(
            f"config.target: {name} has no column {target!r}; {near(target, sheet.names)}"
        )
    return target


def _signs(chosen: dict[str, list[str]], target: str) -> dict[str, int]:
    both = set(chosen["increasing"]) & set(chosen["decreasing"])
    if both:
        raise CsvError(f"column {min(both)!r} cannot be increasing and decreasing.")
    signs = dict.fromkeys(chosen["increasing"], 1) | dict.fromkeys(chosen["decreasing"], -1)
    for column in signs:
        if column == target:
            raise CsvError(f"the target {target!r} has a direction; name input columns.")
        if column in chosen["ignore"]:
            raise CsvError(f"column {column!r} has a direction and is to be ignored.")
        if column in chosen["categorical"]:
            raise CsvError(
                f"column {column!r} is categorical and has a direction: categories have no order."
            )
    if target in chosen["ignore"]:
        raise CsvError(f"the target {target!r} cannot be ignored.")
    return signs


def _read(
    sheet: Sheet,
    name: str,
    direction: int,
    forced: bool,
    decimal: str,
    missing: tuple[str, ...],
    kept: np.ndarray,
    file: str,
) -> tuple[Column, np.ndarray] | str:
    """A column and its values `[kept]`, or why it is left out."""
    cells = [c for c, keep in zip(sheet.column(name), kept, strict=True) if keep]
    lines = [line for line, keep in zip(sheet.lines, kept, strict=True) if keep]
    found = numbers(cells, decimal, missing)
    texts = [i for i, value in enumerate(found) if value is None]
    given = sum(cell.lower() not in missing for cell in cells)
    if not given:
        return f"column {name!r} has no value and is left out"
    if not forced and not texts:
        values = np.asarray(found, np.float64)
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        if low == high:
            return f"column {name!r} is the same in every row and is left out"
        gaps = bool(np.isnan(values).any())
        return Column(name, direction, None, gaps, low, high), values.astype(object)
    if direction or (not forced and len(texts) < given / 2):
        what = "has a direction but" if direction else "holds numbers, but"
        raise CsvError(
            f"{file}: column {name!r} {what} {cells[texts[0]]!r} in line {lines[texts[0]]} is no "
            f"number (decimal sign {decimal!r}); mend the cell, name it in --config.missing if it "
            "stands for no value, or the column in --config.categorical or --config.ignore."
        )
    values = np.asarray([text_of(cell, missing) for cell in cells], object)
    levels = sorted({value for value in values if value is not None})
    if len(levels) > LEVELS or (not forced and len(levels) > max(2, given / 2)):
        return f"column {name!r} has {len(levels)} different texts and is left out"
    if len(levels) < 2:
        return f"column {name!r} is the same in every row and is left out"
    gaps = any(value is None for value in values)
    return Column(name, 0, tuple(levels), gaps), values


def numbers(cells: Sequence[str], decimal: str, missing: tuple[str, ...]) -> list[float | None]:
    """Cells as numbers, NaN for no value, None for a text."""
    return [float("nan") if cell.lower() in missing else number(cell, decimal) for cell in cells]


def text_of(cell: str, missing: tuple[str, ...]) -> str | None:
    """A category's text, None for no value."""
    gone = (*MISSING_TEXT, *missing[len(MISSING) :])
    return None if cell.lower() in gone else cell


def _target(
    sheet: Sheet,
    name: str,
    config: Any,
    decimal: str,
    missing: tuple[str, ...],
    file: str,
) -> tuple[np.ndarray, str, tuple[str, ...], np.ndarray]:
    """Values (NaN where missing), task, classes, and which rows have a value."""
    cells = sheet.column(name)
    found = numbers(cells, decimal, missing)
    texts = [i for i, value in enumerate(found) if value is None]
    kept = np.asarray([cell.lower() not in missing for cell in cells])
    levels = sorted({cell for cell, keep in zip(cells, kept, strict=True) if keep})
    if not levels:
        raise CsvError(f"{file}: the target {name!r} has no value in any row.")
    distinct = len(levels) if texts else len({v for v in found if v == v})
    if distinct == 1:
        raise CsvError(f"{file}: the target {name!r} is {levels[0]!r} in every row.")
    task = config.task
    if task == "auto":
        task = "classification" if distinct == 2 else "regression"
    if task == "regression":
        if texts:
            shown = ", ".join(repr(level) for level in levels[:5])
            raise CsvError(
                f"{file}: the target {name!r} is not numeric: {cells[texts[0]]!r} in line "
                f"{sheet.lines[texts[0]]} ({len(levels)} different values: {shown}). Classes can "
                "be two; of more, make one class against the rest, since a direction says nothing "
                "of nominal classes."
            )
        return np.asarray(found, np.float64), task, (), kept
    if distinct > 2:
        raise CsvError(
            f"{file}: the target {name!r} has {distinct} classes, and a direction says nothing of "
            "nominal classes: make one class against the rest, or take "
            "--config.task=regression if they are ordered numbers."
        )
    if not texts:  # 1 and 1.0 are one class
        by_value = {number(level, decimal): level for level in reversed(levels)}
        order = [by_value[value] for value in sorted(v for v in by_value if v is not None)]
        values = np.asarray(found, np.float64)
        high = float(np.nanmax(values))
        coded = np.where(np.isnan(values), np.nan, (values == high).astype(float))
    else:
        order = levels
        coded = np.asarray([float(cell == levels[1]) for cell in cells])
    if config.positive:
        if config.positive not in order:
            raise CsvError(
                f"config.positive: the target {name!r} has no class {config.positive!r}; it has "
                f"{order[0]!r} and {order[1]!r}."
            )
        if order[0] == config.positive:
            order, coded = order[::-1], 1 - coded
    return coded, task, tuple(order), kept
