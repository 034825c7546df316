"""From a reading at a layer to a map: what all methods share."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import one_of
from monojax.splitting.modes import Mode
from monojax.splitting.reading import Prepared, Reading, at_step, prepare, read
from monojax.splitting.sites import INPUT, Layout, find_site

REDUCE = ("sum", "mean", "none")
NO_CHANNELS = "none"
SEED = (1.0, 0.0)
"""Derivatives of the result on the output's value and mass: those of fn itself."""
SEED_G = (0.5, 0.5)
"""And those of g."""


class Recipe(NamedTuple):
    """How a method makes its map of what is read at a place."""

    mode: Mode
    """What the walk carries."""
    formula: Callable[[Reading], jax.Array]
    seed: tuple[float, float] = SEED
    shifts: dict[int, Any] | None = None
    """Fixed re-centring."""


def read_at(
    fn: Callable[..., Any],
    x: Any,
    target: Any,
    args: tuple[Any, ...],
    layers: Sequence[Any],
    recipe: Recipe,
    channel_axis: Any = None,
    spatial: bool = False,
) -> list[Reading]:
    """Values and derivatives at layers, from one forward and one backward pass.

    Args:
      fn: maps ONE example to `[c]`.
      x: the example.
      target: the class.
      args: further arguments.
      layers: as the public functions take them.
      recipe: of the method.
      channel_axis: as the public functions take it.
      spatial: whether None means the last spatial convolution instead of the input.

    Returns:
      One reading a layer.

    Raises:
      ValueError: on bad layers, targets, shapes, NaN.
    """
    ready = prepare(fn, x, args, recipe.mode, recipe.shifts)
    default = lambda layer: last_spatial(ready) if spatial and layer is None else layer
    places = [find_site(ready.sites, default(layer)) for layer in layers]
    indices = list(dict.fromkeys(index for index, _ in places)) or [INPUT]
    readings, _ = read(ready, indices, [recipe.seed], target)
    found = [at_step(readings[index], step) for index, step in places]
    return [dataclasses.replace(at, layout=told(at, channel_axis)) for at in found]


def last_spatial(ready: Prepared) -> int:
    """The last convolution that reads more than one position.

    Args:
      ready: the traced function.

    Returns:
      Its number.

    Raises:
      ValueError: if there is none.
    """
    for site in reversed(ready.sites):
        layout = site.layout
        if site.kind != "conv" or layout is None or site.steps:
            continue
        if np.prod([site.shape[axis] for axis in layout.spatial]) > 1:
            return site.index
    raise ValueError(
        "fn has no convolution over positions to take a map at; give layer= a name or a number "
        "from monojax.split_report(fn, x)."
    )


def told(reading: Reading, channel_axis: Any) -> Layout | None:
    """The layout at a place, where the user says which axis holds the channels.

    Args:
      reading: what was read there.
      channel_axis: None for the axes that were followed; an axis; "none" if there are no channels.

    Returns:
      Layout.

    Raises:
      ValueError: on an axis that is not there.
    """
    shape, known = tuple(reading.value.f.shape), reading.layout
    if channel_axis is None:
        return known
    none = isinstance(channel_axis, str) and channel_axis == NO_CHANNELS
    feature = -1 if none else axis_of(channel_axis, shape)
    batch = known is not None and known.batch == 0 and shape[0] == 1
    skip = batch or (len(shape) > 3 and shape[0] == 1)
    spatial = [axis for axis in range(len(shape)) if axis != feature and not (skip and axis == 0)]
    return Layout(-1, feature, tuple(spatial))


def axis_of(channel_axis: Any, shape: tuple[int, ...]) -> int:
    """An axis of a value of that shape, counted from the first.

    Args:
      channel_axis: what the user gave.
      shape: of the value.

    Returns:
      int.

    Raises:
      ValueError: if there is no such axis.
    """
    known = isinstance(channel_axis, int | np.integer) and not isinstance(channel_axis, bool)
    if not known or not -len(shape) <= channel_axis < len(shape):
        raise ValueError(
            f"channel_axis must be an axis of a value of shape {shape}, an integer, or "
            f"{NO_CHANNELS!r} if it has no channels; got {channel_axis!r}."
        )
    return int(channel_axis) % len(shape)


def channels_last(array: jax.Array, layout: Layout | None) -> tuple[jax.Array, bool]:
    """``array`` as `[positions..., channels]`, and whether it has channels at all.

    Args:
      array: values at a place.
      layout: its axes, where they are known.

    Returns:
      ``(array, has channels)``; other axes of length 1 are gone.

    Raises:
      ValueError: if there is a batch, or an image whose axes are not known.
    """
    if layout is None:
        while array.ndim > 1 and array.shape[0] == 1:
            array = array[0]
        if array.ndim < 3:
            return array, False
        raise ValueError(
            f"which axis of the value of shape {array.shape} at this layer holds channels is not "
            "known: no convolution tells, or two disagree. Give channel_axis=, an axis of it "
            f"(-1 for [h, w, c], 0 for [c, h, w]), or {NO_CHANNELS!r} if it has no channels."
        )
    if layout.batch >= 0 and array.shape[layout.batch] != 1:
        raise ValueError(
            f"the layer sees {array.shape[layout.batch]} examples at once, {array.shape}; fn "
            "must map ONE example: use jax.vmap over this call for a batch. If that axis holds "
            "positions of one example, say so by channel_axis=."
        )
    kept = (*layout.spatial, *((layout.feature,) if layout.feature >= 0 else ()))
    others = tuple(axis for axis in range(array.ndim) if axis not in kept)
    array = array.transpose(*others, *kept)
    return array.reshape(array.shape[len(others) :]), layout.feature >= 0


def to_map(array: jax.Array, layout: Layout | None, reduce: str) -> jax.Array:
    """Attributions per entry as a map over positions.

    Args:
      array: one number per entry of the value at a place.
      layout: its axes.
      reduce: over channels: "sum", "mean", or "none" for `[h, w, c]` (axes that are not known stay
        in their order).

    Returns:
      `[h, w]`, or `[h, w, c]`; places without channels (a vector, a grey image) are returned whole.

    Raises:
      ValueError: on another ``reduce``, a batch, or axes that are not known.
    """
    one_of(reduce, REDUCE, "reduce")
    if reduce == "none" and layout is None:
        while array.ndim > 1 and array.shape[0] == 1:
            array = array[0]
        return array
    array, channels = channels_last(array, layout)
    if reduce == "none" or not channels:
        return array
    return array.sum(-1) if reduce == "sum" else array.mean(-1)


def positive(cam: jax.Array, rectify: bool) -> jax.Array:
    """``cam``, its negative values 0 if asked for."""
    return jnp.maximum(cam, 0) if rectify else cam
