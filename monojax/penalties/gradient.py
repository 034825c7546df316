r"""Gradient penalties that ask a function to be monotone on chosen points.

The penalty of Monteiro et al., "Monotonicity Regularization", UAI 2022 (arXiv 2205.08247):
with directions :math:`s_i` and margin :math:`b`, a point violates by
:math:`v_i(x) = \max(0, b - s_i\,\partial f/\partial x_i)^2`. Where the points come from decides
where the property holds: see :mod:`monojax.penalties.regions`.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from monojax.base.checks import check_number, one_of
from monojax.penalties.slopes import Fn, Outputs, Slopes

Reduce = Literal["mean", "max"]


def monotonicity_penalty(
    fn: Fn,
    points: jax.Array,
    directions: Any,
    *,
    reduce: Reduce = "mean",
    margin: float | jax.Array = 0.0,
    outputs: Outputs = None,
    labels: Any = None,
    axis_name: str | None = None,
) -> jax.Array:
    r"""How much ``fn`` violates monotonicity at ``points``; differentiable in what it closes over.

    ``reduce="mean"`` is :math:`\frac1n\sum_x\sum_i v_i(x)`, ``"max"`` is
    :math:`\max_x\max_i v_i(x)`. No gradient flows through the points.

    Args:
      fn: map of ONE example `[d]` to `()` or `[c]`; `jax.vmap` is applied here.
      points: where to ask for monotonicity, float, shape `[n, d]`.
      directions: integers `[d]` (`[c, d]` for ``outputs="paired"``): +1, -1 or 0 per input.
      reduce: over points, inputs and outputs: the written objective "mean" (of sums over
        inputs), or "max", which the authors' code uses and which costs about half as much
        because only the worst point is differentiated twice.
      margin: b >= 0, in units of output per input; slopes below it count as violations.
      outputs: which output of a vector-valued ``fn`` to hold monotone: every one ("all"), the
        largest at each point ("max": the others may fall), the labelled one ("label"), or output
        k in its own row k of ``directions`` ("paired"). None takes a ``fn`` with one output.
      labels: integers `[n]`, for ``outputs="label"``. A traced one that is no output cannot be
        refused: its slopes are NaN, the penalty too, and no gradient comes from that point.
      axis_name: inside `pmap` or `shard_map`, the axis over which points are split; the result
        is then the penalty over the points of all devices, equal on all of them.

    Returns:
      The penalty, a non-negative scalar `[]` in the dtype of the slopes, which is that of the
      points; NaN where ``fn`` itself is not finite at a point.

    Raises:
      ValueError: on wrong shapes, directions, labels or option names, on NaN in concrete points,
        on a vector-valued ``fn`` without ``outputs``, on a ``fn`` that takes batches only.
      TypeError: on integer points.

    Example:
      >>> f = lambda x: -2.0 * x[0] + x[1]
      >>> float(monotonicity_penalty(f, jnp.ones((3, 2)), [1, 1]))
      4.0
    """
    return value_and_penalty(
        fn,
        points,
        directions,
        reduce=reduce,
        margin=margin,
        outputs=outputs,
        labels=labels,
        axis_name=axis_name,
    )[1]


def value_and_penalty(
    fn: Fn,
    points: jax.Array,
    directions: Any,
    *,
    reduce: Reduce = "mean",
    margin: float | jax.Array = 0.0,
    outputs: Outputs = None,
    labels: Any = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """``fn`` at every point together with the penalty there, for the price of one forward pass.

    Use it when the loss is taken on the same points (the paper's "train" region).

    Args:
      fn: map of ONE example `[d]` to `()` or `[c]`.
      points: float, shape `[n, d]`.
      directions: as in :func:`monotonicity_penalty`; so are the options.
      reduce: "mean" or "max".
      margin: slopes below it count as violations.
      outputs: None, "max", "all", "label" or "paired".
      labels: integers `[n]`, for ``outputs="label"``. A traced one that is no output cannot be
        refused: its slopes are NaN, the penalty too, and no gradient comes from that point.
      axis_name: the `pmap` axis over which points are split.

    Returns:
      ``(values, penalty)`` of shapes `[n]` or `[n, c]`, and `[]`.

    Raises:
      ValueError: as :func:`monotonicity_penalty`.
      TypeError: on integer points.
    """
    one_of(reduce, ("mean", "max"), "reduce")
    check_number(margin, "margin", least=0)
    slopes_at, points, labels = Slopes.of(fn, points, directions, outputs, labels)
    values, slopes = slopes_at(points, labels)
    if reduce == "mean":
        violation = slopes_at.violation(slopes, margin)
        penalty = violation.reshape(len(points), -1).sum(axis=1).mean()
        penalty = _unless_broken(penalty, values)
        return values, penalty if axis_name is None else jax.lax.pmean(penalty, axis_name)
    # The gradient of a maximum is the gradient at its argmax: one sweep finds the worst point,
    # and only that point is differentiated a second time.
    sweep = jax.lax.stop_gradient(slopes_at.violation(slopes, margin))
    worst = jnp.argmax(sweep.reshape(len(points), -1).max(axis=1, initial=0))
    label = None if labels is None else labels[worst][None]
    _, slopes = slopes_at(points[worst][None], label)
    penalty = _unless_broken(slopes_at.violation(slopes, margin).max(initial=0), values)
    return values, penalty if axis_name is None else _largest_of(penalty, axis_name)


def _unless_broken(penalty: jax.Array, values: jax.Array) -> jax.Array:
    """NaN where ``fn`` is not finite: a broken function is never one without violation."""
    return jnp.where(jnp.isfinite(values).all(), penalty, jnp.nan)


def _largest_of(penalty: jax.Array, axis_name: str) -> jax.Array:
    """The maximum over devices, with its derivative.

    `pmax` has none, and a mean of maxima is another function: the device with the largest value
    adds it to the others' zeros.
    """
    value = jax.lax.stop_gradient(penalty)
    # NaN on any device counts as the largest.
    rank = jnp.where(jnp.isnan(value), jnp.inf, value)
    here = jax.lax.axis_index(axis_name)
    top = rank == jax.lax.pmax(rank, axis_name)
    first = jax.lax.pmin(jnp.where(top, here, jax.lax.psum(1, axis_name)), axis_name)
    return jax.lax.psum(jnp.where(here == first, penalty, 0), axis_name)
