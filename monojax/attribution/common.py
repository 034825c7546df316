"""From a reading at a layer to a map: what all methods share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from monojax.splitting.modes import Mode
from monojax.splitting.pair import Split
from monojax.splitting.reading import Reading, at_step, prepare, read
from monojax.splitting.sites import Layout, Site, find_site

REDUCE = ("sum", "mean", "none")


def explain(
    fn: Callable[..., Any],
    x: Any,
    target: Any,
    args: tuple[Any, ...],
    layer: Any,
    mode: Mode,
    *,
    seed: tuple[float, float] = (1.0, 0.0),
    shifts: dict[int, Any] | None = None,
    spatial: bool = False,
) -> tuple[Reading, Split]:
    """Value and derivative at one layer.

    Args:
      fn: maps ONE example to `[c]`.
      x: the example.
      target: the class.
      args: further arguments.
      layer: as the public functions take it.
      mode: what the walk carries.
      seed: derivatives of the result on the output's value and mass.
      shifts: fixed re-centring.
      spatial: whether None means the last spatial convolution instead of the input.

    Returns:
      ``(reading, the output's pair)``.

    Raises:
      ValueError: on bad layers, targets, shapes, NaN.
    """
    ready = prepare(fn, x, args, mode, shifts)
    if spatial and layer is None:
        layer = _last_spatial(ready.sites)
    index, step = find_site(ready.sites, layer)
    readings, out = read(ready, [index], [seed], target)
    return at_step(readings[index], step), out


def _last_spatial(sites: tuple[Site, ...]) -> int:
    for site in reversed(sites):
        layout = site.layout
        if site.kind == "conv" and layout is not None and not site.steps:
            size = 1
            for axis in layout.spatial:
                size *= site.shape[axis]
            if size > 1:
                return site.index
    raise ValueError(
        "fn has no convolution over positions to take a map at; give layer= a name or a number "
        "from monojax.split_report(fn, x)."
    )


def channels_last(array: jax.Array, layout: Layout | None) -> tuple[jax.Array, bool]:
    """``array`` as `[positions..., channels]`, and whether it has channels at all.

    Args:
      array: values at a place.
      layout: its axes, where a convolution or product tells.

    Returns:
      ``(array, has channels)``; batch axes of size 1 are gone.

    Raises:
      ValueError: if there is a batch axis of another size.
    """
    if layout is not None:
        if layout.batch >= 0 and array.shape[layout.batch] != 1:
            raise ValueError(
                f"the layer sees {array.shape[layout.batch]} examples at once, {array.shape}; fn "
                "must map ONE example: use jax.vmap over this call for a batch."
            )
        if layout.batch >= 0:
            array = jnp.moveaxis(
                array, (layout.batch, *layout.spatial, layout.feature), range(array.ndim)
            )
            return array[0], True
        return jnp.moveaxis(array, (*layout.spatial, layout.feature), range(array.ndim)), True
    while array.ndim > 1 and array.shape[0] == 1:
        array = array[0]
    return array, array.ndim >= 3


def to_map(array: jax.Array, layout: Layout | None, reduce: str) -> jax.Array:
    """Attributions per entry as a map over positions.

    Args:
      array: one number per entry of the value at a place.
      layout: its axes.
      reduce: over channels: "sum", "mean", or "none" for `[h, w, c]`.

    Returns:
      `[h, w]`, or `[h, w, c]`; places without channels (a vector, a grey image) are returned whole.

    Raises:
      ValueError: on another ``reduce``, or a batch.
    """
    if reduce not in REDUCE:
        raise ValueError(f"reduce must be one of {REDUCE}, got {reduce!r}.")
    array, channels = channels_last(array, layout)
    if reduce == "none" or not channels:
        return array
    return array.sum(-1) if reduce == "sum" else array.mean(-1)
