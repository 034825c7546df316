"""Reading a person's pictures: what is no plain photograph is refused, with what to do."""

import hashlib
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from monojax.base.extras import require
from monojax.data.crops import eval_crop
from monojax.data.pixels import to_rgb

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")


class Picture(NamedTuple):
    """A picture as it is explained."""

    name: str
    """For files and headings."""
    pixels: np.ndarray
    """uint8 `[size, size, 3]`, RGB: the central part that the network sees."""
    note: str
    """What was done to it."""
    sha256: str
    """Of the file."""


def files(image: str, most: int) -> list[Path]:
    """The picture, or those of a folder in the order of their names.

    Args:
      image: a file or a folder.
      most: pictures of a folder.

    Returns:
      Paths, at least one.

    Raises:
      ValueError: if there is no such file, no picture in the folder, or more than ``most``.
    """
    path = Path(image).expanduser()
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"config.image: there is no file or folder {path}.")
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in ENDINGS and p.is_file())
    if not found:
        raise ValueError(f"config.image: {path} holds no pictures ({', '.join(ENDINGS)}).")
    if len(found) > most:
        raise ValueError(
            f"config.image: {path} holds {len(found)} pictures, more than config.most={most}; "
            f"say --config.most={len(found)} to explain them all."
        )
    return found


def read(path: Path, size: int) -> Picture:
    """A picture's central part at the network's size, turned as the camera was held.

    Args:
      path: the file.
      size: of the network's input.

    Returns:
      Picture.

    Raises:
      ValueError: if it is no image, damaged, too large, transparent somewhere, or has more than 8
        bits per channel.
    """
    image_module = require("PIL.Image", "data")
    turned = require("PIL.ImageOps", "data").exif_transpose
    content = path.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", image_module.DecompressionBombWarning)
            with image_module.open(path) as opened:
                bits = _bits(opened)
                opened.load()
                whole = turned(opened)
    except Exception as error:  # PIL raises nearly every kind on files that are no images
        raise ValueError(
            f"{path} cannot be read as an image ({type(error).__name__}: {error})."
        ) from error
    if bits > 8 or whole.mode.startswith(("I", "F")):
        raise ValueError(
            f"{path} has {bits if bits > 8 else 'more than 8'} bits per channel, and how they map "
            "to the network's 0 to 255 is not told by the file; save it with 8 bits per channel."
        )
    if "A" in whole.getbands() or "transparency" in whole.info:
        alpha = np.asarray(whole.convert("RGBA"))[..., 3]
        if alpha.min() < 255:
            raise ValueError(
                f"{path} is transparent in places, and the network cannot see what is behind: "
                "flatten it onto a background and save it without alpha."
            )
    pixels = np.asarray(to_rgb(whole))
    high, wide = pixels.shape[:2]
    side = round(min(wide, high) * 224 / 256)
    note = f"the central {side} x {side} of {wide} x {high} pixels, scaled to {size} x {size}"
    name = path.name.replace(".", "_")
    return Picture(name, eval_crop(pixels, size), note, hashlib.sha256(content).hexdigest())


def _bits(opened: Any) -> int:
    """Bits per channel in the file; PIL drops the lower ones of 16 without a word."""
    if opened.mode.startswith("I;16"):
        return 16
    tiles: Any = getattr(opened, "tile", None) or []
    modes = [part for tile in tiles for part in _texts(tile[3] if len(tile) > 3 else "")]
    if any("16" in mode for mode in modes):
        return 16
    bits = getattr(opened, "tag_v2", {}).get(258, (8,))  # TIFF's BitsPerSample
    return max(bits) if isinstance(bits, tuple) else int(bits)


def _texts(found: Any) -> list[str]:
    parts = found if isinstance(found, (tuple, list)) else (found,)
    return [part for part in parts if isinstance(part, str)]
