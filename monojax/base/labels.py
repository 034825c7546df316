"""Picking by labels. A traced label out of range cannot raise: what it would pick is NaN."""

import jax
import jax.numpy as jnp


def known_labels(labels: jax.Array, num_classes: int) -> jax.Array:
    """Which labels are classes.

    Args:
      labels: integers, `[n]`.
      num_classes: c.

    Returns:
      bool `[n]`.
    """
    return (labels >= 0) & (labels < num_classes)


def own_column(values: jax.Array, labels: jax.Array) -> jax.Array:
    """Each row's entry in its label's column.

    Args:
      values: floating, `[..., n, c]`.
      labels: integers `[n]`, from :func:`monojax.base.checks.check_labels`.

    Returns:
      `[..., n]`; NaN where a label is no class, with a gradient of 0 there.
    """
    columns = labels.reshape(*(1,) * (values.ndim - 2), -1, 1)
    picked = jnp.take_along_axis(values, columns, axis=-1, mode="clip")[..., 0]
    inside = known_labels(labels, values.shape[-1])
    return jnp.where(inside.reshape(*(1,) * (values.ndim - 2), -1), picked, jnp.nan)
