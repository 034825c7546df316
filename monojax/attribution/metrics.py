"""How good is a map: faithfulness, localisation, robustness, with Quantus's definitions.

Every function judges ONE example; `jax.vmap` and `jax.jit` give a batch on the device.
"""

from typing import Any

import jax
import jax.numpy as jnp

from monojax.attribution.removal import Curve, area, pixel_flipping, prepared, selectivity
from monojax.attribution.robustness import max_sensitivity, random_weights_check, rank_correlation

__all__ = [
    "Curve",
    "area",
    "attribution_localisation",
    "max_sensitivity",
    "pixel_flipping",
    "pointing_game",
    "random_weights_check",
    "rank_correlation",
    "selectivity",
]


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
    attribution, mask = _masked(prepared(attribution, absolute, scale), mask)
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
    attribution, mask = _masked(prepared(attribution, absolute, False), mask)
    hit = (mask & (attribution == attribution.max())).any()
    return jnp.where(mask.any(), hit.astype(attribution.dtype), jnp.nan)
