"""Checks at public boundaries: what was found, what was expected, what to do."""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.choices import choose as choose
from monojax.base.choices import one_of as one_of
from monojax.base.labels import wide_enough


def is_concrete(x: Any) -> bool:
    """True if the values of ``x`` can be read now, that is, outside a transformation."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(x))


def known(value: Any) -> np.ndarray | None:
    """The value of an option as numpy has it, where it is known while a program is traced.

    Inside `jit` an operation on a jax scalar from outside is traced, though its value is known:
    ``if margin < 0`` fails there. Compare what this returns instead.

    Args:
      value: a number, or an array-like of numbers.

    Returns:
      A numpy array, None if any part of it is traced.

    Example:
      >>> margin = jnp.float32(3)
      >>> jax.jit(lambda x: x + int(known(margin) > 2))(1).item()
      2
    """
    return np.asarray(value) if is_concrete(value) else None


def cast_finite(value: Any, dtype: Any, name: str) -> np.ndarray:
    """A known value as numpy array of ``dtype``, all of it finite after the cast.

    Args:
      value: array-like of numbers, not traced.
      dtype: floating; what jax makes of it (float32 for float64 where that is not enabled).
      name: the argument's name in messages.

    Returns:
      The array.

    Raises:
      ValueError: if a value is NaN or infinite, or is beyond the range of ``dtype``.
    """
    values, dtype = np.asarray(value), jax.dtypes.canonicalize_dtype(dtype)
    with np.errstate(over="ignore"):  # an overflow is what is looked for
        cast = values.astype(dtype)
    bad = ~np.isfinite(cast.astype(np.float64) if cast.dtype.itemsize < 4 else cast)
    if not bad.any():
        return cast
    rows = bad.reshape(len(bad), -1).any(axis=1) if bad.ndim else bad
    count = f"{rows.sum()} of {rows.size} rows with " if bad.ndim else ""
    wide = values if values.dtype.itemsize >= 4 else values.astype(np.float64)
    if np.isfinite(wide).all():
        raise ValueError(
            f"{name} has {count}values beyond the range of {dtype} (up to "
            f"{float(jnp.finfo(dtype).max):.3g}); scale them, or enable jax_enable_x64."
        )
    raise ValueError(f"{name} has {count}NaN or infinite values; drop or impute them first.")


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
        cast_finite(points, points.dtype, name)
    return jnp.asarray(points)


def check_function(fn: Any, name: str, call: str) -> None:
    """Raises TypeError unless ``fn`` can be called: the likeliest mistake is another order.

    Args:
      fn: what was given as a function.
      name: the argument's name.
      call: how the call is written.

    Raises:
      TypeError: with the right call.
    """
    if not callable(fn):
        raise TypeError(f"{name} must be a function, got {type(fn).__name__}; write {call}.")


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
    out = _output_of_one(fn, points)
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


def _output_of_one(fn: Callable[[jax.Array], jax.Array], points: jax.Array) -> Any:
    """What ``fn`` gives for one point; a ``fn`` that only takes batches is told apart."""
    one = points.shape[1:]
    try:
        # Of the points themselves: inside shard_map their type says along which axes they vary.
        return jax.eval_shape(lambda points: fn(points[0]), points)
    except Exception as error:
        batch = (2, *one)
        try:
            jax.eval_shape(fn, jax.ShapeDtypeStruct(batch, points.dtype))
        except Exception:
            raise error from None  # it fails either way: the function's own mistake
        raise ValueError(
            f"fn failed on ONE example of shape {one} ({error}) but takes a batch {batch}; "
            "it must map ONE example, without a batch axis: write x[0] for x[:, 0], or give "
            "lambda x: fn(x[None])[0]."
        ) from error


def count_of_share(share: Any, total: int) -> int:
    """The least whole number that is at least a share of ``total``, and at least 1.

    Args:
      share: in (0, 1], concrete.
      total: whole.

    Returns:
      The number; 19 for 0.95 of 20, whatever the product, or a float32 share, rounds to.
    """
    return max(1, math.ceil(float(share) * total * (1 - 1e-7)))


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
        if found.size and (found.min() < 0 or found.max() >= num_outputs):
            raise ValueError(
                f"labels must lie in [0, {num_outputs - 1}] for {num_outputs} outputs, "
                f"got values from {found.min()} to {found.max()}."
            )
        return jnp.asarray(found.astype(np.int32))  # in range now, whatever their width was
    return wide_enough(labels)


def check_places(values: Any, count: int, what: str) -> None:
    """That integers, where they are concrete, are places in something of that length.

    Args:
      values: integers of any shape.
      count: the length.
      what: how the message begins, such as "ids must lie in".

    Raises:
      ValueError: on a concrete value below 0, or of ``count`` or more.
    """
    if not is_concrete(values) or not np.size(values):
        return
    found = np.asarray(values)
    if found.min() < 0 or found.max() >= count:
        raise ValueError(
            f"{what} 0 to {count - 1}, got values from {found.min()} to {found.max()}."
        )


def check_box(
    low: Any, high: Any, width: int | None = None, dtype: Any = None
) -> tuple[jax.Array, jax.Array]:
    """Returns the corners of a box as arrays `[d]`, checked to enclose something.

    Args:
      low: lower corner, shape `[d]`.
      high: upper corner, shape `[d]`.
      width: d, if it is known from elsewhere; scalars are then spread over it.
      dtype: of the result, floating; None is that of the corners.

    Returns:
      ``(low, high)``, floating, shape `[d]` each.

    Raises:
      ValueError: if the shapes disagree, a value is not finite, or low > high somewhere.
    """
    given = [_as_array(corner) for corner in (low, high)]
    dtype = jax.dtypes.canonicalize_dtype(jnp.result_type(*given) if dtype is None else dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        dtype = jnp.result_type(float)  # float32, or float64 where that is enabled
    corners = [_corner(corner, dtype, width) for corner in given]
    shapes = [corner.shape for corner in corners]
    if len(shapes[0]) != 1 or shapes[0] != shapes[1] or (width not in (None, shapes[0][0])):
        want = "[d]" if width is None else f"({width},)"
        raise ValueError(
            f"low and high must both have shape {want}, got {shapes[0]} and {shapes[1]}."
        )
    if all(map(is_concrete, corners)):
        lo, hi = map(np.asarray, corners)
        if (lo > hi).any():
            i = int(np.flatnonzero(lo > hi)[0])
            raise ValueError(
                f"empty region: low > high at input {i} ({lo[i]:g} > {hi[i]:g}); "
                "swap or widen them."
            )
        with np.errstate(over="ignore"):
            wide = np.asarray(hi - lo, np.float64)
        if not np.isfinite(wide).all():
            raise ValueError(f"low and high are too far apart for {dtype}; narrow the region.")
    return jnp.asarray(corners[0]), jnp.asarray(corners[1])


def _as_array(value: Any) -> Any:
    """numpy or jax array; plain numbers stay, for they do not widen what they are combined with."""
    if isinstance(value, (int, float, jax.Array)):
        return value
    return np.asarray(value) if is_concrete(value) else jnp.asarray(value)


def _corner(corner: Any, dtype: Any, width: int | None) -> Any:
    """A corner of a box in ``dtype``; as numpy where it is known, and finite then."""
    if is_concrete(corner):
        try:
            # After the cast: in float64, 1e39 is finite, and 2**40 would wrap as an int32.
            corner = cast_finite(corner, dtype, "low or high")
        except ValueError as error:
            raise ValueError(
                f"low and high must be finite; give a bounded region: {error}"
            ) from None
    else:
        corner = jnp.asarray(corner).astype(dtype)
    if width is not None and corner.ndim == 0:
        full = jnp.full if isinstance(corner, jax.Array) else np.full
        corner = full((width,), corner)
    return corner


def check_maps(num_maps: int, num_classes: int) -> int:
    """Maps per class, where feature maps are divided equally among the classes.

    Args:
      num_maps: W, the number of feature maps.
      num_classes: K.

    Returns:
      W / K.

    Raises:
      ValueError: if W does not divide by K; it proposes the nearest numbers that do.
    """
    for name, value in (("num_maps", num_maps), ("num_classes", num_classes)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")
    if num_maps % num_classes:
        below = num_maps // num_classes * num_classes
        near = [below, below + num_classes] if below else [num_classes]
        raise ValueError(
            f"{num_maps} feature maps do not divide into slices of equal size for {num_classes} "
            f"classes; use {' or '.join(map(str, near))} maps, or add a convolution with such a "
            "number of maps (monojax.models.ExtraMaps)."
        )
    return num_maps // num_classes


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
    try:
        number = 0 if isinstance(width, (bool, np.bool_)) else operator.index(width)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"{name} must be made of integers >= 1, got {width!r}.")
    return number


def check_number(
    value: Any,
    name: str,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
) -> None:
    """Raises ValueError if a known scalar is not a finite number in its range.

    Args:
      value: a number, a numpy or jax scalar; a traced one passes.
      name: the argument's name in messages.
      above: the value must be larger.
      least: the value must be as large.
      most: the value must be as small.

    Raises:
      ValueError: on a value out of range, NaN, infinite, beyond the range of jax's default
        floating type, no number, or of another shape.
    """
    if np.shape(value) != ():
        raise ValueError(f"{name} must be one number, got shape {np.shape(value)}.")
    number = known(value)
    if number is None:
        return
    wanted = "finite"
    if above is not None:
        wanted += f" and > {above:g}"
    elif least is not None:
        wanted += f" and >= {least:g}"
    if most is not None:
        wanted += f" and <= {most:g}"
    if not (jnp.issubdtype(number.dtype, np.number) and np.isreal(number)):
        raise ValueError(f"{name} must be a number, {wanted}, got {value!r}.")
    with np.errstate(over="ignore"):
        used = float(np.asarray(number, jax.dtypes.canonicalize_dtype(float)))
    low = (above is not None and not used > above) or (least is not None and not used >= least)
    if low or not np.isfinite(used) or (most is not None and not used <= most):
        raise ValueError(f"{name} must be {wanted}, got {value}.")


def check_positive(value: Any, name: str) -> None:
    """Raises ValueError if the known scalar ``value`` is not finite and > 0.

    Args:
      value: a number or scalar array; a traced one passes.
      name: the argument's name in messages.

    Raises:
      ValueError: on a value that is not a finite number above 0, or on another shape.
    """
    check_number(value, name, above=0)
