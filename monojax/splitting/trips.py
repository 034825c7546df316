"""How often a while loop runs, where that can be known before it starts."""

from collections.abc import Sequence
from typing import Any

import jax

from monojax.base import compat
from monojax.base.checks import is_concrete
from monojax.splitting.pair import depends

MOST = 100_000
"""A loop that runs longer is refused."""


def trip_count(
    cond: compat.ClosedJaxpr,
    body: compat.ClosedJaxpr,
    cond_consts: Sequence[Any],
    body_consts: Sequence[Any],
    init: Sequence[Any],
) -> int | str:
    """Number of steps, from the part of the loop that its condition needs.

    Args:
      cond: jaxpr of (cond_consts, carry) -> bool.
      body: jaxpr of (body_consts, carry) -> carry.
      cond_consts: the condition's constants.
      body_consts: the body's constants.
      init: the carry before the first step.

    Returns:
      The number, or the reason why there is none.
    """
    num = len(init)
    need = _needed(cond.jaxpr, cond.jaxpr.outvars)
    carry_vars = cond.jaxpr.invars[len(cond_consts) :]
    counters = {i for i in range(num) if carry_vars[i] in need}
    body_carry = body.jaxpr.invars[len(body_consts) :]
    while True:  # what the counters themselves are computed from
        need_body = _needed(body.jaxpr, [body.jaxpr.outvars[i] for i in counters])
        more = counters | {i for i in range(num) if body_carry[i] in need_body}
        if more == counters:
            break
        counters = more
    used = [init[i] for i in counters]
    used += [c for v, c in zip(cond.jaxpr.invars, cond_consts, strict=False) if v in need]
    used += [c for v, c in zip(body.jaxpr.invars, body_consts, strict=False) if v in need_body]
    if any(map(depends, used)):
        return "its number of steps depends on the input; use a scan of fixed length"
    if not all(map(is_concrete, used)):
        return "its number of steps is not known while tracing; give its bounds as Python numbers"
    carry: list[Any] = [value if i in counters else None for i, value in enumerate(init)]
    with jax.ensure_compile_time_eval():
        for step in range(MOST + 1):
            (go,) = _evaluate(cond, [*cond_consts, *carry], [0])
            if not bool(go):
                return step
            values = _evaluate(body, [*body_consts, *carry], sorted(counters))
            for i, value in zip(sorted(counters), values, strict=True):
                carry[i] = value
    return f"it runs more than {MOST} steps"


def _needed(jaxpr: Any, outs: Sequence[Any]) -> set[Any]:
    """All variables that these results are computed from."""
    need = {var for var in outs if not isinstance(var, compat.Literal)}
    for eqn in reversed(jaxpr.eqns):
        if need & set(eqn.outvars):
            need |= {var for var in eqn.invars if not isinstance(var, compat.Literal)}
    return need


def _evaluate(closed: compat.ClosedJaxpr, args: Sequence[Any], outs: Sequence[int]) -> list[Any]:
    """Some results of a jaxpr, computing only what they need."""
    jaxpr = closed.jaxpr
    wanted = [jaxpr.outvars[i] for i in outs]
    need = _needed(jaxpr, wanted)
    env = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))
    read = lambda atom: atom.val if isinstance(atom, compat.Literal) else env[atom]
    for eqn in jaxpr.eqns:
        if need & set(eqn.outvars):
            out = compat.bind(eqn, *map(read, eqn.invars))
            results = out if eqn.primitive.multiple_results else [out]
            env.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in wanted]
