r"""Affine forms: numbers with coefficients of the box's coordinates, and what is left.

A value is enclosed by :math:`b + A e \pm \rho`, :math:`e \in [-1, 1]^d`. Linear primitives act on b
and A as they are and on :math:`\rho` with absolute coefficients; their rounding errors go into
:math:`\rho`. Without A it is a number with its error.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from monojax.base import compat
from monojax.certify import interval
from monojax.certify.interval import Interval, up
from monojax.certify.rules import bilinear_op, contraction_terms

# Linear in their one operand that varies, with coefficients 0 and 1: (operands that vary, sum?).
_MOVES = frozenset(
    ("broadcast_in_dim", "copy", "copy_p", "dynamic_slice", "expand_dims", "gather", "name")
    + ("reshape", "rev", "slice", "squeeze", "stop_gradient", "transpose")
)
_ELEMENTWISE = frozenset(("add", "add_any", "convert_element_type", "div", "mul", "neg", "sub"))
_SUMS = frozenset(("cumsum", "reduce_sum", "reduce_window_sum"))


@dataclasses.dataclass(frozen=True, eq=False)
class Form:
    """b + A e, within rho."""

    b: jax.Array
    A: jax.Array | None
    """Coefficients, `[d, *shape]`; None for a number with its error, that does not vary."""
    rho: jax.Array

    @property
    def width(self) -> int:
        """d, 0 without coefficients."""
        return 0 if self.A is None else self.A.shape[0]

    def radius(self) -> jax.Array:
        """How far values are from ``b`` at most, rounded up."""
        if self.A is None:
            return self.rho
        radius = jnp.abs(self.A).sum(axis=0) + self.rho
        return up(radius * (1 + interval.growth(self.width + 2, radius.dtype)))

    def size(self) -> jax.Array:
        """A bound on all magnitudes inside: what rounding errors are relative to."""
        total = jnp.abs(self.b) + self.radius()
        return total * (1 + interval.growth(2, total.dtype))

    def box(self) -> Interval:
        """The interval of its values."""
        radius = self.radius()
        return interval.add(Interval(self.b, self.b), Interval(-radius, radius))

    def map(self, op: Any, rho: jax.Array, *others: "Form") -> "Form":
        """A linear map of b and A, with another rho; of several forms if there are others."""
        forms = (self, *others)
        if self.A is None:
            return Form(op(*(f.b for f in forms)), None, rho)
        coefficients = jax.vmap(op)(*(f.A for f in forms))
        return Form(op(*(f.b for f in forms)), coefficients, rho)


def form_of(eqn: Any, forms: list[Any]) -> Form | None:
    """The form of a primitive's result that is linear in what varies.

    Args:
      eqn: the equation.
      forms: its operands: a Form for each one that varies, constants as they are.

    Returns:
      Form, or None for any other primitive.
    """
    name = eqn.primitive.name
    varying = [f for f in forms if isinstance(f, Form)]
    constant = lambda value: _constant_form(jnp.asarray(value), varying[0])
    if name in _MOVES and isinstance(forms[0], Form):
        return _moved(eqn, forms[0], forms[1:], 1)
    if name in _SUMS:
        return _moved(eqn, forms[0], forms[1:], max(1, forms[0].b.size))
    if name in ("concatenate", "pad", "stack"):
        full = [f if isinstance(f, Form) else constant(f) for f in forms]
        return joined(lambda *vs: compat.bind(eqn, *vs), full)
    if name == "select_n" and not isinstance(forms[0], Form):
        full = [f if isinstance(f, Form) else constant(f) for f in forms[1:]]
        return joined(lambda *vs: compat.bind(eqn, forms[0], *vs), full)
    if name in ("dot_general", "conv_general_dilated") and len(varying) == 1:
        op, terms, (x, w) = bilinear_op(eqn), contraction_terms(eqn), forms
        if isinstance(x, Form):
            return _linear(lambda v: op(v, w), lambda v: op(v, jnp.abs(w)), x, terms)
        return _linear(lambda v: op(x, v), lambda v: op(jnp.abs(x), v), w, terms)
    if name not in _ELEMENTWISE:
        return None
    shape = eqn.outvars[0].aval.shape
    return affine_step(eqn, [_spread_out(f, shape) if isinstance(f, Form) else f for f in forms])


def _constant_form(value: jax.Array, like: Form) -> Form:
    zero = None if like.A is None else jnp.zeros((like.width, *value.shape), value.dtype)
    return Form(value, zero, jnp.zeros_like(value))


def middle_of(box: Interval) -> tuple[jax.Array, jax.Array]:
    """A number inside, and how far the ends are from it, rounded up."""
    center = jnp.where(box.lo == box.hi, box.lo, box.lo / 2 + box.hi / 2)
    return center, jnp.where(
        box.lo == box.hi, 0, up(jnp.maximum(box.hi - center, center - box.lo), 2)
    )


def _linear(op: Any, absolute: Any, x: Form, terms: int) -> Form:
    """A linear map, with its rounding errors in rho."""
    g = interval.growth(terms + 2, x.b.dtype)
    slack = g * absolute(x.size()) * (1 + g) + (terms * _terms_of(x)) * interval.tiny_of(x.b)
    rho = absolute(x.rho) * (1 + g)
    return x.map(op, up(rho + slack, 4))


def _spread_out(x: Form, shape: tuple[int, ...]) -> Form:
    """A scalar or an axis of size 1 beside an array, as jax's elementwise primitives allow it."""
    if x.b.shape == shape:
        return x
    full = lambda v: jnp.broadcast_to(v, shape)
    return x.map(full, full(x.rho))


def _terms_of(x: Form) -> int:
    """How many numbers of a form may each have been flushed to zero, with some to spare."""
    return x.width + 4


def _moved(eqn: Any, x: Form, rest: list[Any], terms: int) -> Form:
    op = lambda v: compat.bind(eqn, v, *rest)
    if terms == 1:
        fill = op(jnp.zeros_like(x.b)) if eqn.primitive.name == "gather" else 0  # outside of x
        change = lambda v: op(v) - fill
        return dataclasses.replace(x.map(change, change(x.rho)), b=op(x.b))
    return _linear(op, op, x, terms)


def joined(op: Any, forms: list[Form]) -> Form:
    """Entries side by side, or chosen by what is constant."""
    return forms[0].map(op, op(*(f.rho for f in forms)), *forms[1:])


def scaled(x: Form, slope: jax.Array, shift: jax.Array, rho: jax.Array) -> Form:
    """slope x + shift, within another rho."""
    size = jnp.abs(slope) * x.size() + jnp.abs(shift)
    slack = 4 * interval.eps_of(size) * size + _terms_of(x) * interval.tiny_of(size)
    total = jnp.abs(slope) * x.rho + rho
    rising = x.map(lambda v: slope * v, up(total + slack, 8))
    return dataclasses.replace(rising, b=rising.b + shift)


def affine_step(eqn: Any, forms: list[Any]) -> Form | None:
    """An elementwise primitive that is affine in what varies; None for any other."""
    name = eqn.primitive.name
    varying = [isinstance(f, Form) for f in forms]
    if name == "neg":
        x = forms[0]
        return x.map(jnp.negative, x.rho)
    if name == "convert_element_type" and jnp.issubdtype(eqn.params["new_dtype"], jnp.floating):
        x, dtype = forms[0], eqn.params["new_dtype"]
        eps = max(float(jnp.finfo(dtype).eps), float(jnp.finfo(x.b.dtype).eps))
        slack = (x.size() * (2 * eps)).astype(dtype)
        tiny = max(float(jnp.finfo(dtype).tiny), float(jnp.finfo(x.b.dtype).tiny))
        slack = up(slack + jnp.asarray(_terms_of(x) * tiny, dtype), 4)
        return x.map(lambda v: v.astype(dtype), up(x.rho.astype(dtype) + slack, 4))
    if name in ("add", "add_any", "sub"):
        sign = -1 if name == "sub" else 1
        if all(varying):
            x, y = forms
            slack = 4 * interval.eps_of(x.b) * (x.size() + y.size())
            slack = slack + _terms_of(x) * interval.tiny_of(x.b)
            return x.map(lambda v, w: v + sign * w, up(x.rho + y.rho + slack, 4), y)
        x, k, first = (forms[0], forms[1], 1) if varying[0] else (forms[1], forms[0], sign)
        x = x if first == 1 else x.map(jnp.negative, x.rho)
        b = x.b + (k if not varying[0] else sign * k)
        slack = 4 * interval.eps_of(b) * (x.size() + jnp.abs(k))
        slack = slack + _terms_of(x) * interval.tiny_of(b)
        return Form(b, x.A, up(x.rho + slack, 4))
    if name in ("mul", "div") and sum(varying) == 1 and (name == "mul" or varying[0]):
        x, k = (forms[0], forms[1]) if varying[0] else (forms[1], forms[0])
        k = jnp.broadcast_to(jnp.asarray(k, x.b.dtype), x.b.shape)
        over = (lambda v: _apart(v / k)) if name == "div" else (lambda v: _apart(v * k))
        size = jnp.abs(over(x.size()))
        slack = 8 * interval.eps_of(k) * size + _terms_of(x) * interval.tiny_of(k)
        if name == "div":  # as in the rule of intervals: the reciprocal may be flushed to 0
            slack = jnp.where(jnp.abs(k) > 0.25 / interval.tiny_of(k), jnp.inf, slack)
        return x.map(over, up(jnp.abs(over(x.rho)) + slack, 8))
    return None


def _apart(x: jax.Array) -> jax.Array:
    """Keeps XLA from folding (x k) l to x (k l), and x / k / l alike: k l can be 0 or infinite."""
    return jnp.maximum(x, jnp.finfo(x.dtype).min)
