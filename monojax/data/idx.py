"""The files in which MNIST and Fashion-MNIST were published: IDX, gzipped or not."""

import gzip
import os
import zlib
from pathlib import Path

import numpy as np

from monojax.data.locate import MissingDataError

PathLike = str | os.PathLike[str]

SPLITS = ("train", "t10k")
"""How the names of the files of the two parts begin."""
MOST = 2**31 - 1
"""Values that an axis may have: the format's lengths are signed."""


def read_idx(path: PathLike) -> np.ndarray:
    """The array of one IDX file of bytes.

    Args:
      path: the file, gzipped or not, whatever its name.

    Returns:
      uint8, of the shape that the file tells.

    Raises:
      OSError: if it cannot be read.
      ValueError: if it is no IDX file of unsigned bytes, cut short, longer than it tells, or a
        damaged archive.

    Source: the format that LeCun, Cortes and Burges published MNIST in: two zero bytes, 8 for
    unsigned bytes, the number of axes, their lengths as big-endian int32, then the values.
    """
    path = Path(path).expanduser()
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    open_ = gzip.open if packed else open
    try:
        with open_(path, "rb") as file:
            start = file.read(4)
            if len(start) != 4 or start[:3] != b"\0\0\x08" or not 1 <= start[3] <= 4:
                raise ValueError(
                    f"{path} is no IDX file of unsigned bytes: it begins with {start!r}."
                )
            lengths = file.read(4 * start[3])
            if len(lengths) != 4 * start[3]:
                raise ValueError(f"{path} is cut short: it ends within its header.")
            shape = tuple(int(n) for n in np.frombuffer(lengths, ">u4"))
            rest = file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is no whole gzip archive: {error}.") from error
    size = int(np.prod(shape, dtype=object))
    if len(rest) != size or max(shape) > MOST:
        raise ValueError(
            f"{path} has {len(rest)} values where its header tells of {size}, shape {shape}: it is "
            "cut short or damaged."
        )
    return np.frombuffer(rest, np.uint8).reshape(shape).copy()


def read_split(folder: PathLike | None, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of one part of a set that is published as four IDX files.

    Args:
      folder: where the files lie.
      split: "train" or "t10k".

    Returns:
      ``(uint8 [n, 28, 28], int32 [n])``.

    Raises:
      MissingDataError: if a file is not there, naming what was looked for.
      ValueError: on another file, another number of labels than images, or a label over 9.
    """
    images_path = _find(folder, f"{split}-images", "idx3-ubyte")
    labels_path = _find(folder, f"{split}-labels", "idx1-ubyte")
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.shape[1:] != (28, 28) or not len(images):
        raise ValueError(f"{images_path} must hold images [n, 28, 28], got {images.shape}.")
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"{labels_path} must hold one label for each of the {len(images)} images, got shape "
            f"{labels.shape}."
        )
    if labels.max() > 9:
        raise ValueError(
            f"{labels_path} must hold labels from 0 to 9, got {labels.max()}: sets of more classes "
            "that are published in this format are not read."
        )
    return images, labels.astype(np.int32)


def _find(folder: PathLike | None, stem: str, kind: str) -> Path:
    """The file of that name, as it is published or unpacked."""
    names = [f"{stem}{mark}{kind}{end}" for mark in "-." for end in ("", ".gz")]
    if folder is None:
        raise MissingDataError(
            f"source='idx' needs data_dir=, the folder of {names[1]} and its three siblings."
        )
    for name in names:
        if (path := Path(folder).expanduser() / name).is_file():
            return path
    raise MissingDataError(
        f"{folder} has no file {names[1]}; also looked for {', '.join((names[0], *names[2:]))}."
    )
