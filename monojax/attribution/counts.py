"""Numbers of things: how many steps, samples, examples at once."""

import operator
from typing import Any


def count(value: Any, name: str, most: int | None = None) -> int:
    """``value`` as an integer of at least 1.

    Args:
      value: an integer, also of numpy's or jax's kind where it is known.
      name: the option's name in messages.
      most: the largest allowed.

    Returns:
      int.

    Raises:
      ValueError: if it is too small or too large.
      TypeError: if it is no integer, or not known because a transformation traces it.
    """
    try:
        number = operator.index(value)
    except Exception:
        raise TypeError(f"{name} must be an integer that is known, got {value!r}.") from None
    if number < 1 or (most is not None and number > most):
        bound = "at least 1" if most is None else f"in [1, {most}]"
        raise ValueError(f"{name} must be {bound}, got {number}.")
    return number
