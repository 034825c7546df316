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
    labels = wide_enough(labels)
    return (labels >= 0) & (labels < num_classes)


def wide_enough(labels: jax.Array) -> jax.Array:
    """The same integers, of at least 32 bits: narrow ones cannot count up to all classes.

    Args:
      labels: integers of any shape.

    Returns:
      The values as they are.
    """
    return labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels


def own_column(values: jax.Array, labels: jax.Array) -> jax.Array:
    """Each row's entry in its label's column.

    Args:
      values: floating, `[..., n, c]`.
      labels: integers `[n]`, from :func:`monojax.base.checks.check_labels`.

    Returns:
      `[..., n]`; NaN where a label is no class, with a gradient of 0 there.
    """
    columns = wide_enough(labels).reshape(*(1,) * (values.ndim - 2), -1, 1)
    picked = jnp.take_along_axis(values, columns, axis=-1, mode="clip")[..., 0]
    inside = known_labels(labels, values.shape[-1])
    return jnp.where(inside.reshape(*(1,) * (values.ndim - 2), -1), picked, jnp.nan)
