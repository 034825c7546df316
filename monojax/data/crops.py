"""JPEG bytes to training and evaluation crops, by the recipe that ImageNet models are trained with.

A crop is a function of the bytes and of the generator that it is given, nothing else. Pixels stay
uint8: a quarter of the bytes to move to the accelerator, which subtracts the mean itself
(:func:`normalise`).
"""

import io
import math
from typing import Any

import numpy as np

from monojax.base.extras import require
from monojax.data.pixels import to_rgb

MEAN = (0.485, 0.456, 0.406)  # of ImageNet's training part, RGB in [0, 1]; torchvision's figures
STD = (0.229, 0.224, 0.225)


class BadImage(ValueError):
    """Bytes that are no readable image."""


def train_crop(
    image: bytes | np.ndarray,
    size: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> np.ndarray:
    """A random resized crop, mirrored half of the time.

    Args:
      image: encoded image, or pixels uint8 `[h, w, 3]`.
      size: height and width of the crop.
      rng: generator of this image and epoch.
      scale: area of the crop as a share of the image, drawn uniformly.
      ratio: width over height of the crop, drawn log-uniformly.

    Returns:
      uint8 `[size, size, 3]`.

    Raises:
      BadImage: if the bytes cannot be decoded.

    Reference:
      Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, section 6; ten tries and the
      central crop after them as in torchvision's RandomResizedCrop.
    """
    opened = _open(image)
    width, height = opened.size
    box = _random_box(width, height, rng, scale, ratio)
    pixels = _resized(opened, box, size)
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


def eval_crop(image: bytes | np.ndarray, size: int) -> np.ndarray:
    """The central part: shorter side to size * 256 / 224, then the middle `[size, size]`.

    Args:
      image: encoded image, or pixels uint8 `[h, w, 3]`.
      size: height and width of the crop.

    Returns:
      uint8 `[size, size, 3]`.

    Raises:
      BadImage: if the bytes cannot be decoded.
      ValueError: for 32-bit pixels, see `monojax.data.pixels`.
    """
    opened = _open(image)
    width, height = opened.size
    side = min(width, height) * 224 / 256  # of the crop, in pixels of the original
    left, top = (width - side) / 2, (height - side) / 2
    return _resized(opened, (left, top, left + side, top + side), size)


def normalise(images: Any, dtype: Any = None) -> Any:
    """Pixels in 0..255 to zero mean and unit variance over ImageNet.

    Args:
      images: array or jax.Array `[..., 3]`, uint8 or float.
      dtype: of the result; float32 by default.

    Returns:
      jax.Array of the same shape.
    """
    import jax.numpy as jnp

    pixels = jnp.asarray(images).astype(jnp.float32)
    # One axis for each of the pixels': promotion of ranks may be forbidden.
    shape = (*(1,) * (pixels.ndim - 1), 3)
    mean, std = (255 * jnp.asarray(values, jnp.float32).reshape(shape) for values in (MEAN, STD))
    return ((pixels - mean) / std).astype(dtype or jnp.float32)


def _open(image: bytes | np.ndarray) -> Any:
    """A PIL image whose pixels are not decoded yet, or made from an array."""
    Image = require("PIL.Image", "data")
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(
                f"pixels must be uint8 [h, w, 3], got {image.dtype} of shape {image.shape}."
            )
        return Image.fromarray(image)
    try:
        return Image.open(io.BytesIO(image))
    except Exception as error:  # PIL raises many kinds on damaged headers
        raise BadImage(f"{type(error).__name__}: {error}") from error


def _random_box(width, height, rng, scale, ratio) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a random part of the image."""
    area = width * height
    for _ in range(10):
        target = area * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    # Very long images: the largest central part of an allowed shape.
    w = min(width, round(height * ratio[1]))
    h = min(height, round(width / ratio[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _resized(opened: Any, box: tuple[float, float, float, float], size: int) -> np.ndarray:
    """Decodes no finer than needed and scales the box to `[size, size]`, bilinear, antialiased."""
    Image = require("PIL.Image", "data")
    width, height = opened.size
    shrink = min((box[2] - box[0]) / size, (box[3] - box[1]) / size)
    try:
        if shrink >= 2:
            # JPEG can be decoded at 1/2, 1/4 or 1/8: a quarter of the work and less.
            opened.draft("RGB", (math.ceil(width / shrink), math.ceil(height / shrink)))
        opened.load()
    except Exception as error:  # truncated or damaged data
        raise BadImage(f"{type(error).__name__}: {error}") from error
    pixels = to_rgb(opened)
    x, y = pixels.width / width, pixels.height / height
    box = (box[0] * x, box[1] * y, box[2] * x, box[3] * y)
    return np.asarray(pixels.resize((size, size), Image.Resampling.BILINEAR, box=box))
