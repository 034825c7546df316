"""Variables as orbax writes them, and a description that gives them back as they were.

Orbax keeps a tree of arrays of dictionaries. What it would change or refuse is described beside
it: tuples, lists, None, PRNG keys, empty dictionaries and arrays without elements.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.core
import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.extras import require
from monojax.base.trees import check_leaf, leaf_names, shapes


def pack(variables: Any) -> tuple[Any, dict[str, Any]]:
    """A description in JSON data, and the tree of host arrays that orbax is to write.

    Args:
      variables: nested dictionaries, tuples and lists of arrays.

    Returns:
      ``(description, tree)``.

    Raises:
      TypeError: on a container, a key or a leaf that could not be read back.
      ValueError: if orbax would write two arrays under one name.
    """
    description, tree = _pack(variables, "variables")
    tree = {} if tree is None else tree
    leaf_names(tree)
    return description, tree


def unpack(description: Any, tree: Any) -> Any:
    """The inverse of :func:`pack`.

    Args:
      description: from the file.
      tree: as orbax read it.

    Returns:
      Host arrays and PRNG keys in the containers that they were in.

    Raises:
      ValueError: if the two do not belong together.
    """
    try:
        return _unpack(description, tree)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError("its variables are not those that it describes") from error


def write(path: Path, tree: dict[str, Any]) -> None:
    """Writes a tree and reads its metadata back.

    Args:
      path: a new folder.
      tree: nested dictionaries of host arrays.

    Raises:
      ValueError: if orbax did not write what it was given.
    """
    if not jax.tree.leaves(tree):  # orbax refuses an empty tree
        return
    ocp = require_orbax()
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)
        checkpointer.wait_until_finished()
        found = checkpointer.metadata(path)
    found = getattr(found, "item_metadata", found)
    found = getattr(found, "tree", found)
    wrote, reads = shapes(tree), shapes(found)
    if wrote != reads:
        bad = min(name for name in wrote.keys() | reads if wrote.get(name) != reads.get(name))
        raise ValueError(f"orbax cannot read back what it wrote at {bad}; give it another name.")


def read(path: Path) -> dict[str, Any]:
    """Host arrays that :func:`write` wrote.

    Args:
      path: the folder; absent if the tree was empty.

    Returns:
      Nested dictionaries.

    Raises:
      ValueError: if orbax cannot read it.
    """
    if not path.exists():
        return {}
    ocp = require_orbax()
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return jax.tree.map(np.asarray, checkpointer.restore(path))
    except Exception as error:  # whatever orbax raises on a damaged file
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}).") from error


def to_device(leaf: Any) -> jax.Array:
    """A host array as a jax array, with a warning where 64 bits are cut.

    Args:
      leaf: numpy array, or a PRNG key.

    Returns:
      jax.Array.
    """
    if isinstance(leaf, jax.Array):
        return leaf
    array = jnp.asarray(leaf)
    if array.dtype != leaf.dtype:
        warnings.warn(
            f"the model holds {leaf.dtype}, read as {array.dtype}; set jax_enable_x64 to keep it.",
            stacklevel=4,
        )
    return array


def require_orbax() -> Any:
    """Orbax, which costs half a second to import: with the first save, not with monojax."""
    return require("orbax.checkpoint")


def _pack(value: Any, where: str) -> tuple[Any, Any]:
    if value is None:
        return None, None
    if type(value) in (dict, flax.core.FrozenDict):
        return _pack_dict(value, where)
    if type(value) in (tuple, list):
        parts = [_pack(item, f"{where}[{i}]") for i, item in enumerate(value)]
        kind = "$tuple" if type(value) is tuple else "$list"
        tree = {str(i): part for i, (_, part) in enumerate(parts) if part is not None}
        return {kind: [description for description, _ in parts]}, tree or None
    array, impl = _host(value, where)
    leaf = {"$leaf": array.dtype.name, "shape": list(array.shape)} | ({"key": impl} if impl else {})
    return leaf, array if array.size else None


def _pack_dict(value: Mapping[Any, Any], where: str) -> tuple[Any, Any]:
    description, tree = {}, {}
    for key, item in value.items():
        if type(key) is not str or not key or key.startswith("$"):
            raise TypeError(
                f"{where} has the key {key!r}; keys must be strings that are not empty and do "
                "not begin with '$'."
            )
        description[key], part = _pack(item, f"{where}[{key!r}]")
        if part is not None:
            tree[key] = part
    return description, tree or None


def _host(value: Any, where: str) -> tuple[np.ndarray, str]:
    """A leaf as a host array in this machine's byte order, and a key's implementation."""
    check_leaf(value, where)
    impl = ""
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        impl, value = str(jax.random.key_impl(value)), jax.random.key_data(value)
    elif type(value) in (bool, int, float, complex):
        value = jnp.asarray(value)
    array = np.asarray(jax.device_get(value))
    return array.astype(array.dtype.newbyteorder("="), copy=False), impl


def _unpack(description: Any, tree: Any) -> Any:
    if description is None:
        return None
    if "$leaf" in description:
        dtype, shape = jnp.dtype(description["$leaf"]), tuple(description["shape"])
        array = np.zeros(shape, dtype) if 0 in shape else tree
        if not isinstance(array, np.ndarray) or (array.dtype, array.shape) != (dtype, shape):
            raise ValueError("its variables are not those that it describes")
        if "key" in description:
            return jax.random.wrap_key_data(jnp.asarray(array), impl=description["key"])
        return array
    for kind, make in (("$tuple", tuple), ("$list", list)):
        if kind in description:
            parts = {} if tree is None else tree
            return make(_unpack(d, parts.get(str(i))) for i, d in enumerate(description[kind]))
    parts = {} if tree is None else tree
    return {key: _unpack(item, parts.get(key)) for key, item in description.items()}
