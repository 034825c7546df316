"""Many seeds in one compiled program."""

from collections.abc import Callable
from typing import Any

import jax

from monojax.base.renamed import renamed


@renamed(chunk="batch_size")
def over_seeds(fn: Callable[..., Any], *, batch_size: int | None = None) -> Callable[..., Any]:
    """Maps ``fn(state, *shared)`` over a leading axis of seeds, compiled once for all of them.

    Args:
      fn: function of one seed's state and of arguments that all seeds share.
      batch_size: seeds computed side by side with `vmap`; the batches follow one another in
        `lax.map`. None means all at once, 1 one after the other. What is faster depends on
        the sizes: tests/bench/seeds.py prints it.

    Returns:
      ``mapped(states, *shared)`` with every leaf of ``states`` and of the result `[seeds, ...]`.

    Raises:
      ValueError: if ``batch_size`` < 1.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1 seed, got {batch_size}.")

    def mapped(states, *shared):
        def one(state):
            return fn(state, *shared)

        if batch_size is None:
            return jax.vmap(one)(states)
        return jax.lax.map(one, states, batch_size=None if batch_size == 1 else batch_size)

    return mapped
