"""A function of one example over many, some at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from monojax.attribution.counts import count

UNROLLED = 4
"""Batches that are written out one after the other instead of looped over.

XLA for CPU brings convolutions into the form that it has fast code for in the outermost
computation only: in the body of a loop the gradient of VGG16 takes three times as long.
"""


def in_batches(fn: Callable[[Any], Any], xs: Any, batch_size: int) -> Any:
    """What ``fn`` makes of each entry, ``batch_size`` of them at once.

    Args:
      fn: of one entry.
      xs: pytree of arrays with one leading length n.
      batch_size: at least 1; more memory, and on CPU much less time if n is at most `UNROLLED`
        times as large.

    Returns:
      As ``jax.vmap(fn)(xs)``.

    Raises:
      ValueError: if batch_size < 1.
    """
    batch_size = count(batch_size, "batch_size")
    num = len(jax.tree.leaves(xs)[0])
    if num > UNROLLED * batch_size:
        return jax.lax.map(fn, xs, batch_size=batch_size)
    some = lambda start: jax.tree.map(lambda leaf: leaf[start : start + batch_size], xs)
    parts = [jax.vmap(fn)(some(start)) for start in range(0, num, batch_size)]
    if len(parts) == 1:
        return parts[0]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
