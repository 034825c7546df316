"""The table of rules: what the split of each primitive is.

A rule is a function ``rule(walk, eqn, *args)`` that returns the result, or a list of results where
the primitive has several. Arguments that depend on the input are `Pair` pairs or `Frozen`
values, all others are plain arrays. ``walk.bind(eqn, *values)`` evaluates the equation itself.
"""

from collections.abc import Callable
from typing import Any

Rule = Callable[..., Any]

RULES: dict[str, Rule] = {}
AFFINE: set[str] = set()
"""Primitives that keep an affine map affine where one argument is a pair."""

PLACES = frozenset({"conv_general_dilated", "dot_general", "name"})
"""Primitives at whose input there is a place for maps: contractions and tags."""

NAMED: dict[str, Rule] = {}
"""Jitted functions that are one linear map of (data, weights), by name: not walked through."""


def named_call(name: str) -> Callable[[Rule], Rule]:
    """Adds a rule for calls of a jitted function of (data, weights).

    Args:
      name: the function's name.

    Returns:
      A decorator for ``rule(walk, eqn, data, weights)``, which returns one result.
    """

    def add(rule: Rule) -> Rule:
        NAMED[name] = rule
        return rule

    return add


def register_rule(*primitives: str, affine: bool = False) -> Callable[[Rule], Rule]:
    """Adds a rule to the table, or replaces one.

    Args:
      *primitives: names of primitives, as split_report shows them.
      affine: the primitive keeps an affine map affine (reshape, adding a constant); LRP's
        stabilising denominator is then taken behind it.

    Returns:
      A decorator for ``rule(walk, eqn, *args)``.

    Raises:
      ValueError: without a name.

    Example:
      >>> from monojax.splitting import RULES, both, register_rule
      >>> @register_rule("my_permutation", affine=True)
      ... def rule(walk, eqn, x):
      ...     return both(lambda a: walk.bind(eqn, a), x)
      >>> _ = RULES.pop("my_permutation")
    """
    if not primitives or not all(isinstance(name, str) for name in primitives):
        raise ValueError(f"register_rule needs names of primitives, got {primitives!r}.")

    def add(rule: Rule) -> Rule:
        for name in primitives:
            RULES[name] = rule
            (AFFINE.add if affine else AFFINE.discard)(name)
        return rule

    return add


def takes_anything(rule: Rule) -> Rule:
    """Marks a rule that is given functions of one variable as they are.

    Args:
      rule: the rule.

    Returns:
      The same rule.
    """
    rule.takes_anything = True  # type: ignore[attr-defined]
    return rule
