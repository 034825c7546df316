"""Does a map stand noise, and does it depend on the weights."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from monojax.attribution.batches import in_batches
from monojax.attribution.counts import count
from monojax.attribution.removal import prepared
from monojax.base.checks import one_of


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
    one_of(relative_to, ("map", "input"), "relative_to")
    samples = count(samples, "samples")
    x = jnp.asarray(x)
    maps = lambda x: prepared(explain(x), absolute, scale)
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
