"""How often a while loop runs, where that can be known before it starts."""

from collections.abc import Sequence
from typing import Any

import jax

from monojax.base import compat
from monojax.base.checks import is_concrete
from monojax.base.jaxprs import While, evaluate, needed
from monojax.splitting.pair import depends

MOST = 100_000
"""A loop that runs longer is refused."""


def trip_count(loop: While, operands: Sequence[Any]) -> int | str:
    """Number of steps, from the part of the loop that its condition needs.

    Args:
      loop: the loop.
      operands: its operands, as met in a walk.

    Returns:
      The number, or the reason why there is none.
    """
    cond, body = loop.cond, loop.body
    cond_consts, body_consts, init = loop.parts(operands)
    num = len(init)
    need = needed(cond.jaxpr, cond.jaxpr.outvars)
    carry_vars = cond.jaxpr.invars[len(cond_consts) :]
    counters = {i for i in range(num) if carry_vars[i] in need}
    body_carry = body.jaxpr.invars[len(body_consts) :]
    while True:  # what the counters themselves are computed from
        need_body = needed(body.jaxpr, [body.jaxpr.outvars[i] for i in counters])
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
            (go,) = evaluate(cond, [*cond_consts, *carry], _bind)
            if not bool(go):
                return step
            values = evaluate(body, [*body_consts, *carry], _bind, counters)
            for i, value in zip(sorted(counters), values, strict=True):
                carry[i] = value
    return f"it runs more than {MOST} steps"


def _bind(eqn: Any, args: list[Any]) -> Any:
    return compat.bind(eqn, *args)
