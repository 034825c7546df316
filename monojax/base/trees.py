"""Pytrees as orbax writes them: which can be read back as they were."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def leaf_names(tree: Any) -> dict[str, Any]:
    """Leaves by the name under which orbax writes them.

    Args:
      tree: pytree.

    Returns:
      Name to leaf.

    Raises:
      ValueError: if two leaves would be written under one name, as {"a.b": x, "a": {"b": y}}.
    """
    names: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = ".".join(str(_part(entry)) for entry in path)
        if name in names:
            raise ValueError(
                f"two arrays would be written under the name {name!r}; rename a key that has a "
                "dot in it."
            )
        names[name] = leaf
    return names


def check_leaf(leaf: Any, where: str) -> None:
    """Raises TypeError if a leaf is no array that a file can hold.

    Args:
      leaf: array, number or PRNG key.
      where: for the message.

    Raises:
      TypeError: on strings, objects, traced values and other things.
    """
    if isinstance(leaf, jax.core.Tracer):
        raise TypeError(f"{where} is traced; save outside of jit.")
    if not isinstance(leaf, (bool, int, float, complex, np.ndarray, np.generic, jax.Array)):
        raise TypeError(f"{where} is a {type(leaf).__name__}, which cannot be saved; use arrays.")
    dtype = np.asarray(leaf).dtype if not isinstance(leaf, jax.Array) else leaf.dtype
    kinds = (np.number, np.bool_, jax.dtypes.prng_key)
    if not any(jnp.issubdtype(dtype, kind) for kind in kinds):
        raise TypeError(f"{where} is an array of {dtype}, which cannot be saved.")


def shapes(tree: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name to (shape, dtype), of arrays or of orbax's metadata of them.

    Args:
      tree: pytree.

    Returns:
      What two trees must agree in.
    """
    return {
        name: (tuple(leaf.shape), np.dtype(leaf.dtype).name)
        for name, leaf in leaf_names(tree).items()
    }


def _part(entry: Any) -> Any:
    for field in ("key", "idx", "name"):
        if hasattr(entry, field):
            return getattr(entry, field)
    return entry
