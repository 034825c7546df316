"""How fast the score falls when the image is removed piece by piece, as in Quantus 0.6.

Perturbed images are not made one after the other: the image at step k is known from the ranks, so
that the model sees many steps at once.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from monojax.attribution.batches import in_batches
from monojax.attribution.common import NO_CHANNELS, axis_of
from monojax.attribution.counts import count
from monojax.splitting.axes import Axes
from monojax.splitting.reading import check_target
from monojax.splitting.transform import trace

Fn = Callable[..., Any]


class Curve(NamedTuple):
    """The target's score as more and more of the image is removed."""

    auc: jax.Array
    """`[]`: area under the scores by the trapezoid rule with unit step."""
    scores: jax.Array
    """`[steps]`: score after each removal."""


def prepared(attribution: Any, absolute: bool, scale: bool) -> jax.Array:
    """A map as the measures take it.

    Args:
      attribution: map.
      absolute: whether absolute values are taken.
      scale: whether it is divided by its largest absolute value.

    Returns:
      The map.
    """
    attribution = jnp.asarray(attribution)
    attribution = jnp.abs(attribution) if absolute else attribution
    if not scale:
        return attribution
    # Quantus 0.6 divides by the largest size, so that the order of entries stays.
    largest = jnp.abs(attribution).max()
    return attribution / jnp.where(largest == 0, 1, largest)


def selectivity(
    fn: Fn,
    x: Any,
    target: Any,
    attribution: Any,
    *,
    args: tuple = (),
    patch_size: int = 8,
    patches_in_step: int = 1,
    channel_axis: Any = None,
    absolute: bool = False,
    scale: bool = True,
    softmax: bool = True,
    batch_size: int = 64,
) -> Curve:
    """Selectivity: patches are removed from the most relevant on; a lower area is better.

    Args:
      fn: maps ONE image (and args) to `[c]`.
      x: image `[h, w]`, `[h, w, c]` or `[c, h, w]`.
      target: the class.
      attribution: map `[h, w]`, or shaped as x.
      args: further arguments of fn.
      patch_size: side of the square patches, a grid centred on the image, padded where the size
        does not divide.
      patches_in_step: patches removed per step; 1 in Quantus. The curve is then sampled at every
        so many patches, and its area smaller by about that factor.
      channel_axis: the axis of x that holds channels, or "none"; None takes the one that fn's
        convolutions tell.
      absolute: whether the map's absolute values are used.
      scale: whether the map is divided by its largest absolute value first.
      softmax: whether scores are probabilities, as by default in Quantus, or logits.
      batch_size: perturbed images the model sees at once.

    Returns:
      Curve, one score per step.

    Raises:
      ValueError: on a map of another size, axes that are not known, a target out of range, or
        patches_in_step < 1.

    Reference:
      Montavon et al., 2018; as in Quantus 0.6 (patches to the image's minimum).
    """
    x, attribution = jnp.asarray(x), prepared(attribution, absolute, scale)
    axis = _channels(fn, x, args, channel_axis, attribution)
    positions = [i for i in range(x.ndim) if i != axis]
    if len(positions) != 2:
        raise ValueError(f"patches need an image [h, w] with or without channels, got {x.shape}.")
    values = jnp.broadcast_to(_spread(attribution, x, axis), x.shape)
    values = values if axis is None else values.sum(axis)
    height, width = values.shape
    patch_size = count(patch_size, "patch_size")
    patches_in_step = count(patches_in_step, "patches_in_step")
    before = [(-n % patch_size) // 2 for n in (height, width)]
    rows = (np.arange(height) + before[0]) // patch_size
    columns = (np.arange(width) + before[1]) // patch_size
    across = math.ceil(width / patch_size)
    patches = math.ceil(height / patch_size) * across
    patch = jnp.asarray(rows[:, None] * across + columns[None, :])
    sums = jnp.zeros(patches, values.dtype).at[patch].add(values)
    rank = (_ranks(sums) // patches_in_step)[patch]
    steps = math.ceil(patches / patches_in_step)
    if steps < 2 <= patches:
        raise ValueError(f"one step for {patches} patches has no area: make patches_in_step less.")
    rank = rank if axis is None else jnp.expand_dims(rank, axis)
    return _scores(fn, x, target, args, rank, steps, softmax, batch_size)


def pixel_flipping(
    fn: Fn,
    x: Any,
    target: Any,
    attribution: Any,
    *,
    args: tuple = (),
    features_in_step: int = 1,
    steps: int | None = None,
    channel_axis: Any = None,
    absolute: bool = False,
    scale: bool = True,
    softmax: bool = True,
    batch_size: int = 64,
) -> Curve:
    """Pixel flipping: features are removed from the most relevant on.

    Usually a lower area is better; over the first few steps ("AUC@20") some papers print the
    opposite arrow, so say which.

    Args:
      fn: maps ONE image (and args) to `[c]`.
      x: image, any shape.
      target: the class.
      attribution: shaped as x, or without its channels (then a pixel's channels are removed one
        after the other).
      args: further arguments of fn.
      features_in_step: features removed per step.
      steps: number of steps; None removes everything.
      channel_axis: as in :func:`selectivity`; not needed for a map of x's shape.
      absolute: whether the map's absolute values are used.
      scale: whether the map is divided by its largest absolute value first.
      softmax: whether scores are probabilities, as by default in Quantus, or logits.
      batch_size: perturbed images the model sees at once.

    Returns:
      Curve.

    Raises:
      ValueError: on a map of another size, axes that are not known, a target out of range, or
        steps out of range.

    Reference:
      Bach et al., 2015; as in Quantus 0.6.
    """
    x, attribution = jnp.asarray(x), prepared(attribution, absolute, scale)
    axis = None
    if attribution.shape != x.shape:
        axis = _channels(fn, x, args, channel_axis, attribution)
    features_in_step = count(features_in_step, "features_in_step")
    most = math.ceil(x.size / features_in_step)
    steps = most if steps is None else count(steps, "steps", most)
    spread = jnp.broadcast_to(_spread(attribution, x, axis), x.shape)
    last = lambda a: a if axis is None else jnp.moveaxis(a, axis, -1)
    flat = last(spread)
    rank = (_ranks(flat.reshape(-1)) // features_in_step).reshape(flat.shape)
    rank = rank if axis is None else jnp.moveaxis(rank, -1, axis)
    return _scores(fn, x, target, args, rank, steps, softmax, batch_size)


def area(scores: Any, steps: int | None = None) -> jax.Array:
    """Area under the first steps of a curve, trapezoid rule with unit step ("AUC@steps").

    Args:
      scores: `[n]`.
      steps: how many scores to use; None for all.

    Returns:
      `[]`.

    Raises:
      ValueError: if there are fewer scores.
    """
    scores = jnp.asarray(scores)
    steps = len(scores) if steps is None else count(steps, "steps", len(scores))
    scores = scores[:steps]
    return ((scores[1:] + scores[:-1]) / 2).sum()


def _channels(fn: Fn, x: jax.Array, args: tuple, channel_axis: Any, map_: jax.Array) -> int | None:
    """The axis of x that holds channels, or None if there is none."""
    if isinstance(channel_axis, str) and channel_axis == NO_CHANNELS:
        return None
    if channel_axis is not None:
        return axis_of(channel_axis, x.shape)
    traced = trace(fn, x, args)
    layout = Axes(traced.closed).layout(traced.closed.jaxpr.invars[0])
    if layout is not None:
        return layout.feature if layout.feature >= 0 else None
    if x.ndim == 2 and map_.shape == x.shape:
        return None
    raise ValueError(
        f"which axis of the image of shape {x.shape} holds channels is not known: no convolution "
        f"of fn tells. Give channel_axis= (-1 for [h, w, c], 0 for [c, h, w], or {NO_CHANNELS!r})."
    )


def _spread(attribution: jax.Array, x: jax.Array, axis: int | None) -> jax.Array:
    """The map with an axis for channels where the image has one."""
    if attribution.shape == x.shape:
        return attribution
    shape = tuple(n for i, n in enumerate(x.shape) if i != axis)
    if attribution.shape != shape:
        raise ValueError(
            f"the map has shape {attribution.shape}, the image {x.shape}: give a map {shape}; "
            "monojax.attribution.resize brings it to that size."
        )
    assert axis is not None
    return jnp.expand_dims(attribution, axis)


def _ranks(values: jax.Array) -> jax.Array:
    """0 for the largest; ties in the order they come."""
    order = jnp.argsort(-values, stable=True)
    return jnp.zeros(len(values), jnp.int32).at[order].set(jnp.arange(len(values), dtype=jnp.int32))


def _scores(
    fn: Fn, x: jax.Array, target: Any, args: tuple, rank: jax.Array, steps: int, softmax: bool,
    batch_size: int,
) -> Curve:  # fmt: skip
    """Scores of the images in which all entries of rank <= k have the image's minimum."""
    out = jax.eval_shape(lambda x: fn(x, *args), x)
    weights = check_target(target, out.shape[0] if out.shape else None)
    black = x.min()

    def score(k):
        logits = fn(jnp.where(rank <= k, black, x), *args)
        logits = jax.nn.softmax(logits) if softmax else logits
        return (logits * weights).sum()

    scores = in_batches(score, jnp.arange(steps), batch_size)
    return Curve(((scores[1:] + scores[:-1]) / 2).sum(), scores)
