"""Training towards a certificate: train, certify, ask again where it failed, until it is proved."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.compat import enable_x64
from monojax.certify import Certificate
from monojax.certify.compiled import compiled_bounds
from monojax.certify.program import gradient_program
from monojax.estimators.certificates import certificate_of, original_function
from monojax.estimators.columns import Columns
from monojax.estimators.losses import Link
from monojax.estimators.networks import Net
from monojax.estimators.training import EXTRA, Fitted

CHUNK = 256
"""Boxes bounded in one call."""
CALLS = 8
"""Calls in the search for open boxes."""
FIRST_MARGIN = 0.02
"""Smallest signed slope that the first round asks for, in scaled units; doubled each round."""


def toward_certificate(
    fitted: Fitted,
    again: Callable[[Any, np.ndarray, float], Fitted],
    net: Net,
    columns: Columns,
    link: Link,
    *,
    rounds: int,
    budget: int,
    rng: np.random.Generator,
) -> tuple[Fitted, Certificate]:
    """Rounds of certifying and of training on what refuted it or stayed open.

    Args:
      fitted: a trained network.
      again: trains further: of parameters, scaled points `[k, d]` where the penalty shall be taken
        as well, and the margin that it asks for.
      net: the network.
      columns: how the table is read.
      link: from outputs to predictions.
      rounds: at most so many.
      budget: boxes of each certificate.
      rng: draws points in open boxes.

    Returns:
      The last parameters and their certificate.
    """
    certificate = certificate_of(net, fitted.params, columns, link, budget)
    margin = FIRST_MARGIN
    region = np.zeros((0, len(net.directions)))
    for _ in range(rounds):
        if certificate.status == "proved":
            break
        fn = original_function(net, fitted.params, columns, link)
        found = open_points(fn, columns, rng)
        if certificate.counterexample is not None:
            near = np.repeat(certificate.counterexample[None], 16, axis=0)
            found = np.concatenate([near, found])
        # The newest first: the region has room for EXTRA points.
        region = np.concatenate([(found - columns.centre) / columns.scale, region])[:EXTRA]
        fitted = again(fitted.params, region, margin)
        certificate = certificate_of(net, fitted.params, columns, link, budget)
        margin *= 2
    return fitted, certificate


def open_points(fn: Any, columns: Columns, rng: np.random.Generator) -> np.ndarray:
    """Points in boxes on which the directions are not proved, the worst boxes first.

    Args:
      fn: of ONE example in the table's units.
      columns: its inputs.
      rng: draws the points.

    Returns:
      float64 `[k, d]`, two points a box, at most EXTRA in all.
    """
    signs = np.asarray(columns.directions)
    low, high = columns.low[None], columns.high[None]
    numbers = np.flatnonzero(columns.number)
    with enable_x64():
        shape = jax.ShapeDtypeStruct((low.shape[1],), jnp.float64)
        bounds = compiled_bounds(gradient_program(fn, shape), "backward")
        for _ in range(CALLS):
            if not len(low):
                break
            low, high = _halved(low, high, (columns.high - columns.low), numbers, rng)
            low, high = _categories(low, high, columns.groups, rng)
            fill = [_filled(end) for end in (low, high)]
            lo, hi = (np.asarray(x)[: len(low)] for x in bounds(*fill))
            signed = np.where(signs > 0, lo, np.where(signs < 0, -hi, np.inf)).min(axis=1)
            order = np.argsort(signed, kind="stable")
            order = order[~(signed[order] >= 0)][: CHUNK // 2]
            low, high = low[order], high[order]
    draws = rng.random((2, *low.shape))
    points = low[None] + (high - low)[None] * draws  # categories are decided: low is high
    return points.reshape(-1, low.shape[1])[:EXTRA]


def _filled(rows: np.ndarray) -> np.ndarray:
    """Rows repeated up to CHUNK: one shape, one compilation."""
    return np.concatenate([rows, np.repeat(rows[:1], CHUNK - len(rows), axis=0)])


def _halved(low, high, whole, numbers, rng):
    """Each box cut in half along one of its longest sides."""
    width = (high - low) / np.where(whole > 0, whole, 1.0)
    width = width[:, numbers] + 1e-3 * rng.random((len(low), len(numbers)))
    axis = numbers[np.argmax(width, axis=1)]
    rows = np.arange(len(low))
    middle = (low[rows, axis] + high[rows, axis]) / 2
    first, second = high.copy(), low.copy()
    first[rows, axis] = second[rows, axis] = middle
    return np.concatenate([low, second]), np.concatenate([first, high])


def _categories(low, high, groups, rng):
    """Boxes that still hold all categories of a group take one at random."""
    low, high = low.copy(), high.copy()
    for group in map(list, groups):
        undecided = np.flatnonzero((low[:, group] != high[:, group]).any(axis=1))
        if len(group) and undecided.size:
            pick = rng.integers(len(group), size=undecided.size)
            chosen = np.eye(len(group))[pick]
            low[np.ix_(undecided, group)] = high[np.ix_(undecided, group)] = chosen
    return low, high
