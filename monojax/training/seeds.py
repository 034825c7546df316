"""Many seeds in one compiled program."""

from collections.abc import Callable
from typing import Any

import jax


def over_seeds(fn: Callable[..., Any], *, chunk: int | None = None) -> Callable[..., Any]:
    """Maps ``fn(state, *shared)`` over a leading axis of seeds, compiled once for all of them.

    Args:
      fn: function of one seed's state and of arguments that all seeds share.
      chunk: seeds computed side by side with `vmap`; the chunks follow one another in
        `lax.map`. None means all at once, 1 one after the other. What is faster depends on
        the sizes: tests/bench/seeds.py prints it.

    Returns:
      ``mapped(states, *shared)`` with every leaf of ``states`` and of the result `[seeds, ...]`.

    Raises:
      ValueError: if ``chunk`` < 1.
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1 seed, got {chunk}.")

    def mapped(states, *shared):
        def one(state):
            return fn(state, *shared)

        if chunk is None:
            return jax.vmap(one)(states)
        return jax.lax.map(one, states, batch_size=None if chunk == 1 else chunk)

    return mapped
