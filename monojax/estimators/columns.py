"""A person's table as numbers: columns, categories, missing values, and the scaling of each."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from monojax.base.choices import one_of
from monojax.estimators.tables import cells, is_missing

MISSING = ("indicator", "error")


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of the table, as it was when the estimator was fitted."""

    name: str
    levels: tuple[Any, ...] | None
    """The categories, None among them for a missing value; None for a column of numbers."""
    direction: int = 0
    gaps: bool = False
    """Whether a column of numbers had missing values."""
    fill: float = 0.0
    """The number in place of a missing one: the median, so that it is inside the box."""
    centre: float = 0.0
    scale: float = 1.0
    low: float = 0.0
    high: float = 1.0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs that the column becomes."""
        if self.levels is not None:
            return tuple(f"{self.name}={_label(level)}" for level in self.levels)
        flags = (f"{self.name} is given", f"{self.name} is missing") if self.gaps else ()
        return (self.name, *flags)

    def inputs(self, values: np.ndarray) -> np.ndarray:
        """The column's inputs in its own units, float64 `[n, k]`."""
        if self.levels is not None:
            return _one_hot(self._codes(values), len(self.levels))
        numbers = as_numbers(values, self.name)
        absent = np.isnan(numbers)
        if absent.any() and not self.gaps:
            raise ValueError(
                f"column {self.name!r} has missing values (NaN) in {absent.sum()} of {absent.size} "
                "rows but had none when the estimator was fitted; impute them, drop the rows, or "
                "fit on rows with some."
            )
        if not self.gaps:
            return numbers[:, None]
        return np.column_stack([np.where(absent, self.fill, numbers), ~absent, absent])

    def _codes(self, values: np.ndarray) -> np.ndarray:
        assert self.levels is not None
        index = {level: i for i, level in enumerate(self.levels)}
        keys = [None if is_missing(v) else v for v in values]
        codes = np.asarray([index.get(key, -1) for key in keys])
        if (codes < 0).any():
            unknown = {keys[i] for i in np.flatnonzero(codes < 0)}
            shown = ", ".join(sorted(map(_shown, unknown))[:5])
            raise ValueError(
                f"column {self.name!r} has categories that were not there when the estimator was "
                f"fitted: {shown}; it knows {', '.join(map(_shown, self.levels[:10]))}"
                f"{', ...' if len(self.levels) > 10 else ''}. Map them to one of these."
            )
        return codes


@dataclasses.dataclass(frozen=True)
class Columns:
    """All columns: from a table to the inputs of a network."""

    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs, `[d]`."""
        return tuple(name for column in self.columns for name in column.names)

    @property
    def directions(self) -> tuple[int, ...]:
        """+1, -1 or 0 per input; the flags of a column and its categories are free."""
        return tuple(
            column.direction if i == 0 and column.levels is None else 0
            for column in self.columns
            for i in range(len(column.names))
        )

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Inputs of which exactly one is 1."""
        found, start = [], 0
        for column in self.columns:
            members = tuple(range(start, start + len(column.names)))
            start += len(members)
            if column.levels is not None:
                found.append(members)
            elif column.gaps:
                found.append(members[1:])
        return tuple(found)

    def places(self, number: int) -> tuple[int, ...]:
        """The inputs that column ``number`` becomes."""
        start = sum(len(column.names) for column in self.columns[:number])
        return tuple(range(start, start + len(self.columns[number].names)))

    def _per_input(self, field: str, flag: float) -> np.ndarray:
        return np.asarray(
            [
                getattr(column, field) if i == 0 and column.levels is None else flag
                for column in self.columns
                for i in range(len(column.names))
            ],
            np.float64,
        )

    @property
    def centre(self) -> np.ndarray:
        """float64 `[d]`."""
        return self._per_input("centre", 0.0)

    @property
    def scale(self) -> np.ndarray:
        """float64 `[d]`, > 0."""
        return self._per_input("scale", 1.0)

    @property
    def low(self) -> np.ndarray:
        """Smallest values when fitted, in the columns' units, float64 `[d]`."""
        return self._per_input("low", 0.0)

    @property
    def high(self) -> np.ndarray:
        """Largest values when fitted, float64 `[d]`."""
        return self._per_input("high", 1.0)

    @property
    def number(self) -> np.ndarray:
        """True for the inputs that are numbers, bool `[d]`."""
        return np.asarray(
            [
                i == 0 and column.levels is None
                for column in self.columns
                for i in range(len(column.names))
            ]
        )

    def inputs(self, table: Any) -> np.ndarray:
        """The table's inputs in the columns' units, float64 `[n, d]`."""
        made = [column.inputs(cells(table, i)) for i, column in enumerate(self.columns)]
        return np.concatenate(made, axis=1)

    def scaled(self, inputs: np.ndarray) -> np.ndarray:
        """Inputs as the network sees them, float32 `[n, d]`; rises in every number."""
        with np.errstate(over="ignore"):
            made = ((inputs - self.centre[None]) / self.scale[None]).astype(np.float32)
        if not np.isfinite(made).all():
            bad = int(np.flatnonzero(~np.isfinite(made).all(axis=0))[0])
            raise ValueError(
                f"column {self.names[bad]!r} has a value beyond the range of float32 after scaling."
            )
        return made


def fit_columns(
    table: Any,
    names: Sequence[str],
    weights: np.ndarray,
    directions: Sequence[int],
    categorical: np.ndarray,
    missing: str,
) -> Columns:
    """Reads what each column is like.

    Args:
      table: a frame or an array `[n, d]`.
      names: of the columns.
      weights: float64 `[n]`, > 0.
      directions: +1, -1 or 0 per column.
      categorical: bool `[d]`.
      missing: "indicator" or "error".

    Returns:
      Columns.

    Raises:
      ValueError: on missing values with "error", on a direction for a category, on strings in a
        column that is not categorical, on a column without a number.
    """
    one_of(missing, MISSING, "missing")
    found = []
    for i, name in enumerate(names):
        values = cells(table, i)
        if categorical[i]:
            found.append(_category(name, values, directions[i], missing))
        else:
            found.append(_number(name, values, weights, int(directions[i]), missing))
    return Columns(tuple(found))


def _category(name: str, values: np.ndarray, direction: int, missing: str) -> Column:
    if direction:
        raise ValueError(
            f"column {name!r} is categorical and has the direction {direction:+d}: categories have "
            "no order that a prediction could follow; give numbers that have one, such as the "
            "codes of an ordered category."
        )
    absent = np.asarray([is_missing(v) for v in values])
    if missing == "error" and absent.any():
        raise ValueError(_forbidden(name, absent))
    levels = list({v: None for v, gone in zip(values, absent, strict=True) if not gone})
    try:
        levels.sort()
    except TypeError:  # numbers beside strings
        levels.sort(key=lambda level: (type(level).__name__, str(level)))
    plain = [level.item() if isinstance(level, np.generic) else level for level in levels]
    return Column(name, (*plain, *((None,) if absent.any() else ())))


def _number(
    name: str, values: np.ndarray, weights: np.ndarray, direction: int, missing: str
) -> Column:
    numbers = as_numbers(values, name)
    absent = np.isnan(numbers)
    if missing == "error" and absent.any():
        raise ValueError(_forbidden(name, absent))
    given, weight = numbers[~absent], weights[~absent]
    if not given.size:
        raise ValueError(f"column {name!r} has no value: every row is missing; drop the column.")
    low, high = float(given.min()), float(given.max())
    largest = max(abs(low), abs(high), 1e-300)
    unit = given / largest  # squares stay in range
    mean = np.average(unit, weights=weight)
    spread = float(np.sqrt(np.average((unit - mean) ** 2, weights=weight)) * largest)
    spread = spread if spread > 1e-12 * largest else 1.0
    fill = float(np.sort(given)[(given.size - 1) // 2])
    centre = float(mean * largest)
    return Column(name, None, direction, bool(absent.any()), fill, centre, spread, low, high)


def _forbidden(name: str, absent: np.ndarray) -> str:
    return (
        f"column {name!r} has missing values (NaN) in {absent.sum()} of {absent.size} rows, which "
        "missing='error' forbids; impute them, or take missing='indicator'."
    )


def as_numbers(values: np.ndarray, name: str) -> np.ndarray:
    """A column as float64 with NaN for what is missing.

    Args:
      values: the column's cells `[n]`.
      name: for messages.

    Returns:
      float64 `[n]`.

    Raises:
      ValueError: on strings, dates and infinite values.
    """
    if values.dtype.kind in "mM":
        raise ValueError(f"column {name!r} holds dates; turn them into numbers, such as days.")
    if values.dtype.kind not in "fiub":
        text = next((v for v in values if isinstance(v, (str, bytes))), None)
        if text is not None:
            raise ValueError(
                f"column {name!r} holds strings such as {text!r} and is not declared categorical; "
                "name it in categorical_features, make it a pandas category, or turn it into "
                "numbers."
            )
        values = np.asarray([np.nan if is_missing(v) else v for v in values], dtype=object)
    numbers = values.astype(np.float64)
    if np.isinf(numbers).any():
        raise ValueError(f"column {name!r} has infinite values; drop or replace them.")
    return numbers


def _one_hot(codes: np.ndarray, count: int) -> np.ndarray:
    return (codes[:, None] == np.arange(count)[None]).astype(np.float64)


def _shown(level: Any) -> str:
    return "a missing value" if level is None else repr(level)


def _label(level: Any) -> str:
    return "missing" if level is None else str(level)
