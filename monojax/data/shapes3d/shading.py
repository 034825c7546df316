"""How much of each surface a pixel sees, and how bright it is there."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from monojax.data.shapes3d.rays import Body, Rays, Vector, above, clearance, dot, root
from monojax.data.shapes3d.scene import Scene

FAR = 1e3
"""Inverse distance of a face that is turned away."""


class Layers(NamedTuple):
    """A picture before its colours: light per pixel that each of them is multiplied by."""

    floor: jax.Array
    wall: jax.Array
    object: jax.Array
    white: jax.Array
    """Highlight."""
    sky: jax.Array


def coverage(body: Body, rays: Rays, scene: Scene) -> jax.Array:
    """The share of each pixel that the object covers.

    Args:
      body: the object.
      rays: the camera's.
      scene: its distance.

    Returns:
      `[size, size]` in [0, 1]; above one half where the pixel's middle is on the object.
    """
    start = _from_middle(body, rays.origin)
    passing = clearance(body, start, _unit(rays.direction))
    # A pixel's height at the object's distance.
    pixel = root(dot(rays.down, rays.down)) * root(dot(start, start))
    return jnp.clip(0.5 - passing / pixel, 0, 1)


def layers(body: Body, rays: Rays, scene: Scene) -> Layers:
    """All surfaces of one picture.

    Args:
      body: the object.
      rays: the camera's.
      scene: room and light.

    Returns:
      Layers, each `[size, size]`.
    """
    covered = coverage(body, rays, scene)
    lit, white = _object(body, rays, scene)
    floor, wall, sky = _room(body, rays, scene)
    seen = 1 - covered
    return Layers(seen * floor, seen * wall, covered * lit, covered * white, seen * sky)


def _room(body: Body, rays: Rays, scene: Scene) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Floor, wall and sky, with the object's shadow.

    The inverse of the depth at which a ray meets a plane is affine in the pixel's place, and the
    plane with the largest one is seen: so every edge of the room is a straight line's equation.
    """
    (ox, oy, oz), (dx, dy, dz) = rays.origin, rays.direction
    sx, sz = jnp.where(dx > 0, 1.0, -1.0), jnp.where(dz > 0, 1.0, -1.0)
    per_x, per_z, per_y = sx / (scene.room - sx * ox), sz / (scene.room - sz * oz), -1 / oy
    ux, uz, uy = per_x * dx, per_z * dz, per_y * dy
    zero = jnp.zeros_like(per_x)
    is_x = above((per_x, zero, -per_z), rays, ux - uz)
    nearer = ux > uz
    wall = (jnp.where(nearer, per_x, 0), zero, jnp.where(nearer, 0, per_z))
    uw = jnp.maximum(ux, uz)
    on_floor = above((-wall[0], per_y + zero, -wall[2]), rays, uy - uw)
    rise = scene.wall_height - oy
    over = above((-rise * wall[0], 1 + zero, -rise * wall[2]), rays, dy - rise * uw)
    depth = 1 / jnp.maximum(jnp.maximum(uw, uy), 1e-3)
    point = (ox + depth * dx, oy + depth * dy, oz + depth * dz)
    toward, away = _toward_light(point, scene)
    direct = scene.diffuse * (1 - _shadow(body, point, toward, away, scene))
    bright = lambda cos: scene.ambient + direct * jnp.maximum(cos, 0)
    walls = is_x * bright(-sx * toward[0]) + (1 - is_x) * bright(-sz * toward[2])
    beside = 1 - on_floor
    return on_floor * bright(toward[1]), beside * (1 - over) * walls, beside * over


def _shadow(body: Body, point: Vector, toward: Vector, away: jax.Array, scene: Scene) -> jax.Array:
    """The share of the lamp that the object hides: 1 in the shadow's core."""
    start = _from_middle(body, point)
    passing = clearance(body, start, toward)
    # The cone between a point and the lamp is so wide where it passes the object.
    along = jnp.clip(-dot(start, toward) / away, 0.02, 1)
    hidden = jnp.clip(0.5 - passing / (2 * scene.light_radius * along), 0, 1)
    return hidden * hidden * (3 - 2 * hidden)


def _object(body: Body, rays: Rays, scene: Scene) -> tuple[jax.Array, jax.Array]:
    """Brightness of the object's surface and of its highlight, also just beside it."""
    start, unit = _from_middle(body, rays.origin), _unit(rays.direction)
    cube, cylinder = _cube(body, start, rays), _cylinder(body, start, rays)
    ball = _ball(body, start, unit)
    point, normal = (_choose(body, *three) for three in zip(cube, cylinder, ball, strict=True))
    square = dot(normal, normal)
    # Shorter than 1 on an edge, where it is the mean over two faces: no surface faces that way.
    face = jnp.clip(4 * square - 3, 0, 1)
    per = jax.lax.rsqrt(jnp.maximum(square, 1))
    normal = normal[0] * per, normal[1] * per, normal[2] * per
    toward, _ = _toward_light((point[0], point[1] + body.half, point[2]), scene)
    lit = scene.ambient + scene.diffuse * jnp.maximum(dot(normal, toward), 0)
    middle = _unit((toward[0] - unit[0], toward[1] - unit[1], toward[2] - unit[2]))
    glance = jnp.maximum(dot(normal, middle), 0)
    for _ in range(5):  # to the power of 32
        glance = glance * glance
    return lit, scene.shine * face * glance


def _choose(body: Body, cube: Vector, cylinder: Vector, ball: Vector) -> Vector:
    x, y, z = (body.choose(*three) for three in zip(cube, cylinder, ball, strict=True))
    return x, y, z


def _cube(body: Body, start: Vector, rays: Rays) -> tuple[Vector, Vector]:
    """Where rays enter a cube, and through which of its three faces in view."""
    forms, inverse, sides = [], [], []
    for axis in range(3):
        side = jnp.where(start[axis] > 0, 1.0, -1.0)
        beyond = jnp.abs(start[axis]) - body.radius  # how far in front of the face the camera is
        per = jnp.where(beyond > 1e-4, -side / jnp.maximum(beyond, 1e-4), 0)
        found = per * rays.direction[axis]
        inverse.append(jnp.where(found > 0, found, FAR))
        forms.append(per)
        sides.append(side)
    zero = jnp.zeros_like(forms[0])

    def entered(i):
        share = jnp.ones_like(inverse[i])
        for j in range(3):
            if i != j:
                x, y, z = (forms[k] if k == j else -forms[k] if k == i else zero for k in range(3))
                share = share * above((x, y, z), rays, inverse[j] - inverse[i])
        return share * sides[i]

    normal = entered(0), entered(1), entered(2)
    depth = 1 / jnp.minimum(jnp.minimum(*inverse[:2]), inverse[2])
    return _at(start, rays.direction, depth), normal


def _cylinder(body: Body, start: Vector, rays: Rays) -> tuple[Vector, Vector]:
    """Where rays enter an upright cylinder: its side, or its upper cap."""
    side = _at(start, rays.direction, _tube(body, start, rays.direction))
    per = jnp.minimum(rays.direction[1], -1e-4)
    depth = (body.half - start[1]) / per
    top = _at(start, rays.direction, depth)
    out = root(top[0] ** 2 + top[2] ** 2)
    # How far the point on the cap's plane moves outwards from pixel to pixel.
    slope = jnp.zeros_like(out)
    for step in (rays.across, rays.down):
        move = [(step[i] - rays.direction[i] * step[1] / per) * depth for i in (0, 2)]
        slope = slope + (move[0] * top[0] + move[1] * top[2]) ** 2
    share = jnp.clip(0.5 + (body.radius - out) * out * jax.lax.rsqrt(slope + 1e-20), 0, 1)
    x, y, z = (share * a + (1 - share) * b for a, b in zip(top, side, strict=True))
    beside = (1 - share) / body.radius
    return (x, y, z), (beside * side[0], share, beside * side[2])


def _ball(body: Body, start: Vector, unit: Vector) -> tuple[Vector, Vector]:
    """Where rays enter a sphere or an upright capsule."""
    tube = _tube(body, start, unit)
    height = start[1] + tube * unit[1]
    centre = jnp.clip(height, -body.straight, body.straight)
    seen = (start[0], start[1] - centre, start[2])
    back = dot(seen, unit)
    depth = -back - root(back * back - dot(seen, seen) + body.radius**2)
    depth = jnp.where(jnp.abs(height) < body.straight, tube, depth)
    point = _at(start, unit, depth)
    per = 1 / body.radius
    return point, (point[0] * per, (point[1] - centre) * per, point[2] * per)


def _tube(body: Body, start: Vector, direction: Vector) -> jax.Array:
    """Depth at which rays enter, or pass nearest to, an endless upright tube."""
    (x, _, z), (dx, _, dz) = start, direction
    flat, back = jnp.maximum(dx * dx + dz * dz, 1e-9), x * dx + z * dz
    return (-back - root(back * back - flat * (x * x + z * z - body.radius**2))) / flat


def _from_middle(body: Body, point: Vector) -> Vector:
    return point[0], point[1] - body.half, point[2]


def _toward_light(point: Vector, scene: Scene) -> tuple[Vector, jax.Array]:
    """Unit vectors to the light, and its distance."""
    x, y, z = (scene.light[i] - point[i] for i in range(3))
    square = jnp.maximum(x * x + y * y + z * z, 1e-12)
    per = jax.lax.rsqrt(square)
    return (x * per, y * per, z * per), square * per


def _unit(vector: Vector) -> Vector:
    per = jax.lax.rsqrt(jnp.maximum(dot(vector, vector), 1e-12))
    return vector[0] * per, vector[1] * per, vector[2] * per


def _at(start: Vector, direction: Vector, depth: jax.Array) -> Vector:
    x, y, z = (a + depth * b for a, b in zip(start, direction, strict=True))
    return x, y, z
