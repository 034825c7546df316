"""Measured monotonicity: the share of points where a function goes the wrong way."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from monojax.penalties.slopes import Outputs, Slopes

_COMPARED = 8


class MonotonicityReport(NamedTuple):
    """What was seen at the points: `[]` over all inputs, `[d]` per input (0 for free ones)."""

    violation_rate: jax.Array
    """`[]`: share of points where an input goes the wrong way or ``fn`` is not finite."""
    violation_rate_per_input: jax.Array
    """`[d]`: share of points where this input goes the wrong way."""
    worst_slope: jax.Array
    """`[d]`: smallest signed slope seen; negative is a violation."""
    mean_slope: jax.Array
    """`[d]`: mean over points of the signed slope (of the worst output, with several)."""
    penalty_per_input: jax.Array
    """`[d]`: mean squared violation; sums to ``monotonicity_penalty(..., reduce="mean")``."""
    broken_rate: jax.Array
    """`[]`: share of points where ``fn`` itself is NaN or infinite; each is a violation, too."""
    value_spread: jax.Array
    """`[]`: largest value of ``fn`` at the points minus the smallest (the widest output's). 0 means
    that nothing moves: a dead network, or train-mode batch normalisation over one example."""
    batch_gap: jax.Array
    """`[]`: largest difference between ``fn`` of a batch of points and ``fn`` of each alone. Above
    rounding, examples act on each other (train-mode batch normalisation) and every slope reported
    here is one of a network that is not yours. NaN if ``fn`` does not take a batch: then look at
    ``value_spread``."""


def violations(
    fn: Callable[[jax.Array], jax.Array],
    points: jax.Array,
    directions: Any,
    *,
    outputs: Outputs = None,
    labels: Any = None,
    batch_size: int = 4096,
) -> jax.Array:
    """At which points a slope has the wrong sign.

    Args:
      fn: map of ONE example `[d]` to `()` or `[c]`.
      points: float, shape `[n, d]`.
      directions: integers `[d]` (`[c, d]` for "paired"): +1, -1 or 0 per input.
      outputs: for a vector-valued ``fn``: "max", "all", "label" or "paired", as in
        :func:`monojax.monotonicity_penalty`.
      labels: integers `[n]`, for ``outputs="label"``. A traced one that is no output cannot be
        refused: its slopes are NaN, which counts as violated.
      batch_size: points evaluated at once, which bounds the memory.

    Returns:
      bool `[n]`; a slope of exactly 0 is no violation, one that is NaN is, and so is a value of
      ``fn`` that is not finite, whatever its slopes.

    Raises:
      ValueError: on wrong shapes, directions or options, on NaN in concrete points, on a
        vector-valued ``fn`` without ``outputs``.
    """

    def fails(values, slopes):
        # A slope or a value that is no number is a violation, too.
        return (~(slopes >= 0)).any() | ~jnp.isfinite(values).all()

    return _over_points(fn, points, directions, outputs, labels, batch_size, fails)


def violation_rate(
    fn: Callable[[jax.Array], jax.Array],
    points: jax.Array,
    directions: Any,
    *,
    outputs: Outputs = None,
    labels: Any = None,
    batch_size: int = 4096,
) -> jax.Array:
    r"""Share of points with a slope of the wrong sign, :math:`\hat\rho` of the paper.

    A point counts once however many inputs fail; a slope of exactly 0 is no violation, a slope
    or a value that is not finite is one. It is measured at these points: 0 does not prove
    monotonicity elsewhere. A network in train mode (batch normalisation over one example) has no
    slopes at all and passes: :func:`monotonicity_report` has a check for it.

    Args:
      fn: map of ONE example `[d]` to `()` or `[c]`.
      points: float, shape `[n, d]`.
      directions: integers `[d]` (`[c, d]` for "paired"): +1, -1 or 0 per input.
      outputs: for a vector-valued ``fn``: "max", "all", "label" or "paired", as in
        :func:`monojax.monotonicity_penalty`.
      labels: integers `[n]`, for ``outputs="label"``. A traced one that is no output cannot be
        refused: its slopes are NaN, which counts as violated.
      batch_size: points evaluated at once, which bounds the memory.

    Returns:
      `[]` in [0, 1], float.

    Raises:
      ValueError: on wrong shapes, directions or options, on NaN in concrete points, on a
        vector-valued ``fn`` without ``outputs``.

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
    outputs: Outputs = None,
    labels: Any = None,
    batch_size: int = 4096,
) -> MonotonicityReport:
    """Violations, slopes and penalty per input, measured at ``points``.

    With several outputs ("all", "paired") an input counts by its worst output. The report also
    compares ``fn`` on one example alone and in a batch, which gives away a network in train mode:

    ``lambda x: model.apply(variables, x, train=True, mutable=["batch_stats"])[0][..., 0]``
    normalises one example by itself, so its slopes vanish and its violation rate is 0; its
    ``batch_gap`` is not. Where ``fn`` takes one example only, ``value_spread`` is 0.

    Args:
      fn: map of ONE example `[d]` to `()` or `[c]`.
      points: float, shape `[n, d]`.
      directions: as in :func:`violation_rate`.
      outputs: as in :func:`violation_rate`.
      labels: integers `[n]`, for ``outputs="label"``. A traced one that is no output cannot be
        refused: its slopes are NaN, which counts as violated.
      batch_size: points evaluated at once.

    Returns:
      MonotonicityReport.

    Raises:
      ValueError: as :func:`violation_rate`.
    """
    asked = jnp.asarray(directions) != 0
    any_output = asked.reshape(-1, asked.shape[-1]).any(axis=0)

    def per_point(values, slopes):
        every = jnp.broadcast_to(asked, slopes.shape)  # one row of directions for all outputs
        rows = jnp.where(every, slopes, jnp.inf).reshape(-1, slopes.shape[-1])
        worst = jnp.where(any_output, rows.min(axis=0), 0)
        return worst, jnp.square(jnp.minimum(rows, 0)).sum(axis=0), jnp.atleast_1d(values)

    out = _over_points(fn, points, directions, outputs, labels, batch_size, per_point)
    worst, squared, values = out
    wrong, broken = ~(worst >= 0), ~jnp.isfinite(values).all(axis=1)
    return MonotonicityReport(
        violation_rate=(wrong.any(axis=1) | broken).mean(),
        violation_rate_per_input=wrong.mean(axis=0),
        worst_slope=worst.min(axis=0),
        mean_slope=worst.mean(axis=0),
        penalty_per_input=squared.mean(axis=0),
        broken_rate=broken.mean(),
        value_spread=(values.max(axis=0) - values.min(axis=0)).max(),
        batch_gap=_batch_gap(fn, jnp.asarray(points)),
    )


def _batch_gap(fn: Callable[[jax.Array], jax.Array], points: jax.Array) -> jax.Array:
    """Largest difference between ``fn`` of several points together and of each alone, or NaN."""
    num = min(max(len(points), 2), _COMPARED)
    while num in points.shape[1:]:  # so that the batch is never taken for one example
        num += 1
    rows = points[np.arange(num) % len(points)]
    alone = jax.vmap(fn)(rows)
    try:
        together = jax.eval_shape(fn, rows)
    except Exception:  # whatever a function of one example raises on two
        together = None
    if getattr(together, "shape", None) != alone.shape:
        return jnp.full((), jnp.nan, alone.dtype)
    return jnp.abs(fn(rows) - alone).max()


def _over_points(fn, points, directions, outputs, labels, batch_size, reduce_one):
    """``reduce_one(values, slopes)`` of every point, ``batch_size`` points at a time."""
    slopes_at, points, labels = Slopes.of(fn, points, directions, outputs, labels)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")

    def one(example):
        point, label = example
        label = None if label is None else label[None]
        values, slopes = slopes_at(point[None], label)
        return reduce_one(values[0], slopes_at.spread(slopes)[0])

    examples, num = (points, labels), len(points)
    if num <= batch_size:
        return jax.vmap(one)(examples)
    # Equal chunks, the last one filled up with copies of the first points: one program, not two.
    chunks = -(-num // batch_size)
    rows = jnp.arange(chunks * -(-num // chunks)) % num
    batched = jax.tree.map(lambda a: a[rows].reshape(chunks, -1, *a.shape[1:]), examples)
    out = jax.lax.map(jax.vmap(one), batched)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:num], out)
