r"""Affine forms: every value as an affine function of the box's coordinates, and what is left.

With :math:`x = c + r \odot e`, :math:`e \in [-1, 1]^d`, a value is enclosed by
:math:`b + A e \pm \rho`. Linear primitives act on b and A as they are and on :math:`\rho` with
absolute coefficients; a product of two such values keeps its first-order part; an elementwise
function of one value is replaced by a line :math:`\lambda z + \mu \pm \rho` over the value's
interval. Beside it goes the interval of `Walk`, and both are cut with each other after every step.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from monojax.base import compat
from monojax.certify import interval
from monojax.certify.forms import Form, affine_step, form_of, joined, middle_of, scaled
from monojax.certify.interval import Interval, meet, up
from monojax.certify.program import is_float
from monojax.certify.rules import bilinear_op, contraction_terms
from monojax.certify.walk import Expr, Root, Walk, enclose, pieces_of

LINE_PIECES = 32
"""Into how many parts a root's interval is cut to find a line's distance."""


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One step of the surrogate: a linear map of earlier values, plus what replaces a curve."""

    op: Any
    """Function of the parents' values."""
    parents: tuple["Node", ...] = ()
    rho: jax.Array | None = None
    """Bound on what the step is off; the surrogate gets a variable of its own there."""


@dataclasses.dataclass(frozen=True, eq=False)
class Extra:
    """What a root carries beside its interval."""

    form: Form
    node: Node


@dataclasses.dataclass
class Line:
    """An elementwise function replaced by slope z + shift, within rho."""

    slope: jax.Array
    shift: jax.Array
    rho: jax.Array


class AffineWalk(Walk):
    """Intervals and affine forms together, and the surrogate that the forms belong to.

    Args:
      width: d, the number of inputs.
    """

    def __init__(self, width: int) -> None:
        """Nothing recorded yet."""
        super().__init__()
        self.width = width
        self.nodes: list[Node] = []
        """All steps of the surrogate, in order; the first one is the input."""

    def start(self, low: jax.Array, high: jax.Array) -> Root:
        """The input itself: x = c + r e."""
        center, radius = middle_of(Interval(low, high))
        form = Form(center, jnp.diag(radius), jnp.zeros_like(center))
        return Root(Interval(low, high), Extra(form, self._node(None)))

    def resolved(self, expr: Expr, box: Interval) -> Root:
        """A line over the root's interval, or the exact form where the expression is affine."""
        if box.lo.dtype == jnp.bool_:
            return Root(box)
        if expr.root.box.lo.dtype == jnp.bool_:  # no lines over a decision
            return self._alone(box)
        parent = self._extra(expr.root)
        form = self._exact(expr, {})
        if form is not None:
            box = self.minced(expr, box)
            return self._both(box, form, lambda z: _evaluated(expr, z, {}), parent.node)
        line, box = line_of(expr, box)
        form = scaled(parent.form, line.slope, line.shift, line.rho)
        op = lambda z: line.slope * z + line.shift
        return self._both(box, form, op, parent.node, rho=line.rho)

    def made(self, eqn: Any, args: list[Any], boxes: Interval) -> Root:
        """A primitive that is no elementwise function of one root."""
        if not jnp.issubdtype(boxes.lo.dtype, jnp.floating):
            return Root(boxes)
        name = eqn.primitive.name
        args = [self._enclosed(arg) if isinstance(arg, Interval) else arg for arg in args]
        varying = [isinstance(arg, Root) for arg in args]
        if any(v and arg.box.lo.dtype == jnp.bool_ for arg, v in zip(args, varying, strict=True)):
            return self._alone(boxes)
        product = name in ("mul", "dot_general", "conv_general_dilated")
        if product and all(varying):
            return self._product(eqn, args, boxes)
        extras = [self._extra(arg) if isinstance(arg, Root) else arg for arg in args]
        forms = [e.form if isinstance(e, Extra) else e for e in extras]
        form = form_of(eqn, forms)
        if form is None or eqn.primitive.multiple_results:
            return self._alone(boxes)
        parents = [e.node for e in extras if isinstance(e, Extra)]

        def op(*values):
            given = iter(values)
            operands = [next(given) if v else a for a, v in zip(args, varying, strict=True)]
            if name == "stop_gradient":  # a value like any other: the surrogate's slope is wanted
                return operands[0]
            return compat.bind(eqn, *operands)

        return self._both(boxes, form, op, *parents)

    def entry(self, value: Any, i: int) -> Any:
        """One step's slice."""
        root = super().entry(value, i)
        if not isinstance(value, Root) or not is_float(root.box.lo):
            return root
        extra = self._extra(value)
        form = extra.form.map(lambda v: v[i], extra.form.rho[i])
        entry = self._both(root.box, form, lambda v: v[i], extra.node)
        return dataclasses.replace(entry, nan=root.nan)

    def stacked(self, values: list[Any]) -> Any:
        """The slices of all steps along a new first axis."""
        root = super().stacked(values)
        if not isinstance(root, Root) or not is_float(root.box.lo):
            return root
        extras = [self._extra(v if isinstance(v, Root) else self._fixed(v)) for v in values]
        form = joined(lambda *vs: jnp.stack(vs), [e.form for e in extras])
        nodes = [e.node for e in extras]
        whole = self._both(root.box, form, lambda *vs: jnp.stack(vs), *nodes)
        return dataclasses.replace(whole, nan=root.nan)

    def _node(self, op: Any, *parents: Node, rho: Any = None) -> Node:
        node = Node(op, parents, rho)
        self.nodes.append(node)
        return node

    def _both(self, box: Interval, form: Form, op: Any, *parents: Node, rho: Any = None) -> Root:
        box = meet(box, interval.sound(form.box()))
        return Root(box, Extra(form, self._node(op, *parents, rho=rho)))

    def _alone(self, box: Interval) -> Root:
        """A value of which only its interval is known."""
        middle, radius = middle_of(box)
        zero = jnp.zeros((self.width, *middle.shape), middle.dtype)
        node = self._node(lambda: middle, rho=radius)
        return Root(box, Extra(Form(middle, zero, radius), node))

    def _enclosed(self, box: Interval) -> Root:
        """A constant of which an enclosure is known, as a variable of the surrogate."""
        return self._alone(box) if is_float(box.lo) else Root(box)

    def _fixed(self, value: Any) -> Root:
        return self._alone(interval.as_interval(value))

    def _extra(self, root: Root) -> Extra:
        return root.extra if root.extra is not None else self._alone(root.box).extra

    def _exact(self, expr: Any, memo: dict[int, Any]) -> Form | None:
        """The form of an affine expression; None for any other."""
        if isinstance(expr, Root):
            return self._extra(expr).form
        if id(expr) not in memo:
            forms = [self._exact(a, memo) if isinstance(a, (Root, Expr)) else a for a in expr.args]
            known = not any(f is None for f in forms)
            memo[id(expr)] = affine_step(expr.eqn, forms) if known else None
        return memo[id(expr)]

    def _product(self, eqn: Any, args: list[Any], box: Interval) -> Root:
        """x y = cx y + x cy - cx cy, within rx ry, around the middles of both intervals."""
        op, terms = (
            (lambda x, y: x * y, 1)
            if eqn.primitive.name == "mul"
            else (
                bilinear_op(eqn),
                contraction_terms(eqn),
            )
        )
        (cx, rx), (cy, ry) = (middle_of(arg.box) for arg in args)
        (fx, nx), (fy, ny) = ((e.form, e.node) for e in map(self._extra, args))
        shift, rest = -op(cx, cy), op(rx, ry)
        g = interval.growth(3 * terms + 6, rest.dtype)
        tiny = 4 * terms * (self.width + 4) * interval.tiny_of(rest)
        # What the surrogate is off, the rounding of its own constant included.
        rho = up(rest * (1 + g)) + 2 * g * op(jnp.abs(cx), jnp.abs(cy)) + tiny
        sizes = op(jnp.abs(cx), fy.size()) + op(fx.size(), jnp.abs(cy)) + jnp.abs(shift)
        over = jax.vmap(op, in_axes=(None, 0))(cx, fy.A) + jax.vmap(op, in_axes=(0, None))(fx.A, cy)
        own = (op(jnp.abs(cx), fy.rho) + op(fx.rho, jnp.abs(cy))) * (1 + g)
        b = op(cx, fy.b) + op(fx.b, cy) + shift
        form = Form(b, over, up(own + rho + 2 * g * sizes + tiny, 8))
        return self._both(box, form, lambda x, y: op(cx, y) + op(x, cy) + shift, nx, ny, rho=rho)


def _evaluated(expr: Any, z: jax.Array, memo: dict[int, Any]) -> Any:
    """An affine expression at a value of its root."""
    if isinstance(expr, Root):
        return z
    if not isinstance(expr, Expr):
        return expr
    if id(expr) not in memo:
        args = [_evaluated(arg, z, memo) for arg in expr.args]
        memo[id(expr)] = compat.bind(expr.eqn, *args)
    return memo[id(expr)]


def line_of(expr: Expr, box: Interval) -> tuple[Line, Interval]:
    """A line for an elementwise function over its root's interval, and a tighter enclosure.

    The slope joins the function's middles at the two ends; the distance is found on pieces, so that
    any slope is sound.
    """
    z = expr.root.box
    parts = pieces_of(z, LINE_PIECES)
    values = jax.vmap(lambda lo, hi: enclose(expr, Interval(lo, hi), {}))(*parts)
    values = meet(
        interval.sound(values),
        Interval(
            jnp.broadcast_to(box.lo, values.lo.shape), jnp.broadcast_to(box.hi, values.hi.shape)
        ),
    )
    width = z.hi - z.lo
    rise = (values.lo[-1] / 2 + values.hi[-1] / 2) - (values.lo[0] / 2 + values.hi[0] / 2)
    run = (parts.lo[-1] / 2 + parts.hi[-1] / 2) - (parts.lo[0] / 2 + parts.hi[0] / 2)
    usable = (run > 0) & jnp.isfinite(rise) & jnp.isfinite(width)
    slope = jnp.where(usable, rise / jnp.where(usable, run, 1), 0)
    off = interval.add(values, interval.scaled(parts, -slope[None]))
    low, high = off.lo.min(axis=0), off.hi.max(axis=0)
    shift, rho = middle_of(Interval(low, high))
    hull = Interval(values.lo.min(axis=0), values.hi.max(axis=0))
    return Line(slope, shift, rho), meet(box, hull)
