"""The published 3D Shapes images, by their factors, from tensorflow-datasets."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from monojax.base.extras import require
from monojax.data.locate import MissingDataError
from monojax.data.shapes3d.scene import FACTORS, SIZES, check_factors, factor_values

_LABELS = tuple("label_" + name.replace(" ", "_") for name in FACTORS)
_GET = (
    "Prepare it once where tensorflow is installed beside tensorflow-datasets: "
    "tfds build shapes3d --file_format=array_record --data_dir=DIR; then give data_dir=DIR. "
    "Without it: monojax.data.shapes3d.render draws scenes of the same factors."
)


class PublishedShapes3D:
    """The 480,000 published images behind the interface of the renderer.

    Args:
      rows: random access to the set's examples, dictionaries with ``image`` (uint8
        `[64, 64, 3]`) and the labels ``label_floor_hue``, ... of tensorflow-datasets.
      labels: integers `[n, 6]` in the order of `FACTORS`; None reads them from every row.

    Raises:
      ValueError: on labels that are no places in the grid.
    """

    def __init__(self, rows: Sequence[Any], labels: np.ndarray | None = None):
        """See the class."""
        if labels is None:
            labels = np.array([[int(row[name]) for name in _LABELS] for row in rows], np.int64)
        if labels.shape != (len(rows), 6) or (labels < 0).any() or (labels >= SIZES).any():
            raise ValueError(f"labels must be places in the grid {SIZES}, one row per example.")
        self._rows = rows
        place = np.ravel_multi_index(tuple(labels.T), SIZES)
        self._row_of = np.full(np.prod(SIZES), -1)
        self._row_of[place] = np.arange(len(rows))

    def __len__(self) -> int:
        """Number of images."""
        return len(self._rows)

    def render(self, factors: Any, size: int = 64) -> np.ndarray:
        """The images of these factors.

        Args:
          factors: `[..., 6]`, each a value of :func:`monojax.data.shapes3d.factor_grid`.
          size: 64, the only one that there is.

        Returns:
          float32 `[..., 64, 64, 3]` in [0, 1].

        Raises:
          ValueError: on factors between the grid's values, or another size.
          MissingDataError: if the set lacks an image.
        """
        if size != 64:
            raise ValueError(f"the published images have size 64, got size={size}.")
        factors = np.asarray(check_factors(factors))
        places = np.ravel_multi_index(tuple(_places(factors.reshape(-1, 6)).T), SIZES)
        found = self._row_of[places]
        if (found < 0).any():
            raise MissingDataError(f"the set lacks {int((found < 0).sum())} of these images.")
        pixels = np.stack([np.asarray(self._rows[int(i)]["image"]) for i in found])
        return (pixels.astype(np.float32) / 255).reshape(*factors.shape[:-1], 64, 64, 3)


def published(data_dir: str | os.PathLike | None = None) -> PublishedShapes3D:
    """Opens the published set (``shapes3d`` of tensorflow-datasets); nothing is downloaded.

    Reading all labels takes a pass over the 480,000 examples.

    Args:
      data_dir: tensorflow-datasets' folder; None for its default.

    Returns:
      PublishedShapes3D.

    Raises:
      ImportError: without tensorflow-datasets (extra "data").
      MissingDataError: if it is not prepared there as array_record.
    """
    tfds = require("tensorflow_datasets", "data")
    where = None if data_dir is None else str(data_dir)
    skip = {"image": tfds.decode.SkipDecoding()}
    try:
        options = {"split": "train", "data_dir": where, "download": False}
        encoded = tfds.data_source("shapes3d", decoders=skip, **options)
        rows = tfds.data_source("shapes3d", **options)
    except Exception as error:  # several kinds: no folder, no such version, other format
        kind = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
        raise MissingDataError(
            f"no prepared shapes3d in array_record format in {where or 'the default folder'} "
            f"({kind}). {_GET}"
        ) from error
    labels = [[int(row[name]) for name in _LABELS] for row in encoded]
    return PublishedShapes3D(rows, np.array(labels, np.int64))


def _places(factors: np.ndarray) -> np.ndarray:
    """Index of each value in its factor's grid, `[n, 6]`."""
    found = np.empty(factors.shape, np.int64)
    for i, values in enumerate(factor_values()):
        distance = np.abs(factors[:, i, None] - values)
        found[:, i] = distance.argmin(1)
        wrong = distance.min(1) > 1e-3 * max(np.ptp(values), 1)
        if wrong.any():
            shown = ", ".join(f"{v:.4g}" for v in values)
            raise ValueError(
                f"factor {i} ({FACTORS[i]}) must be one of the published values {shown}, "
                f"got {factors[wrong, i][0]:g}; monojax.data.shapes3d.render draws any."
            )
    return found
