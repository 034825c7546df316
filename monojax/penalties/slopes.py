"""Signed slopes of a function at points: what penalties and metrics are made of."""

from collections.abc import Callable
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import check_function, check_labels, check_output, check_points, one_of
from monojax.base.compat import as_varying, varying_axes
from monojax.base.directions import check_directions
from monojax.base.labels import known_labels
from monojax.penalties.columns import perturbed

Fn = Callable[[jax.Array], jax.Array]
Outputs = Literal["max", "all", "label", "paired"] | None
OUTPUTS = ("max", "all", "label", "paired")


def signed_slopes(
    fn: Fn,
    points: jax.Array,
    directions: Any,
    *,
    outputs: Outputs = None,
    labels: Any = None,
) -> tuple[jax.Array, jax.Array]:
    """Values and ``s_i * dfn/dx_i`` at every point.

    Args:
      fn: map of ONE example `[d]` to `()` or `[c]`.
      points: float, shape `[n, d]`.
      directions: as in :func:`monojax.monotonicity_penalty`.
      outputs: which output of a vector-valued ``fn``: "max", "all", "label" or "paired".
      labels: integers `[n]`, for ``outputs="label"``. A traced one that is no output cannot be
        refused: its slopes are NaN.

    Returns:
      ``(values, slopes)``: `[n]` or `[n, c]`, and `[n, d]`, or `[n, c, d]` for "all" and
      "paired" on a vector-valued ``fn``. Slopes of free inputs are 0.

    Raises:
      ValueError: as :func:`monojax.monotonicity_penalty`.
      TypeError: on integer points.
    """
    asked, points, labels = Slopes.of(fn, points, directions, outputs, labels)
    values, slopes = asked(points, labels)
    return values, asked.spread(slopes)


class Slopes:
    """Values and signed slopes of a function in its monotone inputs.

    Slopes come for the `columns` with a direction only; where directions are traced, for all.
    """

    def __init__(self, fn: Fn, points: jax.Array, directions: Any, outputs: Outputs):
        """Of checked arguments; see :meth:`of`."""
        self.width = points.shape[1]
        if isinstance(directions, np.ndarray):
            self.columns = np.flatnonzero(directions.reshape(-1, self.width).any(axis=0))
        else:
            self.columns = np.arange(self.width)
        self.directions = directions[..., self.columns]
        if len(self.columns) in (0, self.width):
            fn_of_e = lambda x, e: fn(x.at[self.columns].add(e))
        else:
            fn_of_e = perturbed(fn, points[0], self.columns)
        self._one = self._rule(fn_of_e, outputs, scalar=check_output(fn, points) == ())

    @classmethod
    def of(
        cls, fn: Fn, points: Any, directions: Any, outputs: Outputs, labels: Any
    ) -> "tuple[Slopes, jax.Array, jax.Array | None]":
        """Checks what a caller gave.

        Args:
          fn: map of ONE example `[d]` to `()` or `[c]`.
          points: float, `[n, d]`.
          directions: integers `[d]`, or `[c, d]` for "paired".
          outputs: None, "max", "all", "label" or "paired".
          labels: integers `[n]`, for "label" only.

        Returns:
          ``(slopes, points, labels)``; no gradient flows through the points.

        Raises:
          ValueError: on wrong shapes, directions, labels or names, on NaN in concrete points.
          TypeError: on integer points.
        """
        call = "(fn, points, directions) with fn = lambda x: model.apply(params, x), of ONE example"
        check_function(fn, "the first argument, fn,", call)
        points = jax.lax.stop_gradient(check_points(points))
        if outputs is not None:
            one_of(outputs, OUTPUTS, "outputs")
        width = points.shape[1]
        if np.ndim(directions) == 1:  # before fn is traced: the likelier mistake, the clearer text
            check_directions(directions, width)
        shape = check_output(fn, points)
        _check_outputs(outputs, shape)
        if outputs == "label":
            labels = check_labels(labels, len(points), shape[0])
        elif labels is not None:
            raise ValueError(f"labels are used with outputs='label' only, got outputs={outputs!r}.")
        directions = check_directions(directions, width, shape[0] if outputs == "paired" else None)
        # Inside shard_map a derivative by what all devices share is summed over them: each point
        # and its perturbation are the device's own.
        out = jax.eval_shape(lambda points: fn(points[0]), points)
        axes = varying_axes(out)
        if labels is not None:
            axes |= varying_axes(labels)
        points = as_varying(points, axes)
        return cls(fn, points, directions, outputs), points, labels

    def _rule(self, fn, outputs: Outputs, scalar: bool):
        """Function of one point and its label: values and slopes, one forward pass for both."""

        def pick(e, x, label):
            out = fn(x, e)
            if scalar:
                return out, out
            # A vector of one has one reading, whatever `outputs`.
            return (out[label] if outputs == "label" else jnp.max(out)), out

        def one(x, label):
            zero = jnp.zeros_like(x, shape=len(self.columns))
            zero = as_varying(zero, varying_axes(x))
            if outputs in ("all", "paired") and not scalar:
                return _value_and_jacobian(lambda e: fn(x, e), zero)
            slopes, values = jax.grad(pick, has_aux=True)(zero, x, label)
            return values, slopes

        return one

    def __call__(self, points: jax.Array, labels: Any) -> tuple[jax.Array, jax.Array]:
        """``(values, slopes)``: `[n]` or `[n, c]`, and `[n, m]` or `[n, c, m]`."""
        values, slopes = jax.vmap(self._one)(points, labels)
        if labels is not None:  # what a traced label out of range would pick is NaN
            wrong = ~known_labels(labels, values.shape[1])
            slopes = jnp.where(wrong[:, None], jnp.nan, slopes)
        # Our own promise: one row per point, one slope per column.
        chex.assert_equal_shape_prefix((slopes, points), 1)
        chex.assert_axis_dimension(slopes, -1, len(self.columns))
        return values, slopes * self._over(slopes).astype(slopes.dtype)

    def violation(self, slopes: jax.Array, margin: Any) -> jax.Array:
        """Squared hinge per slope; free inputs never violate, whatever the margin."""
        hinge = jnp.maximum(jnp.asarray(margin, slopes.dtype) - slopes, 0)
        return jnp.where(self._over(slopes) != 0, jnp.square(hinge), 0)

    def spread(self, slopes: jax.Array) -> jax.Array:
        """Slopes over all d inputs, 0 for those without a direction."""
        full = jnp.zeros((*slopes.shape[:-1], self.width), slopes.dtype)
        return full.at[..., self.columns].set(slopes)

    def _over(self, slopes: jax.Array) -> jax.Array:
        """The directions with as many axes as the slopes."""
        given = jnp.asarray(self.directions)
        return given.reshape((1,) * (slopes.ndim - given.ndim) + given.shape)


def _check_outputs(outputs: Outputs, shape: tuple[int, ...]) -> None:
    """That the choice of outputs fits what ``fn`` returns."""
    if outputs is None and shape and shape[0] > 1:
        raise ValueError(
            f"fn returns {shape[0]} outputs: say which to hold monotone. outputs='all' asks it of "
            "every one, 'max' of the largest at each point only, 'label' of the labelled one "
            "(labels=), 'paired' of output k in row k of directions [c, d]; for one of them give "
            "lambda x: fn(x)[k]."
        )
    if outputs in ("label", "paired") and not shape:
        raise ValueError(f"outputs={outputs!r} needs a vector-valued fn [c], got a scalar.")


def _value_and_jacobian(fn: Fn, x: Any) -> tuple[jax.Array, jax.Array]:
    """fn(x) `[c]` and its Jacobian `[c, m]` from one forward and c backward passes."""
    value, pullback = jax.vjp(fn, x)
    rows = as_varying(jnp.eye(value.shape[0], dtype=value.dtype), varying_axes(value))
    (jacobian,) = jax.vmap(pullback)(rows)
    return value, jacobian
