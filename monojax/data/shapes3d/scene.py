"""The factors of a scene, their values, and what stands still: room, camera, light, sizes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import is_concrete

FACTORS = ("floor hue", "wall hue", "object hue", "scale", "shape", "orientation")
SHAPES = ("cube", "cylinder", "sphere", "capsule")
SIZES = (10, 10, 10, 8, 4, 15)
"""How many values each factor takes in the published set."""
LOW = (0.0, 0.0, 0.0, 0.75, 0.0, -30.0)
HIGH = (1.0, 1.0, 1.0, 1.25, 3.0, 30.0)
"""Range of each factor; a hue is below 1, where it is 0 again."""


class Scene(NamedTuple):
    """What the factors do not change; lengths in units in which the cube is 1.4 wide.

    The room is a square with the object in its middle; x goes to the right, y up and z away from
    the camera at orientation 0. Every field may be traced, and differ between images by `jax.vmap`.
    """

    light: Any = (-3.2, 6.0, -2.6)
    """Position of the light; it stays where it is when the camera turns."""
    light_radius: Any = 0.7
    """Radius of the lamp: how soft shadows are."""
    ambient: Any = 0.45
    """Light that comes from everywhere, where 1 is the brightest surface."""
    diffuse: Any = 0.55
    """Light of the lamp on a surface that faces it."""
    shine: Any = 0.25
    """Strength of the object's white highlight."""
    saturation: Any = 0.8
    """Of the three hues, as in HSV."""
    object_size: Any = 1.0
    """Factor on the object's scale."""
    room: Any = 5.0
    """Half of the room's width."""
    wall_height: Any = 2.8
    """Above it is the sky."""
    distance: Any = 4.5
    """Of the camera from the room's middle, along the floor."""
    height: Any = 2.1
    """Of the camera above the floor."""
    look_at: Any = 0.75
    """Height of the point in the room's middle that the camera looks at."""
    field_of_view: Any = 46.0
    """Angle between the picture's left and right border, in degrees."""
    sky: Any = (0.82, 0.88, 0.94)
    """Colour above the wall."""


def factor_values() -> tuple[np.ndarray, ...]:
    """The values of each factor in the published set, float32, in the order of `FACTORS`."""
    ends = zip(LOW, HIGH, SIZES, strict=True)
    return tuple(
        # Ten hues in steps of 0.1; the eleventh would be the first again.
        (np.arange(n) / n if high == 1 else np.linspace(low, high, n)).astype(np.float32)
        for low, high, n in ends
    )


def factor_grid() -> np.ndarray:
    """All 480,000 combinations of the factors' values, float32, in the published set's order.

    Returns:
      `[480000, 6]`; the last factor changes fastest.
    """
    return np.stack(np.meshgrid(*factor_values(), indexing="ij"), axis=-1).reshape(-1, 6)


def random_factors(key: jax.Array, num: int) -> jax.Array:
    """Scenes drawn from the whole range: uniform hues, scales, shapes and orientations.

    Args:
      key: PRNG key.
      num: number of scenes.

    Returns:
      float32 `[num, 6]`.

    Raises:
      ValueError: if ``num`` is below 1.
    """
    if num < 1:
        raise ValueError(f"num must be at least 1, got {num}.")
    unit = jax.random.uniform(key, (num, 6))
    low, high = np.asarray([LOW], np.float32), np.asarray([HIGH], np.float32)
    shape = jnp.minimum(jnp.floor(unit[:, 4:5] * 4), 3)
    drawn = low + (high - low) * unit
    return jnp.concatenate([drawn[:, :4], shape, drawn[:, 5:]], axis=1)


def check_factors(factors: Any) -> jax.Array:
    """``factors`` as a floating array `[..., 6]`, in range where its values are known.

    Args:
      factors: array-like.

    Returns:
      A floating array.

    Raises:
      ValueError: on another shape, or naming the first factor that is out of range.
    """
    factors = factors if isinstance(factors, jax.Array) else np.asarray(factors)
    if factors.ndim == 0 or factors.shape[-1] != 6:
        raise ValueError(
            f"factors must have shape [..., 6] ({', '.join(FACTORS)}), got {factors.shape}."
        )
    if is_concrete(factors) and factors.size:
        found = np.asarray(factors, np.float64).reshape(-1, 6)
        for i, name in enumerate(FACTORS):
            _check_range(found[:, i], i, name)
    if not jnp.issubdtype(factors.dtype, jnp.floating):
        return jnp.asarray(factors, jnp.result_type(float))
    return jnp.asarray(factors)


def _check_range(column: np.ndarray, i: int, name: str) -> None:
    """Raises on the first value of a factor that is out of its range."""
    hue = name.endswith("hue")
    # The ends of the published grid are rounded to float32, or to bfloat16.
    inside = (column >= LOW[i]) & ((column < 1) if hue else (column <= HIGH[i]))
    if name == "shape":
        inside &= column == np.round(column)
    if inside.all():
        return
    wrong = column[~inside][0]
    if hue:
        want = f"in [0, 1); hue {wrong:g} is hue {wrong % 1:g}"
    elif name == "shape":
        want = "one of " + ", ".join(f"{k} ({s})" for k, s in enumerate(SHAPES))
    else:
        want = f"in [{LOW[i]:g}, {HIGH[i]:g}]" + (" degrees" if name == "orientation" else "")
    raise ValueError(f"factor {i} ({name}) must be {want}, got {wrong:g}.")


def check_size(size: Any) -> int:
    """``size`` as an integer of at least 4.

    Args:
      size: height and width of an image.

    Returns:
      The same.

    Raises:
      ValueError: on anything else.
    """
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 4:
        raise ValueError(f"size must be an integer of at least 4 pixels, got {size!r}.")
    return int(size)
