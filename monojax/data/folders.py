"""A folder per class: which folders count, and which number a class has in every part."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from monojax.data.locate import MissingDataError

ENDINGS = (".jpg", ".jpeg", ".png")


class Listing(NamedTuple):
    """Image files in class folders."""

    classes: tuple[str, ...]
    """Names, by number."""
    files: list[str]
    """``CLASS/NAME``, sorted within their class."""
    labels: np.ndarray
    """Index into `classes`, int32 `[n]`."""


def list_images(root: str | os.PathLike, classes: Sequence[str] | None = None) -> Listing:
    """The image files below a folder of class folders.

    A folder is a class if it holds an image and its name does not begin with a dot.

    Args:
      root: the folder of class folders.
      classes: names in the order of their numbers, as another part of the set has them; None
        numbers this part's own folders in the order of their names.

    Returns:
      Listing; classes without an image in this part keep their number.

    Raises:
      MissingDataError: if no folder holds an image.
      ValueError: if a folder is none of ``classes``.
    """
    root = Path(root)
    found: dict[str, list[str]] = {}
    folders = (item for item in os.scandir(root) if item.is_dir() and item.name[0] != ".")
    for folder in sorted(folders, key=lambda item: item.name):
        names = sorted(item.name for item in os.scandir(folder.path) if _is_image(item))
        if names:
            found[folder.name] = names
    if not found:
        raise MissingDataError(
            f"{root} has no class folders with images ({', '.join(ENDINGS)}); lay them out as "
            "CLASS/NAME."
        )
    known = tuple(found) if classes is None else tuple(classes)
    if unknown := [name for name in found if name not in known]:
        raise ValueError(
            f"{root} has folders that are no class of the training part: "
            f"{', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''} (its classes are "
            f"{', '.join(known[:5])}{', ...' if len(known) > 5 else ''}); rename or remove them."
        )
    number = {name: i for i, name in enumerate(known)}
    files = [f"{folder}/{name}" for folder, names in found.items() for name in names]
    counts = [len(names) for names in found.values()]
    labels = np.repeat(np.array([number[name] for name in found], np.int32), counts)
    return Listing(known, files, labels)


def int32_labels(values: Any, name: str = "label") -> np.ndarray:
    """Labels as int32, refused where that would change them.

    Args:
      values: integers of any kind and shape.
      name: for messages.

    Returns:
      int32, the same shape.

    Raises:
      TypeError: if they are no integers.
      ValueError: if one does not fit in 32 bits.
    """
    found = np.asarray(values)
    if not np.issubdtype(found.dtype, np.integer):
        raise TypeError(f"{name} must be integers, got {found.dtype}.")
    limits = np.iinfo(np.int32)
    if found.size and (int(found.min()) < limits.min or int(found.max()) > limits.max):
        raise ValueError(
            f"{name} must fit in 32 bits, got values from {found.min()} to {found.max()}; number "
            "the classes 0, 1, 2, ... (np.unique(labels, return_inverse=True))."
        )
    return found.astype(np.int32)


def _is_image(item: os.DirEntry) -> bool:
    return item.name.lower().endswith(ENDINGS) and item.name[0] != "." and item.is_file()
