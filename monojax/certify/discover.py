"""Which inputs does a function rise in, which does it fall in? One search for all of them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from monojax.base.compat import enable_x64
from monojax.certify.search import CHUNK, STARTS, Search, Task, checked, posed, typed_key

LABELS = ("rising", "falling", "mixed", "unknown")


class Discovery(NamedTuple):
    """What is known of each input of a function on a box."""

    labels: tuple[str, ...]
    """"rising" and "falling": proved on the whole box; "mixed": both signs of the slope are proved
    to occur; "unknown". An input that changes nothing is "rising": its slope is never negative."""
    proved: np.ndarray
    """float64 `[d]`, in [0, 1]: share of the box's volume on which the slope's sign is proved,
    either sign; 1 where the label is "rising" or "falling"."""


def discover_monotone(
    fn: Callable[[jax.Array], jax.Array],
    low: Any,
    high: Any,
    budget: int = 10_000,
    *,
    bound: str = "auto",
    onehot: Sequence[Sequence[int]] = (),
    key: jax.Array | None = None,
) -> Discovery:
    """Finds the direction of every input of ``fn`` on a box, with a proof.

    The box is cut where a sign is open. An input is left alone once both of its signs are seen.

    Args:
      fn: map of ONE example float `[d]` to a scalar, as for `certify_monotone`.
      low: lower ends of the box `[d]`, finite.
      high: upper ends `[d]`, finite, at least ``low``.
      budget: how many boxes may be bounded at most.
      bound: "interval", "forward", "backward" or "auto": interval first, then backward.
      onehot: groups of inputs of which exactly one is 1 and the others are 0; they have no
        direction of their own and stay "unknown", with nothing proved.
      key: PRNG key of the first points; a fixed one if None.

    Returns:
      Discovery.

    Raises:
      ValueError: on a box with low > high or an end that is not finite, on wrong shapes or options.
      CertifyError: if ``fn`` holds a primitive without a bound, or may jump.
    """
    width = np.shape(low)
    task = checked(fn, low, high, np.zeros(width, int), budget, bound, onehot)
    program = posed(fn, task.low.size).program
    with enable_x64():
        key = typed_key(jax.random.key(0) if key is None else key)
        return _Directions(task, program, key).found()


class _Directions(Search):
    """Cuts the box until every input's sign is known everywhere, or is seen to change."""

    def __init__(self, task: Task, program: Any, key: jax.Array) -> None:
        """Nothing is known yet."""
        super().__init__(task, program, key)
        members = [i for group in task.onehot for i in group]
        self.asked = np.ones(task.low.size, bool)
        self.asked[members] = False
        self.free = ~self.asked
        # Seen: a slope that is surely positive, surely negative, or one of them or 0 on a box.
        self.rises, self.falls, self.only_up, self.only_down = np.zeros((4, task.low.size), bool)
        self.known = np.zeros(task.low.size)
        """Share of the volume on which a sign is proved, for each input."""

    def found(self) -> Discovery:
        """Points first, then boxes."""
        task = self.task
        width = task.low.size
        for first in range(0, 2 * width, STARTS):  # each start pulls at one slope, one way
            pulled = (first + np.arange(STARTS)) % (2 * width)
            signs = np.eye(width)[pulled // 2] * np.where(pulled % 2, -1.0, 1.0)[:, None]
            self._look(self.attacked(signs))
        boxes = [task.low[None], task.high[None], np.zeros((1, len(task.onehot)), bool), np.ones(1)]
        boxes, wanted = self._decided(boxes, np.ones((1, width), bool) & ~self.free)
        while len(wanted):
            most = self.most_children()
            if (fits := (task.budget - self.boxes) // most) < 1:
                break
            order = np.argsort(-boxes[3], kind="stable")
            room = max(1, min(CHUNK // most, fits))
            take, rest = order[:room], order[room:]
            self.asked = wanted[take].any(axis=0) & ~self._mixed()
            *parts, parent = self.children(*(part[take] for part in boxes))
            parts, wanted_there = self._decided(parts, wanted[take][parent])
            if len(wanted_there):
                self._look(self.corners(*parts[:3]))
            boxes = [np.concatenate([a[rest], b]) for a, b in zip(boxes, parts, strict=True)]
            wanted = np.concatenate([wanted[rest], wanted_there])
            boxes, wanted = self._kept(boxes, wanted)
        return self._labelled(np.asarray(wanted.any(axis=0)))

    def _mixed(self) -> np.ndarray:
        return self.rises & self.falls

    def _kept(self, boxes: list, wanted: np.ndarray) -> tuple[list, np.ndarray]:
        """Boxes on which a sign is still asked for."""
        keep = (wanted & ~self._mixed()).any(axis=1)
        return [part[keep] for part in boxes], wanted[keep]

    def _look(self, points: np.ndarray) -> None:
        """Notes the signs that slopes surely have at points."""
        _, lo, hi = self.around(points)
        self.rises |= (lo > 0).any(axis=0)
        self.falls |= (hi < 0).any(axis=0)

    def _decided(self, boxes: list, wanted: np.ndarray) -> tuple[list, np.ndarray]:
        """Boxes and signs that stay open; what is decided is noted."""
        lo, hi = self.bounded(boxes[0], boxes[1])
        known = (lo <= hi) & (lo < np.inf) & (hi > -np.inf)  # False for NaN
        up, down = known & (lo >= 0), known & (hi <= 0)
        self.known += (boxes[3][:, None] * (wanted & (up | down))).sum(axis=0)
        self.only_up |= (wanted & up & ~down).any(axis=0)
        self.only_down |= (wanted & down & ~up).any(axis=0)
        self.rises |= (known & (lo > 0)).any(axis=0)
        self.falls |= (known & (hi < 0)).any(axis=0)
        return self._kept(boxes, wanted & ~(up | down))

    def done(self, lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
        """`[n]`: boxes on which every sign that is asked for is known."""
        return np.asarray((self._mixed() | self.free | (lo >= 0) | (hi <= 0)).all(axis=1))

    def _labelled(self, left: np.ndarray) -> Discovery:
        """Labels of all inputs; ``left``: those whose sign is open on some box."""
        rising = ~left & ~self.only_down & ~self.free
        falling = ~left & ~self.only_up & ~self.free
        chosen = [self._mixed(), rising, falling]
        labels = np.select(chosen, ["mixed", "rising", "falling"], "unknown")
        proved = np.where((rising | falling) & ~self._mixed(), 1.0, np.minimum(self.known, 1.0))
        return Discovery(tuple(labels.tolist()), proved)
