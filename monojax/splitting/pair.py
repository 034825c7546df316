r"""Values that depend on the split input, and the arithmetic of pairs in companion form.

A pair :math:`(p, n)` of non-negative streams stands for the ordinary value :math:`f = p - n`. It is
carried as ``(f, t)`` with the *mass* :math:`t = p + n`: ``f`` is the model's own computation, and
the pair adds one chain of arrays to it, not two.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from monojax.splitting.ends import Ends


class SplitError(ValueError):
    """The function cannot be split; the message names the primitive and its place."""


@dataclasses.dataclass(frozen=True)
class Univariate:
    """An array as a function of one variable of another: ``value = apply(root.f)`` elementwise."""

    root: "Pair"
    apply: Callable[[jax.Array], jax.Array]
    key: tuple[Any, ...]
    """What ``apply`` computes, in words; equal keys mean equal functions."""
    ends: Ends
    """What is known of it far out."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """A pair in companion form."""

    f: Any
    """The ordinary value, p - n."""
    t: Any = None
    """The mass p + n, or None in a walk that carries none."""
    pending: bool = False
    """Came out of an affine map whose relevance rule has not been applied yet (LRP only)."""
    curve: Univariate | None = None
    gated: bool = False
    """A gated activation, x Phi(x) with Phi held: the gate of a gated unit."""

    @property
    def p(self) -> jax.Array:
        """The positive stream."""
        return (self.t + self.f) / 2

    @property
    def n(self) -> jax.Array:
        """The negative stream."""
        return (self.t - self.f) / 2


@dataclasses.dataclass(frozen=True)
class Unresolved:
    """A function of one variable of a pair, whose own pair is made when it is needed."""

    f: Any
    curve: Univariate
    primitive: str
    path: str


@dataclasses.dataclass(frozen=True)
class Frozen:
    """Depends on the input, but is held at its forward value: comparisons, indices, signs."""

    value: Any
    kind: str = ""
    """The name of `freeze` that asked for it, or "" where the value is locally constant."""


jax.tree_util.register_pytree_node(
    Pair, lambda x: ((x.f, x.t), x.pending), lambda pending, c: Pair(*c, pending=pending)
)
jax.tree_util.register_pytree_node(
    Frozen, lambda x: ((x.value,), x.kind), lambda kind, c: Frozen(*c, kind)
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SplitPair:
    """Two functions' values whose difference is the value of the function that was split.

    Unpacks as ``g, h``. Goes through `jit`, `vmap` and `grad` as a pytree of its two parts.
    """

    g: Any
    """The added part, shaped as the output of ``fn``."""
    h: Any
    """The subtracted part."""
    kind: str = dataclasses.field(default="dc", metadata={"static": True})
    """"dc": g and h are convex and monotone in (x+, x-); "exact": only g - h = fn; "local": a part
    of fn was held at its forward value, or its form holds on an interval only."""

    def __iter__(self) -> Iterator[Any]:
        """The two parts, g first."""
        return iter((self.g, self.h))


def value_of(x: Any) -> Any:
    """The ordinary value of anything met in a walk.

    Args:
      x: a `Pair`, `Unresolved`, `Frozen` or plain value.

    Returns:
      An array.
    """
    if isinstance(x, Pair | Unresolved):
        return x.f
    return x.value if isinstance(x, Frozen) else x


def depends(x: Any) -> bool:
    """True if ``x`` depends on the split input.

    Args:
      x: anything met in a walk.

    Returns:
      bool.
    """
    return isinstance(x, Pair | Unresolved | Frozen)


def both(op: Callable[..., Any], *xs: Pair) -> Pair:
    """A map that is linear with non-negative weights: the same on value and mass.

    Args:
      op: function of as many arrays as there are pairs.
      *xs: pairs.

    Returns:
      Pair.
    """
    mass = None if any(x.t is None for x in xs) else op(*(x.t for x in xs))
    return Pair(op(*(x.f for x in xs)), mass, pending=any(x.pending for x in xs))


def affine(x: Pair, op: Callable[[Any], Any], mass: Callable[[Any], Any]) -> Pair:
    """``op`` on the value, ``mass`` on the mass, still the same affine map for LRP.

    Args:
      x: pair.
      op: function of the value.
      mass: function of the mass.

    Returns:
      Pair.
    """
    return Pair(op(x.f), None if x.t is None else mass(x.t), pending=x.pending)


def negative(x: Pair) -> Pair:
    """The streams swapped.

    Args:
      x: pair.

    Returns:
      Pair.
    """
    return affine(x, lambda f: -f, lambda t: t)


def convex_of(x: Pair, y: Any, slope: float = 1.0) -> Pair:
    """The pair of ``y``, a convex function of ``x.f`` with slopes in ``[0, slope]``.

    n' = slope * n and p' = y + n', which is convex and nondecreasing in (p, n).

    Args:
      x: pair.
      y: the function's values.
      slope: largest slope.

    Returns:
      Pair.
    """
    return Pair(y, None if x.t is None else y + slope * (x.t - x.f))


@jax.custom_jvp
def with_value(x: jax.Array, value: jax.Array) -> jax.Array:
    """``value`` with the derivative of ``x``: a shift that is a constant at this point."""
    return value


@with_value.defjvp
def _with_value_jvp(primals, tangents):
    return with_value(*primals), tangents[0]


@jax.custom_jvp
def with_slope(x: jax.Array, slope: jax.Array) -> jax.Array:
    """``x`` with its derivative multiplied by ``slope``, which is a constant."""
    return x


@with_slope.defjvp
def _with_slope_jvp(primals, tangents):
    x, slope = primals
    return with_slope(x, slope), jnp.asarray(slope, tangents[0].dtype) * tangents[0]
