"""Interval rules of elementwise functions: ends where they are monotone, hulls elsewhere."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.certify import interval
from monojax.certify.interval import ULPS, Interval, as_interval, down, hull, up

Rule = Callable[..., Any]


def _rising(fn: Callable[[jax.Array], jax.Array], low: float, high: float, odd: bool) -> Rule:
    """A non-decreasing function with values in [low, high]; ``odd``: with the sign of x."""

    def rule(eqn: Any, x: Interval) -> Interval:
        lo, hi = down(fn(x.lo), ULPS), up(fn(x.hi), ULPS)
        if odd:  # an enclosure that keeps the sign keeps slopes provable
            lo = jnp.where(x.lo >= 0, jnp.maximum(lo, 0), lo)
            hi = jnp.where(x.hi <= 0, jnp.minimum(hi, 0), hi)
        return Interval(jnp.maximum(lo, low), jnp.minimum(hi, high))

    return rule


def _log(eqn: Any, x: Interval) -> Interval:
    """Around 1 the error of log is relative to x - 1; an absolute allowance is simpler."""
    slack = lambda y: ULPS * interval.eps_of(y) * (1 + jnp.abs(y))
    lo, hi = jnp.log(x.lo), jnp.log(x.hi)
    lo = jnp.where(x.lo > 0, lo - slack(lo), -jnp.inf)
    return Interval(lo, jnp.where(x.hi > 0, hi + slack(hi), -jnp.inf))


def _sqrt(eqn: Any, x: Interval) -> Interval:
    low = jnp.maximum(down(jnp.sqrt(jnp.maximum(x.lo, 0)), 4), 0)
    return Interval(low, up(jnp.sqrt(x.hi), 4))  # NaN below 0: nothing is known


def _rsqrt(eqn: Any, x: Interval) -> Interval:
    high = jnp.where(x.lo > 0, up(jax.lax.rsqrt(x.lo), ULPS), jnp.inf)
    return Interval(jnp.maximum(down(jax.lax.rsqrt(x.hi), ULPS), 0), high)


def _abs(eqn: Any, x: Interval) -> Interval:
    inside = (x.lo <= 0) & (x.hi >= 0)
    a, b = jnp.abs(x.lo), jnp.abs(x.hi)
    return Interval(jnp.where(inside, 0, jnp.minimum(a, b)), jnp.maximum(a, b))


def _sign(eqn: Any, x: Interval) -> Interval:
    return Interval(jnp.sign(x.lo), jnp.sign(x.hi))


def _integer_pow(eqn: Any, x: Interval) -> Interval:
    power = eqn.params["y"]
    out = _power(x, abs(power))
    return interval.reciprocal(out) if power < 0 else out


def _power(x: Interval, power: int) -> Interval:
    """By squaring; the square of an interval is never negative."""
    if power == 0:
        return as_interval(jnp.ones_like(x.lo))
    if power == 1:
        return x
    if power % 2 == 0:
        return interval.square(_power(x, power // 2))
    # Odd powers rise: each end by itself, the sign kept.
    low = _power(as_interval(jnp.abs(x.lo)), power - 1)
    high = _power(as_interval(jnp.abs(x.hi)), power - 1)
    end = lambda v, even: interval.mul(as_interval(v), even)
    return Interval(end(x.lo, low).lo, end(x.hi, high).hi)


def _pow(eqn: Any, x: Any, y: Any) -> Interval:
    """x^y for x >= 0 and a constant y."""
    if isinstance(y, Interval):
        raise KeyError("pow with an exponent that varies")
    ends = [jnp.power(x.lo, y), jnp.power(x.hi, y)]
    low, high = down(jnp.minimum(*ends), 4 * ULPS), up(jnp.maximum(*ends), 4 * ULPS)
    known = x.lo >= 0
    return Interval(
        jnp.where(known, jnp.maximum(low, 0), -jnp.inf), jnp.where(known, high, jnp.inf)
    )


def _wave(fn: Callable[[jax.Array], jax.Array]) -> Rule:
    """sin and cos have slopes in [-1, 1]: the middle's value and half the width."""

    def rule(eqn: Any, x: Interval) -> Interval:
        middle = x.lo / 2 + x.hi / 2
        radius = up(jnp.maximum(x.hi - middle, middle - x.lo))
        slack = ULPS * interval.eps_of(middle) * (1 + jnp.abs(middle))
        value = fn(middle)
        low, high = value - radius - slack, value + radius + slack
        return Interval(jnp.maximum(low, -1), jnp.minimum(high, 1))

    return rule


def _compare(surely: Callable, possibly: Callable) -> Rule:
    def rule(eqn: Any, x: Any, y: Any) -> Interval:
        x, y = as_interval(x), as_interval(y)
        return Interval(surely(x, y), possibly(x, y))

    return rule


def _eq(eqn: Any, x: Any, y: Any) -> Interval:
    x, y = as_interval(x), as_interval(y)
    surely = (x.lo == x.hi) & (y.lo == y.hi) & (x.lo == y.lo)
    return Interval(surely, (x.lo <= y.hi) & (y.lo <= x.hi))


def _ne(eqn: Any, x: Any, y: Any) -> Interval:
    same = _eq(eqn, x, y)
    return Interval(~same.hi, ~same.lo)


def _logic(op: Callable) -> Rule:
    def rule(eqn: Any, *args: Any) -> Interval:
        xs = [as_interval(x) for x in args]
        if xs[0].lo.dtype != jnp.bool_:
            raise KeyError(f"{eqn.primitive.name} of integers that vary")
        return Interval(op(*(x.lo for x in xs)), op(*(x.hi for x in xs)))

    return rule


def _not(eqn: Any, x: Interval) -> Interval:
    if x.lo.dtype != jnp.bool_:
        raise KeyError("not of integers that vary")
    return Interval(~x.hi, ~x.lo)


def _convert(eqn: Any, x: Interval) -> Interval:
    dtype = np.dtype(eqn.params["new_dtype"])
    lo, hi = x.lo.astype(dtype), x.hi.astype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        if jnp.issubdtype(x.lo.dtype, jnp.floating):
            raise KeyError(f"a conversion of floats that vary to {dtype.name}")
        return Interval(lo, hi)
    narrower = jnp.issubdtype(x.lo.dtype, jnp.floating) and (
        jnp.finfo(dtype).nmant < jnp.finfo(x.lo.dtype).nmant
    )
    return Interval(down(lo), up(hi)) if narrower else Interval(lo, hi)


def _div(eqn: Any, x: Any, y: Any) -> Interval:
    x, y = as_interval(x), as_interval(y)
    spans = (y.lo <= 0) & (y.hi >= 0)
    quotients = [(a, b) for a in x for b in y]
    low = jnp.stack([_div_down(a, b) for a, b in quotients]).min(axis=0)
    high = -jnp.stack([_div_down(-a, b) for a, b in quotients]).min(axis=0)
    return Interval(jnp.where(spans, -jnp.inf, low), jnp.where(spans, jnp.inf, high))


def _div_down(a: jax.Array, b: jax.Array) -> jax.Array:
    low = down(a / b)
    low = jnp.where((a > 0) == (b > 0), jnp.maximum(low, 0), low)
    return jnp.where(a == 0, 0, jnp.where(b == 1, a, low))


def _binary(fn: Callable[[Interval, Interval], Interval]) -> Rule:
    return lambda eqn, x, y: fn(as_interval(x), as_interval(y))


def _max(x: Interval, y: Interval) -> Interval:
    return Interval(jnp.maximum(x.lo, y.lo), jnp.maximum(x.hi, y.hi))


def _min(x: Interval, y: Interval) -> Interval:
    return Interval(jnp.minimum(x.lo, y.lo), jnp.minimum(x.hi, y.hi))


def _clamp(eqn: Any, low: Any, x: Any, high: Any) -> Interval:
    return _min(_max(as_interval(x), as_interval(low)), as_interval(high))


def select(eqn: Any, which: Any, *cases: Any) -> Interval:
    """The hull of the cases that can be reached."""
    if not isinstance(which, Interval):
        ends = [as_interval(case) for case in cases]
        take = lambda *values: jax.lax.select_n(which, *values)
        return Interval(take(*(e.lo for e in ends)), take(*(e.hi for e in ends)))
    if which.lo.dtype != jnp.bool_ or len(cases) != 2:
        raise KeyError("select_n by an index that varies")
    no, yes = map(as_interval, cases)
    both = hull(no, yes)
    pick = lambda n, y, b: jnp.where(which.lo, y, jnp.where(~which.hi, n, b))
    return Interval(pick(no.lo, yes.lo, both.lo), pick(no.hi, yes.hi, both.hi))


inf = float("inf")
ELEMENTWISE: dict[str, Rule] = {
    "abs": _abs,
    "add": _binary(interval.add),
    "add_any": _binary(interval.add),
    "and": _logic(jnp.logical_and),
    "atan": _rising(jnp.arctan, -np.pi / 2 * 1.001, np.pi / 2 * 1.001, True),
    "asinh": _rising(jnp.arcsinh, -inf, inf, True),
    "cbrt": _rising(jnp.cbrt, -inf, inf, True),
    "clamp": _clamp,
    "convert_element_type": _convert,
    "cos": _wave(jnp.cos),
    "div": _div,
    "eq": _eq,
    "erf": _rising(jax.lax.erf, -1.0, 1.0, True),
    "erfc": lambda eqn, x: Interval(
        jnp.maximum(down(jax.lax.erfc(x.hi), 4 * ULPS), 0),
        jnp.minimum(up(jax.lax.erfc(x.lo), 4 * ULPS), 2),
    ),
    "exp": _rising(jnp.exp, 0.0, inf, False),
    "exp2": _rising(jnp.exp2, 0.0, inf, False),
    "expm1": _rising(jnp.expm1, -1.0, inf, True),
    "ge": _compare(lambda x, y: x.lo >= y.hi, lambda x, y: x.hi >= y.lo),
    "gt": _compare(lambda x, y: x.lo > y.hi, lambda x, y: x.hi > y.lo),
    "integer_pow": _integer_pow,
    "is_finite": lambda eqn, x: Interval(
        jnp.isfinite(x.lo) & jnp.isfinite(x.hi), jnp.ones_like(x.lo, bool)
    ),
    "le": _compare(lambda x, y: x.hi <= y.lo, lambda x, y: x.lo <= y.hi),
    "log": _log,
    "log1p": _rising(jnp.log1p, -inf, inf, True),
    "logistic": _rising(jax.lax.logistic, 0.0, 1.0, False),
    "lt": _compare(lambda x, y: x.hi < y.lo, lambda x, y: x.lo < y.hi),
    "max": _binary(_max),
    "min": _binary(_min),
    "mul": _binary(interval.mul),
    "ne": _ne,
    "neg": lambda eqn, x: interval.neg(x),
    "not": _not,
    "or": _logic(jnp.logical_or),
    "pow": _pow,
    "reduce_precision": lambda eqn, x: Interval(
        x.lo - jnp.abs(x.lo) * 2.0 ** -eqn.params["mantissa_bits"],
        x.hi + jnp.abs(x.hi) * 2.0 ** -eqn.params["mantissa_bits"],
    ),
    "rsqrt": _rsqrt,
    "select_n": select,
    "sign": _sign,
    "sin": _wave(jnp.sin),
    "sinh": _rising(jnp.sinh, -inf, inf, True),
    "sqrt": _sqrt,
    "square": lambda eqn, x: interval.square(x),
    "sub": _binary(lambda x, y: interval.add(x, interval.neg(y))),
    "tanh": _rising(jnp.tanh, -1.0, 1.0, True),
}
"""Enclosure of each elementwise primitive: function of (equation, operands)."""
