"""Stopped gradients that are none: a number that is taken away before exp and given back after.

`jax.nn.logsumexp`, `softmax` and `log_softmax` subtract a maximum whose gradient they stop, since
their value does not depend on it. A certificate ignores `stop_gradient` wherever it may change the
derivative; here it does not, and to keep it gives far tighter slopes. So it is proved for each one:
with f + t in the place of f, every value of the body is followed as value + c t ("adds" c) or as
value exp(c t) ("scales" by c), with c a number; if all results add 0 t, the gradient by f is 0.
"""

from typing import Any

import numpy as np

from monojax.base.compat import Literal

ADDS, SCALES = "adds", "scales"
Effect = tuple[str, float]
"""How a value changes with t: (ADDS, c) or (SCALES, c)."""
NOTHING: Effect = (ADDS, 0.0)
_MOVES = frozenset(
    ("broadcast_in_dim", "convert_element_type", "copy", "expand_dims", "reshape", "rev", "slice")
    + ("squeeze", "transpose")
)


def shifts(jaxpr: Any) -> list[Any]:
    """The equations of a body that stop the gradient of a number on which no result depends.

    Args:
      jaxpr: an open jaxpr.

    Returns:
      Those equations; all others that stop a gradient are left out.
    """
    stops = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "stop_gradient"]
    return [eqn for eqn in stops if eqn.outvars[0].aval.size == 1 and _cancels(jaxpr, eqn)]


def _cancels(jaxpr: Any, stop: Any) -> bool:
    """Whether all results stay the same when the number that ``stop`` gives is moved."""
    effects: dict[Any, Effect | None] = {stop.outvars[0]: (ADDS, 1.0)}
    known = lambda atom: NOTHING if isinstance(atom, Literal) else effects.get(atom, NOTHING)
    for eqn in jaxpr.eqns:
        given = [known(atom) for atom in eqn.invars]
        if eqn is stop or all(effect == NOTHING for effect in given):
            continue
        found = None if None in given else _effect(eqn, given)
        effects.update(dict.fromkeys(eqn.outvars, found))
    return all(known(atom) == NOTHING for atom in jaxpr.outvars)


def _effect(eqn: Any, given: list[Any]) -> Effect | None:
    """The rule of one primitive; None where it has none."""
    name, (kind, c) = eqn.primitive.name, given[0]
    if name in _MOVES:
        floats = all(np.issubdtype(atom.aval.dtype, np.floating) for atom in eqn.outvars)
        return given[0] if floats else None
    if name in ("add", "add_any", "sub") and all(kind == ADDS for kind, _ in given):
        return ADDS, c + (-1 if name == "sub" else 1) * given[1][1]
    if name == "neg":
        return kind, -c if kind == ADDS else c
    if name == "exp" and kind == ADDS:
        return SCALES, c
    if name == "log" and kind == SCALES:
        return ADDS, c
    if name in ("reduce_sum", "abs") and kind == SCALES:
        return SCALES, c
    if name in ("mul", "div"):  # what does not change scales by 0
        scales = [0.0 if effect == NOTHING else effect[1] for effect in given]
        if all(effect == NOTHING or effect[0] == SCALES for effect in given):
            total = scales[0] + (-1 if name == "div" else 1) * scales[1]
            return (SCALES, total) if total else NOTHING
    return None
