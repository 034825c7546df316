"""Bounds on a gradient over many boxes at once: interval, forward-linear and backward-linear."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import one_of
from monojax.base.compat import ClosedJaxpr
from monojax.certify import interval
from monojax.certify.affine import AffineWalk
from monojax.certify.backward import backward_bounds
from monojax.certify.interval import Interval
from monojax.certify.program import gradient_program
from monojax.certify.walk import Root, Walk

BOUNDS = ("auto", "interval", "forward", "backward")


def gradient_bounds(
    fn: Callable, low: jax.Array, high: jax.Array, *, bound: str = "auto"
) -> Interval:
    """Encloses every partial derivative of ``fn`` over a box.

    Sound for the function in exact arithmetic, as `monojax.certify.interval` says. Works under jit
    and vmap: give one box and use `jax.vmap` for many. Slopes say nothing of jumps: a function can
    rise wherever it has a slope and fall where it jumps. `certify_monotone` refuses such functions.

    Args:
      fn: map of ONE example float `[d]` to a scalar.
      low: lower ends `[d]`, float32 or float64.
      high: upper ends `[d]`, same dtype. Ends that this mode of jax cannot hold (float64 without
        x64) are rounded outward.
      bound: "interval", "forward", "backward" (tighter and dearer in this order), or "auto", the
        last one.

    Returns:
      Interval of shape `[d]`: ``lo <= d fn / d x_i <= hi`` at every point of the box where the
      derivative exists.

    Raises:
      ValueError: on a box with low > high, where the ends are known.
      CertifyError: on a primitive without a bound; the message names it.
    """
    if not isinstance(low, jax.core.Tracer) and not isinstance(high, jax.core.Tracer):
        ends = np.asarray(low), np.asarray(high)
        if not (ends[0] <= ends[1]).all():
            raise ValueError(f"low must be <= high, got {low} and {high}.")
        low, high = (jnp.asarray(e) for e in (_rounded_down(ends[0]), -_rounded_down(-ends[1])))
    program = gradient_program(fn, jax.ShapeDtypeStruct(low.shape, low.dtype))
    return bounds_of(program, low, high, bound=bound)


def _rounded_down(end: np.ndarray) -> np.ndarray:
    """A float64 end in the dtype that jax will hold it in, not above it; subnormals too."""
    dtype = jax.dtypes.canonicalize_dtype(end.dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        return end
    kept = end.astype(dtype)
    kept = np.where(kept > end, np.nextafter(kept, np.asarray(-np.inf, dtype)), kept)
    tiny = jnp.finfo(dtype).tiny
    kept = np.where((kept > 0) & (kept < tiny), 0, kept)
    return np.where((kept < 0) & (kept > -tiny), -tiny, kept).astype(dtype)


def bounds_of(program: ClosedJaxpr, low: Any, high: Any, *, bound: str) -> Interval:
    """The same for a gradient that has been traced already.

    Args:
      program: of `gradient_program`.
      low: lower ends `[d]`.
      high: upper ends `[d]`.
      bound: one of `BOUNDS`.

    Returns:
      Interval `[d]`.
    """
    one_of(bound, BOUNDS, "bound")
    walk: Walk
    if bound == "interval":
        walk = Walk()
        (out,) = walk.run(program, [Root(Interval(low, high))])
    else:
        walk = affine = AffineWalk(low.shape[0])
        (out,) = affine.run(program, [affine.start(low, high)])
        if bound != "forward" and isinstance(out, Root):
            out = Root(backward_bounds(affine, low, high, out))
    box = out.box if isinstance(out, Root) else interval.as_interval(out)
    lo, hi = (jnp.broadcast_to(end, low.shape).astype(low.dtype) for end in box)
    if walk.undefined is False:
        return Interval(lo, hi)
    unknown = walk.undefined  # a decision by NaN: nothing is known of what the program does
    return Interval(jnp.where(unknown, -jnp.inf, lo), jnp.where(unknown, jnp.inf, hi))
