"""Rules of loops: a scan of the split body, whose places have a step axis in front."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from monojax.base.jaxprs import Scan, structure_of
from monojax.splitting.notes import place
from monojax.splitting.pair import SplitError
from monojax.splitting.rules import register_rule, takes_anything
from monojax.splitting.rules_calls import abstractly, carried, kind_of, nothing_to_do, wider
from monojax.splitting.trips import trip_count


@register_rule("scan")
@takes_anything
def scan(walk: Any, eqn: Any, *args: Any) -> list[Any]:
    """A scan of the split body."""
    loop: Any = structure_of(eqn)
    if nothing_to_do(walk, loop):
        return walk.differentiated(eqn, [walk.settled(arg) for arg in args])
    return split_scan(walk, loop, [walk.settled(arg) for arg in args])


@register_rule("while")
@takes_anything
def while_loop(walk: Any, eqn: Any, *args: Any) -> list[Any]:
    """A loop whose number of steps is known before it starts: a scan.

    Any other is refused; but where only derivatives are wanted jax decides, which can
    differentiate such a loop where nothing that is differentiated runs through it.
    """
    loop: Any = structure_of(eqn)
    args = tuple(walk.settled(arg) for arg in args)
    steps = trip_count(loop, args)
    if isinstance(steps, str):
        if nothing_to_do(walk, loop):
            return walk.differentiated(eqn, args)
        raise SplitError(f"cannot split the primitive 'while' {place(walk.where)}: {steps}.")
    _, consts, init = loop.parts(args)
    known = Scan(loop.body, len(consts), len(init), steps, reverse=False)
    return split_scan(walk, known, [*consts, *init])


def split_scan(walk: Any, loop: Scan, operands: Sequence[Any]) -> list[Any]:
    """A scan whose constants, carry and slices may hold pairs.

    Args:
      walk: the walk.
      loop: the loop.
      operands: its operands, settled.

    Returns:
      The last carry, then the stacked outputs.
    """
    consts, init, xs = loop.parts(operands)
    kinds, part = _fixed_kinds(walk, loop, consts, init, xs)
    places = sorted(part.numbers.values())
    per_place = (walk.taps, walk.shifts, walk.sizes)
    fed: Any = (list(xs), *({i: d[i] for i in places if i in d} for d in per_place))
    first, pieces = 0, []
    if walk.mode.peels:  # the first steps as the unrolled network has them
        while first < min(loop.length, len(init)) and kinds != [kind_of(walk, v) for v in init]:
            at = loop.length - 1 - first if loop.reverse else first
            one = jax.tree.map(lambda a, at=at: a[at], fed)
            init, piece = _one_step(walk, loop, part, consts, init, *one)
            pieces.append(piece)
            first += 1
    carry = [carried(walk, value, kind) for value, kind in zip(init, kinds, strict=True)]
    if first < loop.length:
        rest = slice(None, loop.length - first) if loop.reverse else slice(first, None)
        fed = jax.tree.map(lambda a: a[rest], fed) if first else fed

        def step(carry: Any, given: Any) -> Any:
            slices, *at = given
            inner = _inside(walk, loop, *at)
            _, carry, ys = _stepped(inner, loop, kinds, consts, carry, slices)
            return carry, (ys, inner.records)

        carry, (ys, records) = jax.lax.scan(step, carry, fed, loop.length - first, loop.reverse)
    else:
        ys, records = None, {}
    if pieces:
        ys, records = _joined(walk, loop, pieces, ys, records)
    walk.adopt(part)
    walk.records.update(records)
    return [*carry, *ys]  # type: ignore[misc]


def _fixed_kinds(walk: Any, loop: Scan, consts: Any, init: Any, xs: Any) -> tuple[list[str], Any]:
    """What has to be carried so that every step can carry it, and a walk of one such step."""
    part: list[Any] = []
    first = jax.tree.map(lambda a: a[0], list(xs))
    kinds = [kind_of(walk, value) for value in init]

    def step(kinds: list[str], carry: Any, slices: Any) -> list[str]:
        inner = _inside(walk, loop, {}, {}, {})
        part[:] = [inner]
        return _stepped(inner, loop, kinds, consts, carry, slices)[0]

    while True:
        start = [carried(walk, value, kind) for value, kind in zip(init, kinds, strict=True)]
        found = abstractly(lambda c, x, k=kinds: step(k, c, x), start, first)
        if found == kinds:
            return kinds, part[0]
        kinds = found


def _stepped(
    inner: Any, loop: Scan, kinds: list[str], consts: Any, carry: Any, slices: Any
) -> tuple[list[str], list[Any], list[Any]]:
    """One step: the kinds that its carry asks for, the carry as ``kinds`` have it, the outputs."""
    outs = [inner.settled(out) for out in inner.run(loop.body, [*consts, *carry, *slices])]
    found = [wider(kind, kind_of(inner, out)) for kind, out in zip(kinds, outs, strict=False)]
    return (
        found,
        [carried(inner, out, kind) for out, kind in zip(outs, kinds, strict=False)],
        outs[loop.num_carry :],
    )


def _inside(walk: Any, loop: Scan, taps: Any, shifts: Any, sizes: Any, **changes: Any) -> Any:
    """A walk of one step, with that step's part of what is known by place."""
    steps = (*walk.steps, loop.length)
    return walk.fork(taps=taps, shifts=shifts, sizes=sizes, steps=steps, **changes)


def _one_step(
    walk: Any, loop: Scan, part: Any, consts: Any, carry: Any, slices: Any, *at: Any
) -> tuple[list[Any], tuple[list[Any], Any]]:
    """A step outside the scan, where constants are still constants; places keep their numbers."""
    inner = _inside(walk, loop, *at, known=part.numbers)
    outs = [inner.settled(out) for out in inner.run(loop.body, [*consts, *carry, *slices])]
    return outs[: loop.num_carry], (outs[loop.num_carry :], inner.records)


def _joined(walk: Any, loop: Scan, pieces: Any, ys: Any, records: Any) -> tuple[list[Any], Any]:
    """Outputs and records of single steps and of the scan behind them, in the steps' order."""

    def join(singles: Sequence[Any], tail: Sequence[Any]) -> Any:
        blocks = [jax.tree.map(lambda a: jnp.asarray(a)[None], one) for one in singles]
        blocks += tail
        blocks = blocks[::-1] if loop.reverse else blocks
        return jax.tree.map(lambda *a: jnp.concatenate(a), *blocks)

    outs = []
    for i in range(len(pieces[0][0])):
        parts = [piece[0][i] for piece in pieces] + ([] if ys is None else [ys[i]])
        kind = wider(*(kind_of(walk, value) for value in parts))
        alike = [carried(walk, value, kind) for value in parts]
        outs.append(join(alike[: len(pieces)], alike[len(pieces) :]))
    found = [piece[1] for piece in pieces]
    joined = {}
    for index in set(records).union(*found):
        # A place that a step does not meet has no pair there: its value and slope are 0.
        at = next((step[index] for step in found if index in step), None)
        like = jax.tree.map(lambda a: a[0], records[index]) if at is None else at
        blank = jax.tree.map(jnp.zeros_like, like)
        tail = [] if ys is None else [records[index]]
        joined[index] = join([step.get(index, blank) for step in found], tail)
    return outs, joined
