r"""Rules of maxima: ReLU(p - n) = max{p, n} - n, and what follows from it.

A maximum of k pairs is :math:`n' = \sum_i n_i,\ p' = \max_i (p_i + \sum_{j \ne i} n_j)`, so the
mass is :math:`t' = f' + \sum_i (t_i - f_i)`. With pool "wta" the winner's pair is passed on:
exact, but neither convex nor monotone.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.splitting.pair import Frozen, Pair, convex_of, negative, value_of
from monojax.splitting.rules import register_rule


def _wins(walk: Any, name: str) -> bool:
    """True for pool "wta", which is noted."""
    if walk.mode.pool == "full":
        return False
    walk.note("exact", name, "pool 'wta' passes on the winner's pair")
    return True


def _winner(bind: Callable[[Any], Any], x: Pair) -> Any:
    """The winners' masses: the tangent of the maximum, which is linear in them."""
    return jax.jvp(bind, (jax.lax.stop_gradient(x.f),), (x.t,))[1]


@register_rule("max")
def maximum(walk: Any, eqn: Any, x: Any, y: Any) -> Pair:
    """Of two pairs, or of a pair and a constant (ReLU)."""
    if not (isinstance(x, Pair) and isinstance(y, Pair)):
        x, c = (x, y) if isinstance(x, Pair) else (y, x)
        return above(walk, x, c)
    f = jnp.maximum(x.f, y.f)
    if x.t is None or y.t is None:
        return Pair(f)
    if _wins(walk, "max"):
        return Pair(f, jnp.where(x.f >= y.f, x.t, y.t))
    return Pair(f, f + (x.t - x.f) + (y.t - y.f))


def above(walk: Any, x: Pair, c: Any) -> Pair:
    """max(x, c) for a constant c: n' = n, p' = max(p, n + c)."""
    if isinstance(c, Frozen):
        walk.note("local", "max", "a bound that depends on the input is held at its forward value")
    return convex_of(x, walk.mode.cut(x.f, value_of(c)))


@register_rule("min")
def minimum(walk: Any, eqn: Any, x: Any, y: Any) -> Pair:
    """-max(-x, -y)."""
    minus = lambda a: negative(a) if isinstance(a, Pair) else _minus(a)
    return negative(maximum(walk, eqn, minus(x), minus(y)))


def _minus(c: Any) -> Any:
    return Frozen(-c.value) if isinstance(c, Frozen) else -jnp.asarray(c)


@register_rule("clamp")
def clamp(walk: Any, eqn: Any, low: Any, x: Any, high: Any) -> Any:
    """min(max(x, low), high)."""
    if not isinstance(x, Pair):
        return walk.missing(
            eqn, (low, x, high), "its bounds depend on the input, but not its operand"
        )
    return minimum(walk, eqn, maximum(walk, eqn, x, low), high)


@register_rule("abs")
def absolute(walk: Any, eqn: Any, x: Pair) -> Pair:
    """max(x, -x)."""
    f = jnp.abs(x.f)
    return Pair(f, None if x.t is None else f + 2 * x.t)


@register_rule("reduce_max")
def reduce_max(walk: Any, eqn: Any, x: Pair) -> Pair:
    """Maximum over axes."""
    bind = lambda a: walk.bind(eqn, a)
    f = bind(x.f)
    if x.t is None:
        return Pair(f)
    if _wins(walk, "reduce_max"):
        return Pair(f, _winner(bind, x))
    return Pair(f, f + (x.t - x.f).sum(axis=tuple(eqn.params["axes"])))


@register_rule("reduce_window_max")
def max_pool(walk: Any, eqn: Any, x: Pair) -> Pair:
    """Maximum over windows; padding takes no part."""
    bind = lambda a: walk.bind(eqn, a)
    f = bind(x.f)
    if x.t is None:
        return Pair(f)
    if _wins(walk, "reduce_window_max"):
        return Pair(f, _winner(bind, x))
    keys = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")
    params = [eqn.params[key] for key in keys]
    # The zero must be a concrete number: a traced one has no derivative rule.
    zero = np.zeros((), x.f.dtype)
    return Pair(f, f + jax.lax.reduce_window(x.t - x.f, zero, jax.lax.add, *params))


@register_rule("cummax")
def cummax(walk: Any, eqn: Any, x: Pair) -> Pair:
    """Running maximum."""
    bind = lambda a: walk.bind(eqn, a)
    f = bind(x.f)
    if x.t is None:
        return Pair(f)
    if _wins(walk, "cummax"):
        return Pair(f, _winner(bind, x))
    total = lambda a: jax.lax.cumsum(a, eqn.params["axis"], eqn.params["reverse"])
    return Pair(f, f + total(x.t - x.f))


def _mirrored(rule: Callable[..., Pair]) -> Callable[..., Pair]:
    """The minimum that belongs to a maximum, through the signs."""

    def mirrored(walk: Any, eqn: Any, x: Pair) -> Pair:
        flipped = _Flipped(walk, eqn)
        return negative(rule(flipped, eqn, negative(x)))

    return mirrored


class _Flipped:
    """A walk in whose eyes a minimum is the maximum of the negative."""

    def __init__(self, walk: Any, eqn: Any):
        self.mode, self.note = walk.mode, walk.note
        self._bind = lambda a: -walk.bind(eqn, -a)

    def bind(self, eqn: Any, a: Any) -> Any:
        """Maximum as minus the minimum."""
        return self._bind(a)


register_rule("reduce_min")(_mirrored(reduce_max))
register_rule("reduce_window_min")(_mirrored(max_pool))
register_rule("cummin")(_mirrored(cummax))


@register_rule("sort")
def sort(walk: Any, eqn: Any, *args: Any) -> list[Any]:
    """Sorts along an axis (group sort): each place is a difference of sums of the largest.

    With S_j the sum of the j largest and N the sum of all n, the j-th largest is the pair
    (S_j + N, S_{j-1} + N), and S_j + N is convex and nondecreasing in all (p, n).
    """
    (x, *others) = args
    if others or not isinstance(x, Pair):
        return walk.missing(eqn, args, "it sorts several arrays at once by values of the input")
    axis = eqn.params["dimension"]
    order = jnp.argsort(jax.lax.stop_gradient(x.f), axis=axis, stable=True)
    f = jnp.take_along_axis(x.f, order, axis)
    if x.t is None:
        return [Pair(f)]
    if _wins(walk, "sort"):
        return [Pair(f, jnp.take_along_axis(x.t, order, axis))]
    sums = jax.lax.cumsum(f, axis, reverse=True)  # ascending: the largest come last
    rest = (x.t - x.f).sum(axis=axis, keepdims=True)
    return [Pair(f, 2 * sums - f + rest)]


@register_rule("top_k")
def top_k(walk: Any, eqn: Any, x: Pair) -> list[Any]:
    """The k largest, by the rule of sort."""
    f, order = walk.bind(eqn, x.f)
    if x.t is None:
        return [Pair(f), Frozen(order)]
    axis = eqn.params.get("axis", x.f.ndim - 1)
    if _wins(walk, "top_k"):
        return [Pair(f, jnp.take_along_axis(x.t, order, axis)), Frozen(order)]
    sums = jax.lax.cumsum(f, axis)
    rest = (x.t - x.f).sum(axis=axis, keepdims=True)
    return [Pair(f, 2 * sums - f + rest), Frozen(order)]


def held(walk: Any, eqn: Any, *args: Any) -> Any:
    """Locally constant: comparisons, places of maxima."""
    out = walk.bind(eqn, *map(value_of, args))
    return [Frozen(o) for o in out] if eqn.primitive.multiple_results else Frozen(out)


held.holds = True  # type: ignore[attr-defined]
register_rule("eq", "ne", "lt", "le", "gt", "ge", "is_finite", "argmax", "argmin")(held)
