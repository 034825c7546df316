"""How good is a map: faithfulness, localisation, robustness, with Quantus's definitions.

Every function judges ONE example; `jax.vmap` and `jax.jit` give a batch on the device. Perturbed
images are not made one after the other: the image at step k is known from the ranks, so that
the model sees many steps at once.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from monojax.attribution.batches import in_batches
from monojax.base.checks import is_concrete
from monojax.splitting.reading import check_target

Fn = Callable[..., Any]


class Curve(NamedTuple):
    """The target's score as more and more of the image is removed."""

    auc: jax.Array
    """`[]`: area under the scores by the trapezoid rule with unit step."""
    scores: jax.Array
    """`[steps]`: score after each removal."""


def _prepared(attribution: Any, absolute: bool, scale: bool) -> jax.Array:
    attribution = jnp.asarray(attribution)
    attribution = jnp.abs(attribution) if absolute else attribution
    if not scale:
        return attribution
    # Quantus 0.6 divides by the largest size, so that the order of entries stays.
    largest = jnp.abs(attribution).max()
    return attribution / jnp.where(largest == 0, 1, largest)


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


def _spread(x: Any, attribution: Any) -> tuple[jax.Array, jax.Array]:
    """The image, and the map with an axis for channels where the image has one."""
    x, attribution = jnp.asarray(x), jnp.asarray(attribution)
    if attribution.ndim == x.ndim - 1 and attribution.shape == x.shape[:-1]:
        return x, attribution[..., None]
    if attribution.shape != x.shape:
        raise ValueError(
            f"the map has shape {attribution.shape}, the image {x.shape}: give a map [h, w] for an "
            "image [h, w] or [h, w, c]; monojax.attribution.resize brings it to that size."
        )
    return x, attribution


def selectivity(
    fn: Fn,
    x: Any,
    target: Any,
    attribution: Any,
    *,
    args: tuple = (),
    patch_size: int = 8,
    patches_in_step: int = 1,
    absolute: bool = False,
    scale: bool = True,
    softmax: bool = True,
    batch_size: int = 64,
) -> Curve:
    """Selectivity: patches are removed from the most relevant on; a lower area is better.

    Args:
      fn: maps ONE image (and args) to `[c]`.
      x: image `[h, w]` or `[h, w, c]`.
      target: the class.
      attribution: map `[h, w]`.
      args: further arguments of fn.
      patch_size: side of the square patches, a grid centred on the image, padded where the size
        does not divide.
      patches_in_step: patches removed per step; 1 in Quantus. The curve is then sampled at every
        so many patches, and its area smaller by about that factor.
      absolute: whether the map's absolute values are used.
      scale: whether the map is divided by its largest absolute value first.
      softmax: whether scores are probabilities, as by default in Quantus, or logits.
      batch_size: perturbed images the model sees at once.

    Returns:
      Curve, one score per step.

    Raises:
      ValueError: on a map of another size, a target out of range, or patches_in_step < 1.

    Reference:
      Montavon et al., 2018; as in Quantus 0.6 (patches to the image's minimum).
    """
    x, attribution = _spread(x, _prepared(attribution, absolute, scale))
    height, width = x.shape[:2]
    before = [(-n % patch_size) // 2 for n in (height, width)]
    rows = (np.arange(height) + before[0]) // patch_size
    columns = (np.arange(width) + before[1]) // patch_size
    across = math.ceil(width / patch_size)
    patches = math.ceil(height / patch_size) * across
    patch = jnp.asarray(rows[:, None] * across + columns[None, :])
    values = jnp.broadcast_to(attribution, x.shape).reshape(height, width, -1).sum(-1)
    sums = jnp.zeros(patches, values.dtype).at[patch].add(values)
    if patches_in_step < 1:
        raise ValueError(f"patches_in_step must be at least 1, got {patches_in_step}.")
    rank = (_ranks(sums) // patches_in_step)[patch]
    rank = rank.reshape(rank.shape + (1,) * (x.ndim - 2))
    steps = math.ceil(patches / patches_in_step)
    if steps < 2 <= patches:
        raise ValueError(f"one step for {patches} patches has no area: make patches_in_step less.")
    return _scores(fn, x, target, args, rank, steps, softmax, batch_size)


def _ranks(values: jax.Array) -> jax.Array:
    """0 for the largest; ties in the order they come."""
    order = jnp.argsort(-values, stable=True)
    return jnp.zeros(len(values), jnp.int32).at[order].set(jnp.arange(len(values), dtype=jnp.int32))


def pixel_flipping(
    fn: Fn,
    x: Any,
    target: Any,
    attribution: Any,
    *,
    args: tuple = (),
    features_in_step: int = 1,
    steps: int | None = None,
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
      attribution: shaped as x, or without its last axis (then a pixel's channels are removed
        one after the other).
      args: further arguments of fn.
      features_in_step: features removed per step.
      steps: number of steps; None removes everything.
      absolute: whether the map's absolute values are used.
      scale: whether the map is divided by its largest absolute value first.
      softmax: whether scores are probabilities, as by default in Quantus, or logits.
      batch_size: perturbed images the model sees at once.

    Returns:
      Curve.

    Raises:
      ValueError: on a map of another size, a target out of range, or steps out of range.

    Reference:
      Bach et al., 2015; as in Quantus 0.6.
    """
    x, attribution = _spread(x, _prepared(attribution, absolute, scale))
    most = math.ceil(x.size / features_in_step)
    steps = most if steps is None else steps
    if not 1 <= steps <= most:
        raise ValueError(f"steps must lie in [1, {most}], got {steps}.")
    flat = jnp.broadcast_to(attribution, x.shape).reshape(-1)
    rank = (_ranks(flat) // features_in_step).reshape(x.shape)
    return _scores(fn, x, target, args, rank, steps, softmax, batch_size)


def _masked(attribution: Any, mask: Any) -> tuple[jax.Array, jax.Array]:
    attribution, mask = jnp.asarray(attribution), jnp.asarray(mask)
    if attribution.shape != mask.shape:
        raise ValueError(
            f"the mask has shape {mask.shape}, the map {attribution.shape}: bring the map to the "
            "image's size with monojax.attribution.resize."
        )
    return attribution, mask.astype(bool)


def attribution_localisation(
    attribution: Any, mask: Any, *, absolute: bool = True, scale: bool = True
) -> jax.Array:
    """Share of the map that lies in the object; higher is better.

    Args:
      attribution: map `[h, w]`.
      mask: `[h, w]`, true or non-zero on the object.
      absolute: whether absolute values are used.
      scale: whether the map is divided by its largest absolute value first.

    Returns:
      `[]` in [0, 1]; NaN for an empty mask, and where values of both signs make it exceed 1.

    Raises:
      ValueError: if the shapes differ.

    Reference:
      Kohlbrenner et al., 2020; as in Quantus 0.6.
    """
    attribution, mask = _masked(_prepared(attribution, absolute, scale), mask)
    share = (attribution * mask).sum() / (attribution.sum() + 1e-9)
    return jnp.where(mask.any() & (share <= 1), share, jnp.nan)


def pointing_game(attribution: Any, mask: Any, *, absolute: bool = False) -> jax.Array:
    """1 if a largest entry of the map lies in the object, else 0; higher is better.

    Args:
      attribution: map `[h, w]`.
      mask: `[h, w]`, true or non-zero on the object.
      absolute: whether absolute values are used.

    Returns:
      `[]`, 0.0 or 1.0; NaN for an empty mask. A constant map scores 1: every pixel is a largest.

    Raises:
      ValueError: if the shapes differ.

    Reference:
      Zhang et al., 2018; as in Quantus 0.6 (which gives 1 for an empty mask, since its array of
      truth values cannot hold NaN).
    """
    attribution, mask = _masked(_prepared(attribution, absolute, False), mask)
    hit = (mask & (attribution == attribution.max())).any()
    return jnp.where(mask.any(), hit.astype(attribution.dtype), jnp.nan)


def max_sensitivity(
    key: jax.Array,
    explain: Callable[[jax.Array], jax.Array],
    x: Any,
    *,
    samples: int = 200,
    bound: float = 0.2,
    absolute: bool = False,
    scale: bool = False,
    relative_to: str = "map",
    batch_size: int = 16,
) -> jax.Array:
    """Largest change of the map under small uniform noise; lower is better.

    Args:
      key: PRNG key of the noise.
      explain: maps ONE image to its map.
      x: image.
      samples: number of noisy images.
      bound: noise is uniform in [-bound, bound].
      absolute: whether absolute values of maps are used.
      scale: whether maps are normalised first.
      relative_to: what the change is divided by: the norm of the "map" (Quantus 0.6) or of the
        "input" (as the method is often printed).
      batch_size: noisy images explained at once; on CPU a quarter of the samples or more avoids a
        loop that XLA compiles badly (`monojax.attribution.batches`).

    Returns:
      `[]`: max over samples of ||A(x) - A(x + e)|| / norm.

    Raises:
      ValueError: on an unknown ``relative_to`` or samples < 1.

    Reference:
      Yeh et al., "On the (In)fidelity and Sensitivity of Explanations", 2019.
    """
    if relative_to not in ("map", "input") or samples < 1:
        raise ValueError(
            "relative_to must be 'map' or 'input' and samples >= 1, got "
            f"{relative_to!r} and {samples}."
        )
    x = jnp.asarray(x)
    maps = lambda x: _prepared(explain(x), absolute, scale)
    here = maps(x)

    def change(key):
        noise = jax.random.uniform(key, x.shape, x.dtype, -bound, bound)
        return jnp.linalg.norm((maps(x + noise) - here).ravel())

    keys = jax.random.split(key, samples)
    changes = in_batches(change, keys, batch_size)
    return changes.max() / jnp.linalg.norm((here if relative_to == "map" else x).ravel())


def rank_correlation(a: jax.Array, b: jax.Array) -> jax.Array:
    """Spearman's correlation, with mean ranks for ties.

    Args:
      a: array.
      b: array of the same size.

    Returns:
      `[]` in [-1, 1]; NaN if one of them is constant.
    """

    def ranks(values):
        ordered = jnp.sort(values)
        left = jnp.searchsorted(ordered, values, side="left")
        right = jnp.searchsorted(ordered, values, side="right")
        return (left + right).astype(values.dtype) / 2

    return jnp.corrcoef(ranks(a.ravel()), ranks(b.ravel()))[0, 1]


def random_weights_check(
    key: jax.Array,
    explain: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    x: Any,
    *,
    absolute: bool = True,
    cascade: bool = True,
) -> dict[str, jax.Array]:
    """Does the map depend on the weights: correlation with maps of randomised networks.

    From the last layer to the first, each layer's weights are replaced by a random permutation of
    themselves; a map that explains the network should change (correlation towards 0).

    Args:
      key: PRNG key.
      explain: ``explain(params, x)`` gives the map of ONE image.
      params: weights as nested dicts whose innermost dicts are layers (linen's "params").
      x: image.
      absolute: whether absolute values of maps are used.
      cascade: whether layers randomised before stay so, or only one is random at a time.

    Returns:
      Spearman's correlation by layer, in order of randomisation.

    Raises:
      ValueError: if params is no nested dict.

    Reference:
      Adebayo et al., "Sanity Checks for Saliency Maps", 2018.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    if not leaves or not all(len(path) >= 2 for path, _ in leaves):
        raise ValueError("params must be nested dicts of layers, like linen's variables['params'].")
    size = lambda a: jnp.abs(a) if absolute else a
    want, values = size(explain(params, x)), [leaf for _, leaf in leaves]
    names = ["/".join(str(getattr(p, "key", p)) for p in path[:-1]) for path, _ in leaves]
    found: dict[str, jax.Array] = {}
    current = list(values)
    for layer in reversed(list(dict.fromkeys(names))):
        changed = current if cascade else list(values)
        for i, name in enumerate(names):
            if name == layer:
                flat = values[i].reshape(-1)
                shuffled = jax.random.permutation(jax.random.fold_in(key, i), flat)
                changed[i] = shuffled.reshape(values[i].shape)
        other = explain(jax.tree.unflatten(tree, changed), x)
        found[layer] = rank_correlation(want, size(other))
    return found


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
    steps = len(scores) if steps is None else steps
    if not 1 <= steps <= len(scores) and is_concrete(steps):
        raise ValueError(f"steps must lie in [1, {len(scores)}], got {steps}.")
    scores = scores[:steps]
    return ((scores[1:] + scores[:-1]) / 2).sum()
