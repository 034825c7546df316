r"""How a function of one variable ends: what it settles to on either side, and from where on.

Whether :math:`\varphi` is convex minus convex cannot be seen on an interval alone: it may bend
beyond it. But it is made of known primitives, and far enough out each of them is a polynomial, an
exponential of one, or settled (tanh is 1). Followed from the variable to the result, this gives the
form of :math:`\varphi` on either side and an interval outside of which it has that form up to
:math:`e^{-60}`. Where a primitive has no such form (atan settles too slowly, sin never does), the
answer is None.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

FAR = 60.0
"""Exponents below -FAR count as minus infinity."""
SIDES = (-1, 1)
_AT_INFINITY: dict[str, tuple[float, float, float]] = {
    "tanh": (-1.0, 1.0, FAR / 2),
    "logistic": (0.0, 1.0, FAR),
    "erf": (-1.0, 1.0, 9.0),
    "erfc": (2.0, 0.0, 9.0),
    "sign": (-1.0, 1.0, 0.0),
}
"""Values at minus and plus infinity, and the size of the argument from which on they are taken."""
_OF_CONSTANTS: dict[str, Callable[[float], float]] = {
    "tanh": np.tanh,
    "logistic": lambda c: 1 / (1 + np.exp(-c)),
    "erf": math.erf,
    "erfc": math.erfc,
    "sign": np.sign,
    "sqrt": np.sqrt,
    "rsqrt": lambda c: 1 / np.sqrt(c),
    "cbrt": np.cbrt,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "atan": np.arctan,
    "asinh": np.arcsinh,
}
_COMPARE: dict[str, Callable[[float], bool]] = {  # of the sign of the difference
    "lt": lambda s: s < 0,
    "le": lambda s: s <= 0,
    "gt": lambda s: s > 0,
    "ge": lambda s: s >= 0,
    "eq": lambda s: s == 0,
    "ne": lambda s: s != 0,
}


@dataclasses.dataclass(frozen=True)
class Form:
    """``scale * exp(power) + poly``, of which one part is there; or a truth value."""

    poly: tuple[float, ...] = (0.0,)
    """Coefficients, highest power first."""
    scale: float = 0.0
    power: tuple[float, ...] = (0.0,)
    truth: bool | None = None
    exact: bool = True
    """False where something that vanishes at this end was left out."""

    @property
    def constant(self) -> float | None:
        """The number that this is, or None."""
        return self.poly[0] if len(self.poly) == 1 and not self.scale else None

    @property
    def sound(self) -> bool:
        """False where a coefficient has overflowed; an infinite constant may be a bound."""
        parts = (*self.poly[1:], self.scale, *self.power)
        return all(map(math.isfinite, parts)) and not math.isnan(self.poly[0])


@dataclasses.dataclass(frozen=True)
class Ends:
    """The forms at minus and plus infinity (None: not known), and where things change."""

    forms: tuple[Form | None, Form | None]
    points: tuple[float, ...] = ()
    """Kinks, and where functions settle; outside of all of them the forms hold."""

    @property
    def known(self) -> bool:
        """Whether the function's form is known on both sides."""
        return None not in self.forms


def number(value: Any) -> Ends:
    """A constant."""
    if isinstance(value, bool):
        return Ends((Form(truth=value),) * 2)
    value = value.real if isinstance(value, complex) else float(value)
    return Ends((None if math.isnan(value) else Form((value,)),) * 2)


VARIABLE = Ends((Form((1.0, 0.0)),) * 2)
"""The variable itself."""


def ends_of(name: str, params: dict[str, Any], args: Sequence[Ends], same: bool = False) -> Ends:
    """The ends of one primitive's result.

    Args:
      name: the primitive.
      params: its parameters.
      args: the ends of its operands.
      same: whether the operands are one and the same value (``x != x`` tests for NaN).

    Returns:
      Ends.
    """
    points: list[float] = [point for arg in args for point in arg.points]
    forms = []
    for i, side in enumerate(SIDES):
        given = [arg.forms[i] for arg in args]
        at = _Side(side, points)
        with np.errstate(all="ignore"):
            form = _form(at, name, params, given, same)
        forms.append(form if form is None or form.sound else None)
    return Ends((forms[0], forms[1]), tuple(sorted(set(points))))


class _Side:
    """One end: signs and limits of polynomials there; notes the points where they are reached."""

    def __init__(self, side: int, points: list[float]):
        self.side, self.points = side, points

    def sign(self, poly: Sequence[float]) -> float:
        """Sign of a polynomial far out on this side; all its roots are noted."""
        self.reach(poly, 0.0)
        return float(np.sign(poly[0])) * (self.side if len(poly) % 2 == 0 else 1)

    def reach(self, poly: Sequence[float], *levels: float) -> None:
        """Notes where a polynomial takes these values."""
        for level in levels:
            if len(poly) > 1 and all(map(math.isfinite, (*poly, level))):
                roots = np.roots([*poly[:-1], poly[-1] - level])
                real = roots[np.abs(roots.imag) <= 1e-9 * (1 + np.abs(roots))].real
                self.points += [float(root) for root in real if np.isfinite(root)]

    def tidy(self, form: Form) -> Form:
        """An exponential that vanishes or is constant here as such."""
        if not form.scale:
            return dataclasses.replace(form, power=(0.0,))
        if len(form.power) == 1:
            return Form((form.scale * math.exp(form.power[0]),), exact=form.exact)
        if self.sign(form.power) < 0:
            self.reach(form.power, -FAR - math.log(abs(form.scale)))
            return Form(exact=False)
        self.reach(form.power, FAR - math.log(abs(form.scale)))
        return form


def _form(at: _Side, name: str, params: Any, given: list[Form | None], same: bool) -> Form | None:
    """The form of a primitive's result at one side, None where it is not known."""
    if name in ("select_n", "and", "or"):
        return _logic(name, given)
    if name in _COMPARE and same:
        return Form(truth=_COMPARE[name](0.0))
    if any(form is None for form in given):
        return None
    forms: list[Form] = [form for form in given if form is not None]
    if any(form.truth is not None for form in forms):
        return _of_truths(name, params, forms)
    first, last = forms[0], forms[-1]
    bounds = (*_COMPARE, "max", "min", "clamp", "is_finite")
    if name not in bounds and any(math.isinf(form.constant or 0) for form in forms):
        return None
    if name in ("copy", "copy_p", "convert_element_type"):
        return first if name != "convert_element_type" or _floating(params["new_dtype"]) else None
    if name in ("add", "add_any"):
        return _sum(at, first, last)
    if name == "neg":
        return _times(at, first, Form((-1.0,)))
    if name == "sub":
        return _sum(at, first, _times(at, last, Form((-1.0,))))
    if name == "mul":
        return _times(at, first, last)
    if name == "div":
        return _quotient(at, first, last)
    if name in ("integer_pow", "square"):
        return _power(at, first, 2 if name == "square" else params["y"])
    if name in _COMPARE:
        sign = _order(at, first, last)
        return None if sign is None else Form(truth=_COMPARE[name](sign))
    if name in ("max", "min"):
        return _larger(at, first, last, 1 if name == "max" else -1)
    if name == "clamp":
        low = _larger(at, forms[1], first, 1)
        return None if low is None else _larger(at, low, last, -1)
    if name == "abs":
        return _larger(at, first, _times(at, first, Form((-1.0,))), 1)
    if name == "is_finite":
        return Form(truth=not math.isinf(first.constant or 0))
    return _of_one(at, name, first)


def _floating(dtype: Any) -> bool:
    return np.dtype(dtype).kind == "f" or "float" in str(dtype)


def _logic(name: str, given: list[Form | None]) -> Form | None:
    """Choices and truths of which only a part needs to be known."""
    if name == "select_n":
        which = given[0]
        return None if which is None or which.truth is None else given[1 + which.truth]
    settles = name == "or"
    if any(form is not None and form.truth is settles for form in given):
        return Form(truth=settles)
    return None if any(form is None or form.truth is None for form in given) else given[0]


def _of_truths(name: str, params: Any, forms: list[Form]) -> Form | None:
    truths = [form.truth for form in forms]
    if name == "not":
        return Form(truth=not truths[0])
    if name == "convert_element_type" and _floating(params["new_dtype"]):
        return Form((float(bool(truths[0])),))
    if name in ("copy", "copy_p"):
        return forms[0]
    if name in ("xor", "ne", "eq") and None not in truths:
        return Form(truth=(truths[0] != truths[1]) is not (name == "eq"))
    return None


def _sum(at: _Side, x: Form, y: Form | None) -> Form | None:
    if y is None:
        return None
    if x.scale and y.scale:
        if x.power != y.power:
            return None
        return at.tidy(Form(scale=x.scale + y.scale, power=x.power, exact=x.exact and y.exact))
    x, y = (x, y) if x.scale else (y, x)
    if x.scale:  # beside an exponential that grows, a constant is nothing
        if y.constant is None:
            return None
        at.reach(x.power, FAR + math.log((1 + abs(y.constant)) / abs(x.scale)))
        return dataclasses.replace(x, exact=x.exact and y.constant == 0 and y.exact)
    poly = np.polyadd(x.poly, y.poly)
    return Form(_trimmed(poly), exact=x.exact and y.exact)


def _trimmed(poly: Any) -> tuple[float, ...]:
    return tuple(float(c) for c in np.trim_zeros(np.atleast_1d(poly), "f")) or (0.0,)


def _times(at: _Side, x: Form, y: Form) -> Form | None:
    exact = x.exact and y.exact
    if not x.scale and not y.scale:
        return Form(_trimmed(np.polymul(x.poly, y.poly)), exact=exact)
    if not exact:  # what was left out may be as small as the other is large
        return None
    if x.scale and y.scale:
        power = _trimmed(np.polyadd(x.power, y.power))
        return at.tidy(Form(scale=x.scale * y.scale, power=power))
    x, y = (x, y) if x.scale else (y, x)
    if y.constant is None:
        return None
    return at.tidy(Form(scale=x.scale * y.constant, power=x.power))


def _quotient(at: _Side, x: Form, y: Form) -> Form | None:
    if y.constant is not None:
        # What vanishes may be divided by: 0 / 0 is not known.
        return _times(at, x, Form((1 / y.constant,), exact=y.exact)) if y.constant else None
    if not y.scale:
        return None
    inverse = Form(scale=1 / y.scale, power=tuple(-c for c in y.power), exact=y.exact)
    if x.scale:
        return _times(at, x, inverse)
    at.reach(y.power, FAR + math.log(max(abs(c) for c in x.poly) + 1) - math.log(abs(y.scale)))
    return Form(exact=False)


def _power(at: _Side, x: Form, exponent: int) -> Form | None:
    if x.scale:
        power = tuple(exponent * c for c in x.power)
        return at.tidy(Form(scale=x.scale**exponent, power=power, exact=x.exact))
    if exponent < 0:
        return None if not x.constant else Form((x.constant**exponent,), exact=x.exact)
    poly = np.array([1.0])
    for _ in range(exponent):
        poly = np.polymul(poly, x.poly)
    return Form(_trimmed(poly), exact=x.exact)


def _order(at: _Side, x: Form, y: Form) -> float | None:
    """Sign of x - y far out; None where it hangs on what was left out."""
    for form, sense in ((x, 1.0), (y, -1.0)):
        if math.isinf(bound := form.constant or 0.0):
            return sense * math.copysign(1.0, bound)
    if x.scale or y.scale:
        difference = _sum(at, x, _times(at, y, Form((-1.0,))))
        return None if difference is None else float(np.sign(difference.scale))
    poly = _trimmed(np.polysub(x.poly, y.poly))
    if poly == (0.0,) and not (x.exact and y.exact):
        return None
    return at.sign(poly) if len(poly) > 1 else float(np.sign(poly[0]))


def _larger(at: _Side, x: Form, y: Form | None, sense: int) -> Form | None:
    if y is None:
        return None
    sign = _order(at, x, y)
    if sign is None:  # both settle to the same
        return dataclasses.replace(x, exact=False)
    return x if sign * sense >= 0 else y


def _of_one(at: _Side, name: str, x: Form) -> Form | None:
    """Functions of one operand."""
    constant = x.constant
    if name in ("exp", "exp2", "expm1"):
        return _exponential(at, x, math.log(2) if name == "exp2" else 1.0, name == "expm1")
    if name in ("log", "log1p"):
        if constant is not None:
            inside = constant + (name == "log1p")
            return Form((math.log(inside),), exact=x.exact) if inside > 0 else None
        if x.scale <= 0 or (name == "log" and x.scale == 0):
            return None
        exact = x.exact and name == "log"
        return Form(_trimmed(np.polyadd(x.power, [math.log(x.scale)])), exact=exact)
    if constant is not None:
        if name not in _OF_CONSTANTS or (constant == 0 and not x.exact and name != "tanh"):
            return _at_zero(name, x)
        value = float(_OF_CONSTANTS[name](constant))
        return Form((value,), exact=x.exact) if np.isfinite(value) else None
    if name not in _AT_INFINITY:
        return None
    low, high, far = _AT_INFINITY[name]
    if x.scale:
        sign = np.sign(x.scale)
        at.reach(x.power, math.log((far + 1) / abs(x.scale)))
    else:
        sign = at.sign(x.poly)
        at.reach(x.poly, far, -far)
    return Form((high if sign > 0 else low,), exact=name == "sign")


def _at_zero(name: str, x: Form) -> Form | None:
    """Functions that are smooth at 0, of what vanishes."""
    smooth = {"logistic": 0.5, "erf": 0.0, "erfc": 1.0, "sin": 0.0, "cos": 1.0, "tan": 0.0}
    smooth |= {"atan": 0.0, "asinh": 0.0}
    return Form((smooth[name],), exact=False) if name in smooth else None


def _exponential(at: _Side, x: Form, base: float, less_one: bool) -> Form | None:
    if x.scale:  # an exponential of an exponential
        if x.scale > 0:
            return None
        at.reach(x.power, math.log(FAR / abs(x.scale)))
        return Form((-1.0 if less_one else 0.0,), exact=False)
    power = tuple(base * c for c in x.poly)
    if not x.exact and len(power) > 1:
        return None
    grown = at.tidy(Form(scale=1.0, power=power, exact=x.exact))
    return _sum(at, grown, Form((-1.0,))) if less_one else grown
