"""Maps as pictures: resized to the image, normalised, overlaid, in a grid."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.extras import require


def resize(
    attribution: jax.Array, image_size: tuple[int, int], *, stretch: bool = False
) -> jax.Array:
    """A map resized to the image, bilinearly.

    Args:
      attribution: map `[h, w]`.
      image_size: `(height, width)`.
      stretch: whether the proportions may differ by more than a factor of 2, as they do behind
        strides that differ; a map of channels and rows in place of rows and columns looks so, too.

    Returns:
      `[height, width]`.

    Raises:
      ValueError: if the map is not `[h, w]`, the size no pair, or the proportions differ.
    """
    if attribution.ndim != 2 or len(image_size) != 2:
        raise ValueError(
            f"resize takes a map [h, w] and a pair (height, width), got shape {attribution.shape} "
            f"and {image_size}; use jax.vmap for a batch of maps."
        )
    (high, wide), (height, width) = attribution.shape, image_size
    # One more or less in either direction is what padding does to small maps.
    tall = (high - 1) * width > 2 * (wide + 1) * height
    broad = (wide - 1) * height > 2 * (high + 1) * width
    if (tall or broad) and not stretch:
        raise ValueError(
            f"a map of shape {attribution.shape} has other proportions than an image of "
            f"{tuple(image_size)}: is it a map of rows and columns? Give the method channel_axis=, "
            "or resize with stretch=True if the network's strides differ."
        )
    return jax.image.resize(attribution, image_size, "bilinear")


def normalise(attribution: jax.Array) -> jax.Array:
    """Positive values divided by the largest, negative ones by the size of the smallest.

    Args:
      attribution: one map, any shape.

    Returns:
      Values in [-1, 1]; a map of zeros stays as it is.
    """
    attribution = jnp.asarray(attribution)
    top, bottom = jnp.maximum(attribution.max(), 0), jnp.maximum(-attribution.min(), 0)
    scale = jnp.where(attribution > 0, top, bottom)
    return attribution / jnp.where(scale == 0, 1, scale)


def overlay(
    axes: Any, image: Any, attribution: Any, *, strength: float = 0.6, cmap: str = "seismic",
    stretch: bool = False,
) -> Any:  # fmt: skip
    """Draws a map over its image on matplotlib axes.

    Args:
      axes: matplotlib axes.
      image: `[h, w]` or `[h, w, c]`, any range.
      attribution: map `[a, b]`; it is resized and normalised here.
      strength: opacity of the map, 0 to 1.
      cmap: a diverging colour map.
      stretch: as in :func:`resize`.

    Returns:
      The axes.

    Raises:
      ImportError: without matplotlib, naming the extra to install.
      ValueError: if the image or the map has another rank.
    """
    require("matplotlib.pyplot", "train")
    image = np.asarray(image, np.float64)
    if image.ndim not in (2, 3):
        raise ValueError(f"image must be [h, w] or [h, w, c], got {image.shape}.")
    low, high = image.min(), image.max()
    grey = (image - low) / (high - low if high > low else 1)
    grey = grey.mean(-1) if grey.ndim == 3 and grey.shape[-1] != 3 else grey
    values = np.asarray(
        normalise(resize(jnp.asarray(attribution), image.shape[:2], stretch=stretch))
    )
    axes.imshow(grey, cmap="gray", vmin=0, vmax=1)
    axes.imshow(values, cmap=cmap, vmin=-1, vmax=1, alpha=strength)
    axes.set_axis_off()
    return axes


def grid(
    images: Sequence[Any], maps: Sequence[Sequence[Any]], titles: Sequence[str], **options: Any
) -> Any:
    """A figure with one row per image: the image, then its overlays.

    Args:
      images: n images.
      maps: n rows of maps, one per method.
      titles: names of the methods.
      **options: as in :func:`overlay`.

    Returns:
      matplotlib figure.

    Raises:
      ImportError: without matplotlib.
      ValueError: if the numbers of images, maps and titles disagree.
    """
    pyplot = require("matplotlib.pyplot", "train")
    if len(images) != len(maps) or any(len(row) != len(titles) for row in maps):
        raise ValueError(
            f"grid needs one row of {len(titles)} maps per image, got {len(images)} images and "
            f"rows of {[len(row) for row in maps]} maps."
        )
    columns = len(titles) + 1
    size = (1.6 * columns, 1.7 * len(images))
    figure, axes = pyplot.subplots(len(images), columns, figsize=size, squeeze=False)
    for row, image, found in zip(axes, images, maps, strict=True):
        overlay(row[0], image, jnp.zeros(np.asarray(image).shape[:2]), strength=0.0)
        for place, attribution in zip(row[1:], found, strict=True):
            overlay(place, image, attribution, **options)
    for place, title in zip(axes[0], ["image", *titles], strict=True):
        place.set_title(title, fontsize=8)
    figure.tight_layout()
    return figure
