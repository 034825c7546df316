"""Images of the occlusion protocol: the 250 photographs, or a folder of ImageNet's kind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from monojax.data.crops import eval_crop
from monojax.data.folders import list_images
from monojax.data.locate import MissingDataError
from monojax.data.photos import imagenet_photos, imagenet_wnids

DATA = ("photos", "folder")


def number_of_images(config: Any) -> int:
    """How many images a run looks at.

    Args:
      config: data, folder, limit.

    Returns:
      The number.

    Raises:
      MissingDataError: if the folder is missing or empty.
    """
    total = 250 if config.data == "photos" else len(_files(config.folder)[0])
    return min(total, config.limit or total)


def batches(config: Any, first: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and labels in a fixed order.

    Args:
      config: data, folder, data_dir, limit, batch_size, size.
      first: the image to start from, a multiple of batch_size.

    Yields:
      ``(uint8 [n, size, size, 3], int [n])``; the last batch may be short.

    Raises:
      MissingDataError: if data are missing.
    """
    total = number_of_images(config)
    rows = range(first, total, config.batch_size)
    if config.data == "photos":
        images, labels = imagenet_photos(config.data_dir or None)
        for start in rows:
            part = slice(start, min(start + config.batch_size, total))
            yield images[part], labels[part]
        return
    paths, labels = _files(config.folder)
    order = np.random.default_rng(config.seed).permutation(len(paths))  # so that a part is fair
    for start in rows:
        chosen = order[start : min(start + config.batch_size, total)]
        crops = [eval_crop(paths[i].read_bytes(), config.size) for i in chosen]
        yield np.stack(crops), labels[chosen]


def _files(folder: str) -> tuple[list[Path], np.ndarray]:
    """Files of DIR/WNID/NAME.JPEG and their labels, numbered as ImageNet-1k does."""
    get = (
        "lay ImageNet's validation images out as DIR/n01440764/NAME.JPEG, ..., a folder per WNID, "
        "and pass --config.folder=DIR."
    )
    if not folder or not Path(folder).is_dir():
        raise MissingDataError(f"no folder {folder or '(nothing)'}: {get}")
    try:
        listing = list_images(folder, imagenet_wnids())
    except MissingDataError as error:
        raise MissingDataError(f"{error} To get started, {get}") from None
    return [Path(folder) / name for name in listing.files], listing.labels
