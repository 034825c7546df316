"""Interval rules of elementwise functions: ends where they are monotone, hulls elsewhere."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base import compat
from monojax.certify import interval
from monojax.certify.interval import ULPS, Interval, as_interval, down, hull, up

Rule = Callable[..., Any]


def _rising(
    fn: Callable[[jax.Array], jax.Array],
    low: float,
    high: float,
    odd: bool,
    ulps: Callable[[jax.Array], Any] = lambda x: ULPS,
) -> Rule:
    """A non-decreasing function with values in [low, high]; ``odd``: with the sign of x."""

    def rule(eqn: Any, x: Interval) -> Interval:
        # Twice, for a result that was flushed to 0 though it is no subnormal number yet.
        lo, hi = down(down(fn(x.lo), ulps(x.lo))), up(up(fn(x.hi), ulps(x.hi)))
        if odd:  # an enclosure that keeps the sign keeps slopes provable
            lo = jnp.where(x.lo >= 0, jnp.maximum(lo, 0), lo)
            hi = jnp.where(x.hi <= 0, jnp.minimum(hi, 0), hi)
        return Interval(jnp.maximum(lo, low), jnp.minimum(hi, high))

    return rule


def _growing_ulps(x: jax.Array) -> jax.Array:
    """exp2 and sinh err by more the larger the exponent is: measured, 362 units at 1015."""
    return ULPS + 2 * jnp.minimum(jnp.abs(x), 1e4)


def _erfc_ulps(x: jax.Array) -> jax.Array:
    """Measured: 324 units at 23, in float64."""
    return 64 + 2 * jnp.square(jnp.minimum(jnp.abs(x), 100))


def _log1p_ulps(x: jax.Array) -> jax.Array:
    """Measured: 120 units near -0.414, in float64."""
    return jnp.where((x >= -0.5) & (x <= -0.3), 512, ULPS).astype(x.dtype)


def _erfc(eqn: Any, x: Interval) -> Interval:
    low = down(jax.lax.erfc(x.hi), _erfc_ulps(x.hi))
    high = up(jax.lax.erfc(x.lo), _erfc_ulps(x.lo))
    return Interval(jnp.maximum(low, 0), jnp.minimum(high, 2))


def _log1p(eqn: Any, x: Interval) -> Interval:
    low, high = _rising(jnp.log1p, -inf, inf, True, _log1p_ulps)(eqn, x)
    return _nothing_where(x.lo < -1, Interval(low, high))


def _nothing_where(outside: jax.Array, x: Interval) -> Interval:
    """Everything where the function is not defined: no proof may rest on it."""
    return Interval(jnp.where(outside, -jnp.inf, x.lo), jnp.where(outside, jnp.inf, x.hi))


def _log(eqn: Any, x: Interval) -> Interval:
    """Around 1 the error of log is relative to x - 1; an absolute allowance is simpler."""
    slack = lambda y: ULPS * interval.eps_of(y) * (1 + jnp.abs(y))
    lo, hi = jnp.log(x.lo), jnp.log(x.hi)
    lo = jnp.where(x.lo > 0, lo - slack(lo), -jnp.inf)
    return _nothing_where(x.lo < 0, Interval(lo, jnp.where(x.hi > 0, hi + slack(hi), -jnp.inf)))


def _sqrt(eqn: Any, x: Interval) -> Interval:
    low = jnp.maximum(down(jnp.sqrt(jnp.maximum(x.lo, 0)), 4), 0)
    return _nothing_where(x.lo < 0, Interval(low, up(jnp.sqrt(x.hi), 4)))


def _rsqrt(eqn: Any, x: Interval) -> Interval:
    high = jnp.where(x.lo > 0, up(jax.lax.rsqrt(x.lo), ULPS), jnp.inf)
    low = jnp.maximum(down(jax.lax.rsqrt(x.hi), ULPS), 0)
    return _nothing_where(x.lo < 0, Interval(low, high))


def _abs(eqn: Any, x: Interval) -> Interval:
    inside = (x.lo <= 0) & (x.hi >= 0)
    a, b = jnp.abs(x.lo), jnp.abs(x.hi)
    return Interval(jnp.where(inside, 0, jnp.minimum(a, b)), jnp.maximum(a, b))


def _one_minus_square(eqn: Any, x: Interval) -> Interval:
    """1 - x^2, which falls with |x|; as (1 - |x|) (1 + |x|) it keeps its sign up to |x| = 1."""
    size = _abs(eqn, x)
    one = as_interval(jnp.ones_like(x.lo))

    def at(value: jax.Array) -> Interval:
        end = as_interval(value)
        return interval.mul(interval.add(one, interval.neg(end)), interval.add(one, end))

    return Interval(at(size.hi).lo, at(size.lo).hi)


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
    """x^y for x >= 0, extreme at the corners: it is monotone in x and in y."""
    x, y = as_interval(x), as_interval(y)
    if not jnp.issubdtype(y.lo.dtype, jnp.floating):
        y = Interval(y.lo.astype(x.lo.dtype), y.hi.astype(x.lo.dtype))
    zero = jnp.where(x.lo == 0, 0, x.lo)  # -0.0 has another power
    ends = [jnp.power(a, b) for a in (zero, x.hi) for b in y]
    sizes = [jnp.nan_to_num(jnp.abs(jnp.log(end)), nan=0.0, posinf=1e4) for end in ends]
    ulps = [4 * ULPS + 2 * jnp.minimum(size, 1e4) for size in sizes]
    lows = [down(end, n) for end, n in zip(ends, ulps, strict=True)]
    highs = [up(end, n) for end, n in zip(ends, ulps, strict=True)]
    low, high = functools.reduce(jnp.minimum, lows), functools.reduce(jnp.maximum, highs)
    return _nothing_where(x.lo < 0, Interval(jnp.maximum(low, 0), high))


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
    x, dtype = as_interval(x), np.dtype(eqn.params["new_dtype"])
    lo, hi = x.lo.astype(dtype), x.hi.astype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        if jnp.issubdtype(x.lo.dtype, jnp.floating):
            raise KeyError(f"a conversion of floats that vary to {dtype.name}")
        return Interval(lo, hi)
    if jnp.issubdtype(x.lo.dtype, jnp.floating):
        return Interval(lo, hi) if widens(x.lo.dtype, dtype) else Interval(down(lo), up(hi))
    if x.lo.dtype == jnp.bool_:
        return Interval(lo, hi)
    most = 2.0 ** jnp.finfo(dtype).nmant
    exact = (jnp.abs(lo) <= most) & (jnp.abs(hi) <= most)
    return Interval(jnp.where(exact, lo, down(lo)), jnp.where(exact, hi, up(hi)))


def widens(old: Any, new: Any) -> bool:
    """True if every number of one float dtype is one of the other."""
    old, new = jnp.finfo(old), jnp.finfo(new)
    return new.nmant >= old.nmant and new.maxexp >= old.maxexp and new.minexp <= old.minexp


def _reduce_precision(eqn: Any, x: Interval) -> Interval:
    """Rounds to fewer bits; fewer exponent bits flush and overflow, which is not bounded."""
    info, params = jnp.finfo(x.lo.dtype), eqn.params
    if params["exponent_bits"] < info.bits - 1 - info.nmant:
        raise KeyError("reduce_precision to fewer exponent bits")
    ulps = 2.0 ** max(0, info.nmant - params["mantissa_bits"])
    return Interval(down(x.lo, ulps), up(x.hi, ulps))


def _div(eqn: Any, x: Any, y: Any) -> Interval:
    x = as_interval(x)
    if not isinstance(y, Interval):
        rises = y > 0
        first, last = jnp.where(rises, x.lo, x.hi), jnp.where(rises, x.hi, x.lo)
        low, high = _div_down(first, y), -_div_down(-last, y)
        return Interval(jnp.where(y == 0, -jnp.inf, low), jnp.where(y == 0, jnp.inf, high))
    ends = [a / b for a in x for b in y]
    ends = [jnp.where(end == end, end, 0) for end in ends]  # an infinite end by an infinite one
    low, high = functools.reduce(jnp.minimum, ends), functools.reduce(jnp.maximum, ends)
    unit = (y.lo == y.hi) & (jnp.abs(y.lo) == 1)
    low, high = jnp.where(unit, low, down(low, 4)), jnp.where(unit, high, up(high, 4))
    same = ((x.lo >= 0) & (y.lo >= 0)) | ((x.hi <= 0) & (y.hi <= 0))
    other = ((x.lo >= 0) & (y.hi <= 0)) | ((x.hi <= 0) & (y.lo >= 0))
    low = jnp.where(same, jnp.maximum(low, 0), low)
    high = jnp.where(other, jnp.minimum(high, 0), high)
    size = jnp.maximum(jnp.abs(y.lo), jnp.abs(y.hi))
    open_ = ((y.lo <= 0) & (y.hi >= 0)) | (jnp.isfinite(size) & (size > _huge(size)))
    return Interval(jnp.where(open_, -jnp.inf, low), jnp.where(open_, jnp.inf, high))


def _huge(x: jax.Array) -> Any:
    """XLA divides by a constant as it multiplies by its reciprocal, which may be flushed to 0."""
    return 0.25 / interval.tiny_of(x)


def _div_down(a: jax.Array, b: jax.Array) -> jax.Array:
    quotient = a / b
    low = jnp.where((a > 0) == (b > 0), jnp.maximum(down(quotient, 4), 0), down(quotient, 4))
    low = jnp.where(jnp.abs(b) > _huge(quotient), -jnp.inf, low)
    return jnp.where(a == 0, 0, jnp.where(jnp.abs(b) == 1, quotient, low))


def _binary(fn: Callable[[Interval, Interval], Interval]) -> Rule:
    return lambda eqn, x, y: fn(as_interval(x), as_interval(y))


def _mul(eqn: Any, x: Any, y: Any) -> Interval:
    if not isinstance(y, Interval):
        return interval.scaled(x, y)
    return interval.mul(x, y) if isinstance(x, Interval) else interval.scaled(y, x)


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
    "erfc": _erfc,
    "exp": _rising(jnp.exp, 0.0, inf, False),
    "exp2": _rising(jnp.exp2, 0.0, inf, False, _growing_ulps),
    "expm1": _rising(jnp.expm1, -1.0, inf, True),
    "ge": _compare(lambda x, y: x.lo >= y.hi, lambda x, y: x.hi >= y.lo),
    "gt": _compare(lambda x, y: x.lo > y.hi, lambda x, y: x.hi > y.lo),
    "integer_pow": _integer_pow,
    "is_finite": lambda eqn, x: Interval(
        jnp.isfinite(x.lo) & jnp.isfinite(x.hi), jnp.ones_like(x.lo, bool)
    ),
    "le": _compare(lambda x, y: x.hi <= y.lo, lambda x, y: x.lo <= y.hi),
    "log": _log,
    "log1p": _log1p,
    "logistic": _rising(jax.lax.logistic, 0.0, 1.0, False),
    "lt": _compare(lambda x, y: x.hi < y.lo, lambda x, y: x.lo < y.hi),
    "max": _binary(_max),
    "min": _binary(_min),
    "mul": _mul,
    "ne": _ne,
    "neg": lambda eqn, x: interval.neg(x),
    "not": _not,
    "one_minus_square": _one_minus_square,  # since jax 0.12, in the slope of tanh
    "or": _logic(jnp.logical_or),
    "pow": _pow,
    "reduce_precision": _reduce_precision,
    "rsqrt": _rsqrt,
    "select_n": select,
    "sign": _sign,
    "sin": _wave(jnp.sin),
    "sinh": _rising(jnp.sinh, -inf, inf, True, _growing_ulps),
    "sqrt": _sqrt,
    "square": lambda eqn, x: interval.square(x),
    "sub": _binary(lambda x, y: interval.add(x, interval.neg(y))),
    "tanh": _rising(jnp.tanh, -1.0, 1.0, True),
}
"""Enclosure of each elementwise primitive: function of (equation, operands)."""


def _spans(x: Interval) -> jax.Array:
    return (x.lo <= 0) & (x.hi >= 0)


def _no_quotient(eqn: Any, x: Any, y: Any) -> jax.Array | None:
    """By what may be 0; a constant is looked at now."""
    if not isinstance(y, Interval) and not isinstance(y, jax.core.Tracer) and np.all(y != 0):
        return None
    return _spans(as_interval(y))


def _no_power(eqn: Any, x: Any, y: Any) -> jax.Array:
    """A negative base, and 0 to what may not be positive."""
    x, y = as_interval(x), as_interval(y)
    return (x.lo < 0) | ((x.lo <= 0) & (y.lo <= 0))


def _no_entry(eqn: Any, x: Any, index: Any) -> jax.Array | None:
    """Outside of what is gathered from, where that is filled with NaN."""
    like = as_interval(x).lo
    if isinstance(index, Interval) or not jnp.issubdtype(like.dtype, jnp.floating):
        return None
    if isinstance(index, jax.core.Tracer):
        return jnp.isnan(compat.bind(eqn, jnp.zeros_like(like), index))
    with jax.ensure_compile_time_eval():
        outside = jnp.isnan(compat.bind(eqn, jnp.zeros(like.shape, like.dtype), index))
        return outside if outside.any() else None


UNDEFINED: dict[str, Rule] = {
    "div": _no_quotient,
    "gather": _no_entry,
    "integer_pow": lambda eqn, x: _spans(x) if eqn.params["y"] < 0 else None,
    "log": lambda eqn, x: x.lo <= 0,
    "log1p": lambda eqn, x: x.lo <= -1,
    "pow": _no_power,
    "rsqrt": lambda eqn, x: x.lo <= 0,
    "sqrt": lambda eqn, x: x.lo < 0,
}
"""Where a primitive may give no number: function of (equation, enclosures), None for nowhere."""
DECIDES = frozenset(("eq", "ge", "gt", "is_finite", "le", "lt", "ne", "sign", "sort"))
"""Primitives with a result that is no NaN where an operand is."""
