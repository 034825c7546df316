r"""Holding what multiplies at its forward value: a local split of attention and normalisation.

Softmax, :math:`1/\sigma` and a product of two values that both depend on the input have no form as
convex minus convex. Held at the value they have at x, they are constants, and the rest of a
transformer is affine maps and activations, which split as usual. What results is the split of
*another* network, the frozen one, that agrees with ``fn`` at x and nowhere else: local, and marked
so.

Reference:
  Ali et al., "XAI for Transformers: Better Explanations through Conservative Propagation", ICML
  2022, arXiv 2202.07304, for LRP: attention weights and normalisers taken as constants.
"""

from collections.abc import Iterable
from typing import Any

import jax

from monojax.base.checks import one_of
from monojax.splitting.notes import Notebook
from monojax.splitting.pair import Frozen, Pair, Univariate, Unresolved, value_of

FREEZE = {
    "softmax": "an exponential, as in attention weights",
    "normalizer": "a square, root or denominator, as in layer norm (a branch that is a square is "
    "held whole and adds nothing to maps)",
    "product": "one factor of a product of two values that depend on the input",
    "gate": "the factor Phi(x) of an activation x Phi(x)",
}
"""What each name of `freeze` holds."""
DEFAULT = ("softmax", "normalizer", "product")
"""What freeze=True holds: all that has no form as convex minus convex."""

_ALGEBRAIC = frozenset(
    """
    abs add add_any clamp convert_element_type copy copy_p div integer_pow max min mul neg pow
    rsqrt sqrt square sub
    """.split()  # noqa: SIM905
)
_EXPONENTIAL = frozenset({"exp", "exp2", "expm1"})
_AFFINE = frozenset({"add", "add_any", "convert_element_type", "copy", "copy_p", "neg", "sub"})


def check_freeze(freeze: Any) -> frozenset[str]:
    """The names of what is held, checked.

    Args:
      freeze: False or () for nothing, True for `DEFAULT`, a name of `FREEZE`, or several.

    Returns:
      frozenset of names.

    Raises:
      ValueError: on another name.
    """
    if isinstance(freeze, bool) or freeze is None:
        return frozenset(DEFAULT if freeze else ())
    names = freeze if isinstance(freeze, Iterable) and not isinstance(freeze, str) else (freeze,)
    return frozenset(
        one_of(name, FREEZE, "freeze (or True, False, several of them)") for name in names
    )


def hold(walk: Notebook, value: Any, group: str, primitive: str) -> Frozen:
    """``value`` as a constant, which is noted.

    Args:
      walk: the walk that meets it.
      value: array.
      group: the name of `FREEZE` that asks for it.
      primitive: what computed it.

    Returns:
      Frozen, through which no derivative passes.
    """
    walk.holds += 1
    walk.note("local", primitive, f"{FREEZE[group]}: held at its forward value (freeze)")
    return Frozen(jax.lax.stop_gradient(value), group)


def group_of(curve: Univariate) -> str | None:
    """The name of `FREEZE` that holds a function of one variable without a form, or None.

    Args:
      curve: the function.

    Returns:
      "softmax" if it is made of exponentials and arithmetic, "normalizer" if of arithmetic alone.
    """
    names = _names(curve.key)
    if names <= _ALGEBRAIC:
        return "normalizer"
    return "softmax" if names & _EXPONENTIAL and names <= _ALGEBRAIC | _EXPONENTIAL else None


def factors(walk: Notebook, primitive: str, x: Pair, y: Pair) -> tuple[Any, Any] | None:
    """The operands of a product of two pairs, one of them held; None where that is not asked for.

    Held is the one that is a non-linear function of one variable (the gate of a gated unit), or
    else the second.

    Args:
      walk: the walk.
      primitive: what multiplies.
      x: pair.
      y: pair.

    Returns:
      ``(x, y)`` with one of them Frozen.
    """
    if "product" not in walk.mode.freeze:
        return None
    if _bent(x) and not _bent(y):
        return hold(walk, x.f, "product", primitive), y
    return x, hold(walk, y.f, "product", primitive)


def gated(walk: Notebook, primitive: str, args: list[Any]) -> list[Any]:
    """The operands of a product, its gate held: Phi(x) of x Phi(x), or d(x) of x / d(x).

    Args:
      walk: the walk.
      primitive: name of the equation's primitive.
      args: its operands.

    Returns:
      The operands, one of them Frozen if "gate" is asked for and this is such a product.
    """
    if "gate" not in walk.mode.freeze or primitive not in ("mul", "div"):
        return args
    for i, other in ((1, 0), (0, 1)) if primitive == "mul" else ((1, 0),):
        gate, value = args[i], args[other]
        if isinstance(gate, Unresolved) and isinstance(value, Pair):
            root = value if value.curve is None else value.curve.root
            if root is gate.curve.root:
                held = hold(walk, value_of(gate), "gate", primitive)
                return [held if j == i else arg for j, arg in enumerate(args)]
    return args


def _bent(x: Pair) -> bool:
    """True for a function of one variable that is not affine."""
    if x.gated:
        return True
    return x.curve is not None and not _names(x.curve.key) <= _AFFINE | {"mul", "div"}


def _names(key: Any) -> set[str]:
    """All primitives of a curve."""
    if len(key) < 3:
        return set()
    name, _, keys = key
    return {name}.union(*(_names(k) for k in keys if isinstance(k, tuple)))
