"""Where a function could jump: a bound on its slopes says nothing across a jump.

Comparisons decide between cases (`jnp.where`, leaky ReLU, ELU). The function is continuous there
if the cases agree where the comparison changes its mind. That is looked at where it can be: the
comparison is between an affine function of one value and a constant, so that it changes at one
number, and both cases are functions of the same value. The number and the cases there are enclosed
by the rules of `monojax.certify.interval`; the cases agree if their enclosures overlap and are no
wider than `AGREE` of their own size. Primitives that are known to be continuous pass; everything
else that depends on x (a comparison of two values that choose between others, floor, round, sign,
argmax, an index that varies, a conversion between floats and integers) is refused.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base import compat
from monojax.base.compat import ClosedJaxpr, enable_x64
from monojax.base.jaxprs import Call, Cond, CustomRule, Scan, evaluate, structure_of
from monojax.certify import interval
from monojax.certify.elementwise import ELEMENTWISE
from monojax.certify.interval import Interval, as_interval
from monojax.certify.program import CertifyError, as_results, is_float, place
from monojax.certify.rules import RULES
from monojax.certify.walk import Walk, is_exact, ruled, shaped

AGREE = 1e-12
"""How wide the enclosures of two cases may be where they meet, relative to their size."""
_COMPARE = ("eq", "ge", "gt", "le", "lt", "ne")
_LOGIC = ("and", "not", "or", "xor")
_CONTINUOUS = (set(RULES) - {"sign"}) | {
    *("cosh", "cumlogsumexp", "cumprod", "reduce_prod", "stop_gradient")
}
"""Primitives that are continuous in float operands, or, like a division, have slopes without bound
where they are not."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Root:
    """A value that everything here is a function of."""

    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class _Expr:
    """An elementwise function of one root."""

    root: _Root
    at: Callable[[Interval, dict], Interval]
    """Enclosure where the root lies in an interval; the dictionary remembers what was computed."""
    affine: "Line | None" = None
    """Its scale and shift, where it is affine."""
    switches: tuple[Any, ...] = ()
    """For what is no float: where it changes, by `_switch`; None: unknown.

    Lines are functions, so that all that a decision asks for is computed by one compiled program.
    """

    def __call__(self, z: Interval, memo: dict) -> Interval:
        if id(self) not in memo:
            memo[id(self)] = self.at(z, memo)
        return memo[id(self)]


Line = Callable[[], tuple[Interval, Interval]]
"""Gives (scale, shift)."""


def check_continuous(closed: ClosedJaxpr) -> None:
    """Raises unless a function is seen to be continuous where it is a number.

    Args:
      closed: of `traced`, in float64.

    Raises:
      CertifyError: naming the primitive that jumps, or that may.
    """
    with enable_x64():
        _evaluated(closed, [_fresh(var.aval) for var in closed.jaxpr.invars])


def _evaluated(closed: ClosedJaxpr, args: list[Any]) -> list[Any]:
    """What results are not made of may jump."""
    return evaluate(closed, args, _apply, outs=range(len(closed.jaxpr.outvars)))


def _fresh(aval: Any) -> _Expr:
    """A new value that varies."""
    if not is_float(aval):
        return _Expr(_Root(tuple(aval.shape)), lambda z, memo: z, None, (None,))
    return _Expr(_Root(tuple(aval.shape)), lambda z, memo: z, _line(aval.shape))


def _line(shape: tuple[int, ...]) -> Line:
    return lambda: (as_interval(jnp.ones(shape)), as_interval(jnp.zeros(shape)))


def _apply(eqn: Any, args: list[Any]) -> Any:
    name, structure = eqn.primitive.name, structure_of(eqn)
    if isinstance(structure, (Call, CustomRule)):
        return as_results(eqn, _evaluated(structure.body, args))
    if not any(isinstance(arg, _Expr) for arg in args):
        return _constant(eqn, args)
    if isinstance(structure, Scan):
        return _scan(eqn, structure, args)
    if isinstance(structure, Cond) and isinstance(args[0], (int, np.ndarray, jax.Array)):
        branch = structure.branches[int(np.clip(args[0], 0, len(structure.branches) - 1))]
        return as_results(eqn, _evaluated(branch, args[1:]))
    if structure is not None:
        raise CertifyError(f"fn may jump: no bound for {place(eqn)} of values that depend on x.")
    if name == "stop_gradient":
        return args[0]
    carries = name == "sort" and len(args) > 1
    if name not in _CONTINUOUS or carries or _changes_kind(eqn, name):
        raise CertifyError(
            f"fn jumps, or may: {place(eqn)} of a value that depends on x, and a bound on slopes "
            "says nothing across a jump. Certify the part of fn without it."
        )
    if (out := _elementwise(eqn, name, args)) is not None:
        return out
    if any(isinstance(arg, _Expr) and arg.switches for arg in args):
        _refuse(eqn)
    outs = [_fresh(var.aval) for var in eqn.outvars]
    return outs if eqn.primitive.multiple_results else outs[0]


def _constant(eqn: Any, args: list[Any]) -> Any:
    """One equation of constants; their enclosures, where it rounds, by one compiled program."""
    if not any(isinstance(arg, Interval) for arg in args) and is_exact(eqn):
        return compat.bind(eqn, *args)
    given = [i for i, arg in enumerate(args) if isinstance(arg, Interval) or is_float(arg)]

    def run(floats):
        walk, operands = Walk(), list(args)
        for i, value in zip(given, floats, strict=True):
            operands[i] = value
        return walk.constant(eqn, operands), walk.undefined_constant

    out, undefined = jax.jit(run)([args[i] for i in given])
    if bool(undefined):
        raise CertifyError(f"{place(eqn)} of constants is not a number.")
    return out


def _changes_kind(eqn: Any, name: str) -> bool:
    """True for conversions between floats and others, and for results in floats of few bits."""
    made = [var.aval.dtype for var in eqn.outvars]
    floats = [jnp.issubdtype(dtype, jnp.floating) for dtype in made]
    small = any(f and jnp.finfo(d).bits < 32 for f, d in zip(floats, made, strict=True))
    if name == "reduce_precision" or small:  # a dot can round, too
        return True
    given = jnp.issubdtype(eqn.invars[0].aval.dtype, jnp.floating)
    return name == "convert_element_type" and given != floats[0]


def _refuse(eqn: Any) -> None:
    raise CertifyError(
        f"fn may jump: {place(eqn)} decides by a comparison of values that depend on x. Write it "
        "with max, min, clip or jax.nn.relu, or as jnp.where(z > c, ...) of one value z."
    )


def _elementwise(eqn: Any, name: str, args: list[Any]) -> Any:
    """One more step of a function of one root; None where it is not one."""
    if name not in ELEMENTWISE:
        return None
    varying = [arg for arg in args if isinstance(arg, _Expr)]
    roots = {arg.root for arg in varying}
    (out,) = eqn.outvars
    shape = tuple(out.aval.shape)
    if name in _COMPARE and args[0] is args[1] and not varying[0].switches:  # a test for NaN
        return jnp.full(shape, name in ("eq", "ge", "le"))
    if name == "is_finite" and not varying[0].switches:
        return jnp.ones(shape, bool)
    if len(roots) != 1 or shape != next(iter(roots)).shape:
        if name in _COMPARE:  # harmless until something is decided by it
            return _fresh(out.aval)
        if any(arg.switches for arg in varying):
            _refuse(eqn)
        return None
    (root,) = roots
    args = [arg if isinstance(arg, _Expr) else shaped(arg, shape) for arg in args]
    at = lambda z, memo: ruled(
        eqn, [arg(z, memo) if isinstance(arg, _Expr) else arg for arg in args]
    )
    switches = tuple(s for arg in varying for s in arg.switches)
    if name in _COMPARE:
        return _Expr(root, at, None, (None,) if switches else (_switch(args),))
    if name == "select_n":
        if isinstance(args[0], _Expr) and is_float(out.aval):
            _check_select(eqn, args)
        return _Expr(root, at, None, () if is_float(out.aval) else switches or (None,))
    if name in _LOGIC:
        return _Expr(root, at, None, switches or (None,))
    if switches:  # a boolean turned into a number
        _refuse(eqn)
    return _Expr(root, at, _affine(name, args))


def _affine(name: str, args: list[Any]) -> Line | None:
    """Scale and shift of a sum or a multiple of affine functions."""
    parts = [arg.affine if isinstance(arg, _Expr) else _level(arg) for arg in args]
    lines = [part for part in parts if part is not None]
    if len(lines) < len(parts):
        return None
    fixed = [i for i, arg in enumerate(args) if not isinstance(arg, _Expr)]
    if name in ("add", "add_any", "sub"):

        def total() -> tuple[Interval, Interval]:
            a, b = (line() for line in lines)
            b = (interval.neg(b[0]), interval.neg(b[1])) if name == "sub" else b
            return interval.add(a[0], b[0]), interval.add(a[1], b[1])

        return total
    if name == "neg":
        return _both(lines[0], interval.neg)
    if name == "convert_element_type":
        return lines[0]
    if name == "mul" and fixed:
        k, line = lines[fixed[0]], lines[1 - fixed[0]]
        return _both(line, lambda part: interval.mul(part, k()[1]))
    if name == "div" and fixed == [1]:
        return _both(lines[0], lambda part: ELEMENTWISE["div"](None, part, lines[1]()[1]))
    return None


def _both(line: Line, fn: Callable[[Interval], Interval]) -> Line:
    def applied() -> tuple[Interval, Interval]:
        scale, shift = line()
        return fn(scale), fn(shift)

    return applied


def _level(value: Any) -> Line:
    box = as_interval(value)
    level = Interval(box.lo.astype(jnp.float64), box.hi.astype(jnp.float64))
    return lambda: (as_interval(jnp.zeros_like(level.lo)), level)


def _switch(args: list[Any]) -> Any:
    """Where a comparison changes: the line that is 0 there, and what is known exactly there."""
    line = _affine("sub", args)
    if line is None:
        return None
    exact = [(a, b) for a, b in (args, args[::-1]) if isinstance(a, _Expr)]
    return line, [(a, as_interval(b)) for a, b in exact if not isinstance(b, _Expr)]


def _crossing(line: Line) -> tuple[Interval, jax.Array, jax.Array]:
    """The root's value where a line is 0; whether it is known; where it is 0 at all."""
    scale, shift = line()
    never = (scale.lo == 0) & (scale.hi == 0)
    known = (scale.lo > 0) | (scale.hi < 0) | never
    one = jnp.ones_like(scale.lo)
    safe = Interval(jnp.where(never, one, scale.lo), jnp.where(never, one, scale.hi))
    z = ELEMENTWISE["div"](None, interval.neg(shift), safe)
    return Interval(*(jnp.where(never, 0.0, end) for end in z)), known.all(), ~never


def _check_select(eqn: Any, args: list[Any]) -> None:
    """The cases must agree at every number where the condition changes."""
    which, *cases = args
    if None in which.switches:
        _refuse(eqn)

    def enclosed():
        found = []
        for line, exact in which.switches:
            z, known, matters = _crossing(line)
            memo = {id(value): level for value, level in exact}
            boxes = [c(z, memo) if isinstance(c, _Expr) else as_interval(c) for c in cases]
            found.append((boxes, known, matters))
        return found

    for boxes, known, matters in jax.jit(enclosed)():
        if not known:
            _refuse(eqn)
        low, high = (np.stack([np.asarray(box[i], float) for box in boxes]) for i in (0, 1))
        apart = low.max(axis=0) > high.min(axis=0)
        size = np.maximum(np.abs(low), np.abs(high)).max(axis=0)
        with np.errstate(invalid="ignore"):
            agree = ~apart & (high.max(axis=0) - low.min(axis=0) <= AGREE * size)
            agree &= np.isfinite(size)  # two cases that overflow are not seen to agree
        if np.any(matters & ~agree):
            raise CertifyError(
                f"fn jumps, or may: the cases of {place(eqn)} are not seen to agree where its "
                "condition changes, and a bound on slopes says nothing across a jump."
            )


def _scan(eqn: Any, scan: Scan, args: list[Any]) -> list[Any]:
    """Once through the body with everything that may depend on x, for each different slice."""
    consts, carry, slices = scan.parts(args)
    if not scan.length:
        raise CertifyError(f"no bound for {place(eqn)} of length 0.")
    avals = [var.aval for var in scan.body.jaxpr.invars]
    first = len(consts) + len(carry)
    fixed = [s for s in slices if not isinstance(s, _Expr)]
    steps = range(scan.length)
    computed = any(isinstance(s, Interval) for s in fixed)
    if not computed and all((np.asarray(s) == np.asarray(s)[:1]).all() for s in fixed):
        steps = range(1)
    for i in steps:
        inner = [*consts, *map(_fresh, avals[len(consts) : first])]
        for s, aval in zip(slices, avals[first:], strict=True):
            inner.append(_fresh(aval) if isinstance(s, _Expr) else Walk().entry(s, i))
        _evaluated(scan.body, inner)
    return [_fresh(var.aval) for var in eqn.outvars]
