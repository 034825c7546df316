"""Class activation maps: weights from gradients, times activations."""

import jax
import jax.numpy as jnp

from monojax.attribution.common import channels_last, positive
from monojax.splitting.reading import Reading


def grad_cam_map(reading: Reading, rectify: bool = True) -> jax.Array:
    """Grad-CAM from value and gradient at a place."""
    slope, value = _slope_and_value(reading)
    weights = slope.mean(axis=tuple(range(slope.ndim - 1)))
    return positive(value @ weights, rectify)


def grad_cam_pp_map(reading: Reading, rectify: bool = True) -> jax.Array:
    """Grad-CAM++ from value and gradient at a place."""
    slope, value = _slope_and_value(reading)
    return positive(value @ plus_plus(slope, value), rectify)


def layer_cam_map(reading: Reading, rectify: bool = True) -> jax.Array:
    """LayerCAM from value and gradient at a place."""
    slope, value = _slope_and_value(reading)
    return positive((value * jnp.maximum(slope, 0)).sum(-1), rectify)


def plus_plus(slope: jax.Array, value: jax.Array) -> jax.Array:
    """Grad-CAM++'s weights, of exp(score), whose common factor cancels.

    Args:
      slope: gradient, `[positions..., channels]`.
      value: activations, shaped so.

    Returns:
      `[channels]`.
    """
    positions = tuple(range(slope.ndim - 1))
    total = jnp.broadcast_to(value.sum(axis=positions, keepdims=True), slope.shape)
    below = 2 * slope**2 + total * slope**3
    share = slope**2 / jnp.where(below == 0, 1, below)
    return (share * jnp.maximum(slope, 0)).sum(axis=positions)


def _slope_and_value(reading: Reading) -> tuple[jax.Array, jax.Array]:
    """Gradient and value at the layer, both `[positions..., channels]`."""
    slope, _ = channels_last(reading.slope[0].f, reading.layout)
    value, channels = channels_last(reading.value.f, reading.layout)
    if not channels:
        raise ValueError(
            f"the layer has shape {reading.value.f.shape}, without positions and channels that are "
            "known; choose the input of a convolution, or a value [h, w, c], or give channel_axis=."
        )
    return slope, value
