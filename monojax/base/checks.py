"""Checks at public boundaries: what was found, what was expected, what to do."""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_concrete(x: Any) -> bool:
    """True if the values of ``x`` can be read now, that is, outside a transformation."""
    return not isinstance(x, jax.core.Tracer)


def check_points(points: Any, name: str = "points") -> jax.Array:
    """Returns ``points`` as a floating array `[n, d]` with n >= 1 and, when concrete, finite.

    Args:
      points: array-like, shape `[n, d]`.
      name: the argument's name in messages.

    Returns:
      The same values as a `jax.Array`.

    Raises:
      ValueError: if the shape is not `[n, d]`, there is no row, or a value is NaN or infinite
        (values are checked outside `jit` only; shapes always).
      TypeError: if the values are not floating point.
    """
    # numpy until the values are checked: under jit a jax array would be traced already.
    points = points if isinstance(points, jax.Array) else np.asarray(points)
    if points.ndim != 2 or points.shape[0] == 0:
        raise ValueError(
            f"{name} must have shape [n, d] with n >= 1, got {points.shape}; "
            "for one point pass point[None, :]."
        )
    if not jnp.issubdtype(points.dtype, jnp.floating):
        raise TypeError(
            f"{name} must be floating point to be differentiated at, got {points.dtype}; "
            "convert with jnp.asarray(points, jnp.float32)."
        )
    if is_concrete(points):
        bad = int(np.sum(~np.isfinite(np.asarray(points)).all(axis=1)))
        if bad:
            raise ValueError(
                f"{name} has {bad} of {points.shape[0]} rows with NaN or infinite values; "
                "drop or impute them first."
            )
    return jnp.asarray(points)


def check_output(fn: Callable[[jax.Array], jax.Array], points: jax.Array) -> tuple[int, ...]:
    """Shape of ``fn`` at one point, which must be `()` or `[c]` and floating.

    Args:
      fn: map of one example `[d]` to `()` or `[c]`.
      points: shape `[n, d]`; only its width and dtype are used.

    Returns:
      `()` or `(c,)`.

    Raises:
      ValueError: if ``fn`` returns another rank, for example because it expects a batch.
      TypeError: if its values are not floating point.
    """
    one = jax.ShapeDtypeStruct(points.shape[1:], points.dtype)
    out = jax.eval_shape(fn, one)
    shape = getattr(out, "shape", None)
    if shape is None or len(shape) > 1 or shape == (0,):
        found = jax.tree.map(lambda leaf: leaf.shape, out)
        raise ValueError(
            f"fn must map one example of shape {points.shape[1:]} to a scalar or a vector [c], "
            f"got output shape {found}; for a linen model with one output use "
            "lambda x: model.apply(params, x)[..., 0]."
        )
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise TypeError(f"fn must return floating point values to have slopes, got {out.dtype}.")
    return shape


def check_labels(labels: Any, num: int, num_outputs: int) -> jax.Array:
    """Returns ``labels`` as integers `[num]`, in `[0, num_outputs)` when concrete.

    Args:
      labels: array-like of integers, shape `[num]`.
      num: number of points the labels belong to.
      num_outputs: number of classes c.

    Returns:
      int array, shape `[num]`.

    Raises:
      ValueError: on another shape, on non-integers, or on a label out of range.
    """
    if labels is None:
        raise ValueError("outputs='label' needs labels, one integer per point; got None.")
    labels = labels if isinstance(labels, jax.Array) else np.asarray(labels)
    if labels.shape != (num,) or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels must be integers of shape ({num},), "
            f"got {labels.dtype} of shape {labels.shape}."
        )
    if is_concrete(labels):
        found = np.asarray(labels)
        if found.min() < 0 or found.max() >= num_outputs:
            raise ValueError(
                f"labels must lie in [0, {num_outputs - 1}] for {num_outputs} outputs, "
                f"got values from {found.min()} to {found.max()}."
            )
    return jnp.asarray(labels)


def check_box(low: Any, high: Any, width: int | None = None) -> tuple[jax.Array, jax.Array]:
    """Returns the corners of a box as arrays `[d]`, checked to enclose something.

    Args:
      low: lower corner, shape `[d]`.
      high: upper corner, shape `[d]`.
      width: d, if it is known from elsewhere; scalars are then spread over it.

    Returns:
      ``(low, high)``, floating, shape `[d]` each.

    Raises:
      ValueError: if the shapes disagree, a value is not finite, or low > high somewhere.
    """
    raw = low, high
    low, high = jnp.asarray(low), jnp.asarray(high)
    dtype = jnp.result_type(low, high)
    if not jnp.issubdtype(dtype, jnp.floating):
        dtype = jnp.result_type(float)  # float32, or float64 where that is enabled
    low, high = low.astype(dtype), high.astype(dtype)
    if width is not None and low.ndim == 0:
        low = jnp.full((width,), low)
    if width is not None and high.ndim == 0:
        high = jnp.full((width,), high)
    if low.ndim != 1 or low.shape != high.shape or (width is not None and low.shape != (width,)):
        want = "[d]" if width is None else f"({width},)"
        raise ValueError(
            f"low and high must both have shape {want}, got {low.shape} and {high.shape}."
        )
    if all(map(is_concrete, raw)):
        # The arguments themselves: under jit their jax arrays are traced already.
        lo, hi = (np.broadcast_to(np.asarray(corner), low.shape) for corner in raw)
        if not (np.isfinite(lo).all() and np.isfinite(hi).all()):
            raise ValueError("low and high must be finite; give a bounded region.")
        if (lo > hi).any():
            i = int(np.flatnonzero(lo > hi)[0])
            raise ValueError(
                f"empty region: low > high at input {i} ({lo[i]:g} > {hi[i]:g}); "
                "swap or widen them."
            )
    return low, high


def one_of(value: Any, choices: Iterable[Any], name: str) -> Any:
    """``value`` if it is one of the choices; the one text for a wrong choice.

    Args:
      value: what was given.
      choices: what there is, in the order to show.
      name: the option's name in the message.

    Returns:
      ``value``.

    Raises:
      ValueError: naming the choices and those near to what was given.
    """
    choices = list(choices)
    if isinstance(value, (str, int, float, bool, type(None), tuple)) and value in choices:
        return value
    names = [c for c in choices if isinstance(c, str)]
    near = difflib.get_close_matches(str(value).lower(), names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    listed = ", ".join(map(repr, choices)) or "nothing"
    raise ValueError(f"{name} must be one of {listed}, got {value!r}{hint}")


def choose(name: str, value: Any, table: Mapping[str, Any]) -> Any:
    """``table[value]``, checked by :func:`one_of`.

    Args:
      name: the option's name in the message.
      value: the key asked for.
      table: the choices.

    Returns:
      The entry.

    Raises:
      ValueError: on a key that is not there.
    """
    return table[one_of(value, table, name)]


def check_widths(features: Any, name: str = "features") -> tuple[int, ...]:
    """``features`` as a non-empty tuple of positive integers.

    Args:
      features: widths of the layers.
      name: the argument's name in messages.

    Returns:
      The widths.

    Raises:
      ValueError: if it is empty, not a sequence, or a width is not a positive integer.
    """
    if isinstance(features, str) or not isinstance(features, Sequence) or not len(features):
        raise ValueError(
            f"{name} must be a non-empty sequence of widths such as (64, 64, 1), got {features!r}."
        )
    for width in features:
        check_width(width, name)
    return tuple(int(width) for width in features)


def check_width(width: Any, name: str = "features") -> int:
    """``width`` as a positive integer.

    Args:
      width: a number of units.
      name: the argument's name in messages.

    Returns:
      The width.

    Raises:
      ValueError: if it is not an integer >= 1.
    """
    if isinstance(width, bool) or not hasattr(width, "__index__") or width < 1:
        raise ValueError(f"{name} must be made of integers >= 1, got {width!r}.")
    return int(width)


def check_positive(value: Any, name: str) -> None:
    """Raises ValueError if the concrete scalar ``value`` is not finite and > 0.

    Args:
      value: a number or scalar array; a traced one passes.
      name: the argument's name in messages.

    Raises:
      ValueError: on a value that is not a finite number above 0, or on another shape.
    """
    if np.shape(value) != ():
        raise ValueError(f"{name} must be one number, got shape {np.shape(value)}.")
    if is_concrete(value) and not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be finite and > 0, got {value}.")
