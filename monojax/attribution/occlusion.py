"""Maps weighed by their own activations, and images seen through them."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from monojax.attribution.cam import plus_plus
from monojax.attribution.images import resize
from monojax.base.checks import check_maps, one_of

Weights = Literal["activation", "activation_pp", "gradient", "gradient_pp"]
WEIGHTS = ("activation", "activation_pp", "gradient", "gradient_pp")


def activation_cam(
    maps: jax.Array,
    *,
    weights: Weights = "activation",
    slopes: jax.Array | None = None,
    num_classes: int | None = None,
    label: Any = None,
) -> jax.Array:
    r"""A class activation map whose weights are activations, of all maps or of one class's slice.

    :math:`\mathrm{relu}(\sum_{w\in C}\alpha_w a_w)`. Activation weights know of no class: the
    class comes in by C alone.

    Args:
      maps: of ONE example, after their ReLU, `[h, w, W]`.
      weights: "activation", :math:`\alpha_w = \mathrm{mean}_{ij}\,a_w`; "activation_pp",
        activations in the place of Grad-CAM++'s gradients,
        :math:`\alpha_w = \sum_{ij: a>0} a_{ij} / (2 + A_w a_{ij})`, :math:`A_w = \sum_{ij} a_{ij}`;
        "gradient" and "gradient_pp", Grad-CAM's and Grad-CAM++'s own, of ``slopes``.
      slopes: gradient of the class's logit at the maps, `[h, w, W]`, for the last two.
      num_classes: K, to take one slice of W / K maps only; None takes all maps.
      label: whose slice, an integer in `[0, K)`.

    Returns:
      `[h, w]`, non-negative, at the maps' own size.

    Raises:
      ValueError: on other shapes, an unknown kind of weights, slopes that are missing or not
        used, W that does not divide by K, a slice without a label or a label without slices.

    Reference:
      Monteiro et al., UAI 2022, supplement: "a variant of Grad-CAM++ that weighs maps by
      activations"; both formulas are our reading.
    """
    maps = jnp.asarray(maps)
    if maps.ndim != 3:
        raise ValueError(f"maps must be of one example, [h, w, W], got {maps.shape}; use jax.vmap.")
    one_of(weights, WEIGHTS, "weights")
    if weights.startswith("gradient") != (slopes is not None):
        raise ValueError(f"weights={weights!r} {'needs' if slopes is None else 'takes no'} slopes.")
    if slopes is not None and slopes.shape != maps.shape:
        raise ValueError(f"slopes must have the maps' shape {maps.shape}, got {slopes.shape}.")
    if (num_classes is None) != (label is None):
        raise ValueError("a slice needs both num_classes and label; leave both out for all maps.")
    alpha = _alpha(maps, weights, slopes)
    if num_classes is not None:
        size = check_maps(maps.shape[-1], num_classes)
        alpha = jnp.where(jnp.arange(maps.shape[-1]) // size == label, alpha, 0)
    return jax.nn.relu(maps @ alpha)


def mask_of(cam: jax.Array, image_size: tuple[int, int]) -> jax.Array:
    """A map as a mask: resized bilinearly, then moved and scaled to [0, 1].

    Args:
      cam: `[h, w]`.
      image_size: `(height, width)`.

    Returns:
      `[height, width]` in [0, 1]; all zeros if the map is constant.
    """
    large = resize(cam, image_size)
    low, high = large.min(), large.max()
    return jnp.where(high > low, (large - low) / jnp.where(high > low, high - low, 1), 0)


def occlude(image: jax.Array, cam: jax.Array) -> jax.Array:
    """An image through a map: every pixel times the mask there, x' = cam o x.

    Args:
      image: raw pixels, `[height, width, c]`; 0 is what an occluded pixel becomes.
      cam: `[h, w]`.

    Returns:
      `[height, width, c]`, floating.

    Raises:
      ValueError: if the image is not `[height, width, c]`.
    """
    if image.ndim != 3:
        raise ValueError(f"image must be [height, width, c], got {image.shape}; use jax.vmap.")
    return image * mask_of(cam, (image.shape[0], image.shape[1]))[..., None]


def random_mask(key: jax.Array, mask: jax.Array, cells: tuple[int, int]) -> jax.Array:
    """A control: a mask as smooth as a map's, at random places, with the same mean.

    Args:
      key: PRNG key.
      mask: `[height, width]` in [0, 1], whose mean is kept.
      cells: size of the map that the random numbers are drawn for.

    Returns:
      `[height, width]` in [0, 1].
    """
    drawn = mask_of(jax.random.uniform(key, cells), (mask.shape[0], mask.shape[1]))
    want, has = mask.mean(), drawn.mean()
    # Towards 0 or towards 1, whichever reaches the mean without leaving [0, 1].
    darker = drawn * want / jnp.where(has > 0, has, 1)
    lighter = 1 - (1 - drawn) * (1 - want) / jnp.where(has < 1, 1 - has, 1)
    return jnp.where(want <= has, darker, lighter)


def _alpha(maps: jax.Array, weights: str, slopes: jax.Array | None) -> jax.Array:
    """One weight per map, `[W]`."""
    if weights == "activation":
        return jax.nn.relu(maps).mean(axis=(0, 1))
    if weights == "gradient":
        assert slopes is not None
        return slopes.mean(axis=(0, 1))
    if weights == "activation_pp":
        total = maps.sum(axis=(0, 1), keepdims=True)
        return jnp.where(maps > 0, maps / (2 + jnp.broadcast_to(total, maps.shape) * maps), 0).sum(
            axis=(0, 1)
        )
    assert slopes is not None
    return plus_plus(slopes, maps)
