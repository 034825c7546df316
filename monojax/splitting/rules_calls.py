"""Rules of what holds other jaxprs: calls are walked through, loops and branches part by part."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from monojax.base import compat
from monojax.base.checks import is_concrete
from monojax.base.jaxprs import STRUCTURED, structure_of
from monojax.splitting.pair import Frozen, Split, SplitError, Unresolved, depends, value_of
from monojax.splitting.rules import NAMED, Rule, register_rule
from monojax.splitting.trips import trip_count


def takes_anything(rule: Rule) -> Rule:
    """Marks a rule that is given functions of one variable as they are.

    Args:
      rule: the rule.

    Returns:
      The same rule.
    """
    rule.takes_anything = True  # type: ignore[attr-defined]
    return rule


@register_rule(*(name for name in STRUCTURED if name not in ("scan", "while", "cond")))
@takes_anything
def call(walk: Any, eqn: Any, *args: Any) -> list[Any]:
    """Walks through the body; custom derivatives and rematerialisation are left out."""
    called: Any = structure_of(eqn)
    whole = NAMED.get(getattr(called, "name", ""))
    data = None if whole is None else walk.resolved(args[0])
    # Under a vmap inside fn there is one axis more: then its body is walked.
    if isinstance(data, Split) and data.f.ndim == 4 and not depends(args[1]):
        assert whole is not None
        return [whole(walk, eqn, data, args[1])]
    return walk.run(called.body, args)


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
        return "split" if jnp.issubdtype(value.f.dtype, jnp.floating) else "frozen"
    if isinstance(value, Split):
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


@register_rule("scan")
@takes_anything
def scan(walk: Any, eqn: Any, *args: Any) -> list[Any]:
    """A scan of the split body; its places have a step axis in front."""
    loop: Any = structure_of(eqn)
    consts, carry, xs = loop.parts([walk.settled(arg) for arg in args])
    return split_scan(walk, loop.body, consts, carry, xs, loop.length, loop.reverse)


def split_scan(
    walk: Any,
    body: compat.ClosedJaxpr,
    consts: Sequence[Any],
    init: Sequence[Any],
    xs: Sequence[Any],
    length: int,
    reverse: bool = False,
) -> list[Any]:
    """A scan whose carry and slices may hold pairs.

    Args:
      walk: the walk.
      body: jaxpr of (consts, carry, slices) -> (carry, outputs).
      consts: what every step sees.
      init: the carry before the first step.
      xs: arrays or pairs with a step axis in front.
      length: number of steps.
      reverse: whether steps run from the last to the first.

    Returns:
      The last carry, then the stacked outputs.
    """
    num = len(init)
    part: list[Any] = []

    def step(kinds: Sequence[str], carry: Any, slices: Any, at: Any) -> Any:
        inner = walk.fork(taps=at[0], shifts=at[1], sizes=at[2], steps=(*walk.steps, length))
        outs = [inner.settled(out) for out in inner.run(body, [*consts, *carry, *slices])]
        part[:] = [inner]
        found = [wider(kind, kind_of(walk, o)) for kind, o in zip(kinds, outs, strict=False)]
        carry = [carried(inner, out, kind) for out, kind in zip(outs, kinds, strict=False)]
        return found, (carry, (outs[num:], inner.records))

    first = jax.tree.map(lambda a: a[0], list(xs))
    kinds = [kind_of(walk, value) for value in init]
    while True:
        start = [carried(walk, value, kind) for value, kind in zip(init, kinds, strict=True)]
        found = abstractly(lambda c, x, k=kinds: step(k, c, x, ({}, {}, {}))[0], start, first)
        if found == kinds:
            break
        kinds = found
    inside = range(walk.counter, part[0].counter)
    fed = tuple({i: d[i] for i in inside if i in d} for d in (walk.taps, walk.shifts, walk.sizes))
    carry, (ys, records) = jax.lax.scan(
        lambda c, x: step(kinds, c, *x)[1], start, (list(xs), fed), length, reverse
    )
    walk.adopt(part[0])
    walk.records.update(records)
    return [*carry, *ys]


@register_rule("while")
@takes_anything
def while_loop(walk: Any, eqn: Any, *args: Any) -> list[Any]:
    """A loop whose number of steps is known before it starts: a scan."""
    loop: Any = structure_of(eqn)
    args = tuple(walk.settled(arg) for arg in args)
    steps = trip_count(loop, args)
    if isinstance(steps, str):
        place = f"in {walk.where!r}" if walk.where else "outside any named module"
        raise SplitError(f"cannot split the primitive 'while' {place}: {steps}.")
    _, consts, init = loop.parts(args)
    return split_scan(walk, loop.body, consts, init, (), length=steps)


@register_rule("cond")
@takes_anything
def cond(walk: Any, eqn: Any, index: Any, *operands: Any) -> list[Any]:
    """Every branch is split; a choice that depends on the input is exact, but not convex."""
    choice: Any = structure_of(eqn)
    branches = choice.branches
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
