"""One reading of jaxprs: what an equation holds, and how a jaxpr is evaluated.

A network traced by jax is a list of equations, of which some hold further jaxprs: calls, functions
with their own derivative, loops, branches. Every evaluator (the split, the cut first layer of the
penalties, the count of a loop's steps, the certificates) asks `structure_of` what an equation is:

  ``None``        a primitive of its own: apply a rule, or ``compat.bind(eqn, *values)``;
  `Call`          a body, called once with the equation's operands (jit, remat, custom_vmap);
  `CustomRule`    a body, and a derivative of its own that ``compat.bind`` follows;
  `Scan`, `While` a loop with its constants, carry and slices; `Cond`: one of several bodies.

Parameters of equations are named here and nowhere else; where jax's versions name them differently,
the arity of the bodies tells.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from monojax.base import compat
from monojax.base.compat import ClosedJaxpr, Literal


@dataclasses.dataclass(frozen=True)
class Call:
    """A body that is called once: its operands and results are the equation's."""

    body: ClosedJaxpr
    name: str
    """The name of the jitted function, "" where there is none."""


@dataclasses.dataclass(frozen=True)
class CustomRule:
    """A function with a derivative of its own: `jax.custom_jvp` or `jax.custom_vjp`.

    The body computes its values; ``compat.bind(eqn, *values)`` does too, and its derivative is then
    the function's own.
    """

    body: ClosedJaxpr
    kind: str
    """"custom_jvp" or "custom_vjp"."""
    name: str
    """The function and where it is written, "" where jax does not tell."""


@dataclasses.dataclass(frozen=True)
class Scan:
    """A loop of fixed length: body of (consts, carry, slices) -> (carry, outputs)."""

    body: ClosedJaxpr
    num_consts: int
    num_carry: int
    length: int
    reverse: bool

    def parts(self, operands: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """The equation's operands as (constants, first carry, arrays with a step axis)."""
        first = self.num_consts + self.num_carry
        values = list(operands)
        return values[: self.num_consts], values[self.num_consts : first], values[first:]


@dataclasses.dataclass(frozen=True)
class While:
    """A loop: cond of (cond_consts, carry) -> bool, body of (body_consts, carry) -> carry."""

    cond: ClosedJaxpr
    body: ClosedJaxpr
    num_cond_consts: int
    num_body_consts: int

    def parts(self, operands: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """The equation's operands as (constants of cond, constants of body, first carry)."""
        second = self.num_cond_consts + self.num_body_consts
        values = list(operands)
        return (
            values[: self.num_cond_consts],
            values[self.num_cond_consts : second],
            values[second:],
        )


@dataclasses.dataclass(frozen=True)
class Cond:
    """One of several bodies: the equation's operands are an index, then theirs."""

    branches: tuple[ClosedJaxpr, ...]


Structure = Call | CustomRule | Scan | While | Cond

# Where each kind of call keeps its body, by the primitive's name.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "composite": "jaxpr",
    "custom_vmap_call": "call",
}
_CUSTOM = {
    "custom_jvp_call": ("custom_jvp", "call_jaxpr"),
    "custom_vjp_call": ("custom_vjp", "call_jaxpr"),
    "custom_vjp_call_jaxpr": ("custom_vjp", "fun_jaxpr"),
}
STRUCTURED = (*_CALLS, *_CUSTOM, "scan", "while", "cond")
"""Names of all primitives for which `structure_of` is not None."""


def structure_of(eqn: Any) -> Structure | None:
    """What an equation holds.

    Args:
      eqn: an equation of a jaxpr.

    Returns:
      A `Call`, `CustomRule`, `Scan`, `While` or `Cond`; None for any other primitive.
    """
    name, params = eqn.primitive.name, eqn.params
    if name in _CALLS:
        return Call(compat.as_closed(params[_CALLS[name]]), str(params.get("name") or ""))
    if name in _CUSTOM:
        kind, key = _CUSTOM[name]
        body = compat.as_closed(params[key])
        info = getattr(body.jaxpr, "debug_info", None)
        return CustomRule(body, kind, str(getattr(info, "func_src_info", None) or ""))
    if name == "scan":
        return _scan(eqn)
    if name == "while":
        return While(
            compat.as_closed(params["cond_jaxpr"]),
            compat.as_closed(params["body_jaxpr"]),
            params["cond_nconsts"],
            params["body_nconsts"],
        )
    if name == "cond":
        return Cond(tuple(map(compat.as_closed, params["branches"])))
    return None


def bodies(structure: Structure | None) -> tuple[ClosedJaxpr, ...]:
    """All jaxprs that an equation holds, as `structure_of` reads it."""
    if isinstance(structure, While):
        return structure.cond, structure.body
    if isinstance(structure, Cond):
        return structure.branches
    return () if structure is None else (structure.body,)


def inner_equations(closed: ClosedJaxpr) -> Iterator[Any]:
    """All equations of a jaxpr and of those that it holds, outer ones first."""
    for eqn in closed.jaxpr.eqns:
        yield eqn
        for body in bodies(structure_of(eqn)):
            yield from inner_equations(body)


def _scan(eqn: Any) -> Scan:
    """Reads a scan by its ranks, since jax renamed the numbers of its parts in 0.12.

    What has a step axis has one axis more outside than in the body: slices come last among the
    operands, stacked outputs last among the results.
    """
    body = compat.as_closed(eqn.params["jaxpr"])
    slices = _with_step_axis(eqn.invars, body.jaxpr.invars)
    stacked = _with_step_axis(eqn.outvars, body.jaxpr.outvars)
    num_carry = len(eqn.outvars) - stacked
    num_consts = len(eqn.invars) - slices - num_carry
    return Scan(body, num_consts, num_carry, eqn.params["length"], eqn.params["reverse"])


def _with_step_axis(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    rank = lambda atom: len(getattr(atom.aval, "shape", ()))
    return sum(rank(out) > rank(own) for out, own in zip(outside, inside, strict=True))


def evaluate(
    closed: ClosedJaxpr,
    args: Sequence[Any],
    apply: Callable[[Any, list[Any]], Any],
    outs: Collection[int] | None = None,
) -> list[Any]:
    """Evaluates a jaxpr on values of any kind.

    Args:
      closed: the jaxpr.
      args: one value per input; anything that ``apply`` understands.
      apply: function of ``(eqn, operands)`` with one result, or as many as the equation has where
        its primitive has several; the operands are values as given, or plain constants.
      outs: numbers of the results that are wanted, and computed with what they need; None for all.

    Returns:
      The values of the results, in their order.
    """
    jaxpr = closed.jaxpr
    wanted = [var for i, var in enumerate(jaxpr.outvars) if outs is None or i in outs]
    need = None if outs is None else needed(jaxpr, wanted)
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))
    last = {atom: i for i, eqn in enumerate(jaxpr.eqns) for atom in variables(eqn.invars)}
    keep = set(variables(wanted))

    def read(atom):
        return atom.val if isinstance(atom, Literal) else values[atom]

    for i, eqn in enumerate(jaxpr.eqns):
        if need is not None and not need & set(eqn.outvars):
            continue
        out = apply(eqn, [read(atom) for atom in eqn.invars])
        values.update(
            zip(eqn.outvars, out if eqn.primitive.multiple_results else [out], strict=True)
        )
        for atom in variables(eqn.invars):  # what is read no more is let go
            if last[atom] == i and atom not in keep:
                values.pop(atom, None)
    return [read(atom) for atom in wanted]


def needed(jaxpr: Any, outs: Sequence[Any]) -> set[Any]:
    """All variables that some results of an open jaxpr are computed from, themselves included."""
    need = set(variables(outs))
    for eqn in reversed(jaxpr.eqns):
        if need & set(eqn.outvars):
            need |= set(variables(eqn.invars))
    return need


def variables(atoms: Sequence[Any]) -> list[Any]:
    """Those operands that are variables, without the literals."""
    return [atom for atom in atoms if not isinstance(atom, Literal)]
