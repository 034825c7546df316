"""Scenes of a room with one object, after the 3D Shapes data set, drawn here instead of loaded.

Six factors make a scene: the hues of floor, wall and object, the object's scale and shape, and how
far the camera has turned around it. :func:`render` draws them in JAX with analytic rays, soft
shadows and smooth edges; nothing is downloaded.

What differs from the published set (Burgess and Kim, "3D Shapes Dataset", 2018, 480,000 images
that MuJoCo drew): camera, light, sizes of room and objects, saturation and surface are ours, so
images look alike but pixels differ; hues, scales, shapes and orientations take the same values
(:func:`factor_grid`), and here everything in between as well. Their object is a cube, cylinder,
sphere or capsule under the numbers that they have here. :func:`published` reads their set.
"""

from monojax.data.shapes3d.published import PublishedShapes3D, published
from monojax.data.shapes3d.rendering import object_mask, render
from monojax.data.shapes3d.scene import (
    FACTORS,
    SHAPES,
    Scene,
    factor_grid,
    factor_values,
    random_factors,
)

__all__ = [
    "FACTORS",
    "SHAPES",
    "PublishedShapes3D",
    "Scene",
    "factor_grid",
    "factor_values",
    "object_mask",
    "published",
    "random_factors",
    "render",
]
