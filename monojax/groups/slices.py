"""The last feature maps divided among the classes, and what each class's slice sums up to."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import cast_finite, check_maps, is_concrete


def class_slices(num_maps: int, num_classes: int) -> tuple[slice, ...]:
    """The slice of maps of every class: contiguous, of equal size, in class order.

    Args:
      num_maps: W, the number of feature maps.
      num_classes: K.

    Returns:
      K slices into the channel axis.

    Raises:
      ValueError: if W does not divide by K; it proposes the nearest numbers that do.
    """
    size = check_maps(num_maps, num_classes)
    return tuple(slice(k * size, (k + 1) * size) for k in range(num_classes))


def total_activation(features: jax.Array, num_classes: int) -> jax.Array:
    r"""What every class's slice of maps sums up to, :math:`T_k = \sum_{w\in S_k}\sum_{ij} a_w[ij]`.

    Args:
      features: floating, shape `[b, h, w, W]` (any number of position axes) or `[b, W]`.
      num_classes: K; W must divide by it.

    Returns:
      `[b, K]`, float32 at least.

    Raises:
      ValueError: if W does not divide by K, on another rank, or on NaN in concrete features.
      TypeError: if the features are not floating point.
    """
    features = check_features(features, num_classes)
    return slice_sums(features, num_classes)


def check_features(features: Any, num_classes: int) -> jax.Array:
    """Features as an array `[b, ..., W]`, floating, W a multiple of the classes.

    Args:
      features: array-like, `[b, h, w, W]` (any number of position axes) or `[b, W]`.
      num_classes: K.

    Returns:
      The same values as a `jax.Array`.

    Raises:
      ValueError: if W does not divide by K, on another rank, or on NaN in concrete features.
      TypeError: if the features are not floating point.
    """
    features = features if isinstance(features, jax.Array) else np.asarray(features)
    if features.ndim < 2 or 0 in features.shape:
        raise ValueError(
            f"features must have shape [b, h, w, maps] or [b, maps], got {features.shape}; for "
            "one example pass features[None]."
        )
    if not jnp.issubdtype(features.dtype, jnp.floating):
        raise TypeError(f"features must be floating point, got {features.dtype}.")
    check_maps(features.shape[-1], num_classes)
    if is_concrete(features):
        flat = np.asarray(features).reshape(len(features), -1)
        bad = int((~np.isfinite(flat)).any(axis=1).sum())
        if bad:
            raise ValueError(
                f"features of {bad} of {len(features)} examples have NaN or infinite values."
            )
        cast_finite(features, features.dtype, "features")
    return jnp.asarray(features)


def slice_sums(values: jax.Array, num_classes: int) -> jax.Array:
    """Sums over positions and slices, in float32 at least.

    Args:
      values: `[b, ..., W]`.
      num_classes: K.

    Returns:
      `[b, K]`.
    """
    wide = jnp.promote_types(values.dtype, jnp.float32)
    # Positions first: the sum over a slice is then over few numbers.
    over_positions = values.sum(axis=tuple(range(1, values.ndim - 1)), dtype=wide)
    return over_positions.reshape(len(values), num_classes, -1).sum(axis=2)
