"""Pictures of scenes, and the masks of their objects."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from monojax.data.shapes3d.rays import Body, Rays, body, camera
from monojax.data.shapes3d.scene import Scene, check_factors, check_size
from monojax.data.shapes3d.shading import coverage, layers

PLAIN = Scene()
"""The scene unless one is given."""


def render(factors: Any, size: int = 64, *, scene: Scene = PLAIN) -> jax.Array:
    """Draws scenes: continuous in the factors, differentiable in all but the shape.

    Args:
      factors: `[..., 6]`: hues of floor, wall and object in [0, 1), scale in [0.75, 1.25],
        shape (0 cube, 1 cylinder, 2 sphere, 3 capsule), orientation in degrees in [-30, 30].
        Under `jit`, where values cannot be looked at, hues are taken modulo 1.
      size: height and width in pixels.
      scene: light, room and camera; the same for all. For one each use `jax.vmap` over both.

    Returns:
      `[..., size, size, 3]` in [0, 1], red, green and blue, in the dtype of the factors; computed
      in float32 at least.

    Raises:
      ValueError: on another shape, a factor out of range, or a size below 4.

    Example:
      >>> from monojax.data import shapes3d
      >>> shapes3d.render([0.0, 0.5, 0.3, 1.0, 0, 15.0]).shape
      (64, 64, 3)
    """
    return _drawn(check_factors(factors), check_size(size), scene, _picture)


def object_mask(factors: Any, size: int = 64, *, scene: Scene = PLAIN) -> jax.Array:
    """The pixels that the object covers by more than half.

    Args:
      factors: `[..., 6]`, as in :func:`render`; the hues do not matter.
      size: height and width in pixels.
      scene: as in :func:`render`.

    Returns:
      bool `[..., size, size]`.

    Raises:
      ValueError: as :func:`render`.
    """
    return _drawn(check_factors(factors), check_size(size), scene, _mask)


@functools.partial(jax.jit, static_argnames=("size", "one"))
def _drawn(factors: jax.Array, size: int, scene: Scene, one: Any) -> jax.Array:
    """One picture per row of factors."""
    wide = factors.astype(jnp.promote_types(factors.dtype, jnp.float32))
    scene = jax.tree.map(lambda leaf: jnp.asarray(leaf, wide.dtype), scene)
    rows = wide.reshape(-1, 6)
    found = jax.vmap(lambda row: one(row, size, scene))(rows)
    if found.dtype != bool:
        found = found.astype(factors.dtype)
    return found.reshape(*factors.shape[:-1], *found.shape[1:])


def _set_up(factors: jax.Array, size: int, scene: Scene) -> tuple[Body, Rays]:
    return body(factors[4], factors[3], scene), camera(factors[5], size, scene)


def _mask(factors: jax.Array, size: int, scene: Scene) -> jax.Array:
    return coverage(*_set_up(factors, size, scene), scene) > 0.5


def _picture(factors: jax.Array, size: int, scene: Scene) -> jax.Array:
    """Every pixel is a sum of the scene's colours, each times the light that comes from it."""
    light = jnp.stack(layers(*_set_up(factors, size, scene), scene), axis=-1)
    hues = [hue_to_rgb(factors[i], scene.saturation) for i in range(3)]
    sky = jnp.stack([jnp.asarray(c, light.dtype) for c in scene.sky])
    colours = jnp.stack([*hues, jnp.ones(3, light.dtype), sky])
    return jnp.clip(light @ colours, 0, 1)


def hue_to_rgb(hue: jax.Array, saturation: Any = 1.0) -> jax.Array:
    """The brightest colour of a hue: HSV with value 1.

    Args:
      hue: `[]`; 0 is red, 1/3 green, 2/3 blue, and 1 is red again.
      saturation: from 0 (white) to 1.

    Returns:
      `[3]`.
    """
    turned = (hue + jnp.asarray([0, 2 / 3, 1 / 3], jnp.result_type(hue))) % 1
    return 1 - saturation * (1 - jnp.clip(jnp.abs(turned * 6 - 3) - 1, 0, 1))
