r"""Intervals with outward rounding: what every bound of this room is made of.

The numbers that are bounded are real: a certificate speaks of the function with exactly these
constants in exact arithmetic. What is computed is floating point, so every operation widens its
result by a bound on its own rounding error:

  a single operation (IEEE, correctly rounded): one unit in the last place, eps = 2 u;
  a sum of n terms in any order, fused or not: n eps / (1 - n eps) of the sum of the magnitudes,
    which is kept apart for positive and negative terms, so that a sum of non-negative terms stays
    non-negative (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 4.2);
  exp, log, tanh, erf and the like: `ULPS` units in the last place, more where XLA was measured to
    err more (exp2, sinh, log1p, erfc, pow);
  underflow: results that may have been flushed to zero move by the smallest normal number.

Assumed of the hardware: add, sub, mul, div and sqrt correctly rounded but for flushed subnormals,
dots and convolutions accumulated in the values' own dtype or a wider one (products are asked for in
the highest precision, which matters on TPU and on GPUs with TF32).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

ULPS = 16
"""Error allowed for a transcendental function of XLA, in units in the last place."""


class Interval(NamedTuple):
    """All real numbers from ``lo`` to ``hi``, elementwise; two booleans: surely, possibly."""

    lo: jax.Array
    hi: jax.Array


def as_interval(x: Any) -> Interval:
    """A constant as an interval of width 0; an interval as it is."""
    return x if isinstance(x, Interval) else Interval(jnp.asarray(x), jnp.asarray(x))


def eps_of(x: jax.Array) -> Any:
    """One unit in the last place of 1, twice the unit roundoff."""
    return jnp.finfo(x.dtype).eps


def tiny_of(x: jax.Array) -> Any:
    """The smallest normal number."""
    return jnp.finfo(x.dtype).tiny


def sound(x: Interval) -> Interval:
    """NaN ends become infinite: nothing is known there. So do ends that overflowed."""
    most = jnp.finfo(x.lo.dtype).max  # an overflow of the wrong end
    lo = jnp.where(x.lo == x.lo, jnp.minimum(x.lo, most), -jnp.inf)
    hi = jnp.where(x.hi == x.hi, jnp.maximum(x.hi, -most), jnp.inf)
    return Interval(lo, hi)


def meet(x: Interval, y: Interval) -> Interval:
    """The numbers in both; both enclose the same values, so that it is not empty."""
    lo, hi = jnp.maximum(x.lo, y.lo), jnp.minimum(x.hi, y.hi)
    # Two sound enclosures can only miss each other by a fault: the wider one is safe then.
    empty = lo > hi
    return Interval(jnp.where(empty, x.lo, lo), jnp.where(empty, x.hi, hi))


def hull(*xs: Interval) -> Interval:
    """The smallest interval that holds all."""
    lo, hi = xs[0]
    for x in xs[1:]:
        lo, hi = jnp.minimum(lo, x.lo), jnp.maximum(hi, x.hi)
    return Interval(lo, hi)


def down(x: jax.Array, ulps: Any = 1) -> jax.Array:
    """A number below what rounds to ``x`` with an error of ``ulps`` units; NaN if x is +inf."""
    return x - jnp.maximum(jnp.abs(x) * (ulps * eps_of(x)), tiny_of(x))


def up(x: jax.Array, ulps: Any = 1) -> jax.Array:
    """The mirror of :func:`down`."""
    return -down(-x, ulps)


def _floored(x: jax.Array) -> jax.Array:
    """Magnitudes ``x >= 0`` rounded up to a floor where they are not 0: products cannot vanish."""
    floor = np.sqrt(float(tiny_of(x))) * 2.0
    return jnp.where(x > 0, jnp.maximum(x, jnp.asarray(floor, x.dtype)), x)


def add(x: Interval, y: Interval) -> Interval:
    """x + y."""
    return Interval(_add_down(x.lo, y.lo), -_add_down(-x.hi, -y.hi))


def _add_down(a: jax.Array, b: jax.Array) -> jax.Array:
    total = a + b
    low = down(total)
    low = jnp.where(a >= 0, jnp.maximum(low, b), low)  # which is exact where a is 0
    low = jnp.where(b >= 0, jnp.maximum(low, a), low)
    return jnp.where(a == -b, total, low)


def neg(x: Interval) -> Interval:
    """-x, exact."""
    return Interval(-x.hi, -x.lo)


def mul(x: Interval, y: Interval) -> Interval:
    """x y: the extremes of the four products of ends."""
    ends = [a * b for a in x for b in y]
    ends = [jnp.where(end == end, end, 0) for end in ends]  # 0 times an end that is infinite
    low, high = functools.reduce(jnp.minimum, ends), functools.reduce(jnp.maximum, ends)
    same = ((x.lo >= 0) & (y.lo >= 0)) | ((x.hi <= 0) & (y.hi <= 0))
    other = ((x.lo >= 0) & (y.hi <= 0)) | ((x.hi <= 0) & (y.lo >= 0))
    zero = ((x.lo == 0) & (x.hi == 0)) | ((y.lo == 0) & (y.hi == 0))
    unit = ((x.lo == x.hi) & (jnp.abs(x.lo) == 1)) | ((y.lo == y.hi) & (jnp.abs(y.lo) == 1))
    low, high = jnp.where(unit, low, down(low)), jnp.where(unit, high, up(high))
    low = jnp.where(same, jnp.maximum(low, 0), low)
    high = jnp.where(other, jnp.minimum(high, 0), high)
    return Interval(jnp.where(zero, 0, low), jnp.where(zero, 0, high))


def scaled(x: Interval, k: jax.Array) -> Interval:
    """k x for a constant; exact where k is 0, 1 or -1."""
    lo, hi, k = jnp.broadcast_arrays(x.lo, x.hi, k)
    first, last = jnp.where(k >= 0, lo, hi), jnp.where(k >= 0, hi, lo)
    return Interval(_mul_down(first, k), -_mul_down(-last, k))


def _mul_down(a: jax.Array, b: jax.Array) -> jax.Array:
    product = a * b
    low = jnp.where((a > 0) == (b > 0), jnp.maximum(down(product), 0), down(product))
    low = jnp.where(jnp.abs(b) == 1, product, low)
    return jnp.where((a == 0) | (b == 0), 0, low)


def square(x: Interval) -> Interval:
    """x^2, never negative."""
    low, high = jnp.minimum(jnp.abs(x.lo), jnp.abs(x.hi)), jnp.maximum(jnp.abs(x.lo), jnp.abs(x.hi))
    inside = (x.lo <= 0) & (x.hi >= 0)
    return Interval(jnp.where(inside, 0, _mul_down(low, low)), -_mul_down(-high, high))


def reciprocal(x: Interval) -> Interval:
    """1 / x; everything where x may be 0."""
    spans = (x.lo <= 0) & (x.hi >= 0)
    one = jnp.ones_like(x.lo)
    low, high = down(one / x.hi), up(one / x.lo)
    low = jnp.where(x.lo > 0, jnp.maximum(low, 0), low)
    high = jnp.where(x.hi < 0, jnp.minimum(high, 0), high)
    return Interval(jnp.where(spans, -jnp.inf, low), jnp.where(spans, jnp.inf, high))


def signed_sum(op: Any, x: Interval, terms: int) -> Interval:
    """A linear map with coefficients 0 and 1 that adds up at most ``terms`` entries of x."""
    positive = Interval(jnp.maximum(x.lo, 0), jnp.maximum(x.hi, 0))
    negative = Interval(jnp.maximum(-x.lo, 0), jnp.maximum(-x.hi, 0))
    return _difference(op(positive.lo), op(negative.lo), op(positive.hi), op(negative.hi), terms)


def bilinear(op: Any, x: Interval, y: Interval, terms: int) -> Interval:
    r"""A product that sums, such as a dot: ``op(x, y)`` with non-negative coefficients.

    Split into positive and negative parts, x y = x⁺y⁺ + x⁻y⁻ - x⁺y⁻ - x⁻y⁺, and every one of the
    four is monotone in both; for a constant y this is the exact interval product.

    Args:
      op: bilinear map of two arrays.
      x: first operand.
      y: second operand.
      terms: how many products one entry of the result adds up.

    Returns:
      Enclosure of the result.
    """
    xp, xn = Interval(*map(_positive, x)), Interval(_positive(-x.hi), _positive(-x.lo))
    yp, yn = Interval(*map(_positive, y)), Interval(_positive(-y.hi), _positive(-y.lo))
    grow = _floored  # what is subtracted must not underflow
    low_plus = op(xp.lo, yp.lo) + op(xn.lo, yn.lo)
    low_minus = op(grow(xp.hi), grow(yn.hi)) + op(grow(xn.hi), grow(yp.hi))
    high_plus = op(grow(xp.hi), grow(yp.hi)) + op(grow(xn.hi), grow(yn.hi))
    high_minus = op(xp.lo, yn.lo) + op(xn.lo, yp.lo)
    return _difference(low_plus, low_minus, high_plus, high_minus, 2 * terms + 1)


def linear(op: Any, x: Interval, w: jax.Array, terms: int) -> Interval:
    """``op(x, w)`` for a constant w: exact interval product but for rounding.

    Args:
      op: bilinear map of two arrays.
      x: the operand that varies.
      w: the constant.
      terms: how many products one entry of the result adds up.

    Returns:
      Enclosure of the result.
    """
    wp, wn = _positive(w), _positive(-w)
    lp, ln = _positive(x.lo), _positive(-x.lo)
    hp, hn = _positive(x.hi), _positive(-x.hi)
    grow = _floored
    low_plus = op(lp, wp) + op(hn, wn)
    low_minus = op(grow(ln), grow(wp)) + op(grow(hp), grow(wn))
    high_plus = op(grow(hp), grow(wp)) + op(grow(ln), grow(wn))
    high_minus = op(hn, wp) + op(lp, wn)
    return _difference(low_plus, low_minus, high_plus, high_minus, 2 * terms + 1)


def growth(terms: int, dtype: Any) -> float:
    """Relative error of a sum of that many terms in any order, with some operations to spare."""
    share = (terms + 6) * float(jnp.finfo(dtype).eps)
    if share > 0.1:
        raise ValueError(
            f"a sum of {terms} terms in {jnp.dtype(dtype).name} has no useful error bound; "
            "certify in float32 or float64."
        )
    return share / (1 - share)


def _difference(low_plus, low_minus, high_plus, high_minus, terms: int) -> Interval:
    """plus - minus of computed sums of non-negative terms, with all their rounding errors."""
    g = growth(terms, low_plus.dtype)
    most = jnp.finfo(low_plus.dtype).max  # what overflowed is at least this large
    low_plus, high_minus = jnp.minimum(low_plus, most), jnp.minimum(high_minus, most)
    low = _add_down(low_plus * (1 - g), -low_minus * (1 + g))
    high = -_add_down(high_minus * (1 - g), -high_plus * (1 + g))
    return Interval(low, high)


def _positive(x: jax.Array) -> jax.Array:
    return jnp.maximum(x, 0)
