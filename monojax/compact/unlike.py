"""Whether new rows come from where the gallery came from, by what its axes leave of them."""

import warnings
from typing import Any

import numpy as np

from monojax.compact.rows import shown
from monojax.metrics.embedding import PrincipalAxes, principal_axes

MOST = 4_000
"""Rows that the comparison is made on, at most."""
SHARE = 0.01
FAR = 1.5


class UnlikeGalleryWarning(UserWarning):
    """Rows were added whose reconstruction is much worse than the gallery's own."""


def row_errors(y: np.ndarray, mean: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Length of what the axes leave of every row, float64 `[n]`.

    Args:
      y: normalised embeddings `[n, d]`.
      mean: `[d]`.
      axes: `[d, k]`, orthonormal columns.

    Returns:
      float64 `[n]`.
    """
    centred = y - mean[None, :]
    return np.linalg.norm(centred - (centred @ axes) @ axes.T, axis=1)


def reference(
    z: np.ndarray, dims: int, held_out: np.ndarray | None, axes: PrincipalAxes
) -> dict[str, float]:
    """What errors rows of the same source have that are not in the gallery.

    From held-out rows; without any, from every second row by the axes of the others, since axes
    fit the rows that they are made from too well.

    Args:
      z: normalised gallery `[n, d]`.
      dims: k.
      held_out: normalised rows that are not in the gallery, or None.
      axes: of the gallery.

    Returns:
      ``{"row_error_typical", "row_error_high", "row_error_largest"}`` (median, 99th percentile,
      maximum), nothing for fewer than 20 rows or if the axes leave nothing.
    """
    if held_out is None:
        rows = np.linspace(0, len(z) - 1, min(len(z), 2 * MOST)).astype(int)
        one, held_out = z[rows[::2]], z[rows[1::2]]
        if len(held_out) < 10:
            return {}
        axes = principal_axes(one)
    elif len(held_out) < 10:
        return {}
    errors = row_errors(held_out[:MOST], axes.mean, axes.axes[:, :dims])
    if errors.max() < 1e-6:  # all dimensions are kept: nothing is left to notice
        return {}
    middle, high = np.quantile(errors, [0.5, 1 - SHARE])
    numbers = {"typical": middle, "high": high, "largest": errors.max()}
    return {f"row_error_{name}": float(value) for name, value in numbers.items()}


def tell(errors: np.ndarray, ids: np.ndarray, known: dict[str, Any]) -> int:
    """Warns if rows are unlike the gallery: one far beyond it, or too many above its 99%.

    Args:
      errors: of the new rows.
      ids: their names.
      known: has what :func:`reference` gave; without it nothing is told.

    Returns:
      How many lie above the gallery's 99th percentile.
    """
    if "row_error_high" not in known:
        return 0
    above = errors > known["row_error_high"]
    count, expected = int(above.sum()), SHARE * len(errors)
    far = errors > FAR * known["row_error_largest"]
    if far.any() or count - expected > 1 + 4 * np.sqrt(expected):
        worst = ids[np.argsort(-errors, kind="stable")]
        warnings.warn(
            f"{count} of {len(errors)} new rows are reconstructed worse than 99% of the gallery "
            f"(median error {np.median(errors):.3g}, there {known['row_error_typical']:.3g}): they "
            "seem to come from another distribution, which the index's axes were not made for. "
            f"Worst ids: {shown(worst[:5])}. To keep them, build the index anew by compress.",
            UnlikeGalleryWarning,
            stacklevel=3,
        )
    return count
