r"""The backward-linear bound: one line for every curve, then the slopes of the whole surrogate.

The forward pass replaced every non-linear step k by a linear one that is off by at most
:math:`\rho_k`. So the program's result is an affine function of x and of one variable
:math:`|\delta_k| \le \rho_k` for each step, and its extremes are

.. math:: s(c, 0) \pm \sum_i |J_i| r_i \pm \sum_k |\Lambda_k| \rho_k,

with :math:`J` and :math:`\Lambda` its derivatives. Unlike the forward forms, which add up
:math:`|W| \rho` layer by layer, this lets the errors of one step cancel on their way to the result.
The derivatives come from `jax.vjp`; that program is run on numbers with their errors, so that its
own rounding is inside the bound.
"""

from typing import Any

import jax
import jax.numpy as jnp

from monojax.base import compat
from monojax.base.jaxprs import Call, evaluate, structure_of
from monojax.certify import interval
from monojax.certify.affine import AffineWalk, Node
from monojax.certify.forms import Form, form_of, middle_of
from monojax.certify.interval import Interval, meet, sound, up
from monojax.certify.program import as_results
from monojax.certify.walk import Root, Walk, is_exact


def backward_bounds(walk: AffineWalk, low: jax.Array, high: jax.Array, out: Root) -> Interval:
    """Bounds on a program's result from its surrogate.

    Args:
      walk: the forward walk, with the surrogate's steps.
      low: the box's lower ends `[d]`.
      high: its upper ends.
      out: the result's root, float `[c]`.

    Returns:
      Interval `[c]`, within that of ``out``.
    """
    if out.extra is None:
        return out.box
    center, radius = middle_of(Interval(low, high))
    target = out.extra.node
    free = [node for node in walk.nodes if node.rho is not None]
    radii: list[Any] = [node.rho for node in free]
    deltas = [jnp.zeros_like(rho) for rho in radii]
    surrogate = lambda x, deltas: _surrogate(walk.nodes, free, target, x, deltas)
    value = _enclosed(lambda x: surrogate(x, None), center)
    _, pull = jax.vjp(surrogate, center, deltas)
    rows = jnp.eye(out.box.lo.size, dtype=center.dtype).reshape((-1, *out.box.lo.shape))
    closed = jax.make_jaxpr(lambda row: jax.tree.leaves(pull(row)))(rows[0])
    spread = jax.vmap(lambda row: _spread(closed, row, [radius, *radii]))(rows)
    spread = spread.reshape(out.box.lo.shape)
    bound = interval.add(value, Interval(-spread, spread))
    return meet(out.box, sound(bound))


def _surrogate(nodes: list[Node], free: list[Node], target: Node, x: Any, deltas: Any) -> Any:
    """The affine function of x and of one variable for each replaced step."""
    off = {} if deltas is None else {id(n): delta for n, delta in zip(free, deltas, strict=True)}
    values: dict[int, Any] = {id(nodes[0]): x}
    for node in nodes[1:]:
        out = node.op(*(values[id(parent)] for parent in node.parents))
        values[id(node)] = out + off[id(node)] if id(node) in off else out
        if node is target:
            break
    return values[id(target)]


def _enclosed(fn: Any, point: jax.Array) -> Interval:
    """A linear function's value at one point, its rounding inside."""
    closed = jax.make_jaxpr(fn)(point)
    (out,) = _numbers(closed, point)
    return out


def _spread(closed: compat.ClosedJaxpr, row: jax.Array, radii: list[jax.Array]) -> jax.Array:
    """The sum of |slope| radius over all variables, rounded up."""
    total = jnp.zeros((), row.dtype)
    count = 0
    for box, radius in zip(_numbers(closed, row), radii, strict=True):
        slope = jnp.maximum(jnp.abs(box.lo), jnp.abs(box.hi))
        used = jnp.where((slope == 0) | (radius == 0), 0, slope * radius)
        total = total + used.sum()
        count += radius.size
    total = total + (count + 1) * interval.tiny_of(total)  # products that were flushed to zero
    return up(total * (1 + interval.growth(count + 2, total.dtype)))


class _NotLinearError(Exception):
    """A step that has no form without intervals."""


def _numbers(closed: compat.ClosedJaxpr, point: jax.Array) -> list[Interval]:
    """Enclosures of a program's results at a point: numbers with errors where that is enough."""
    try:
        outs = evaluate(closed, [Form(point, None, jnp.zeros_like(point))], _step)
    except _NotLinearError:
        outs = Walk().run(closed, [Root(Interval(point, point))])
    return [_box(out) for out in outs]


def _box(out: Any) -> Interval:
    if isinstance(out, Form):
        return sound(out.box())
    return out.box if isinstance(out, Root) else interval.as_interval(out)


def _step(eqn: Any, args: list[Any]) -> Any:
    """One equation of a linear program: of numbers with errors, or of constants."""
    if not any(isinstance(arg, Form) for arg in args):
        if structure_of(eqn) is None and is_exact(eqn):
            return compat.bind(eqn, *args)
        raise _NotLinearError
    structure = structure_of(eqn)
    if isinstance(structure, Call):
        return as_results(eqn, evaluate(structure.body, args, _step))
    form = None if structure is not None else form_of(eqn, args)
    if form is None:
        raise _NotLinearError
    return form
