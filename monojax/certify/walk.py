"""Walks a program whose values are enclosed: one way for all three bounds.

A value that varies is a *root* (an enclosure of its own) or an *expression*, an elementwise
function of one root that has not been enclosed yet. What a root's dependents share is lost once
they are enclosed one by one, so s (1 - s) is enclosed as one function of its root, on pieces of the
root's interval, and not as a product of two intervals.

Comparisons with a value that may be NaN (the square root of what may be negative) are not known:
`Root.nan` says where that can be, and a decision by such a value makes the whole box `undefined`.

A value that does not vary is a constant as it stands, or an `Interval` once a float operation that
rounds has touched it: constants that are computed are known as little as anything else.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base import compat
from monojax.base.jaxprs import Call, Cond, CustomRule, Scan, evaluate, structure_of
from monojax.certify import interval
from monojax.certify.elementwise import DECIDES, ELEMENTWISE, UNDEFINED, widens
from monojax.certify.interval import Interval, as_interval, meet, sound
from monojax.certify.program import CertifyError, as_results, has_floats, is_float, place
from monojax.certify.rules import RULES, bilinear_op, contraction_terms

EXACT = frozenset(
    ("abs", "argsort", "broadcast_in_dim", "ceil", "clamp", "concatenate", "copy", "copy_p")
    + ("cummax", "cummin", "dynamic_slice", "dynamic_update_slice", "expand_dims", "floor")
    + ("gather", "iota", "max", "min", "name", "neg", "optimization_barrier", "pad", "reduce_max")
    + ("reduce_min", "reduce_window_max", "reduce_window_min", "reshape", "rev", "round")
    + ("select_n", "sign", "slice", "sort", "split", "squeeze", "stack", "stop_gradient")
    + ("transpose", "unstack")
)
"""Primitives that compute without any rounding."""
PIECES = 8
"""Into how many parts a root's interval is cut where its expression names it more than once."""
MOST_STEPS = 1000
"""The longest loop that is written out."""


@dataclasses.dataclass(frozen=True, eq=False)
class Root:
    """A value that varies, with its enclosure."""

    box: Interval
    extra: Any = None
    """What a domain adds: an affine form, for example."""
    origin: tuple[Any, ...] = ()
    """What is known of where it comes from: ("product", a, b), ("max", of), ("mask",)."""
    nan: Any = False
    """Whether the program may compute NaN there: False, or a scalar bool array."""


@dataclasses.dataclass(frozen=True, eq=False)
class Expr:
    """An elementwise function of one root, with a first enclosure made step by step."""

    root: Root
    eqn: Any
    args: tuple[Any, ...]
    box: Interval
    uses: int
    """How often the root is named; once means that ``box`` is as tight as it gets."""
    nan: Any = False
    """Whether the program may compute NaN there, as in `Root`."""


def enclose(expr: Any, z: Interval, memo: dict[int, Any]) -> Any:
    """The enclosure of an expression whose root lies in ``z``.

    Args:
      expr: a Root, an Expr, or a constant.
      z: enclosure of the root.
      memo: what has been computed, by identity.

    Returns:
      Interval, or the constant.
    """
    if isinstance(expr, Root):
        return z
    if not isinstance(expr, Expr):
        return expr
    if id(expr) not in memo:
        args = [enclose(arg, z, memo) for arg in expr.args]
        memo[id(expr)] = ruled(expr.eqn, args, same=all_same(expr.args))
    return memo[id(expr)]


def all_same(args: Any) -> bool:
    """True if an equation's two operands are one and the same value."""
    return len(args) == 2 and args[0] is args[1]


def ruled(eqn: Any, args: list[Any], same: bool = False) -> Interval:
    """The rule of an elementwise primitive; a value compared with itself is equal to itself."""
    name = eqn.primitive.name
    if same and name in ("eq", "ne", "ge", "le", "lt", "gt"):
        truth = jnp.full(jnp.shape(args[0].lo), name in ("eq", "ge", "le"))
        return Interval(truth, truth)
    if same and name == "sub":
        zero = jnp.zeros_like(args[0].lo)
        return Interval(zero, zero)
    if same and name == "mul":
        return interval.square(args[0])
    out = ELEMENTWISE[name](eqn, *args)
    return out if out.lo.dtype == jnp.bool_ else sound(out)


def pieces_of(z: Interval, count: int) -> Interval:
    """An interval cut into parts along a new first axis; neighbours share their ends.

    The ends come from halving, count being a power of two: a b / 2 is exact, so that an end is the
    same number wherever XLA computes it again, and no gap can open between two parts.
    """
    edges = jnp.stack(z)
    while len(edges) <= count:
        middle = edges[:-1] * 0.5 + edges[1:] * 0.5
        edges = jnp.stack([edges[:-1], middle], axis=1).reshape(-1, *z.lo.shape)
        edges = jnp.concatenate([edges, z.hi[None]])
    size = jnp.maximum(jnp.abs(z.lo), jnp.abs(z.hi))
    info = jnp.finfo(z.lo.dtype)
    cut = (size < info.max / 4) & (size > float(info.tiny) / float(info.eps) ** 2)
    cut = cut[None]  # else every piece is the whole: no NaN may reach a comparison
    return Interval(jnp.where(cut, edges[:-1], z.lo[None]), jnp.where(cut, edges[1:], z.hi[None]))


class Walk:
    """Interval arithmetic. Subclasses add affine forms beside the intervals."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self.undefined: Any = False
        """Whether a decision may have been taken by NaN; a scalar bool array once it is open."""
        self.undefined_constant: Any = False
        """Whether a constant that is computed may be no number; the same."""
        self._roots: dict[int, tuple[Expr, Root]] = {}  # one root for an expression, however often

    def run(self, closed: compat.ClosedJaxpr, args: list[Any]) -> list[Any]:
        """Evaluates a program; results are Roots, or constants."""
        return [self.root_of(out) for out in evaluate(closed, args, self._apply)]

    def root_of(self, value: Any) -> Any:
        """An expression as a root of its own; anything else as it is."""
        if not isinstance(value, Expr):
            return value
        known = self._roots
        if id(value) not in known:
            root = self.resolved(value, value.box)
            if value.eqn.primitive.name == "convert_element_type" and value.args[0] is value.root:
                root = dataclasses.replace(root, origin=value.root.origin)
            root = dataclasses.replace(root, nan=value.nan)
            known[id(value)] = (value, root)  # kept alive with its number
        return known[id(value)][1]

    def resolved(self, expr: Expr, box: Interval) -> Root:
        """The root that an expression becomes, from a first enclosure; for subclasses."""
        return Root(self.minced(expr, box))

    def minced(self, expr: Expr, box: Interval) -> Interval:
        """A tighter enclosure, on parts of the root's interval, where it names the root twice."""
        if expr.uses < 2 or not (is_float(box.lo) and is_float(expr.root.box.lo)):
            return box
        return meet(box, self._minced(expr))

    def made(self, eqn: Any, args: list[Any], boxes: Any) -> Any:
        """The root that an equation gives, from its interval; for subclasses."""
        return Root(boxes)

    def _minced(self, expr: Expr) -> Interval:
        parts = jax.vmap(lambda lo, hi: enclose(expr, Interval(lo, hi), {}))(
            *pieces_of(expr.root.box, PIECES)
        )
        return sound(Interval(parts.lo.min(axis=0), parts.hi.max(axis=0)))

    def _apply(self, eqn: Any, args: list[Any]) -> Any:
        structure = structure_of(eqn)
        varies = any(isinstance(arg, (Root, Expr)) for arg in args)
        plain = not varies and not any(isinstance(arg, Interval) for arg in args)
        if plain and (not has_floats(eqn) or (structure is None and is_exact(eqn, args))):
            if eqn.primitive.name == "dot_general":  # of one term, in no lower precision
                return bilinear_op(eqn)(*args)
            if any(isinstance(arg, jax.core.Tracer) for arg in args):
                return compat.bind(eqn, *args)
            with jax.ensure_compile_time_eval():  # so that it can be seen to be 0 or 1
                return compat.bind(eqn, *args)
        if structure is not None:
            return self._structured(eqn, structure, args)
        if not varies:
            return self._constant(eqn, args)
        if (expr := self._expression(eqn, args)) is not None:
            return expr
        args = [self.root_of(arg) for arg in args]
        boxes = self._enclosures(eqn, args)
        nan = self._noted(eqn, args, [a.box if isinstance(a, Root) else a for a in args])
        if eqn.primitive.multiple_results:
            roots = [self.made(eqn, args, _safe(box)) for box in boxes]
            return [dataclasses.replace(root, nan=nan) for root in roots]
        box, origin = _traced(eqn, args, _safe(boxes))
        return dataclasses.replace(self.made(eqn, args, box), origin=origin, nan=nan)

    def _noted(self, eqn: Any, args: list[Any], boxes: list[Any]) -> Any:
        """Whether the result may be NaN; a decision by what may be NaN is noted for the whole."""
        name = eqn.primitive.name
        nan: Any = False
        for arg in args:
            given = arg.nan if isinstance(arg, (Root, Expr)) else False
            nan = given if nan is False else nan if given is False else nan | given
        if name in UNDEFINED and (outside := UNDEFINED[name](eqn, *boxes)) is not None:
            nan = outside.any() if nan is False else nan | outside.any()
            if name == "pow" and isinstance(args[1], (Root, Expr)):  # 0^0 is 1, and a jump
                self._note(nan)
        if name in DECIDES:
            if name == "is_finite":  # of real numbers it is not asked: unless surely, it is open
                wide = ~(jnp.isfinite(boxes[0].lo) & jnp.isfinite(boxes[0].hi)).all()
                nan = wide if nan is False else nan | wide
            self._note(nan)
            return False
        return nan

    def _note(self, nan: Any) -> None:
        if nan is not False:
            self.undefined = nan if self.undefined is False else self.undefined | nan

    def constant(self, eqn: Any, args: list[Any]) -> Any:
        """One equation of constants: as it stands where that is exact, else an Interval."""
        return self._apply(eqn, args)

    def _constant(self, eqn: Any, args: list[Any]) -> Any:
        """What is computed from constants alone, rounding enclosed."""
        args = [as_interval(a) if is_float(jnp.asarray(a)) else a for a in map(_known, args)]
        boxes = self._enclosures(eqn, args)
        nan = self._noted(eqn, args, args)
        self.undefined_constant = self.undefined_constant | nan
        return list(map(_safe, boxes)) if eqn.primitive.multiple_results else _safe(boxes)

    def _enclosures(self, eqn: Any, args: list[Any]) -> Any:
        """The rule of a primitive applied to the enclosures of its operands."""
        name = eqn.primitive.name
        if name not in RULES:
            raise CertifyError(
                f"no bound for {place(eqn)}; certify the part of fn without it, or write it with "
                "primitives that have one (see the docs' limits)."
            )
        floats = [is_float(atom.aval) or atom.aval.dtype == jnp.bool_ for atom in eqn.outvars]
        if not all(floats):
            raise CertifyError(f"no bound for {place(eqn)} of integers that depend on x.")
        try:
            return RULES[name](eqn, *(arg.box if isinstance(arg, Root) else arg for arg in args))
        except KeyError as error:
            raise CertifyError(f"no bound for {place(eqn)}: {error.args[0]}.") from error

    def _expression(self, eqn: Any, args: list[Any]) -> Expr | None:
        """One more step of an elementwise function of one root, if it is one."""
        name = eqn.primitive.name
        varying = [arg for arg in args if isinstance(arg, (Root, Expr))]
        roots = {id(arg.root if isinstance(arg, Expr) else arg) for arg in varying}
        if name not in ELEMENTWISE or len(roots) != 1:
            return None
        if name in _AFFINE and any(isinstance(arg, Interval) for arg in args):
            return None  # a product or sum of two enclosures, which subclasses know better
        if not is_float(eqn.outvars[0].aval) and eqn.outvars[0].aval.dtype != jnp.bool_:
            return None
        root = varying[0].root if isinstance(varying[0], Expr) else varying[0]
        shape = jnp.shape(root.box.lo)
        if eqn.outvars[0].aval.shape != shape:
            return None
        args = [arg if isinstance(arg, (Root, Expr)) else shaped(arg, shape) for arg in args]
        boxes = [arg.box if isinstance(arg, (Root, Expr)) else arg for arg in args]
        try:
            box = ruled(eqn, boxes, all_same(args))
        except KeyError as error:
            raise CertifyError(f"no bound for {place(eqn)}: {error.args[0]}.") from error
        uses = sum(arg.uses if isinstance(arg, Expr) else 1 for arg in varying)
        return Expr(root, eqn, tuple(args), box, uses, self._noted(eqn, args, boxes))

    def _structured(self, eqn: Any, structure: Any, args: list[Any]) -> Any:
        if isinstance(structure, (Call, CustomRule)):
            return as_results(eqn, evaluate(structure.body, args, self._apply))
        if isinstance(structure, Scan):
            return self._scan(eqn, structure, args)
        if isinstance(structure, Cond) and not isinstance(args[0], (Root, Expr)):
            if isinstance(args[0], (jax.core.Tracer, Interval)):
                raise CertifyError(f"no bound for {place(eqn)} by an index that is traced.")
            branch = structure.branches[min(max(int(args[0]), 0), len(structure.branches) - 1)]
            return as_results(eqn, evaluate(branch, args[1:], self._apply))
        raise CertifyError(f"no bound for {place(eqn)} of values that depend on x.")

    def _scan(self, eqn: Any, scan: Scan, args: list[Any]) -> list[Any]:
        """Written out, step by step."""
        if scan.length > MOST_STEPS:
            raise CertifyError(
                f"{place(eqn)} has {scan.length} steps; loops of up to {MOST_STEPS} are bounded."
            )
        if not scan.length:
            raise CertifyError(f"no bound for {place(eqn)} of length 0.")
        consts, carry, slices = scan.parts([self.root_of(arg) for arg in args])
        steps: list[list[Any]] = []
        order = range(scan.length)
        for i in reversed(order) if scan.reverse else order:
            at = [self.entry(s, i) for s in slices]
            outs = evaluate(scan.body, [*consts, *carry, *at], self._apply)
            carry, ys = outs[: scan.num_carry], outs[scan.num_carry :]
            steps.append([self.root_of(y) for y in ys])
        if scan.reverse:
            steps.reverse()
        return [*carry, *(self.stacked(list(ys)) for ys in zip(*steps, strict=True))]

    def entry(self, value: Any, i: int) -> Any:
        """One step's slice."""
        if isinstance(value, Interval):
            return Interval(value.lo[i], value.hi[i])
        if not isinstance(value, Root):
            return jnp.asarray(value)[i]
        return Root(Interval(value.box.lo[i], value.box.hi[i]), nan=value.nan)

    def stacked(self, values: list[Any]) -> Any:
        """The slices of all steps along a new first axis."""
        if not any(isinstance(v, (Root, Interval)) for v in values):
            return jnp.stack(values)
        boxes = [v.box if isinstance(v, Root) else as_interval(v) for v in values]
        box = Interval(jnp.stack([b.lo for b in boxes]), jnp.stack([b.hi for b in boxes]))
        nans = [v.nan for v in values if isinstance(v, Root) and v.nan is not False]
        nan = jnp.stack(nans).any() if nans else False
        return Root(box, nan=nan) if any(isinstance(v, Root) for v in values) else box


_AFFINE = ("add", "add_any", "div", "mul", "sub")


def _known(value: Any) -> Any:
    return value if isinstance(value, Interval) else jnp.asarray(value)


def is_exact(eqn: Any, args: Any = ()) -> bool:
    """True if an equation on constants gives what it gives in exact arithmetic."""
    product = eqn.primitive.name == "mul"
    if eqn.primitive.name == "dot_general":
        product = contraction_terms(eqn) == 1 and _one_dtype(eqn)
    if product and any(_is_unit(arg) for arg in args):
        return True
    if not any(is_float(var.aval) for var in eqn.outvars) or eqn.primitive.name in EXACT:
        return True
    if eqn.primitive.name != "convert_element_type":
        return False
    old, new = eqn.invars[0].aval.dtype, eqn.outvars[0].aval.dtype
    if old == jnp.bool_:
        return True
    return jnp.issubdtype(old, jnp.floating) and widens(old, new)


def _one_dtype(eqn: Any) -> bool:
    return len({atom.aval.dtype for atom in (*eqn.invars, *eqn.outvars)}) == 1


def _is_unit(value: Any) -> bool:
    """True for what is seen to hold nothing but 0, 1 and -1."""
    if isinstance(value, (jax.core.Tracer, Interval)):
        return False
    return bool(np.isin(np.asarray(value), (-1, 0, 1)).all())


def _traced(eqn: Any, args: list[Any], box: Interval) -> tuple[Interval, tuple[Any, ...]]:
    """What an equation's operands share tightens its enclosure; and what its result is.

    a + a b is a (1 + b), which is how jax writes the slope of tanh; and of the entries compared
    with their maximum, or minimum, one at least is equal to it: so jax writes the slope of either.
    """
    name, params = eqn.primitive.name, eqn.params
    origins = [arg.origin if isinstance(arg, Root) else () for arg in args]
    first = origins[0]
    if name == "mul" and all(isinstance(arg, Root) for arg in args):
        return box, ("product", *args)
    if name in ("add", "add_any") and all(isinstance(arg, Root) for arg in args):
        for x, origin in ((args[0], origins[1]), (args[1], first)):
            for i in (1, 2) if origin[:1] == ("product",) else ():
                if origin[i] is x:
                    one = jnp.ones_like(x.box.lo)
                    more = interval.add(Interval(one, one), origin[3 - i].box)
                    box = meet(box, sound(interval.mul(x.box, more)))
    if name in ("reduce_max", "reduce_min"):
        return box, ("max", args[0], tuple(params["axes"]))
    if first[:1] == ("max",):
        _, of, axes = first
        shape = jnp.shape(of.box.lo)
        kept = tuple(axis for axis in range(len(shape)) if axis not in axes)
        ones = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
        if name == "broadcast_in_dim" and tuple(params["shape"]) in (shape, ones):
            if tuple(params["broadcast_dimensions"]) == kept:
                return box, ("maxes", of, axes)
            return box, ()
        if name == "reshape" and eqn.outvars[0].aval.shape == ones and params["dimensions"] is None:
            return box, ("maxes", of, axes)
        return box, ()
    if first[:1] == ("maxes",):  # broadcast along the reduced axes, which stand in their places
        _, of, axes = first
        shape = jnp.shape(of.box.lo)
        straight = tuple(range(len(shape)))
        if name == "broadcast_in_dim" and tuple(params["shape"]) == shape:
            return box, first if tuple(params["broadcast_dimensions"]) == straight else ()
    if name == "eq":
        for x, origin in ((args[0], origins[1]), (args[1], first)):
            if origin[:1] == ("maxes",) and origin[1] is x:
                return box, ("mask", origin[2])
        return box, ()
    if name == "convert_element_type" and first[:1] == ("mask",):
        return box, first
    if name == "reduce_sum" and first[:1] == ("mask",) and tuple(params["axes"]) == first[1]:
        most = jnp.full_like(box.hi, jnp.inf)
        return meet(box, Interval(jnp.ones_like(box.lo), most)), ()
    return box, ()


def _safe(box: Any) -> Any:
    return sound(box) if jnp.issubdtype(box.lo.dtype, jnp.floating) else box


def shaped(constant: Any, shape: tuple[int, ...]) -> Any:
    """A constant operand; jax's elementwise primitives let scalars stand beside arrays."""
    if isinstance(constant, Interval):
        return Interval(*(jnp.broadcast_to(end, shape) for end in constant))
    return jnp.broadcast_to(jnp.asarray(constant), shape)
