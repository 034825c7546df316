"""Is a function monotone on a box? Attack first, then bound, then cut the box where it is open."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base import compat
from monojax.base.checks import one_of
from monojax.base.compat import enable_x64
from monojax.base.directions import check_directions
from monojax.certify.bounds import BOUNDS
from monojax.certify.compiled import compiled, float_constants
from monojax.certify.continuity import check_continuous
from monojax.certify.program import gradient_program, program_hash, traced

CHUNK = 128
"""Boxes bounded in one call: what the memory grows with."""
STARTS = 512
"""Points at which the attack begins."""

Fn = Callable[[jax.Array], jax.Array]


def searched(
    fn: Fn,
    low: Any,
    high: Any,
    directions: Any,
    budget: int,
    *,
    bound: str = "auto",
    onehot: Sequence[Sequence[int]] = (),
    key: jax.Array | None = None,
) -> dict[str, Any]:
    """The fields of a certificate: operands, errors and result are those of `certify_monotone`."""
    begin = time.monotonic()
    task = checked(fn, low, high, directions, budget, bound, onehot)
    key = typed_key(jax.random.key(0) if key is None else key)
    question = posed(fn, task.low.size)
    with enable_x64():
        found = Search(task, question.program, key).run()
    return dict(
        found,
        seconds=time.monotonic() - begin,
        directions=task.directions,
        low=task.low,
        high=task.high,
        onehot=task.onehot,
        program=question.digest,
        options={
            "budget": task.budget,
            "bound": bound,
            "key": [str(jax.random.key_impl(key)), np.asarray(jax.random.key_data(key)).tolist()],
        },
        jax_version=jax.__version__,
    )


class Posed(NamedTuple):
    """A function as its equations say it, traced once."""

    program: compat.ClosedJaxpr
    """Its derivative, in float64."""
    digest: str
    """Hash of the equations and constants of the function and of its derivative."""


def posed(fn: Fn, width: int) -> Posed:
    """Traces a function in float64; its errors are those of `certify_monotone`.

    Args:
      fn: map of ONE example float `[d]` to a scalar, continuous.
      width: d.

    Returns:
      Posed.
    """
    with enable_x64():
        example = jax.ShapeDtypeStruct((width,), jnp.float64)
        closed = traced(fn, example)
        check_continuous(closed)
        program = gradient_program(closed, example)
        return Posed(program, program_hash(closed, program))


def typed_key(key: jax.Array) -> jax.Array:
    """A key of the new kind; old ones are plain integers.

    Args:
      key: either kind.

    Returns:
      The same key.
    """
    return key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)


@dataclasses.dataclass(frozen=True)
class Task:
    """A checked question."""

    low: np.ndarray
    high: np.ndarray
    directions: np.ndarray
    budget: int
    bound: str
    onehot: tuple[tuple[int, ...], ...]


def checked(fn, low, high, directions, budget, bound, onehot) -> Task:
    """Reads the operands of `certify_monotone`; it raises what that raises."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    if low.ndim != 1 or low.shape != high.shape or not low.size:
        raise ValueError(
            f"low and high must both have shape [d], got {low.shape} and {high.shape}."
        )
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError("low and high must be finite; cut the box to the range of your data.")
    if (low > high).any():
        i = int(np.argmax(low > high))
        raise ValueError(f"low must be <= high, got {low[i]} > {high[i]} for input {i}.")
    if isinstance(budget, bool) or not hasattr(budget, "__index__") or budget < 1:
        raise ValueError(f"budget must be an integer >= 1 (boxes), got {budget!r}.")
    one_of(bound, BOUNDS, "bound")
    signs = np.asarray(check_directions(directions, low.size))
    groups = tuple(tuple(int(i) for i in group) for group in onehot)
    members = [i for group in groups for i in group]
    if len(set(members)) < len(members) or any(not 0 <= i < low.size for i in members):
        raise ValueError(
            f"onehot must hold distinct inputs from 0 to {low.size - 1}, got {onehot}."
        )
    for i in members:
        if signs[i] or low[i] > 0 or high[i] < 1:
            raise ValueError(
                f"input {i} is in a one-hot group: its direction must be 0 and its box hold [0, 1]."
            )
    if any(not group for group in groups):
        raise ValueError(f"onehot must hold groups of at least one input, got {onehot}.")
    low, high = _outward(low), -_outward(-high)
    low[members], high[members] = 0.0, 1.0
    return Task(low, high, signs, int(budget), bound, groups)


def _outward(low: np.ndarray) -> np.ndarray:
    """Lower ends without subnormal numbers, which the hardware may read as 0."""
    tiny = np.finfo(np.float64).tiny
    low = np.where((low > 0) & (low < tiny), 0.0, low)
    return np.where((low < 0) & (low > -tiny), -tiny, low)


class Search:
    """Branch and bound over boxes."""

    def __init__(self, task: Task, program: Any, key: jax.Array) -> None:
        """Nothing is compiled yet.

        Args:
          task: the question.
          program: of `gradient_program`, in float64.
          key: PRNG key of the attack's first points.
        """
        self.task, self.key = task, key
        self.compiled, self.constants = compiled(program), float_constants(program)
        self.kinds = ("interval", "backward") if task.bound == "auto" else (task.bound,)
        self.boxes = 0
        self.asked = task.directions != 0

    def run(self) -> dict[str, Any]:
        """The certificate's fields."""
        task = self.task
        root = (task.low[None], task.high[None])
        point = self.refuted(self.attacked(task.directions)) if task.directions.any() else None
        if point is not None:
            self.kinds = self.kinds[:1]  # the dearer bound decides nothing now
        lo, hi = self.bounded(*root)
        hull = np.stack([lo[0], hi[0]], axis=1)
        if point is not None:
            return self._result("refuted", "attack", point, hull, 0.0)
        if self._proved(lo, hi)[0]:
            return self._result("proved", "bound", None, hull, 1.0)
        return self._cut(root, hull)

    def _cut(self, root: tuple[np.ndarray, np.ndarray], hull: np.ndarray) -> dict[str, Any]:
        """Halves open boxes, the largest first, until all are proved or the budget is spent."""
        low, high = root
        free = np.zeros((1, len(self.task.onehot)), bool)  # groups whose category is chosen
        share = np.ones(1)
        ends = [np.full(hull.shape[0], np.inf), np.full(hull.shape[0], -np.inf)]
        proved = 0.0
        while len(share):
            most = self.most_children()
            if (fits := (self.task.budget - self.boxes) // most) < 1:
                break
            order = np.argsort(-share, kind="stable")
            room = max(1, min(CHUNK // most, fits))
            take, rest = order[:room], order[room:]
            *parts, _ = self.children(low[take], high[take], free[take], share[take])
            keep = (low[rest], high[rest], free[rest], share[rest])
            lo, hi = self.bounded(parts[0], parts[1])
            done = self._proved(lo, hi)
            proved += float(parts[3][done].sum())
            if done.any():
                ends = [
                    np.minimum(ends[0], lo[done].min(axis=0)),
                    np.maximum(ends[1], hi[done].max(axis=0)),
                ]
            left = [part[~done] for part in parts]
            if len(left[0]) and (point := self.refuted(self.corners(*left[:3]))) is not None:
                return self._result("refuted", "search", point, hull, min(proved, 1.0))
            low, high, free, share = (
                np.concatenate([a, b]) for a, b in zip(keep, left, strict=True)
            )
        if len(share):
            return self._result("unknown", "search", None, hull, min(proved, 1.0))
        tight = np.stack([np.maximum(ends[0], hull[:, 0]), np.minimum(ends[1], hull[:, 1])], axis=1)
        return self._result("proved", "search", None, tight, 1.0)

    def most_children(self) -> int:
        """Into how many parts a box is cut at most."""
        return max([2, *(len(group) for group in self.task.onehot)])

    def _result(self, status, stage, point, hull, volume) -> dict[str, Any]:
        return {
            "status": status,
            "stage": stage,
            "counterexample": point,
            "bounds": hull,
            "volume_proved": volume,
            "boxes": self.boxes,
        }

    def bounded(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bounds `[n, d]` of the gradient on each box; the dearer bound where the first is open."""
        parts = [slice(i, i + CHUNK) for i in range(0, len(low), CHUNK)]
        found = [self._bounded_chunk(low[part], high[part]) for part in parts]
        return np.concatenate([lo for lo, _ in found]), np.concatenate([hi for _, hi in found])

    def _bounded_chunk(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count = len(low)
        self.boxes += count
        lo, hi = self._bounds(self.kinds[0], low, high)
        for tighter in self.kinds[1:]:
            if self.done(lo, hi).all():
                break
            more = self._bounds(tighter, low, high)
            lo, hi = np.fmax(lo, more[0]), np.fmin(hi, more[1])
        return lo, hi

    def _bounds(self, kind: str, low: Any, high: Any) -> tuple[np.ndarray, np.ndarray]:
        """Of at most `CHUNK` boxes, always as many for XLA: one shape, one compilation."""
        found = self.compiled.bounds(kind)(
            self.constants, _padded(low, CHUNK), _padded(high, CHUNK)
        )
        return np.asarray(found.lo)[: len(low)], np.asarray(found.hi)[: len(low)]

    def done(self, lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
        """`[n]`: boxes that need no tighter bound."""
        return self._proved(lo, hi)

    def _proved(self, lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
        signs = self.task.directions
        worst = np.where(signs > 0, lo, np.where(signs < 0, -hi, 0.0))
        known = (lo <= hi) & (lo < np.inf) & (hi > -np.inf)  # False for NaN
        return np.asarray(((worst >= 0) & known).all(axis=-1))

    def refuted(self, points: np.ndarray) -> np.ndarray | None:
        """A point where a slope surely has the wrong sign, by its enclosure there and around it."""
        points, lo, hi = self.around(points)
        if not len(points):
            return None
        signs = self.task.directions
        best = np.where(signs > 0, hi, np.where(signs < 0, -lo, np.inf)).min(axis=1)
        i = int(np.argmin(np.where(np.isnan(best), np.inf, best)))
        return points[i].copy() if best[i] < 0 else None

    def violates(self, point: Any) -> bool:
        """Whether a point lies in the box, at a corner of every group, and surely violates."""
        task, point = self.task, np.asarray(point, np.float64)
        if point.shape != task.low.shape or not ((task.low <= point) & (point <= task.high)).all():
            return False
        for group in map(list, task.onehot):
            if sorted(point[group]) != [0.0] * (len(group) - 1) + [1.0]:
                return False
        return self.refuted(point[None]) is not None

    def around(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points moved into the box, and bounds of their slopes there and a little around.

        At a kink the derivative that a program computes is one of many, so that a small box is
        asked.
        """
        task = self.task
        points = np.clip(points, task.low, task.high)
        points = points[np.isfinite(points).all(axis=1)]
        half = task.high / 2 - task.low / 2
        pad = np.where(half > 0, 2e-9 * half, 1e-9 * (1 + np.abs(task.low)))
        pad[[i for group in task.onehot for i in group]] = 0.0
        low, high = points - pad, points + pad
        low = np.where(half > 0, np.maximum(low, task.low), low)
        high = np.where(half > 0, np.minimum(high, task.high), high)
        ends = [np.zeros((0, task.low.size))], [np.zeros((0, task.low.size))]
        for i in range(0, len(points), CHUNK):
            found = self._bounds("interval", low[i : i + CHUNK], high[i : i + CHUNK])
            for parts, end in zip(ends, found, strict=True):
                parts.append(end)
        return points, np.concatenate(ends[0]), np.concatenate(ends[1])

    def corners(self, low: np.ndarray, high: np.ndarray, free: np.ndarray) -> np.ndarray:
        """The middles of open boxes, categories at a corner."""
        middle = low / 2 + high / 2
        for g, group in enumerate(self.task.onehot):
            open_rows = np.flatnonzero(~free[:, g])
            middle[open_rows[:, None], np.asarray(group)] = 0.0
            middle[open_rows, group[0]] = 1.0
        return middle

    def children(self, low, high, free, share) -> list[np.ndarray]:
        """Cuts each box where its slopes change most: in half, or into a group's categories.

        Besides the parts' operands, the number of each one's box is returned.
        """
        middle = self.corners(low, high, free)
        count = len(middle)
        weights = self.asked.astype(np.float64)
        bend = self.compiled.sensitivity(self.constants, _padded(middle, CHUNK), weights)
        bend = np.nan_to_num(np.asarray(bend)[:count])
        width = high / 2 - low / 2  # half of it, which cannot overflow
        whole = self.task.high / 2 - self.task.low / 2
        relative = width / np.maximum(whole, np.finfo(float).tiny)
        with np.errstate(over="ignore"):
            score = np.nan_to_num(bend * width, posinf=1e300)
        score = score / np.maximum(score.max(axis=1, keepdims=True), np.finfo(float).tiny)
        score = (score + 0.1) * np.maximum(relative, 1e-12) * (width > 0)
        pieces: list[tuple] = []
        for row in range(count):
            parts = self._halves(low[row], high[row], free[row], share[row], score[row])
            pieces += [(*part, row) for part in parts]
        return [np.stack(part) for part in zip(*pieces, strict=True)]

    def _halves(self, low, high, free, share, score) -> list[tuple]:
        axis = int(np.argmax(score))
        for g, group in enumerate(self.task.onehot):
            if axis in group and not free[g]:
                return [self._category(low, high, free, share, g, i) for i in group]
        middle = low[axis] / 2 + high[axis] / 2
        first, second = high.copy(), low.copy()
        first[axis] = second[axis] = middle
        return [(low, first, free, share / 2), (second, high, free, share / 2)]

    def _category(self, low, high, free, share, g, chosen) -> tuple:
        group = list(self.task.onehot[g])
        low, high, free = low.copy(), high.copy(), free.copy()
        low[group] = high[group] = 0.0
        low[chosen] = high[chosen] = 1.0
        free[g] = True
        return low, high, free, share / len(group)

    def attacked(self, directions: np.ndarray) -> np.ndarray:
        """Points `[STARTS, d]` that make signed slopes small; directions `[d]` or one row each."""
        signs = np.broadcast_to(np.asarray(directions, np.float64), (STARTS, self.task.low.size))
        task = self.task
        ends = jnp.asarray(task.low), jnp.asarray(task.high)
        points = self.compiled.attack(self.constants, *ends, task.onehot, self.key, signs)
        return np.asarray(points)


def _padded(rows: np.ndarray, count: int) -> np.ndarray:
    """Rows repeated up to a fixed number: one shape, one compilation."""
    return np.concatenate([rows, np.repeat(rows[:1], count - len(rows), axis=0)])
