"""Decoded images of every kind of file as 8-bit pixels, or a refusal that names the kind."""

from typing import Any

import numpy as np

from monojax.base.extras import require

_SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N")


def to_rgb(image: Any) -> Any:
    """An opened image in three channels of 8 bits.

    Grey images of 16 bits are divided by 257, which maps their whole range to 0 ... 255.

    Args:
      image: a PIL image.

    Returns:
      A PIL image of mode "RGB".

    Raises:
      ValueError: on 32-bit integers and floats, whose range a file does not tell.
    """
    return to_eight_bits(image).convert("RGB")


def to_eight_bits(image: Any) -> Any:
    """An opened image with 8 bits per channel.

    Args:
      image: a PIL image.

    Returns:
      The same image, or one of mode "L" for 16-bit grey.

    Raises:
      ValueError: on 32-bit integers and floats.
    """
    if image.mode in _SIXTEEN:
        values = np.asarray(image).astype(np.uint32)
        scaled = ((values + 128) // 257).astype(np.uint8)
        return require("PIL.Image", "data").fromarray(scaled)
    if image.mode in ("I", "F"):
        kind = "32-bit integers" if image.mode == "I" else "floats"
        raise ValueError(
            f"an image of {kind} (mode {image.mode!r}) has no range that the file tells; save it "
            "with 8 or 16 bits per channel."
        )
    return image
