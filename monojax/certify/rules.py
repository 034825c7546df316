"""Interval rules of primitives that move, sum or contract entries."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from monojax.base import compat
from monojax.certify import interval
from monojax.certify.elementwise import ELEMENTWISE
from monojax.certify.interval import Interval, as_interval

Rule = Callable[..., Any]
# Each entry of the result is one entry of the operand, or rises in every entry.
RISING = (
    "broadcast_in_dim",
    "copy",
    "copy_p",
    "cummax",
    "cummin",
    "expand_dims",
    "name",
    "optimization_barrier",
    "reduce_max",
    "reduce_min",
    "reduce_window_max",
    "reduce_window_min",
    "reshape",
    "rev",
    "slice",
    "squeeze",
    "stop_gradient",
    "transpose",
    "unstack",
)
# The first operands are data, the others say where: those must be constant.
_PLACED = {"dynamic_slice": 1, "gather": 1}


def contraction_terms(eqn: Any) -> int:
    """How many products one entry of a dot or a convolution adds up."""
    left, right = (atom.aval for atom in eqn.invars[:2])
    if eqn.primitive.name == "dot_general":
        ((contract, _), _) = eqn.params["dimension_numbers"]
        return max(1, math.prod(left.shape[axis] for axis in contract))
    spec = eqn.params["dimension_numbers"]
    return max(1, math.prod(right.shape) // right.shape[spec.rhs_spec[0]])


def bilinear_op(eqn: Any) -> Callable[[Any, Any], Any]:
    """The equation as a function of its two operands, in the highest precision."""
    highest = jax.lax.Precision.HIGHEST
    params = dict(eqn.params) | {"precision": (highest, highest)}
    return lambda x, y: eqn.primitive.bind(x, y, **params)


def contraction(eqn: Any, x: Any, y: Any) -> Interval:
    """dot_general and conv_general_dilated."""
    op, terms = bilinear_op(eqn), contraction_terms(eqn)
    if not isinstance(y, Interval):
        return interval.linear(op, x, y, terms)
    if not isinstance(x, Interval):
        return interval.linear(lambda b, a: op(a, b), y, x, terms)
    return interval.bilinear(op, x, y, terms)


def _terms(eqn: Any) -> int:
    """How many entries one entry of a sum adds up, at most."""
    return max(1, math.prod(eqn.invars[0].aval.shape))


def summed(eqn: Any, x: Interval, *rest: Any) -> Interval:
    """reduce_sum, cumsum, reduce_window_sum."""
    return interval.signed_sum(lambda v: compat.bind(eqn, v, *rest), x, _terms(eqn))


def rising(eqn: Any, *args: Any) -> Any:
    """Applied to each end."""
    ends = [as_interval(arg) for arg in args]
    low = compat.bind(eqn, *(e.lo for e in ends))
    high = compat.bind(eqn, *(e.hi for e in ends))
    if eqn.primitive.multiple_results:
        return [Interval(a, b) for a, b in zip(low, high, strict=True)]
    return Interval(low, high)


def placed(eqn: Any, *args: Any) -> Interval:
    """Slices and gathers at constant places."""
    count = _PLACED[eqn.primitive.name]
    if any(isinstance(arg, Interval) for arg in args[count:]):
        raise KeyError(f"{eqn.primitive.name} at places that vary")
    data = [as_interval(arg) for arg in args[:count]]
    low = compat.bind(eqn, *(d.lo for d in data), *args[count:])
    return Interval(low, compat.bind(eqn, *(d.hi for d in data), *args[count:]))


def concatenate(eqn: Any, *args: Any) -> Interval:
    """Constants and intervals side by side."""
    ends = [as_interval(arg) for arg in args]
    low = compat.bind(eqn, *(e.lo for e in ends))
    return Interval(low, compat.bind(eqn, *(e.hi for e in ends)))


def dynamic_update_slice(eqn: Any, x: Any, update: Any, *starts: Any) -> Interval:
    """A part of x is replaced at a constant place."""
    if any(isinstance(start, Interval) for start in starts):
        raise KeyError("dynamic_update_slice at places that vary")
    x, update = as_interval(x), as_interval(update)
    low = compat.bind(eqn, x.lo, update.lo, *starts)
    return Interval(low, compat.bind(eqn, x.hi, update.hi, *starts))


def scatter_add(eqn: Any, x: Any, index: Any, update: Any) -> Interval:
    """Sums at constant places: x plus at most as many updates as there are."""
    if isinstance(index, Interval):
        raise KeyError("scatter-add at places that vary")
    x, update = as_interval(x), as_interval(update)
    zero = jnp.zeros_like(x.lo)
    added = interval.signed_sum(
        lambda v: compat.bind(eqn, zero, index, v), update, math.prod(update.lo.shape)
    )
    return interval.add(x, added)


def split(eqn: Any, x: Interval) -> list[Interval]:
    """`jnp.split`."""
    return rising(eqn, x)


def sort(eqn: Any, *args: Any) -> list[Any]:
    """Of one operand: every order statistic rises in every entry."""
    if len(args) != 1:
        raise KeyError("sort that carries other operands along")
    return rising(eqn, *args)


RULES: dict[str, Rule] = {
    **ELEMENTWISE,
    **dict.fromkeys(RISING, rising),
    **dict.fromkeys(_PLACED, placed),
    "concatenate": concatenate,
    "conv_general_dilated": contraction,
    "cumsum": summed,
    "dot_general": contraction,
    "dynamic_update_slice": dynamic_update_slice,
    "pad": concatenate,
    "reduce_and": rising,
    "reduce_or": rising,
    "reduce_sum": summed,
    "reduce_window_sum": summed,
    "scatter-add": scatter_add,
    "scatter_add": scatter_add,
    "sort": sort,
    "split": split,
    "stack": concatenate,
}
"""Enclosure of each primitive: function of (equation, operands), some of them intervals."""
