"""Training towards a certificate: train, certify, ask again where it failed, until it is proved."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.compat import enable_x64
from monojax.certify import Certificate
from monojax.certify.compiled import compiled_bounds
from monojax.certify.program import gradient_program
from monojax.estimators.certificates import certificate_of
from monojax.estimators.columns import Columns
from monojax.estimators.losses import Link
from monojax.estimators.networks import Net
from monojax.estimators.training import EXTRA, Fitted, outputs

CHUNK = 256
"""Boxes bounded in one call."""
FIRST_MARGIN = 0.02
"""Smallest signed slope that the first round asks for, in scaled units; doubled each round, as is
the penalty's weight, from at least 1."""


def toward_certificate(
    fitted: Fitted,
    again: Callable[[Any, np.ndarray, float, float], Fitted],
    net: Net,
    columns: Columns,
    link: Link,
    *,
    rounds: int,
    budget: int,
    rng: np.random.Generator,
) -> tuple[Fitted, Certificate]:
    """Rounds of searching for what refutes or stays open, and of training on that.

    The search uses the certificate's bounds and tells what stays open; the certificate itself is
    asked for when nothing does, or after the last round.

    Args:
      fitted: a trained network.
      again: trains further: of parameters, scaled points `[k, d]` where the penalty shall be taken
        as well, the margin that it asks for, and the factor of its weight.
      net: the network.
      columns: how the table is read.
      link: from outputs to predictions.
      rounds: at most so many.
      budget: boxes of each search and of the certificate.
      rng: draws points in open boxes.

    Returns:
      The last parameters and their certificate.
    """
    region = np.zeros((0, len(net.directions)))
    for number in range(rounds):
        found = open_points(net, fitted.params, columns, budget, rng)
        if not len(found):
            certificate = certificate_of(net, fitted.params, columns, link, budget)
            if certificate.status == "proved":
                return fitted, certificate
        # The newest first: the region has room for EXTRA points.
        region = np.concatenate([found, region])[:EXTRA]
        fitted = again(fitted.params, region, FIRST_MARGIN * 2**number, 2.0**number)
    return fitted, certificate_of(net, fitted.params, columns, link, budget)


def open_points(
    net: Net, params: Any, columns: Columns, budget: int, rng: np.random.Generator
) -> np.ndarray:
    """Points where a slope is wrong, then points in boxes on which none is proved right.

    Args:
      net: with one output.
      params: of all members.
      columns: its inputs.
      budget: boxes to bound.
      rng: draws the points.

    Returns:
      Scaled points, float64 `[k, d]`, at most EXTRA; none if the directions are proved everywhere.
    """
    scaled = lambda x: (x - columns.centre) / columns.scale
    low, high = scaled(columns.low)[None], scaled(columns.high)[None]
    whole, numbers = high[0] - low[0], np.flatnonzero(columns.number)
    signs = np.asarray(net.directions)
    signed = lambda lo, hi: np.where(signs > 0, lo, np.where(signs < 0, -hi, np.inf)).min(axis=1)
    with enable_x64():
        fn = lambda x: outputs(net, params, x)[0]
        program = gradient_program(fn, jax.ShapeDtypeStruct(whole.shape, jnp.float64))
        bounds = compiled_bounds(program, "backward")
        for _ in range(max(1, budget // CHUNK)):
            low, high = _divided(low, high, whole, numbers, columns.groups, rng)
            parts = [slice(i, i + CHUNK) for i in range(0, len(low), CHUNK)]
            ends = [bounds(_filled(low[p]), _filled(high[p])) for p in parts]
            lo, hi = (np.concatenate([np.asarray(e[i]) for e in ends])[: len(low)] for i in (0, 1))
            worst = signed(lo, hi)
            order = np.argsort(worst, kind="stable")
            order = order[~(worst[order] >= 0)]
            low, high = low[order], high[order]
            if not len(low):
                return low
            # The worst boxes are divided further; the others are as open as they are.
            if len(low) > CHUNK // 2:
                low, high = low[: CHUNK // 2], high[: CHUNK // 2]
        draws = np.concatenate([np.full((1, *low.shape), 0.5), rng.random((3, *low.shape))])
        points = (low[None] + (high - low)[None] * draws).reshape(-1, low.shape[1])[:EXTRA]
        slopes = np.asarray(_slopes(net, params, _filled(points, EXTRA)))[: len(points)]
    return points[np.argsort(signed(slopes, slopes), kind="stable")]


@functools.partial(jax.jit, static_argnames=("net",))
def _slopes(net: Net, params: Any, points: jax.Array) -> jax.Array:
    return jax.vmap(jax.grad(lambda x: outputs(net, params, x)[0]))(points)


def _filled(rows: np.ndarray, count: int = CHUNK) -> np.ndarray:
    """Rows repeated up to a fixed number: one shape, one compilation."""
    return np.concatenate([rows, np.repeat(rows[:1], count - len(rows), axis=0)])


def _divided(low, high, whole, numbers, groups, rng):
    """Each box cut in half along one of its longest sides, or into a group's categories."""
    made: list[tuple[np.ndarray, np.ndarray]] = []
    for lo, hi in zip(low, high, strict=True):
        undecided = [list(g) for g in groups if (lo[list(g)] != hi[list(g)]).any()]
        if undecided:
            made += [_chosen(lo, hi, undecided[0], i) for i in range(len(undecided[0]))]
            continue
        width = (hi - lo)[numbers] / np.where(whole > 0, whole, 1.0)[numbers]
        axis = numbers[np.argmax(width + 1e-3 * rng.random(len(numbers)))]
        first, second = hi.copy(), lo.copy()
        first[axis] = second[axis] = (lo[axis] + hi[axis]) / 2
        made += [(lo, first), (second, hi)]
    return np.stack([lo for lo, _ in made]), np.stack([hi for _, hi in made])


def _chosen(low, high, group, member) -> tuple[np.ndarray, np.ndarray]:
    """One category of a group."""
    low, high = low.copy(), high.copy()
    low[group] = high[group] = 0.0
    low[group[member]] = high[group[member]] = 1.0
    return low, high
