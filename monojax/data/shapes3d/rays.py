"""The camera's rays, how far a line passes from the object, and edges one pixel wide.

No ray is drawn at random and none is drawn twice: a pixel's share of a surface follows from the
distance of its ray to the surface's edge, so images are continuous in the factors.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from monojax.data.shapes3d.scene import Scene

Vector = tuple[jax.Array, jax.Array, jax.Array]
"""x, y and z, each `[size, size]` or `[]`."""


class Rays(NamedTuple):
    """One ray per pixel: ``origin + t * direction``, with t the depth along the line of sight."""

    origin: Vector
    direction: Vector
    """Not of length 1; each of its parts is affine in the pixel's column and row."""
    across: Vector
    """How the direction changes from one column to the next."""
    down: Vector
    """And from one row to the one above."""


def camera(orientation: jax.Array, size: int, scene: Scene) -> Rays:
    """The rays of a camera that has turned around the room's middle.

    Args:
      orientation: in degrees.
      size: height and width of the image.
      scene: room, light and camera.

    Returns:
      Rays, of shape `[size, size]`.
    """
    turn = orientation * (jnp.pi / 180)
    sin, cos = jnp.sin(turn), jnp.cos(turn)
    drop = scene.height - scene.look_at
    reach = jnp.sqrt(drop * drop + scene.distance * scene.distance)
    down, ahead = drop / reach, scene.distance / reach
    step = 2 * jnp.tan(scene.field_of_view * (jnp.pi / 360)) / size
    place = (jnp.arange(size, dtype=turn.dtype) - (size - 1) / 2) * step
    x, y = place[None, :], -place[:, None]
    forward, up = ahead + y * down, y * ahead - down
    direction = (cos * x - sin * forward, up + 0 * x, sin * x + cos * forward)
    origin = (sin * scene.distance, scene.height + 0 * sin, -cos * scene.distance)
    zero = 0 * sin
    across = (step * cos, zero, step * sin)
    return Rays(
        origin, direction, across, (-step * sin * down, step * ahead + zero, step * cos * down)
    )


def above(form: Vector, rays: Rays, value: jax.Array) -> jax.Array:
    """A pixel's share on the positive side of a straight edge.

    Args:
      form: a, where ``value`` is a . direction plus a constant: zero along the edge.
      rays: the camera's.
      value: `[size, size]`.

    Returns:
      In [0, 1]: half on the edge, and 0 or 1 half a pixel away from it.
    """
    slope = dot(form, rays.across) ** 2 + dot(form, rays.down) ** 2
    return jnp.clip(0.5 + value * jax.lax.rsqrt(slope + 1e-20), 0, 1)


def dot(a: Vector, b: Vector) -> jax.Array:
    """Scalar product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def root(x: jax.Array) -> jax.Array:
    """Square root whose derivative is finite at 0 and which takes negative numbers for 0."""
    return jnp.sqrt(jnp.maximum(x, 1e-12))


class Body(NamedTuple):
    """The object: which shape, and its measures."""

    shape: jax.Array
    """0 cube, 1 cylinder, 2 sphere, 3 capsule; `[]`, floating."""
    half: jax.Array
    """Half of its height; its middle is so high above the floor."""
    radius: jax.Array
    """Of what is round, half of the side of a cube."""
    straight: jax.Array
    """Half of the length of a capsule's axis between its two balls, 0 for a sphere."""

    def choose(self, cube: jax.Array, cylinder: jax.Array, ball: jax.Array) -> jax.Array:
        """What belongs to this shape; a sphere is a capsule without a straight part."""
        return jnp.where(self.shape < 0.5, cube, jnp.where(self.shape < 1.5, cylinder, ball))


def body(shape: jax.Array, scale: jax.Array, scene: Scene) -> Body:
    """The object's measures.

    Args:
      shape: number of the shape.
      scale: factor on all lengths.
      scene: its object_size.

    Returns:
      Body.
    """
    pick = lambda *values: jnp.select([shape < k + 0.5 for k in range(3)], values[:3], values[3])
    unit = scale * scene.object_size
    return Body(
        shape,
        half=unit * pick(0.7, 0.75, 0.85, 1.0),
        radius=unit * pick(0.7, 0.7, 0.85, 0.58),
        straight=unit * pick(0.0, 0.0, 0.0, 0.42),
    )


def clearance(body: Body, start: Vector, unit: Vector) -> jax.Array:
    """How far a line passes from the object: the distance, below 0 where it hits.

    Exact for cube, sphere and capsule where a line passes near (the cube's corners stay sharp);
    to second order for the caps of the cylinder, and exact in sign.

    Args:
      body: the object.
      start: a point of the line, seen from the object's middle.
      unit: its direction, of length 1.

    Returns:
      Length, of the points' shape.
    """
    (x, y, z), (dx, dy, dz) = start, unit
    # The moment: what is left of a line when one forgets where on it one stands.
    mx, my, mz = y * dz - z * dy, z * dx - x * dz, x * dy - y * dx
    ax, ay, az = jnp.abs(dx), jnp.abs(dy), jnp.abs(dz)
    # A cube's outline is a hexagon, with a pair of sides along each of its axes.
    r = body.radius
    over_x = (jnp.abs(mx) - r * (ay + az)) * jax.lax.rsqrt(jnp.maximum(dy * dy + dz * dz, 1e-9))
    flat = jnp.maximum(dx * dx + dz * dz, 1e-9)
    per_flat = jax.lax.rsqrt(flat)
    over_y = (jnp.abs(my) - r * (ax + az)) * per_flat
    over_z = (jnp.abs(mz) - r * (ax + ay)) * jax.lax.rsqrt(jnp.maximum(dx * dx + dy * dy, 1e-9))
    cube = jnp.maximum(jnp.maximum(over_x, over_y), over_z)
    # A cylinder's is two halves of ellipses and a rectangle between them. `tall` is the height
    # of the line's nearest point to the middle, seen across the line.
    tall = y - dy * dot(start, unit)
    side = jnp.abs(my) * per_flat
    over = jnp.maximum(jnp.abs(tall) * per_flat - body.half * flat * per_flat, 0)
    short = r * jnp.maximum(ay, 1e-3)
    a, b = side / r, over / short
    k1 = root(a * a + b * b)
    k2 = root((a / r) ** 2 + (b / short) ** 2)
    cylinder = (k1 - 1) * jnp.maximum(k1 / k2, short)
    # A capsule is what lies near its axis.
    along = jnp.clip(tall / flat, -body.straight, body.straight)
    near = mx * mx + my * my + mz * mz + along * (along * flat - 2 * tall)
    return body.choose(cube, cylinder, root(near) - r)
