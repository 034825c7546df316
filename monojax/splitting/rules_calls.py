"""Rules of what holds other jaxprs: calls, functions with a rule of their own, branches."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from monojax.base.checks import is_concrete
from monojax.base.jaxprs import (
    STRUCTURED,
    Call,
    CustomRule,
    bodies,
    inner_equations,
    structure_of,
)
from monojax.splitting.pair import Frozen, Pair, Unresolved, depends, value_of
from monojax.splitting.rules import NAMED, PLACES, register_rule, takes_anything

OWN_RULE = "it has a derivative rule of its own: the split is of what it computes, not of that rule"


@register_rule(*(name for name in STRUCTURED if name not in ("scan", "while", "cond")))
@takes_anything
def call(walk: Any, eqn: Any, *args: Any) -> list[Any]:
    """Walks through the body; functions with a derivative rule of their own see `custom`."""
    called = structure_of(eqn)
    if isinstance(called, CustomRule):
        return custom(walk, eqn, called, *args)
    assert isinstance(called, Call)
    whole = NAMED.get(called.name)
    data = None if whole is None else walk.resolved(args[0])
    # Under a vmap inside fn there is one axis more: then its body is walked.
    if isinstance(data, Pair) and data.f.ndim == 4 and not depends(args[1]):
        assert whole is not None
        return [whole(walk, eqn, data, args[1])]
    return walk.run(called.body, args)


def custom(walk: Any, eqn: Any, called: CustomRule, *args: Any) -> list[Any]:
    """A function with a derivative of its own: `jax.custom_jvp`, `jax.custom_vjp`.

    The split and LRP are of what a function computes: its body is walked, and if it is not one of
    jax's own the rule is noted. Where only derivatives are wanted, fn's own rule is followed, and
    places inside the body have no maps; but what is to be held inside (freeze) is held, and a mode
    may ask for the body (guided backpropagation for a ReLU).
    """
    if not walk.mode.ordinary:
        if "/jax/_src/" not in called.name.replace("\\", "/"):
            walk.note("rule", f"{called.kind} {called.name}".strip(), OWN_RULE)
        return walk.run(called.body, args)
    if walk.mode.opens(called):
        return walk.run(called.body, args)
    has_places = any(inside.primitive.name in PLACES for inside in inner_equations(called.body))
    known: list[Any] = []
    part = walk.fork()
    if walk.mode.freeze:
        known = [part.resolved(out) for out in part.run(called.body, args)]
    elif has_places:
        abstractly(lambda args: part.run(called.body, args), args)
    if part.holds:
        walk.adopt(part)
        walk.records.update(part.records)
        return known
    part.sites = [dataclasses.replace(site, hidden=True) for site in part.sites]
    walk.adopt(part)
    values = walk.differentiated(eqn, [walk.resolved(arg) for arg in args])
    return [_with_value(*both) for both in zip(known, values, strict=True)] if known else values


def _with_value(known: Any, value: Any) -> Any:
    """What is known of a result as a function of one variable, with the value of its own rule."""
    if isinstance(known, Unresolved | Pair) and isinstance(value, Pair):
        return dataclasses.replace(known, f=value.f)
    return value


def carried(walk: Any, value: Any, kind: str) -> Any:
    """``value`` as what a loop or branch carries: "plain", "frozen" or "split"."""
    value = walk.settled(value)
    if kind == "split":
        return walk.mode.settle(walk.pair(value, "a carried value"))
    return Frozen(value_of(value)) if kind == "frozen" else value  # one kind, as loops need


_ORDER = ("plain", "frozen", "split")


def kind_of(walk: Any, value: Any) -> str:
    """What has to be carried for ``value``."""
    if isinstance(value, Unresolved):
        return "split" if jnp.issubdtype(value.f.dtype, jnp.inexact) else "frozen"
    if isinstance(value, Pair):
        return "split"
    return "frozen" if isinstance(value, Frozen) else "plain"


def wider(*kinds: str) -> str:
    """The kind that can hold all of these."""
    return max(kinds, key=_ORDER.index)


def abstractly(fn: Callable[..., Any], *args: Any) -> Any:
    """Runs ``fn`` on shapes alone; returns what it returns through a list, not arrays."""
    out: list[Any] = []

    def body(*args):
        out.append(fn(*args))
        return ()

    jax.eval_shape(body, *args)
    return out[0]


def nothing_to_do(walk: Any, structure: Any) -> bool:
    """Whether a loop or branch can be left to jax: only derivatives are wanted, and none inside."""
    mode = walk.mode
    if not mode.ordinary or mode.freeze or mode.changes:
        return False
    names = {eqn.primitive.name for body in bodies(structure) for eqn in inner_equations(body)}
    return not names & PLACES


@register_rule("cond")
@takes_anything
def cond(walk: Any, eqn: Any, index: Any, *operands: Any) -> list[Any]:
    """Every branch is split; a choice that depends on the input is exact, but not convex."""
    choice: Any = structure_of(eqn)
    branches = choice.branches
    if nothing_to_do(walk, choice):
        return walk.differentiated(eqn, [walk.settled(arg) for arg in (index, *operands)])
    operands = tuple(walk.settled(operand) for operand in operands)
    index = walk.settled(index)
    if depends(index):
        walk.note("exact", "cond", "chooses a branch by values that depend on the input")
        index = jax.lax.stop_gradient(value_of(index))
    elif is_concrete(index):
        last = len(branches) - 1
        return walk.run(branches[min(max(int(index), 0), last)], operands)
    parts: list[Any] = []

    def kinds_of(branch: Any, operands: Any) -> Any:
        part = walk.fork(taps={}, counter=parts[-1].counter if parts else walk.counter)
        outs = part.run(branch, operands)
        parts.append(part)
        blank = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), part.records)
        return [kind_of(walk, out) for out in outs], blank

    seen = [abstractly(lambda o, b=branch: kinds_of(b, o), operands) for branch in branches]
    kinds = [wider(*each) for each in zip(*(kinds for kinds, _ in seen), strict=True)]
    blank = {index: shape for _, records in seen for index, shape in records.items()}

    def branch_fn(branch: Any, counter: int) -> Callable[..., Any]:
        def run(operands):
            part = walk.fork(counter=counter)
            outs = part.run(branch, operands)
            records = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), blank) | part.records
            return [
                carried(part, out, kind) for out, kind in zip(outs, kinds, strict=True)
            ], records

        return run

    starts = [walk.counter, *(part.counter for part in parts[:-1])]
    fns = [branch_fn(branch, start) for branch, start in zip(branches, starts, strict=True)]
    for part in parts:
        walk.adopt(part)
    outs, records = jax.lax.switch(index, fns, operands)
    walk.records.update(records)
    return outs
