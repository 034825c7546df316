r"""Functions of one variable: their form as convex minus convex, found from the function itself.

Any elementwise function :math:`\varphi` whose slopes settle at both ends is
:math:`\varphi = A - B` with A, B convex and nondecreasing of bounded slope: A collects the
positive, B the negative curvature. So GELU, SiLU, softplus, tanh, leaky ReLU and what a model wrote
by hand are exact-and-DC. A and B follow :math:`\varphi` on some intervals and are straight on
the others, so that only the ends of the intervals have to be known.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base import compat
from monojax.base.checks import is_concrete
from monojax.splitting.ends import VARIABLE, Ends, ends_of, number
from monojax.splitting.freeze import group_of, hold
from monojax.splitting.notes import Notebook
from monojax.splitting.pair import Frozen, Pair, Univariate, Unresolved, depends

REACH, CELLS = 50.0, 8000
"""Where its ends are not known a function is looked at on [-REACH, REACH], in so many cells."""
BETWEEN, MOST = 1500, 60
"""Else between any two points where something changes, in so many cells; and so many points."""

ELEMENTWISE = frozenset(
    """
    abs add add_any and asinh atan cbrt clamp convert_element_type copy copy_p cos div eq erf
    erfc exp exp2 expm1 ge gt integer_pow is_finite le log log1p logistic lt max min mul ne
    neg not or pow rsqrt select_n sign sin sqrt square sub tan tanh xor
    """.split()  # noqa: SIM905
)


def curve_of(eqn: Any, args: Sequence[Any]) -> Univariate | None:
    """The result as a function of one variable, or None where it is none.

    Args:
      eqn: an equation.
      args: its arguments as met in a walk.

    Returns:
      Univariate, if the primitive is elementwise and real, all arguments that depend on the input
      are functions of the same array, and all others are scalars that are known now.
    """
    name = eqn.primitive.name
    if name not in ELEMENTWISE or any(isinstance(arg, Frozen) for arg in args):
        return None
    curves = [_own_curve(arg) if depends(arg) else None for arg in args]
    found = [curve for curve in curves if curve is not None]
    if any(curve.root is not found[0].root for curve in found):
        return None
    result = eqn.outvars[0].aval
    if found[0].root.f.shape != result.shape or jnp.issubdtype(result.dtype, jnp.complexfloating):
        return None
    plain = [arg for arg in args if not depends(arg)]
    if not all(map(is_uniform, plain)):
        return None
    numbers: list[Any] = [None if depends(arg) else np.asarray(arg).flat[0].item() for arg in args]

    def apply(z: jax.Array) -> jax.Array:
        values = [
            curve.apply(z) if curve is not None else jnp.full(z.shape, number)
            for curve, number in zip(curves, numbers, strict=True)
        ]
        return _elementwise(eqn, values, z.dtype)

    keys = tuple(c.key if c is not None else n for c, n in zip(curves, numbers, strict=True))
    params = str(sorted((k, str(v)) for k, v in eqn.params.items()))
    ends = _ends(name, eqn.params, curves, numbers)
    return Univariate(found[0].root, apply, (name, params, keys), ends)


def _ends(name: str, params: Any, curves: Sequence[Any], numbers: Sequence[Any]) -> Ends:
    """What is known of the function far out, from what is known of its operands."""
    given = [c.ends if c is not None else number(n) for c, n in zip(curves, numbers, strict=True)]
    same = len(curves) == 2 and None not in curves and curves[0].key == curves[1].key
    return ends_of(name, params, given, same)


def is_uniform(x: Any) -> bool:
    """True if ``x`` is known now and all its entries are one number, seen without reading them."""
    spread = isinstance(x, np.ndarray) and x.size > 0 and not any(x.strides)
    return spread or (is_concrete(x) and np.size(x) == 1)


def _own_curve(x: Pair | Unresolved) -> Univariate:
    if x.curve is not None:
        return x.curve
    assert isinstance(x, Pair)
    return Univariate(x, lambda z: z, ("z",), VARIABLE)


def _elementwise(eqn: Any, values: list[jax.Array], dtype: Any) -> jax.Array:
    """One equation on arrays of one shape, in the precision of the first variable."""
    name = eqn.primitive.name
    if name == "convert_element_type":
        new = eqn.params["new_dtype"]
        return values[0].astype(dtype if jnp.issubdtype(new, jnp.floating) else new)
    if name in ("select_n", "clamp"):
        kinds = values[1:] if name == "select_n" else values
        if any(jnp.issubdtype(v.dtype, jnp.floating) for v in kinds):
            kinds = [v.astype(dtype) for v in kinds]
        return compat.bind(eqn, *(values[:1] + kinds if name == "select_n" else kinds))
    if len(values) > 1 and any(jnp.issubdtype(v.dtype, jnp.floating) for v in values):
        values = [v.astype(dtype) for v in values]
    return compat.bind(eqn, *values)


@dataclasses.dataclass(frozen=True)
class Convex:
    """A of the form phi = A - B: on each interval phi plus a line, or a line."""

    knots: np.ndarray
    """Ends between intervals, ascending, `[m]`."""
    follows: np.ndarray
    """Whether A follows phi on each interval, bool `[m + 1]`."""
    slopes: np.ndarray
    """Slope of the line on each interval, `[m + 1]`."""
    offsets: np.ndarray
    """Value of the line at 0, `[m + 1]`."""
    slope: float
    """Largest slope of A plus that of B."""
    local: bool
    """How the function ends is not known: holds on [-REACH, REACH] only."""

    def __call__(self, z: jax.Array, y: jax.Array) -> jax.Array:
        """A(z), given y = phi(z)."""
        pieces = zip(
            self.follows.tolist(), self.slopes.tolist(), self.offsets.tolist(), strict=True
        )
        values = [slope * z + offset + (y if on else 0) for on, slope, offset in pieces]
        out = values[0]
        for knot, value in zip(self.knots.tolist(), values[1:], strict=True):
            out = jnp.where(z > knot, value, out)
        return out


HELD = "as a function of one variable it is constant between jumps"


class NotDC(ValueError):
    """The function of one variable has no form with bounded slopes."""


_CACHE: dict[tuple[Any, ...], Convex | str] = {}


def resolve(walk: Notebook, x: Unresolved) -> Pair | Frozen:
    """The pair of a function of one variable.

    Args:
      walk: the walk that meets it.
      x: what is to become a pair.

    Returns:
      Pair; or Frozen for values that are not floating point, or that `freeze` holds.

    Raises:
      SplitError: if its slopes are not bounded (exp, square), unless the walk is lenient.
    """
    root = x.curve.root
    if not jnp.issubdtype(x.f.dtype, jnp.floating):
        walk.note("exact", x.primitive, "chooses by a comparison of values")
        return Frozen(x.f)
    if root.t is None and not walk.mode.freeze:
        return Pair(x.f, curve=x.curve)
    convex = _analysed(x.curve)
    if convex == HELD:
        walk.note("exact", x.primitive, "jumps between constants")
        return Frozen(x.f)
    group = group_of(x.curve) if isinstance(convex, str) else None
    if group in walk.mode.freeze:
        assert group is not None
        return hold(walk, x.f, group, x.primitive)
    if root.t is None:
        return Pair(x.f, curve=x.curve)
    if isinstance(convex, str):
        walk.fail(x.primitive, convex, x.path, group)
        return Frozen(x.f)
    if convex.local:
        reason = f"its form as convex minus convex holds on [-{REACH:g}, {REACH:g}]"
        walk.note("local", x.primitive, reason)
    # p' = A + L n, n' = B + L n, so p' + n' = 2 A - phi + 2 L n.
    mass = 2 * convex(root.f, x.f) - x.f + convex.slope * (root.t - root.f)
    return Pair(x.f, mass, curve=x.curve)


def _analysed(curve: Univariate) -> Convex | str:
    if curve.key not in _CACHE:
        if len(_CACHE) > 512:
            _CACHE.clear()
        try:
            phi = functools.partial(_evaluate, curve.apply)
            _CACHE[curve.key] = analyse(phi, curve.ends)
        except NotDC as error:
            _CACHE[curve.key] = str(error)
    return _CACHE[curve.key]


def _evaluate(apply: Callable[[jax.Array], jax.Array], z: np.ndarray) -> np.ndarray:
    with compat.enable_x64(), jax.ensure_compile_time_eval():
        return np.asarray(apply(jnp.asarray(z)), np.float64)


def analyse(phi: Callable[[np.ndarray], np.ndarray], ends: Ends | None = None) -> Convex:
    """Finds the intervals on which a function is convex, and the form A - B.

    Args:
      phi: elementwise function in float64.
      ends: what is known of it far out; then the form holds everywhere.

    Returns:
      Convex.

    Raises:
      NotDC: if it is not finite on the grid, jumps, or its slopes grow towards an end.
    """
    window = _window(ends)
    z = np.linspace(-REACH, REACH, CELLS + 1) if window is None else window
    with np.errstate(all="ignore"):
        y = phi(z)
    if not np.isfinite(y).all():
        raise NotDC("as a function of one variable it is not finite everywhere")
    slope = np.diff(y) / np.diff(z)
    bound = 1 + np.abs(slope).max()
    tenth = len(slope) // 10
    drift = max(abs(slope[0] - slope[tenth]), abs(slope[-1] - slope[-tenth])) / bound
    if drift > 1e-3 if window is None else not _settles(ends):
        raise NotDC("as a function of one variable its slopes are not bounded")
    at = 1 + int(np.abs(np.diff(slope)).argmax())
    step = z[at + 1] - z[at]
    near = np.linspace(z[at] - 2 * step, z[at] + 2 * step, 2001)
    if np.abs(np.diff(phi(near)) / np.diff(near)).max() > 20 * bound:
        flat = np.count_nonzero(slope) <= len(slope) // 100
        raise NotDC(HELD if flat else "as a function of one variable it jumps")
    sign = _signs(z, y, 1e-13)
    knots, follows = _intervals(phi, z, sign)
    first, last = (slope[0], slope[-1]) if window is None else _end_slopes(ends)
    slopes = np.array([first, *_slopes_at(phi, z, np.array(knots)), last])
    return _convex_part(phi, np.array(knots), np.array(follows), slopes, window is None)


def _window(ends: Ends | None) -> np.ndarray | None:
    """Points that show all that the function does between its ends; None if that is not known."""
    if ends is None or not ends.known:
        return None
    points = np.array(ends.points or (0.0,))
    low, high = points[0], points[-1]
    near = 1e-9 * (high - low)  # the same point, found twice
    points = points[np.append(True, np.diff(points) > near)]
    if len(points) > MOST:
        return None
    pad = max(0.05 * (high - low), 1e-3 * max(abs(low), abs(high)), 1.0 if low == high else 0.0)
    edges = [low - pad, *points, high + pad]
    grids = [np.linspace(a, b, BETWEEN, endpoint=False) for a, b in itertools.pairwise(edges)]
    return np.append(np.concatenate(grids), edges[-1])


def _settles(ends: Ends | None) -> bool:
    """Whether both ends are straight."""
    assert ends is not None
    return all(form is not None and not form.scale and len(form.poly) <= 2 for form in ends.forms)


def _end_slopes(ends: Any) -> tuple[float, float]:
    """Slopes of the straight ends."""
    first, last = (form.poly[-2] if len(form.poly) > 1 else 0.0 for form in ends.forms)
    return first, last


def _signs(z: np.ndarray, y: np.ndarray, tolerance: float) -> np.ndarray:
    """Sign of the curvature at each inner point, 0 below rounding of the second difference."""
    step = np.diff(z)
    second = np.diff(np.diff(y) / step) * np.minimum(step[1:], step[:-1])
    # Rounding of the argument itself, times the slope, is no curvature either.
    size = 1 + np.abs(y[1:-1]) + np.abs(z[1:-1] * (y[2:] - y[:-2]) / (z[2:] - z[:-2]))
    return np.where(np.abs(second) > tolerance * size, np.sign(second), 0)


def _intervals(phi: Any, z: np.ndarray, sign: np.ndarray) -> tuple[list[float], list[bool]]:
    """Knots between stretches of positive and negative curvature; straight ones join either."""
    curved = np.flatnonzero(sign)
    if not len(curved):
        return [], [True]
    turns = [(i, j) for i, j in itertools.pairwise(curved) if sign[i] != sign[j]]
    knots = [_knot(phi, z, int(i) + 1, int(j) + 1, sign[i]) for i, j in turns]
    return knots, [bool(sign[curved[0]] > 0)] + [bool(sign[j] > 0) for _, j in turns]


def _knot(phi: Any, z: np.ndarray, left: int, right: int, before: float) -> float:
    """Where the curvature changes its sign, between two grid points; refined where they touch."""
    middle = float((z[left] + z[right]) / 2)
    if right - left > 1:
        return middle
    fine = np.linspace(z[left - 1], z[right + 1], 3001)
    sign = _signs(fine, phi(fine), 8e-15)
    old, new = np.flatnonzero(sign == before), np.flatnonzero(sign == -before)
    if not len(old) or not len(new):
        return middle
    return float((fine[old[-1] + 1] + fine[new[0] + 1]) / 2)


def _convex_part(phi: Any, knots: Any, follows: Any, ends: np.ndarray, local: bool) -> Convex:
    """Lines that make A continuous with a continuous slope, A(0) = max(phi(0), 0).

    ``ends`` are the slopes of phi where the intervals end, `[m + 2]`.
    """
    lines: list[float] = []  # the slope of the line on each interval
    convex = max(ends[0], 0.0)  # A' so far
    concave = max(-ends[0], 0.0)  # B' so far
    for i, on in enumerate(follows):
        lines.append(convex - ends[i] if on else convex)
        rise = ends[i + 1] - ends[i]
        convex, concave = (convex + rise, concave) if on else (convex, concave - rise)
    at_knots = phi(knots) if len(knots) else np.zeros(0)
    offsets = [0.0]
    for i, (knot, value) in enumerate(zip(knots, at_knots, strict=True)):
        left = lines[i] * knot + offsets[i] + (value if follows[i] else 0)
        offsets.append(left - lines[i + 1] * knot - (value if follows[i + 1] else 0))
    start = float(phi(np.zeros(1))[0])
    middle = int((knots < 0).sum())
    here = offsets[middle] + (start if follows[middle] else 0)
    shifted = np.array(offsets) + max(start, 0.0) - here
    total = float(convex + concave)
    # What is rounding is made exact, so that for a convex function A is phi and nothing else.
    tidy = lambda a: np.where(np.abs(a) < 1e-9, 0.0, a)
    total = round(total) if abs(total - round(total)) < 1e-9 else total
    return Convex(knots, follows, tidy(np.array(lines)), tidy(shifted), total, local)


def _slopes_at(phi: Any, z: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Slopes at knots, which lie where the function is smooth or straight.

    A kink may be a thousandth of a grid cell away (see `_knot`).
    """
    if not len(knots):
        return np.zeros(0)
    cell = np.clip(np.searchsorted(z, knots), 2, len(z) - 2)
    width = 2e-4 * np.minimum.reduce([z[cell + k] - z[cell + k - 1] for k in (-1, 0, 1)])
    right, left = knots + width, knots - width
    return (phi(right) - phi(left)) / (right - left)
