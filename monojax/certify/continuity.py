"""Where a function could jump: a bound on its slopes says nothing across a jump.

Comparisons decide between cases (`jnp.where`, leaky ReLU, ELU). The function is continuous there
if the cases agree where the comparison changes its mind. That is looked at exactly where it can be:
the comparison is between an affine function of one value and a constant, so that it changes at one
number, and both cases are functions of the same value, computed there in float64. Everything else
that decides (a comparison of two values that choose between others, floor, round, sign, argmax,
an index that varies) is refused, since nothing is known.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base import compat
from monojax.base.compat import enable_x64
from monojax.base.jaxprs import Call, Cond, CustomRule, Scan, evaluate, structure_of
from monojax.certify.elementwise import ELEMENTWISE
from monojax.certify.program import CertifyError, as_results, own_constants, place

STEPS = ("argmax", "argmin", "ceil", "floor", "nextafter", "rem", "round", "top_k")
"""Primitives that jump whatever their operand is."""
_COMPARE = ("eq", "ge", "gt", "le", "lt", "ne")
_AGREE = 1e-9
"""Relative difference of two cases that counts as rounding, in float64."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Root:
    """A value that everything here is a function of."""

    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class _Expr:
    """An elementwise function of one root."""

    root: _Root
    at: Callable[[Any, dict], Any]
    """Value at ``z`` of the root's shape; the dictionary remembers what was computed."""
    affine: tuple[Any, Any] | None = None
    """(scale, shift), where it is affine."""
    switches: tuple[Any, ...] = ()
    """For booleans: the roots' values where it changes."""

    def __call__(self, z: Any, memo: dict) -> Any:
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
        evaluate(closed, [_fresh((width,))], _apply)


def _fresh(shape: tuple[int, ...]) -> _Expr:
    return _Expr(_Root(tuple(shape)), lambda z, memo: z, (1.0, 0.0))


def _apply(eqn: Any, args: list[Any]) -> Any:
    if not any(isinstance(arg, _Expr) for arg in args):
        return compat.bind(eqn, *args)
    name, structure = eqn.primitive.name, structure_of(eqn)
    if isinstance(structure, (Call, CustomRule)):
        return as_results(eqn, evaluate(structure.body, args, _apply))
    if isinstance(structure, Scan):
        return _scan(structure, args)
    if isinstance(structure, Cond) and not isinstance(args[0], _Expr):
        branch = structure.branches[int(np.clip(args[0], 0, len(structure.branches) - 1))]
        return as_results(eqn, evaluate(branch, args[1:], _apply))
    if structure is not None:
        raise CertifyError(f"no bound for {place(eqn)} of values that depend on x.")
    if name in STEPS or (name == "sort" and len(args) > 1) or _to_integers(eqn, name):
        raise CertifyError(
            f"fn jumps: {place(eqn)} of a value that depends on x, and a bound on slopes says "
            "nothing across a jump. Certify the part of fn without it."
        )
    if (out := _elementwise(eqn, name, args)) is not None:
        return out
    if any(isinstance(arg, _Expr) and arg.switches for arg in args):
        _refuse(eqn)
    outs = [_fresh(var.aval.shape) for var in eqn.outvars]
    return outs if eqn.primitive.multiple_results else outs[0]


def _to_integers(eqn: Any, name: str) -> bool:
    """True for a conversion of floats to integers."""
    kinds = [np.dtype(atom.aval.dtype).kind for atom in (eqn.invars[0], eqn.outvars[0])]
    return name == "convert_element_type" and kinds[0] == "f" and kinds[1] in "iu"


def _refuse(eqn: Any) -> None:
    raise CertifyError(
        f"fn may jump: {place(eqn)} decides by a comparison of values that depend on x. Write it "
        "with max, min, clip or jax.nn.relu, or as jnp.where(z > c, ...) of one value z."
    )


def _elementwise(eqn: Any, name: str, args: list[Any]) -> Any:
    """One more step of a function of one root; None where it is not one."""
    roots = {arg.root for arg in args if isinstance(arg, _Expr)}
    (out,) = eqn.outvars if len(eqn.outvars) == 1 else (None,)
    one = len(roots) == 1 and out is not None and out.aval.shape == next(iter(roots)).shape
    if name not in ELEMENTWISE and name != "sign":
        return None
    if name in _COMPARE and args[0] is args[1]:  # a test for NaN
        return jnp.full(out.aval.shape, name in ("eq", "ge", "le"))
    if name in ("is_finite",):
        return jnp.ones(out.aval.shape, bool)
    if name == "sign":
        _refuse(eqn)
    if not one:
        if name in _COMPARE:  # harmless until something is decided by it
            return _Expr(_Root(out.aval.shape), lambda z, memo: z, None, (None,))
        if name == "select_n" and isinstance(args[0], _Expr):
            _refuse(eqn)
        if any(isinstance(arg, _Expr) and arg.switches for arg in args):
            _refuse(eqn)
        return None
    (root,) = roots
    at = lambda z, memo: compat.bind(
        eqn, *(arg(z, memo) if isinstance(arg, _Expr) else arg for arg in args)
    )
    switches = tuple(s for arg in args if isinstance(arg, _Expr) for s in arg.switches)
    if name in _COMPARE:
        switches = (_where_equal(args),)
    if name == "select_n":
        if isinstance(args[0], _Expr):
            _check_select(eqn, root, args)
        return _Expr(root, at)
    if name in ("and", "or", "not", *_COMPARE):
        return _Expr(root, at, None, switches)
    if switches:  # a boolean turned into a number
        _refuse(eqn)
    return _Expr(root, at, _affine(name, args))


def _affine(name: str, args: list[Any]) -> tuple[Any, Any] | None:
    parts = [arg.affine if isinstance(arg, _Expr) else (0.0, arg) for arg in args]
    if any(part is None for part in parts):
        return None
    if name in ("add", "add_any", "sub"):
        sign = -1.0 if name == "sub" else 1.0
        return parts[0][0] + sign * parts[1][0], parts[0][1] + sign * parts[1][1]
    if name == "neg":
        return -parts[0][0], -parts[0][1]
    if name == "convert_element_type":
        return parts[0]
    if name in ("mul", "div"):
        constant = [i for i, arg in enumerate(args) if not isinstance(arg, _Expr)]
        if name == "mul" and constant:
            k, (scale, shift) = args[constant[0]], parts[1 - constant[0]]
            return scale * k, shift * k
        if name == "div" and constant == [1]:
            return parts[0][0] / args[1], parts[0][1] / args[1]
    return None


def _where_equal(args: list[Any]) -> Any:
    """The root's value where two affine functions are equal; None where it is not known."""
    found = _affine("sub", args)
    if found is None:
        return None
    scale, shift = np.asarray(found[0], float), np.asarray(found[1], float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return -shift / scale


def _check_select(eqn: Any, root: _Root, args: list[Any]) -> None:
    """The cases must agree at every number where the condition changes."""
    which, *cases = args
    if not which.switches:
        return
    for switch in which.switches:
        if switch is None:
            _refuse(eqn)
        z = np.broadcast_to(np.asarray(switch, float), root.shape)
        matters = np.isfinite(z)
        z = jnp.asarray(np.where(matters, z, 0.0))
        memo: dict = {}
        values = [
            np.asarray(case(z, memo) if isinstance(case, _Expr) else case, float) for case in cases
        ]
        for other in values[1:]:
            apart = np.abs(other - values[0]) > _AGREE * (1 + np.abs(values[0]))
            unknown = ~np.isfinite(other - values[0])
            if np.any(matters & (apart | unknown)):
                raise CertifyError(
                    f"fn jumps: the cases of {place(eqn)} differ where its condition changes, and "
                    "a bound on slopes says nothing across a jump."
                )


def _scan(scan: Scan, args: list[Any]) -> list[Any]:
    """Once through the body with everything that may depend on x: enough to see its jumps."""
    consts, carry, slices = scan.parts(args)
    inner = list(consts)
    inner += [_fresh(np.shape(c) if not isinstance(c, _Expr) else c.root.shape) for c in carry]
    for s in slices:
        inner.append(_fresh(s.root.shape[1:]) if isinstance(s, _Expr) else jnp.asarray(s)[0])
    evaluate(scan.body, inner, _apply)
    shapes = [var.aval.shape for var in scan.body.jaxpr.outvars]
    carried, made = shapes[: scan.num_carry], shapes[scan.num_carry :]
    return [_fresh(shape) for shape in [*carried, *((scan.length, *shape) for shape in made)]]
