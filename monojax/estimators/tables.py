"""Reading of tables: pandas frames and arrays, directions and categories by name or place."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from monojax.base.choices import one_of


def is_frame(table: Any) -> bool:
    """True for a pandas frame."""
    return hasattr(table, "iloc") and hasattr(table, "dtypes")


def is_missing(value: Any) -> bool:
    """True for None, NaN, and pandas' NA and NaT."""
    if value is None:
        return True
    try:
        return bool(value != value)
    except TypeError:  # pandas' NA has no truth value
        return True


def cells(table: Any, number: int) -> np.ndarray:
    """Column ``number`` as a numpy array `[n]`, of objects where it holds no plain numbers."""
    if not is_frame(table):
        return np.asarray(table)[:, number]
    column = table.iloc[:, number]
    if getattr(column.dtype, "kind", "O") in "fiub" and isinstance(column.dtype, np.dtype):
        return column.to_numpy()
    if getattr(column.dtype, "kind", "O") in "mM":
        return np.asarray(column.to_numpy(), "datetime64[ns]")
    return np.asarray(column.astype(object), dtype=object)


def has_strings(table: np.ndarray) -> bool:
    """True if an array holds text."""
    if table.dtype.kind in "US":
        return True
    return table.dtype.kind == "O" and any(isinstance(v, (str, bytes)) for v in table.ravel())


def directions_of(monotonic_cst: Any, names: Any, width: int) -> np.ndarray:
    """`monotonic_cst` as scikit-learn has it.

    Args:
      monotonic_cst: None, -1/0/+1 per feature, or a dict of feature names to -1/0/+1.
      names: the features' names, None if the table has none.
      width: number of features.

    Returns:
      int8 `[width]`.

    Raises:
      ValueError: on another length, other values, unknown names, or a dict without names.
    """
    if monotonic_cst is None:
        return np.zeros(width, np.int8)
    if isinstance(monotonic_cst, Mapping):
        if names is None:
            raise ValueError(
                "monotonic_cst is a dict of feature names, but X has none; give a pandas frame, or "
                "an array of -1, 0 and 1."
            )
        made = np.zeros(width, np.int8)
        for name, value in monotonic_cst.items():
            one_of(name, tuple(names), "a feature name in monotonic_cst")
            made[list(names).index(name)] = _checked([value])[0]
        return made
    values = _checked(monotonic_cst)
    if values.shape != (width,):
        raise ValueError(
            f"monotonic_cst has shape {values.shape} but the input data X has {width} features: "
            "give one of -1, 0 and 1 per feature."
        )
    return values


def _checked(values: Any) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype.kind not in "iufb" or not np.isin(values, (-1, 0, 1)).all():
        raise ValueError(f"monotonic_cst must be an array-like of -1, 0 or 1, got {values!r}.")
    return values.astype(np.int8)


def categories_of(categorical_features: Any, table: Any, names: Any, width: int) -> np.ndarray:
    """Which columns are categorical, bool `[width]`.

    Args:
      categorical_features: None, names, numbers, or a bool per column.
      table: the table; pandas columns of the dtype "category" always are.
      names: the features' names, None if the table has none.
      width: number of features.

    Returns:
      bool `[width]`.

    Raises:
      ValueError: on unknown names, on a number out of range, on another length.
    """
    made = np.zeros(width, bool)
    if is_frame(table):
        made |= [str(dtype) == "category" for dtype in table.dtypes]
    if categorical_features is None or isinstance(categorical_features, str):
        if categorical_features not in (None, "from_dtype"):
            raise ValueError(
                "categorical_features must be a list of names, numbers or bools, got the string "
                f"{categorical_features!r}."
            )
        return made
    given = np.asarray(categorical_features)
    if given.size == 0:
        return made
    if given.dtype.kind == "b":
        if given.shape != (width,):
            raise ValueError(
                f"categorical_features has {given.size} bools, but X has {width} features."
            )
        return made | given
    if given.dtype.kind in "iu":
        if given.min() < 0 or given.max() >= width:
            raise ValueError(
                f"categorical_features must lie in 0..{width - 1}, got {given.tolist()}."
            )
        made[given] = True
        return made
    if names is None:
        raise ValueError(
            "categorical_features holds names, but X has none; give a pandas frame, or numbers."
        )
    for name in given.ravel():
        one_of(name, tuple(names), "a feature name in categorical_features")
        made[list(names).index(name)] = True
    return made
