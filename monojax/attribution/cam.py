"""Class activation maps: weights from gradients, times activations."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from monojax.attribution.common import channels_last, explain
from monojax.splitting.modes import Mode
from monojax.splitting.reading import Reading

Fn = Callable[..., Any]


def _slope_and_value(reading: Reading) -> tuple[jax.Array, jax.Array]:
    """Gradient and value at the layer, both `[positions..., channels]`."""
    slope, _ = channels_last(reading.slope[0].f, reading.layout)
    value, channels = channels_last(reading.value.f, reading.layout)
    if not channels:
        raise ValueError(
            f"the layer has shape {reading.value.f.shape}, without positions and channels; "
            "choose the input of a convolution, or a tag on [h, w, c]."
        )
    return slope, value


def _at(fn: Fn, x: Any, target: Any, args: tuple, layer: Any) -> Reading:
    return explain(fn, x, target, args, layer, Mode(), spatial=True)[0]


def grad_cam_of(reading: Reading, rectify: bool = True) -> jax.Array:
    """Grad-CAM from value and gradient at a place."""
    slope, value = _slope_and_value(reading)
    weights = slope.mean(axis=tuple(range(slope.ndim - 1)))
    return _rectified((value * weights).sum(-1), rectify)


def grad_cam_pp_of(reading: Reading, rectify: bool = True) -> jax.Array:
    """Grad-CAM++ from value and gradient at a place."""
    slope, value = _slope_and_value(reading)
    positions = tuple(range(slope.ndim - 1))
    below = 2 * slope**2 + value.sum(axis=positions) * slope**3
    share = slope**2 / jnp.where(below == 0, 1, below)
    weights = (share * jnp.maximum(slope, 0)).sum(axis=positions)
    return _rectified((value * weights).sum(-1), rectify)


def layer_cam_of(reading: Reading, rectify: bool = True) -> jax.Array:
    """LayerCAM from value and gradient at a place."""
    slope, value = _slope_and_value(reading)
    return _rectified((value * jnp.maximum(slope, 0)).sum(-1), rectify)


def grad_cam(
    fn: Fn, x: Any, target: Any, *, args: tuple = (), layer: Any = None, rectify: bool = True
) -> jax.Array:
    """Grad-CAM: channels weighted by the mean of their gradient over positions.

    Args:
      fn: maps ONE example (and args) to `[c]` or a scalar.
      x: one example.
      target: the class, an integer.
      args: further arguments of fn.
      layer: where: a module path or its end, a tag, a number of split_report; None for the input
        of the last convolution that sees more than one position.
      rectify: negative values become 0, as published.

    Returns:
      `[h, w]` at the layer's own size.

    Raises:
      ValueError: on a wrong layer, target or option, a batch, NaN, a primitive without a rule.

    Reference:
      Selvaraju et al., "Grad-CAM", 2017, arXiv 1610.02391.
    """
    return grad_cam_of(_at(fn, x, target, args, layer), rectify)


def grad_cam_pp(
    fn: Fn, x: Any, target: Any, *, args: tuple = (), layer: Any = None, rectify: bool = True
) -> jax.Array:
    """Grad-CAM++: positive gradients weighted by their share in the score's curvature.

    Args:
      fn: as in :func:`grad_cam`.
      x: one example.
      target: the class.
      args: further arguments of fn.
      layer: where, as in :func:`grad_cam`.
      rectify: negative values become 0.

    Returns:
      `[h, w]`.

    Raises:
      ValueError: as :func:`grad_cam`.

    Reference:
      Chattopadhay et al., "Grad-CAM++", 2018, arXiv 1710.11063; derivatives of exp(score), whose
      common factor cancels.
    """
    return grad_cam_pp_of(_at(fn, x, target, args, layer), rectify)


def layer_cam(
    fn: Fn, x: Any, target: Any, *, args: tuple = (), layer: Any = None, rectify: bool = True
) -> jax.Array:
    """LayerCAM: positive gradients times activations, position by position.

    Args:
      fn: as in :func:`grad_cam`.
      x: one example.
      target: the class.
      args: further arguments of fn.
      layer: where, as in :func:`grad_cam`.
      rectify: negative values become 0.

    Returns:
      `[h, w]`.

    Raises:
      ValueError: as :func:`grad_cam`.

    Reference:
      Jiang et al., "LayerCAM", IEEE TIP 2021.
    """
    return layer_cam_of(_at(fn, x, target, args, layer), rectify)


def _rectified(cam: jax.Array, rectify: bool) -> jax.Array:
    return jnp.maximum(cam, 0) if rectify else cam
