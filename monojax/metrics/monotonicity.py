"""Measured monotonicity: the share of points where a function goes the wrong way."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from monojax.penalties.gradient import Outputs, _check, _Slopes


class MonotonicityReport(NamedTuple):
    """What was seen at the points: `[]` over all inputs, `[d]` per input (0 for free ones)."""

    violation_rate: jax.Array
    """`[]`: share of points where at least one input goes the wrong way."""
    violation_rate_per_input: jax.Array
    """`[d]`: share of points where this input goes the wrong way."""
    worst_slope: jax.Array
    """`[d]`: smallest signed slope seen; negative is a violation."""
    mean_slope: jax.Array
    """`[d]`: mean over points of the signed slope (of the worst output, with several)."""
    penalty_per_input: jax.Array
    """`[d]`: mean squared violation; sums to ``monotonicity_penalty(..., reduce="mean")``."""


def violations(
    fn: Callable[[jax.Array], jax.Array],
    points: jax.Array,
    directions: Any,
    *,
    outputs: Outputs = "max",
    labels: Any = None,
    batch_size: int = 4096,
) -> jax.Array:
    """At which points a slope has the wrong sign.

    Args:
      fn: map of ONE example `[d]` to `()` or `[c]`.
      points: float, shape `[n, d]`.
      directions: integers `[d]` (`[c, d]` for "paired"): +1, -1 or 0 per input.
      outputs: "max", "all", "label" or "paired", as in :func:`monojax.monotonicity_penalty`.
      labels: integers `[n]`, for ``outputs="label"``.
      batch_size: points evaluated at once, which bounds the memory.

    Returns:
      bool `[n]`; a slope of exactly 0 is no violation, one that is NaN is.

    Raises:
      ValueError: on wrong shapes, directions or options, on NaN in concrete points.
    """

    def fails(slopes):
        return (~(slopes >= 0)).any()  # a slope that is no number is a violation, too

    return _over_points(fn, points, directions, outputs, labels, batch_size, fails)


def violation_rate(
    fn: Callable[[jax.Array], jax.Array],
    points: jax.Array,
    directions: Any,
    *,
    outputs: Outputs = "max",
    labels: Any = None,
    batch_size: int = 4096,
) -> jax.Array:
    r"""Share of points with a slope of the wrong sign, :math:`\hat\rho` of the paper.

    A point counts once however many inputs fail; a slope of exactly 0 is no violation. It is
    measured at these points: 0 does not prove monotonicity elsewhere.

    Args:
      fn: map of ONE example `[d]` to `()` or `[c]`.
      points: float, shape `[n, d]`.
      directions: integers `[d]` (`[c, d]` for "paired"): +1, -1 or 0 per input.
      outputs: "max", "all", "label" or "paired", as in :func:`monojax.monotonicity_penalty`.
      labels: integers `[n]`, for ``outputs="label"``.
      batch_size: points evaluated at once, which bounds the memory.

    Returns:
      `[]` in [0, 1], float.

    Raises:
      ValueError: on wrong shapes, directions or options, on NaN in concrete points.

    Reference:
      Monteiro et al., UAI 2022, Table 2; strict inequality as in the authors' public code.
    """
    wrong = violations(
        fn, points, directions, outputs=outputs, labels=labels, batch_size=batch_size
    )
    return wrong.mean()


def monotonicity_report(
    fn: Callable[[jax.Array], jax.Array],
    points: jax.Array,
    directions: Any,
    *,
    outputs: Outputs = "max",
    labels: Any = None,
    batch_size: int = 4096,
) -> MonotonicityReport:
    """Violations, slopes and penalty per input, measured at ``points``.

    With several outputs ("all", "paired") an input counts by its worst output.

    Args:
      fn: map of ONE example `[d]` to `()` or `[c]`.
      points: float, shape `[n, d]`.
      directions: as in :func:`violation_rate`.
      outputs: as in :func:`violation_rate`.
      labels: integers `[n]`, for ``outputs="label"``.
      batch_size: points evaluated at once.

    Returns:
      MonotonicityReport.

    Raises:
      ValueError: as :func:`violation_rate`.
    """

    asked = jnp.asarray(directions) != 0
    any_output = asked.reshape(-1, asked.shape[-1]).any(axis=0)

    def per_point(slopes):
        rows = jnp.where(asked, slopes, jnp.inf).reshape(-1, slopes.shape[-1])
        worst = jnp.where(any_output, rows.min(axis=0), 0)
        return worst, jnp.square(jnp.minimum(rows, 0)).sum(axis=0)

    worst, squared = _over_points(fn, points, directions, outputs, labels, batch_size, per_point)
    wrong = ~(worst >= 0)
    return MonotonicityReport(
        violation_rate=wrong.any(axis=1).mean(),
        violation_rate_per_input=wrong.mean(axis=0),
        worst_slope=worst.min(axis=0),
        mean_slope=worst.mean(axis=0),
        penalty_per_input=squared.mean(axis=0),
    )


def _over_points(fn, points, directions, outputs, labels, batch_size, reduce_one):
    """``reduce_one(slopes of one point)`` for every point, ``batch_size`` points at a time."""
    fn, points, directions, labels = _check(fn, points, directions, outputs, labels)
    slopes_at = _Slopes(fn, points, directions, outputs)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")

    def one(example):
        point, label = example
        label = None if label is None else label[None]
        _, slopes = slopes_at(point[None], label)
        return reduce_one(slopes_at.spread(slopes)[0])

    examples, num = (points, labels), len(points)
    if num <= batch_size:
        return jax.vmap(one)(examples)
    # Equal chunks, the last one filled up with copies of the first points: one program, not two.
    chunks = -(-num // batch_size)
    rows = jnp.arange(chunks * -(-num // chunks)) % num
    batched = jax.tree.map(lambda a: a[rows].reshape(chunks, -1, *a.shape[1:]), examples)
    out = jax.lax.map(jax.vmap(one), batched)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:num], out)
