"""What is measured on decoded pictures: hues of patches, order of a sweep, factors read off."""

from typing import Any, NamedTuple

import numpy as np

PATCHES = {
    "floor hue": (slice(-10, None), slice(0, 10)),  # the paper's: bottom left
    "wall hue": (slice(6, 16), slice(0, 10)),
    "object hue": (slice(33, 39), slice(29, 35)),
}
"""Rows and columns of a picture of 64 x 64 that show the hue at every value of the others."""
GREY = 0.05
"""Saturation below which a patch has no hue."""


class Order(NamedTuple):
    """Whether sequences are in order, `[n]` each."""

    sorted: np.ndarray
    """bool."""
    span: np.ndarray
    """How far a sequence goes from its start to its end; a constant one is sorted and spans 0."""
    share: np.ndarray
    """Of the steps beyond the tolerance, those that go the commoner way: 1 where sorted."""


def hue_of(patches: Any) -> tuple[np.ndarray, np.ndarray]:
    """Hue angle of the mean colour of patches (the HSV hexagon's).

    Args:
      patches: `[..., h, w, 3]` in [0, 1].

    Returns:
      ``(degrees [...] in [0, 360), saturation [...])``.
    """
    mean = np.asarray(patches, np.float64).mean((-3, -2))
    r, g, b = np.moveaxis(mean, -1, 0)
    top, low = mean.max(-1), mean.min(-1)
    wide = np.maximum(top - low, 1e-12)
    angle = np.where(
        top == r, (g - b) / wide, np.where(top == g, 2 + (b - r) / wide, 4 + (r - g) / wide)
    )
    return (60 * angle) % 360, (top - low) / np.maximum(top, 1e-12)


def hue_order(degrees: Any, saturation: Any, tolerance: float) -> Order:
    """Whether sequences of hues go around the circle one way, and not further than once.

    Args:
      degrees: `[n, s]`.
      saturation: `[n, s]`; grey patches are skipped.
      tolerance: a step back of at most so many degrees does not count.

    Returns:
      Order; the span is in degrees.
    """
    in_order, spans, shares = [], [], []
    for angles, colour in zip(np.asarray(degrees), np.asarray(saturation), strict=True):
        kept = angles[colour >= GREY]
        steps = 180 - (180 - np.diff(kept)) % 360  # in (-180, 180]
        one_way = (steps >= -tolerance).all() or (steps <= tolerance).all()
        spans.append(abs(steps.sum()))
        shares.append(_share(steps, tolerance))
        in_order.append(bool(one_way and spans[-1] <= 360))
    return Order(np.array(in_order), np.array(spans), np.array(shares))


def value_order(values: Any, tolerance: float) -> Order:
    """Whether sequences of numbers rise or fall all the way.

    Args:
      values: `[n, s]`.
      tolerance: a step back of at most so much does not count.

    Returns:
      Order, the span in the values' unit.
    """
    steps = np.diff(np.asarray(values, np.float64), axis=1)
    in_order = (steps >= -tolerance).all(1) | (steps <= tolerance).all(1)
    shares = [_share(row, tolerance) for row in steps]
    return Order(np.asarray(in_order), np.abs(steps.sum(1)), np.array(shares))


def _share(steps: np.ndarray, tolerance: float) -> float:
    """Steps that go the commoner way, of those that are larger than the tolerance."""
    up, down = int((steps > tolerance).sum()), int((steps < -tolerance).sum())
    return max(up, down) / (up + down) if up + down else 1.0


def patch_of(images: Any, factor: str) -> np.ndarray:
    """The patch that shows a hue.

    Args:
      images: `[..., 64, 64, 3]`.
      factor: a key of `PATCHES`.

    Returns:
      `[..., h, w, 3]`.
    """
    rows, columns = PATCHES[factor]
    return np.asarray(images)[..., rows, columns, :]


def best_cut(rank: Any, places: np.ndarray, count: int) -> float:
    """The largest rank correlation, in size, over all places where a circle can be cut open.

    Args:
      rank: ``rank(values)`` correlates `[n]` numbers with the latent.
      places: of the hues in their grid, integers `[n]`.
      count: hues in the grid.

    Returns:
      In [0, 1].
    """
    return max(abs(rank((places - cut) % count)) for cut in range(count))
