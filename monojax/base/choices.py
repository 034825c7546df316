"""Options out of a list: one text for a wrong choice. Needs no jax, which the data do without."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


def one_of(value: Any, choices: Iterable[Any], name: str) -> Any:
    """``value`` if it is one of the choices; the one text for a wrong choice.

    Args:
      value: what was given.
      choices: what there is, in the order to show.
      name: the option's name in the message.

    Returns:
      ``value``.

    Raises:
      ValueError: naming the choices and those near to what was given.
    """
    choices = list(choices)
    if isinstance(value, (str, int, float, bool, type(None), tuple)) and value in choices:
        return value
    names = [c for c in choices if isinstance(c, str)]
    near = difflib.get_close_matches(str(value).lower(), names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    listed = ", ".join(map(repr, choices)) or "nothing"
    raise ValueError(f"{name} must be one of {listed}, got {value!r}{hint}")


def choose(name: str, value: Any, table: Mapping[str, Any]) -> Any:
    """``table[value]``, checked by :func:`one_of`.

    Args:
      name: the option's name in the message.
      value: the key asked for.
      table: the choices.

    Returns:
      The entry.

    Raises:
      ValueError: on a key that is not there.
    """
    return table[one_of(value, table, name)]
