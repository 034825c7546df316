r"""Gradient penalties that ask a function to be monotone on chosen points.

The penalty of Monteiro et al., "Monotonicity Regularization", UAI 2022 (arXiv 2205.08247):
with directions :math:`s_i` and margin :math:`b`, a point violates by
:math:`v_i(x) = \max(0, b - s_i\,\partial f/\partial x_i)^2`. Where the points come from decides
where the property holds: see :mod:`monojax.penalties.regions`.
"""

from collections.abc import Callable
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import check_labels, check_output, check_points, is_concrete
from monojax.base.directions import check_directions
from monojax.penalties.columns import perturbed
from monojax.penalties.regions import (
    data_mixup_points,
    data_range,
    half_points,
    mixup_points,
    random_train_points,
    uniform_points,
)

__all__ = [
    "data_mixup_points",
    "data_range",
    "half_points",
    "mixup_points",
    "monotonicity_penalty",
    "random_train_points",
    "signed_slopes",
    "uniform_points",
    "value_and_penalty",
]

Fn = Callable[[jax.Array], jax.Array]
Outputs = Literal["max", "all", "label", "paired"]
Reduce = Literal["mean", "max"]


def monotonicity_penalty(
    fn: Fn,
    points: jax.Array,
    directions: Any,
    *,
    reduce: Reduce = "mean",
    margin: float | jax.Array = 0.0,
    outputs: Outputs = "max",
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
      outputs: which output of a vector-valued ``fn`` to hold monotone: its largest ("max"),
        every one ("all"), the labelled one ("label"), or output k in its own row k of
        ``directions`` ("paired").
      labels: integers `[n]`, for ``outputs="label"``.
      axis_name: inside `pmap`, the axis over which points are split; the result is then the
        penalty over the points of all devices, equal on all of them.

    Returns:
      The penalty, a non-negative scalar `[]` in the dtype of the points.

    Raises:
      ValueError: on wrong shapes, directions, labels or option names, on NaN in concrete points.
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
    outputs: Outputs = "max",
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
      outputs: "max", "all", "label" or "paired".
      labels: integers `[n]`, for ``outputs="label"``.
      axis_name: the `pmap` axis over which points are split.

    Returns:
      ``(values, penalty)`` of shapes `[n]` or `[n, c]`, and `[]`.

    Raises:
      ValueError: as :func:`monotonicity_penalty`.
      TypeError: on integer points.
    """
    if reduce not in ("mean", "max"):
        raise ValueError(f"reduce must be 'mean' or 'max', got {reduce!r}.")
    if np.shape(margin) != () or (is_concrete(margin) and not margin >= 0):
        raise ValueError(f"margin must be one number >= 0, got {margin}.")
    fn, points, directions, labels = _check(fn, points, directions, outputs, labels)
    slopes_at = _Slopes(fn, points, directions, outputs)
    values, slopes = slopes_at(points, labels)
    if reduce == "mean":
        violation = slopes_at.violation(slopes, margin)
        penalty = violation.reshape(len(points), -1).sum(axis=1).mean()
        return values, penalty if axis_name is None else jax.lax.pmean(penalty, axis_name)
    # The gradient of a maximum is the gradient at its argmax: one sweep finds the worst point,
    # and only that point is differentiated a second time.
    sweep = jax.lax.stop_gradient(slopes_at.violation(slopes, margin))
    worst = jnp.argmax(sweep.reshape(len(points), -1).max(axis=1, initial=0))
    label = None if labels is None else labels[worst][None]
    _, slopes = slopes_at(points[worst][None], label)
    penalty = slopes_at.violation(slopes, margin).max(initial=0)
    if axis_name is not None:
        # all_gather, not pmax: pmax has no derivative, and a mean of maxima is another function.
        penalty = jax.lax.all_gather(penalty, axis_name).max()
    return values, penalty


def signed_slopes(
    fn: Fn,
    points: jax.Array,
    directions: Any,
    *,
    outputs: Outputs = "max",
    labels: Any = None,
) -> tuple[jax.Array, jax.Array]:
    """Values and ``s_i * dfn/dx_i`` at every point: what penalties and metrics are made of.

    Args:
      fn: map of ONE example `[d]` to `()` or `[c]`.
      points: float, shape `[n, d]`.
      directions: as in :func:`monotonicity_penalty`.
      outputs: "max", "all", "label" or "paired".
      labels: integers `[n]`, for ``outputs="label"``.

    Returns:
      ``(values, slopes)``: `[n]` or `[n, c]`, and `[n, d]`, or `[n, c, d]` for "all" and
      "paired" on a vector-valued ``fn``. Slopes of free inputs are 0.

    Raises:
      ValueError: as :func:`monotonicity_penalty`.
    """
    fn, points, directions, labels = _check(fn, points, directions, outputs, labels)
    slopes_at = _Slopes(fn, points, directions, outputs)
    values, slopes = slopes_at(points, labels)
    return values, slopes_at.spread(slopes)


def _check(fn: Fn, points: Any, directions: Any, outputs: str, labels: Any):
    """Boundary checks of all entry points; returns arrays."""
    points = check_points(points)
    if outputs not in ("max", "all", "label", "paired"):
        raise ValueError(f"outputs must be 'max', 'all', 'label' or 'paired', got {outputs!r}.")
    width = points.shape[1]
    if np.ndim(directions) == 1:  # before fn is traced: the likelier mistake, the clearer message
        check_directions(directions, width)
    shape = check_output(fn, points)
    if outputs in ("label", "paired") and not shape:
        raise ValueError(f"outputs={outputs!r} needs a vector-valued fn [c], got a scalar.")
    if outputs == "label":
        labels = check_labels(labels, len(points), shape[0])
    elif labels is not None:
        raise ValueError(f"labels are used with outputs='label' only, got outputs={outputs!r}.")
    rows = shape[0] if outputs == "paired" else None
    directions = check_directions(directions, width, rows)
    return fn, jax.lax.stop_gradient(points), directions, labels


class _Slopes:
    """Values and signed slopes of a function in its monotone inputs; arguments are checked.

    Slopes come for the `columns` with a direction only; where directions are traced, for all.
    """

    def __init__(self, fn: Fn, points: jax.Array, directions: Any, outputs: str):
        self.width = points.shape[1]
        if isinstance(directions, np.ndarray):
            self.columns = np.flatnonzero(directions.reshape(-1, self.width).any(axis=0))
        else:
            self.columns = np.arange(self.width)
        self.directions = directions[..., self.columns]
        self._zero = np.zeros(len(self.columns), points.dtype)
        if len(self.columns) in (0, self.width):
            fn_of_e = lambda x, e: fn(x.at[self.columns].add(e))
        else:
            fn_of_e = perturbed(fn, points[0], self.columns)
        self._one = self._rule(fn_of_e, outputs, scalar=check_output(fn, points) == ())

    def _rule(self, fn, outputs: str, scalar: bool):
        """Function of one point and its label: values and slopes, one forward pass for both."""

        def pick(e, x, label):
            out = fn(x, e)
            if scalar:
                return out, out
            return (jnp.max(out) if outputs == "max" else out[label]), out

        def one(x, label):
            if outputs in ("all", "paired") and not scalar:
                return _value_and_jacobian(lambda e: fn(x, e), self._zero)
            slopes, values = jax.grad(pick, has_aux=True)(self._zero, x, label)
            return values, slopes

        return one

    def __call__(self, points: jax.Array, labels: Any) -> tuple[jax.Array, jax.Array]:
        """``(values, slopes)``: `[n]` or `[n, c]`, and `[n, m]` or `[n, c, m]`."""
        values, slopes = jax.vmap(self._one)(points, labels)
        # Our own promise: one row per point, one slope per column.
        chex.assert_equal_shape_prefix((slopes, points), 1)
        chex.assert_axis_dimension(slopes, -1, len(self.columns))
        return values, slopes * self.directions.astype(slopes.dtype)

    def violation(self, slopes: jax.Array, margin: Any) -> jax.Array:
        """Squared hinge per slope; free inputs never violate, whatever the margin."""
        hinge = jnp.maximum(jnp.asarray(margin, slopes.dtype) - slopes, 0)
        return jnp.where(self.directions != 0, jnp.square(hinge), 0)

    def spread(self, slopes: jax.Array) -> jax.Array:
        """Slopes over all d inputs, 0 for those without a direction."""
        full = jnp.zeros((*slopes.shape[:-1], self.width), slopes.dtype)
        return full.at[..., self.columns].set(slopes)


def _value_and_jacobian(fn: Fn, x: Any) -> tuple[jax.Array, jax.Array]:
    """fn(x) `[c]` and its Jacobian `[c, m]` from one forward and c backward passes."""
    value, pullback = jax.vjp(fn, x)
    (jacobian,) = jax.vmap(pullback)(jnp.eye(value.shape[0], dtype=value.dtype))
    return value, jacobian
