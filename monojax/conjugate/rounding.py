r"""What rounding may have done to a result: the error of every operation, carried to the end.

Every operation on floating point rounds: its result is off by some share of the last place. To
first order the errors arrive at the result times its derivative by that intermediate, which one
backward pass gives for all of them. They are taken for independent; what is returned is the root
of their mean square.

Reference:
  Linnainmaa, Taylor expansion of the accumulated rounding error, BIT 1976.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from monojax.base import compat
from monojax.base.jaxprs import Call, CustomRule, evaluate, structure_of
from monojax.conjugate.linear import varying_like

PROBES = 16
"""Directions of the result that are looked at: all where there are no more, else random ones."""

_MOVING = """
neg abs sign max min clamp select_n reduce_max reduce_min argmax argmin sort floor ceil round
is_finite reshape transpose broadcast_in_dim squeeze expand_dims slice dynamic_slice
dynamic_update_slice split concatenate gather pad rev iota copy copy_p convert_element_type real
stop_gradient pvary
"""
EXACT = frozenset(_MOVING.split())
"""Operations that move numbers without rounding them."""

ROUNDED = frozenset(("add", "sub", "mul", "div", "sqrt", "integer_pow", "square", "add_any"))
"""Operations that are right up to half a unit in the last place."""

HALF = 0.5 / 3**0.5
"""Root mean square of an error spread evenly over half a unit in the last place, in units."""


def rounding_of(fn: Callable[[Any, jax.Array], jax.Array], params: Any, y: jax.Array) -> jax.Array:
    """Root mean square `[]` of the norm of ``fn(params, y)``'s rounding error; not differentiated.

    Args:
      fn: map to `[d]`, differentiable.
      params: any pytree.
      y: shape `[d]`, floating.

    Returns:
      `[]`, in the dtype of ``y``.
    """
    leaves, tree = jax.tree.flatten(jax.lax.stop_gradient((params, y)))
    # Else a backward pass inside `jax.shard_map` would sum over the devices.
    leaves = varying_like(leaves, *leaves)
    program = jax.make_jaxpr(lambda *leaves: fn(*jax.tree.unflatten(tree, leaves)))(*leaves)

    def tapped(taps):
        seen: list[jax.Array] = []
        rule = _tapping(None if taps is None else iter(taps), seen)
        (out,) = evaluate(program, leaves, rule)
        return out, seen

    sizes = jax.eval_shape(lambda: tapped(None)[1])
    zeros = varying_like([jnp.zeros(s.shape, s.dtype) for s in sizes], *leaves)
    _, pull, sizes = jax.vjp(tapped, zeros, has_aux=True)

    def one(probe):
        (moved,) = pull(probe)
        return sum(jnp.sum(jnp.square(m * s)) for m, s in zip(moved, sizes, strict=True))

    dim = y.shape[0]
    if dim <= PROBES:
        probes, share = jnp.eye(dim, dtype=y.dtype), 1.0
    else:
        signs = jax.random.rademacher(jax.random.key(0), (PROBES, dim), jnp.int8)
        probes, share = signs.astype(y.dtype), 1 / PROBES
    squares = jax.lax.map(one, varying_like(probes, *leaves))
    return jnp.finfo(y.dtype).eps * jnp.sqrt(share * squares.sum())


def _tapping(taps: Iterator[jax.Array] | None, seen: list[jax.Array]) -> Callable[..., Any]:
    """The rule of one equation: the next of ``taps`` is added to what rounds, by as much as goes to
    ``seen``.
    """

    def tap(value, error):
        if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            return value
        seen.append(jax.lax.stop_gradient(error()))
        return value if taps is None else value + next(taps)

    def apply(eqn, inputs):
        structure = structure_of(eqn)
        if isinstance(structure, Call):
            return evaluate(structure.body, inputs, apply)
        if not isinstance(structure, CustomRule | None):  # loops and choices: not looked into
            inputs = [tap(v, functools.partial(jnp.abs, v)) for v in inputs]
        out = compat.bind(eqn, *inputs)
        if eqn.primitive.name in EXACT:
            return out
        if eqn.primitive.multiple_results:
            return [tap(o, functools.partial(jnp.abs, o)) for o in out]
        return tap(out, lambda: _error(eqn, inputs, out))

    return apply


def _error(eqn: Any, inputs: list[Any], out: jax.Array) -> jax.Array:
    """Root mean square of one operation's error, in units of eps."""
    name = eqn.primitive.name
    if name in ROUNDED:
        return HALF * jnp.abs(out)
    if name in ("dot_general", "conv_general_dilated", "reduce_sum"):
        # Every product, and a tree of partial sums no larger than the terms and the result.
        squares = jax.lax.stop_gradient([jnp.square(v) for v in inputs])
        terms = compat.bind(eqn, *squares)
        count = max(1, round(sum(v.size for v in map(jnp.asarray, inputs)) / max(1, out.size)))
        return HALF * jnp.sqrt(terms + math.log2(count) * jnp.square(out))
    return jnp.abs(out)  # functions such as exp are right to a unit or so
