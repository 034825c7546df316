"""The question that the room answers: is a function monotone on a box?"""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from monojax.certify.result import Certificate
from monojax.certify.search import searched


def certify_monotone(
    fn: Callable[[jax.Array], jax.Array],
    low: Any,
    high: Any,
    directions: Any,
    budget: int = 10_000,
    *,
    bound: str = "auto",
    onehot: Sequence[Sequence[int]] = (),
    key: jax.Array | None = None,
) -> Certificate:
    """Proves that ``fn`` is monotone on a box, refutes it by a point, or says that it is unknown.

    A slope of exactly 0 is no violation. Where ``fn`` has a kink, every slope of its sides counts.

    Args:
      fn: map of ONE example float `[d]` to a scalar, continuous; read as traced in float64, where
        casts to float32 count as the identity and narrower ones are refused.
      low: lower ends of the box `[d]`, finite; a subnormal end is moved outward.
      high: upper ends `[d]`, finite, at least ``low``.
      directions: int `[d]`: +1 must rise, -1 must fall, 0 free.
      budget: how many boxes may be bounded at most.
      bound: "interval", "forward", "backward" or "auto": interval first, then backward.
      onehot: groups of inputs of which exactly one is 1 and the others are 0 (categories); their
        box must hold [0, 1] and their directions must be 0.
      key: PRNG key of the attack's first points; a fixed one if None.

    Returns:
      Certificate.

    Raises:
      ValueError: on a box with low > high or an end that is not finite, on wrong shapes or options.
      CertifyError: if ``fn`` holds a primitive without a bound, or may jump.
    """
    found = searched(fn, low, high, directions, budget, bound=bound, onehot=onehot, key=key)
    return Certificate(**found)
