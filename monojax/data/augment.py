"""TrivialAugmentWide and RandomErasing for whole batches, in JAX: they run inside a jitted step.

Every image draws its own operation and strength. Shears, shifts and rotations of a batch are one
gather, the colour operations one blend and one table look-up, so nothing loops over images.
Formulas are Pillow's on 8-bit images, which torchvision applies.

Reference:
  Müller, Hutter, "TrivialAugment", ICCV 2021 (the wide space as in torchvision 0.22);
  Zhong et al., "Random Erasing Data Augmentation", AAAI 2020.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import check_places, known

OPERATIONS = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)
"""In the order of their numbers."""

_BINS = 31
_SIGNED = np.array([1 <= i <= 9 for i in range(len(OPERATIONS))])
_OF = {name: i for i, name in enumerate(OPERATIONS)}


def _strengths() -> np.ndarray:
    """Magnitude of every operation in every bin, `[14, 31]`."""
    table = np.zeros((len(OPERATIONS), _BINS))
    top = {"ShearX": 0.99, "ShearY": 0.99, "TranslateX": 32, "TranslateY": 32, "Rotate": 135}
    top |= dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), 0.99)
    for name, end in top.items():
        table[_OF[name]] = np.linspace(0, end, _BINS)
    table[_OF["Posterize"]] = 8 - np.round(np.arange(_BINS) / 5)
    table[_OF["Solarize"]] = np.linspace(255, 0, _BINS)
    return table


STRENGTHS = _strengths()
"""Magnitudes `[operation, bin]`: factors, pixels, degrees, bits, or a threshold."""


def trivial_augment_wide(key: jax.Array, images: jax.Array) -> jax.Array:
    """One random operation of random strength per image.

    Operation and bin (of 31) are uniform; the strength of shears, shifts, rotations and blends is
    negative in half of the cases. Nearest neighbour, black where nothing is known.

    Args:
      key: PRNG key.
      images: uint8 `[b, h, w, c]`, c = 3 or 1.

    Returns:
      uint8 `[b, h, w, c]`.

    Raises:
      ValueError: on another shape or type.
    """
    images = _check(images)
    key_operation, key_bin, key_sign = jax.random.split(key, 3)
    shape = images.shape[:1]
    operation = jax.random.randint(key_operation, shape, 0, len(OPERATIONS))
    strength = jnp.asarray(STRENGTHS, jnp.float32)[
        operation, jax.random.randint(key_bin, shape, 0, _BINS)
    ]
    negative = jax.random.bernoulli(key_sign, 0.5, shape) & jnp.asarray(_SIGNED)[operation]
    return apply_operations(images, operation, jnp.where(negative, -strength, strength))


def apply_operations(images: jax.Array, operation: jax.Array, strength: jax.Array) -> jax.Array:
    """The named operations, one per image.

    Args:
      images: uint8 `[b, h, w, c]`, c = 3 or 1.
      operation: integers `[b]`: places in `OPERATIONS`; a traced one that is none does nothing.
      strength: floats `[b]`: shear per pixel, pixels (cut to whole ones), degrees
        counter-clockwise, change of a blend's factor, bits kept, or a threshold.

    Returns:
      uint8 `[b, h, w, c]`.

    Raises:
      ValueError: on another shape or type, or a concrete operation that is none.
    """
    images = _check(images)
    check_places(operation, len(OPERATIONS), "operation must be places in OPERATIONS,")
    operation, strength = jnp.asarray(operation), jnp.asarray(strength, jnp.float32)
    is_any = lambda *names: (operation[:, None] == np.array([[_OF[n] for n in names]])).any(axis=1)
    pick = lambda chosen, new, old: jnp.where(chosen[:, None, None, None], new, old)
    moved = is_any("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
    out = pick(moved, _move(images, operation, strength), images)
    blended = is_any("Brightness", "Color", "Contrast", "Sharpness")
    out = pick(blended, _blend(images, operation, strength), out)
    mapped = is_any("Posterize", "Solarize", "AutoContrast", "Equalize")
    return pick(mapped, _look_up(images, operation, strength), out)


def random_erasing(
    key: jax.Array,
    images: jax.Array,
    *,
    probability: float = 0.25,
    area: tuple[float, float] = (0.02, 0.2),
    aspect: tuple[float, float] = (0.3, 3.3),
    value: float = 0.0,
    tries: int = 10,
) -> jax.Array:
    """Overwrites a random rectangle of some images.

    Args:
      key: PRNG key.
      images: `[b, h, w, c]`, any dtype.
      probability: share of images.
      area: of the rectangle, as a share of the image, uniform between the two.
      aspect: height by width, log-uniform between the two.
      value: what to write.
      tries: draws of a rectangle until one is smaller than the image; an image without one stays.

    Returns:
      `[b, h, w, c]`, same dtype.

    Raises:
      ValueError: on another shape, a probability outside [0, 1], or an empty range.
    """
    if images.ndim != 4:
        raise ValueError(f"images must have shape [b, h, w, c], got {images.shape}.")
    if not _in_range((probability, probability), 0, 1) or not all(
        _in_range(ends, np.nextafter(0, 1), np.inf) for ends in (area, aspect)
    ):
        raise ValueError(
            "probability must lie in [0, 1], and area and aspect be ranges (low, high) of positive "
            f"numbers, got {probability}, {area}, {aspect}."
        )
    num, height, width = images.shape[:3]
    keys = jax.random.split(key, 5)
    shares = jax.random.uniform(keys[0], (num, tries), minval=area[0], maxval=area[1])
    ratios = jnp.exp(
        jax.random.uniform(
            keys[1], (num, tries), minval=jnp.log(aspect[0]), maxval=jnp.log(aspect[1])
        )
    )
    rows = jnp.round(jnp.sqrt(shares * height * width * ratios)).astype(int)
    columns = jnp.round(jnp.sqrt(shares * height * width / ratios)).astype(int)
    fits = (rows < height) & (columns < width)
    first = jnp.argmax(fits, axis=1)[:, None]
    rows, columns = (jnp.take_along_axis(a, first, axis=1)[:, 0] for a in (rows, columns))
    top = jax.random.randint(keys[2], (num,), 0, height - rows + 1)
    left = jax.random.randint(keys[3], (num,), 0, width - columns + 1)
    chosen = jax.random.bernoulli(keys[4], probability, (num,)) & fits.any(axis=1)
    y, x = jnp.arange(height)[None, :, None], jnp.arange(width)[None, None]
    spread = lambda a: a[:, None, None]
    inside = (y >= spread(top)) & (y < spread(top + rows))
    inside &= (x >= spread(left)) & (x < spread(left + columns))
    erased = (inside & spread(chosen))[..., None]
    return jnp.where(erased, jnp.asarray(value, images.dtype), images)


def _in_range(ends: tuple[Any, Any], low: float, high: float) -> bool:
    """True if the two are in order and between the bounds, as far as their values are known."""
    first, last = (known(end) for end in ends)
    if first is None or last is None:  # traced
        return True
    return bool(low <= float(first) <= float(last) <= high)


def _move(images, operation, strength):
    """Shears (the top left corner stays), shifts, rotations (about the centre): one gather."""
    num, height, width, channels = images.shape
    one_if = lambda name: (operation == _OF[name]).astype(jnp.float32)
    shift = jnp.trunc(strength)
    angle = jnp.deg2rad(strength) * one_if("Rotate")
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    # The place in the source of each pixel's centre: A (x, y) + b, around the centre if rotated.
    matrix = jnp.stack(
        [cos, -sin + strength * one_if("ShearX"), sin + strength * one_if("ShearY"), cos], axis=1
    )
    offset = jnp.stack([shift * one_if("TranslateX"), shift * one_if("TranslateY")], axis=1)
    centre = jnp.array([[width / 2, height / 2]]) * one_if("Rotate")[:, None]
    y, x = jnp.meshgrid(jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing="ij")
    spread = lambda a: a[:, None, None]
    dx, dy = x[None] - spread(centre[:, 0]), y[None] - spread(centre[:, 1])
    a, b, c, d = (spread(column) for column in matrix.T)
    from_x = jnp.floor(a * dx + b * dy + spread(centre[:, 0] - offset[:, 0])).astype(int)
    from_y = jnp.floor(c * dx + d * dy + spread(centre[:, 1] - offset[:, 1])).astype(int)
    known = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    place = jnp.where(known, from_y * width + from_x, 0).reshape(num, -1, 1)
    flat = jnp.take_along_axis(images.reshape(num, -1, channels), place, axis=1)
    return jnp.where(known[..., None], flat.reshape(images.shape), 0).astype(jnp.uint8)


def _blend(images, operation, strength):
    """Away from, or towards, black, grey, the mean grey, or a smoothed image; cut to integers."""
    x, grey = images.astype(jnp.float32), _grey(images)
    mean = jnp.floor(grey.mean(axis=(1, 2, 3), keepdims=True) + 0.5)
    which = operation[:, None, None, None]
    plain = jnp.where(which == _OF["Color"], grey, 0.0)
    plain = jnp.where(which == _OF["Contrast"], mean, plain)
    plain = jnp.where(which == _OF["Sharpness"], _smooth(x), plain)
    factor = 1 + strength[:, None, None, None]
    return jnp.clip(plain + factor * (x - plain), 0, 255).astype(jnp.uint8)


def _grey(images):
    """Pillow's luma, whole numbers, `[b, h, w, 1]`."""
    if images.shape[-1] == 1:
        return images.astype(jnp.float32)
    weights = jnp.array([19595, 38470, 7471]).reshape(1, 1, 1, 3)
    total = (images.astype(jnp.int32) * weights).sum(axis=-1, keepdims=True)
    return ((total + 0x8000) >> 16).astype(jnp.float32)


def _smooth(x):
    """Weights 1 around 5, by 13, rounded; the outermost pixels stay as they are."""
    height, width = x.shape[1:3]
    if min(height, width) < 3:
        return x
    rows = lambda y: y[:, :-2] + y[:, 1:-1] + y[:, 2:]
    around = rows(x)
    around = around[:, :, :-2] + around[:, :, 1:-1] + around[:, :, 2:]
    inner = jnp.floor((around + 4 * x[:, 1:-1, 1:-1]) / 13 + 0.5)
    return x.at[:, 1:-1, 1:-1].set(inner)


def _look_up(images, operation, strength):
    """Operations that are a table of 256 values per image and channel."""
    num, channels = images.shape[0], images.shape[-1]
    level = jnp.arange(256).reshape(1, 1, 256)
    counts = _histogram(images)
    kept = jnp.round(strength).astype(jnp.int32)[:, None, None]
    tables = {
        "Posterize": level & ~((1 << (8 - jnp.clip(kept, 0, 8))) - 1),
        "Solarize": jnp.where(level < strength[:, None, None], level, 255 - level),
        "AutoContrast": _stretched(counts),
        "Equalize": _equalised(counts),
    }
    table = jnp.broadcast_to(level, (num, channels, 256))
    for name, values in tables.items():
        table = jnp.where((operation == _OF[name])[:, None, None], values, table)
    pixels = jnp.moveaxis(images, -1, 1).reshape(num, channels, -1).astype(jnp.int32)
    out = jnp.take_along_axis(table, pixels, axis=2).astype(jnp.uint8)
    return jnp.moveaxis(out.reshape(num, channels, *images.shape[1:3]), 1, -1)


def _histogram(images):
    """int32 `[b, c, 256]`."""
    num, channels = images.shape[0], images.shape[-1]
    block = jnp.arange(num * channels).reshape(num, 1, 1, channels) * 256
    places = (block + images.astype(jnp.int32)).reshape(-1)
    counts = jnp.zeros(num * channels * 256, jnp.int32).at[places].add(1)
    return counts.reshape(num, channels, 256)


def _stretched(counts):
    """The darkest level that occurs becomes 0, the brightest 255; one level alone stays."""
    level = jnp.arange(256).reshape(1, 1, 256)
    low = jnp.argmax(counts > 0, axis=-1, keepdims=True)
    high = 255 - jnp.argmax(counts[..., ::-1] > 0, axis=-1, keepdims=True)
    stretched = jnp.clip((level - low) * 255 // jnp.maximum(high - low, 1), 0, 255)
    return jnp.where(high > low, stretched, level)


def _equalised(counts):
    """Levels by their rank among the pixels."""
    level = jnp.arange(256).reshape(1, 1, 256)
    last = jnp.take_along_axis(counts, 255 - jnp.argmax(counts[..., ::-1] > 0, -1)[..., None], -1)
    step = (counts.sum(axis=-1, keepdims=True) - last) // 255
    before = jnp.cumsum(counts, axis=-1) - counts
    table = jnp.minimum((step // 2 + before) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, table, level)


def _check(images: jax.Array) -> jax.Array:
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype != jnp.uint8:
        raise ValueError(
            f"images must be uint8 of shape [b, h, w, 3] or [b, h, w, 1], got {images.dtype} of "
            f"shape {images.shape}."
        )
    return jnp.asarray(images)
