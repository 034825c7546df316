"""Partial dependence, with bounds on its slope that are proved."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.compat import enable_x64
from monojax.certify import CertifyError
from monojax.certify.compiled import compiled_bounds
from monojax.certify.program import gradient_program
from monojax.estimators.certificates import original_function, original_slopes
from monojax.estimators.columns import Columns
from monojax.estimators.losses import Link
from monojax.estimators.networks import Net

ROWS = 100
"""Rows over which the mean is taken, at most."""
POINTS = 20
"""Points of a grid."""
CHUNK = 256


class Dependence(NamedTuple):
    """The mean prediction as one column is changed, the other columns as they are in the rows.

    Between ``grid[k]`` and ``grid[k + 1]`` the slope of that mean lies between ``lower[k]`` and
    ``upper[k]``, at every point and not only on the grid.
    """

    grid: np.ndarray
    """Values of the column, in its units `[g]`; its categories for a categorical one."""
    value: np.ndarray
    """float64 `[g]`: mean target of a regressor, mean score (log-odds) of a classifier."""
    lower: np.ndarray
    """float64 `[g - 1]`: proved lower bound on the slope; -inf where nothing is proved, empty for
    categories."""
    upper: np.ndarray
    """float64 `[g - 1]`: proved upper bound."""
    name: str
    """The column's name."""
    direction: int
    """What was asked for: +1, -1 or 0."""


def dependences(
    net: Net, params: Any, columns: Columns, link: Link, inputs: np.ndarray, chosen: list[int]
) -> list[Dependence]:
    """One for each chosen column.

    Args:
      net: with one output.
      params: of all members.
      columns: how the table is read.
      link: from outputs to predictions.
      inputs: rows in the columns' units, float64 `[n, d]`.
      chosen: numbers of columns.

    Returns:
      A list of Dependence.
    """
    if len(inputs) > ROWS:  # spread evenly, so that the same rows come out every time
        inputs = inputs[np.linspace(0, len(inputs) - 1, ROWS).astype(int)]
    fn = original_function(net, params, columns, link)
    form = original_slopes(net, params, columns, link) if net.guaranteed else None
    with enable_x64():
        values = jax.jit(jax.vmap(fn))
        try:
            program = gradient_program(fn, jax.ShapeDtypeStruct((inputs.shape[1],), jnp.float64))
            slopes = compiled_bounds(program, "interval")
        except CertifyError:  # a solver: what its form says is all that is known
            slopes = None
        return [_one(columns, i, inputs, values, slopes, form) for i in chosen]


def _one(columns, number, inputs, values, slopes, form) -> Dependence:
    column, places = columns.columns[number], columns.places(number)
    count = len(inputs)
    if column.levels is not None:
        grid = np.asarray(column.levels, dtype=object)
        ends = np.repeat(inputs[None], len(grid), axis=0)
        ends[:, :, places] = np.eye(len(grid))[:, None]
    else:
        grid = np.linspace(column.low, column.high, POINTS if column.high > column.low else 1)
        ends = np.repeat(inputs[None], len(grid), axis=0)
        ends[:, :, places[0]] = grid[:, None]
        if column.gaps:  # as if it were given in every row
            ends[:, :, places[1:]] = (1.0, 0.0)
    value = _chunked(values, ends.reshape(-1, ends.shape[-1])).reshape(len(grid), count)
    low = high = np.zeros(0)
    if column.levels is None and len(grid) > 1:
        low, high = _slopes(ends, places[0], slopes, form)
    return Dependence(grid, value.mean(axis=1), low, high, column.name, column.direction)


def _slopes(ends, place, slopes, form) -> tuple[np.ndarray, np.ndarray]:
    """Means over the rows of bounds on each row's slope in each cell of the grid."""
    cells, count = len(ends) - 1, ends.shape[1]
    low = np.full((cells, count), -np.inf)
    high = np.full((cells, count), np.inf)
    if slopes is not None:
        boxes = [end.reshape(-1, ends.shape[-1]) for end in (ends[:-1], ends[1:])]
        pick = lambda a, b: jnp.stack([getattr(slopes(a, b), e)[:, place] for e in ("lo", "hi")], 1)
        found = _chunked(pick, *boxes)
        low, high = found[:, 0].reshape(low.shape), found[:, 1].reshape(low.shape)
    if form is not None:
        low, high = np.fmax(low, form[place, 0]), np.fmin(high, form[place, 1])
    # The mean of n numbers in float64 errs by less than n units in the last place of the largest.
    slack = count * np.finfo(float).eps
    mean = lambda x, sign: x.mean(axis=1) + sign * slack * np.abs(x).max(axis=1)
    low, high = mean(low, -1), mean(high, 1)
    if form is not None:
        low, high = np.fmax(low, form[place, 0]), np.fmin(high, form[place, 1])
    return low, high


def _chunked(fn, *rows: np.ndarray) -> np.ndarray:
    """A batched function over many rows, in calls of one shape."""
    made = []
    for start in range(0, len(rows[0]), CHUNK):
        parts = [part[start : start + CHUNK] for part in rows]
        count = len(parts[0])
        fill = [np.concatenate([p, np.repeat(p[:1], CHUNK - count, axis=0)]) for p in parts]
        made.append(np.asarray(fn(*fill))[:count])
    return np.concatenate(made)
