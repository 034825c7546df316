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

from monojax.base.compat import enable_x64
from monojax.base.jaxprs import Call, Cond, CustomRule, Scan, evaluate, structure_of
from monojax.certify import interval
from monojax.certify.elementwise import ELEMENTWISE
from monojax.certify.interval import Interval, as_interval
from monojax.certify.program import CertifyError, as_results, is_float, own_constants, place
from monojax.certify.rules import RULES
from monojax.certify.walk import Walk, _ruled, _shaped

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
    affine: tuple[Interval, Interval] | None = None
    """(scale, shift), where it is affine."""
    switches: tuple[Any, ...] = ()
    """For what is no float: enclosures of the roots' values where it changes, None: unknown."""

    def __call__(self, z: Interval, memo: dict) -> Interval:
        if id(self) not in memo:
            memo[id(self)] = self.at(z, memo)
        return memo[id(self)]


def check_continuous(fn: Callable, width: int) -> None:
    """Raises unless ``fn`` is seen to be continuous.

    Args:
      fn: map of ONE example float `[d]` to a scalar.
      width: d.

    Raises:
      CertifyError: naming the primitive that jumps, or that may.
    """
    with enable_x64():
        example = jax.ShapeDtypeStruct((width,), jnp.float64)
        closed = own_constants(jax.make_jaxpr(fn)(example))
        evaluate(closed, [_fresh(example)], _apply)


def _fresh(aval: Any) -> _Expr:
    """A new value that varies."""
    if not is_float(aval):
        return _Expr(_Root(tuple(aval.shape)), lambda z, memo: z, None, (None,))
    return _Expr(_Root(tuple(aval.shape)), lambda z, memo: z, _line(aval.shape))


def _line(shape: tuple[int, ...]) -> tuple[Interval, Interval]:
    one = jnp.ones(shape)
    return as_interval(one), as_interval(one * 0)


def _apply(eqn: Any, args: list[Any]) -> Any:
    name, structure = eqn.primitive.name, structure_of(eqn)
    if isinstance(structure, (Call, CustomRule)):
        return as_results(eqn, evaluate(structure.body, args, _apply))
    if not any(isinstance(arg, _Expr) for arg in args):
        return Walk().constant(eqn, args)
    if isinstance(structure, Scan):
        return _scan(eqn, structure, args)
    if isinstance(structure, Cond) and isinstance(args[0], (int, np.ndarray, jax.Array)):
        branch = structure.branches[int(np.clip(args[0], 0, len(structure.branches) - 1))]
        return as_results(eqn, evaluate(branch, args[1:], _apply))
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


def _changes_kind(eqn: Any, name: str) -> bool:
    """True for conversions between floats and others, and to floats of few bits."""
    if name == "reduce_precision":
        return True
    old, new = (atom.aval.dtype for atom in (eqn.invars[0], eqn.outvars[0]))
    if name != "convert_element_type":
        return False
    kinds = [jnp.issubdtype(dtype, jnp.floating) for dtype in (old, new)]
    return kinds[0] != kinds[1] or (kinds[1] and jnp.finfo(new).bits < 32)


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
    args = [arg if isinstance(arg, _Expr) else _shaped(arg, shape) for arg in args]
    at = lambda z, memo: _ruled(
        eqn, [arg(z, memo) if isinstance(arg, _Expr) else arg for arg in args]
    )
    switches = tuple(s for arg in varying for s in arg.switches)
    if name in _COMPARE:
        return _Expr(root, at, None, (None,) if switches else (_where_equal(args),))
    if name == "select_n":
        if isinstance(args[0], _Expr) and is_float(out.aval):
            _check_select(eqn, args)
        return _Expr(root, at, None, () if is_float(out.aval) else switches or (None,))
    if name in _LOGIC:
        return _Expr(root, at, None, switches or (None,))
    if switches:  # a boolean turned into a number
        _refuse(eqn)
    return _Expr(root, at, _affine(name, args))


def _affine(name: str, args: list[Any]) -> Any:
    """Scale and shift of a sum or a multiple of affine functions."""
    parts: list[Any] = [arg.affine if isinstance(arg, _Expr) else _level(arg) for arg in args]
    if any(part is None for part in parts):
        return None
    if name in ("add", "add_any", "sub"):
        second = parts[1] if name != "sub" else tuple(map(interval.neg, parts[1]))
        return tuple(interval.add(a, b) for a, b in zip(parts[0], second, strict=True))
    if name == "neg":
        return tuple(map(interval.neg, parts[0]))
    if name == "convert_element_type":
        return parts[0]
    fixed = [i for i, arg in enumerate(args) if not isinstance(arg, _Expr)]
    if name == "mul" and fixed:
        k = parts[fixed[0]][1]
        return tuple(interval.mul(part, k) for part in parts[1 - fixed[0]])
    if name == "div" and fixed == [1]:
        return tuple(ELEMENTWISE["div"](None, part, parts[1][1]) for part in parts[0])
    return None


def _level(value: Any) -> tuple[Interval, Interval]:
    box = as_interval(value)
    box = Interval(box.lo.astype(jnp.float64), box.hi.astype(jnp.float64))
    return as_interval(jnp.zeros_like(box.lo)), box


def _where_equal(args: list[Any]) -> Interval | None:
    """The root's value where two affine functions are equal; None where it is not known.

    NaN where they are nowhere equal.
    """
    found = _affine("sub", args)
    if found is None:
        return None
    scale, shift = found
    never = (scale.lo == 0) & (scale.hi == 0)
    if bool(((scale.lo <= 0) & (scale.hi >= 0) & ~never).any()):
        return None
    one = jnp.ones_like(scale.lo)
    safe = Interval(jnp.where(never, one, scale.lo), jnp.where(never, one, scale.hi))
    z = ELEMENTWISE["div"](None, interval.neg(shift), safe)
    return Interval(jnp.where(never, jnp.nan, z.lo), jnp.where(never, jnp.nan, z.hi))


def _check_select(eqn: Any, args: list[Any]) -> None:
    """The cases must agree at every number where the condition changes."""
    which, *cases = args
    for switch in which.switches:
        if switch is None:
            _refuse(eqn)
        matters = ~np.isnan(np.asarray(switch.lo))
        z = Interval(*(jnp.where(matters, end, 0.0) for end in switch))
        memo: dict = {}
        found = [case(z, memo) if isinstance(case, _Expr) else as_interval(case) for case in cases]
        low, high = (np.stack([np.asarray(box[i], float) for box in found]) for i in (0, 1))
        apart = low.max(axis=0) > high.min(axis=0)
        size = np.maximum(np.abs(low), np.abs(high)).max(axis=0)
        with np.errstate(invalid="ignore"):
            agree = ~apart & (high.max(axis=0) - low.min(axis=0) <= AGREE * size)
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
        evaluate(scan.body, inner, _apply)
    return [_fresh(var.aval) for var in eqn.outvars]
