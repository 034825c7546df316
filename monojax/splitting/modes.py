"""What a walk carries and where it intervenes. One way to walk a network, several rules.

A mode decides what happens at the input of a contraction (a convolution or a matrix product),
inside it, and behind the affine map it begins; everything else is the same for all of them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from monojax.base.jaxprs import CustomRule
from monojax.splitting.freeze import check_freeze
from monojax.splitting.pair import Frozen, Pair, with_slope, with_value
from monojax.splitting.shift import BALANCED, balance, check_alpha, passed_on

POOLS = ("full", "wta")
RECENTRE = ("full", "scale", "none")
THRESHOLD, SHRINK = 10.0, 0.1
"""Where max(p, n) > THRESHOLD, "scale" shrinks the smaller stream to SHRINK times itself."""


class Mode:
    """Walks with the values alone, and changes nothing: the ordinary derivative."""

    mass = False
    """Whether pairs carry a mass."""
    pool = "wta"
    """What a maximum does with the masses of those that lose."""
    ordinary = True
    """Whether only derivatives are wanted: primitives and functions have their own."""
    freeze: frozenset[str] = frozenset()
    """What is held at its forward value, names of `FREEZE`."""
    balanced = False
    """Whether `leave` has to be told the gradient's size."""
    changes: frozenset[str] = frozenset()
    """Primitives whose rule is used in an ordinary mode; all others have their own derivative."""
    peels: bool = False
    """Whether the first steps of a loop are evaluated outside it, as long as they carry constants:
    where a constant is treated otherwise than a value with the same number."""

    def __init__(self, freeze: Any = ()):
        """Takes what is to be held."""
        self.freeze = check_freeze(freeze)

    def opens(self, called: CustomRule) -> bool:
        """Whether an ordinary mode wants the body of a function with a rule of its own."""
        return False

    def constant(self, value: Any) -> Pair:
        """The pair of a value that does not depend on the input."""
        return Pair(value, jnp.abs(value) if self.mass else None)

    def enter(self, x: Pair, shift: Any) -> tuple[Pair, Any]:
        """Before a contraction, ahead of where maps are read: ``(pair, shift taken)``."""
        return x, None

    def leave(self, x: Pair, size: Any = None) -> Pair:
        """Before a contraction, behind where maps are read.

        ``size`` is the mean absolute gradient there, where the mode is `balanced`.
        """
        return x

    def contract(self, apply: Callable[[Any, Any], Any], x: Pair, weights: Any) -> Pair:
        """The contraction itself."""
        mass = None if x.t is None else apply(x.t, jnp.abs(weights))
        return Pair(apply(x.f, weights), mass)

    def mix(self, walk: Any, eqn: Any, weights: Frozen, left: bool) -> None:
        """Sees the held operand of a contraction, the right one if ``left`` is true."""

    def cut(self, f: Any, c: Any) -> Any:
        """max(f, c) for a constant c; at a tie the derivative is that of c, so ReLU'(0) = 0."""
        return jnp.where(f <= c, jnp.broadcast_to(c, f.shape).astype(f.dtype), f)

    def settle(self, x: Pair) -> Pair:
        """Behind an affine map, before anything that is not one."""
        return x


def recentred(x: Pair, strategy: str, shift: Any = None) -> tuple[Pair, Any]:
    """Subtracts the same array k from both streams; k is a constant at this point.

    The difference and every derivative stay as they are; the values become small.

    Args:
      x: pair.
      strategy: "full" (k = min(p, n)), "scale" or "none".
      shift: k if it is known already, as an array.

    Returns:
      ``(pair, k)``.
    """
    if shift is not None:
        return Pair(x.f, x.t - 2 * shift), shift
    if strategy == "none":
        return x, jnp.zeros_like(x.t)
    size = jnp.abs(x.f)
    k = (x.t - size) / 2
    if strategy == "full":
        return Pair(x.f, with_value(x.t, jax.lax.stop_gradient(size))), k
    large = (x.t + size) / 2 > THRESHOLD
    k = jax.lax.stop_gradient(jnp.where(large, (1 - SHRINK) * k, 0))
    return Pair(x.f, with_value(x.t, jax.lax.stop_gradient(x.t - 2 * k))), k


class SplitMode(Mode):
    """The split: pairs, re-centred at the input of each contraction.

    Args:
      pool: "full" or "wta".
      recentre: "full", "scale" or "none".
      alpha: backward shift in [0, 0.5], or "balanced"; None leaves derivatives as they are.
      freeze: what is held at its forward value.
      shift_at: what alpha means: the shift after every "module", or once per "contraction".
    """

    mass = True
    ordinary = False

    def __init__(
        self,
        pool: str = "full",
        recentre: str = "full",
        alpha: Any = None,
        freeze: Any = (),
        shift_at: str = "module",
    ):
        """Takes the options of the split."""
        super().__init__(freeze)
        self.pool, self.recentre = pool, recentre
        self.balanced = isinstance(alpha, str) and check_alpha(alpha, shift_at) == BALANCED
        self.factor = None
        if alpha is not None and not self.balanced:
            self.factor = passed_on(check_alpha(alpha, shift_at), shift_at)

    def enter(self, x: Pair, shift: Any) -> tuple[Pair, Any]:
        """Re-centres."""
        return recentred(x, self.recentre, shift)

    def leave(self, x: Pair, size: Any = None) -> Pair:
        """The gate: the shift of the backward pass, in (f, t) form."""
        if size is not None:
            return Pair(x.f, balance(x.t, size))
        if self.factor is None:
            return x
        return Pair(x.f, with_slope(x.t, self.factor))
