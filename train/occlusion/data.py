"""Images of the occlusion protocol: the 250 photographs, or a folder of ImageNet's kind."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from monojax.base.extras import require
from monojax.data.photos import imagenet_photos

DATA = ("photos", "folder")


def number_of_images(config: Any) -> int:
    """How many images a run looks at.

    Args:
      config: data, folder, limit.

    Returns:
      The number.

    Raises:
      FileNotFoundError: if the folder is missing or empty.
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
      FileNotFoundError: if data are missing.
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
        yield np.stack([_photo(paths[i], config.size) for i in chosen]), labels[chosen]


def _files(folder: str) -> tuple[list[Path], np.ndarray]:
    """Files of DIR/CLASS/NAME.JPEG and their labels, classes in alphabetical order (wnids)."""
    root = Path(folder)
    classes = sorted(path for path in root.glob("*") if path.is_dir()) if folder else []
    if not classes:
        raise FileNotFoundError(
            f"no class folders in {folder or '(nothing)'}: lay ImageNet's validation images out "
            "as DIR/n01440764/NAME.JPEG, ..., 1000 folders, and pass --config.folder=DIR."
        )
    found = [sorted(p for p in path.iterdir() if p.is_file()) for path in classes]
    labels = np.repeat(np.arange(len(classes)), [len(files) for files in found])
    return [path for files in found for path in files], labels


def _photo(path: Path, size: int) -> np.ndarray:
    """Shorter side to size * 256 / 224, centre crop."""
    picture = require("PIL.Image", "data").open(io.BytesIO(path.read_bytes())).convert("RGB")
    scale = size * 256 / 224 / min(picture.size)
    width, height = (max(size, round(side * scale)) for side in picture.size)
    picture = picture.resize((width, height), 2)  # bilinear
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size)))
