"""Names for places inside a function, where no module gives one."""

import jax
from jax.ad_checkpoint import checkpoint_name


def tag(value: jax.Array, name: str) -> jax.Array:
    """Names a value, so that maps can be asked for at ``layer=name``; changes nothing else.

    Args:
      value: an array inside a function that is to be explained or split.
      name: its name, not empty.

    Returns:
      ``value``, unchanged; works under `jit`, `vmap` and `grad`.

    Raises:
      ValueError: if ``name`` is no string or is empty.

    Example:
      >>> import jax.numpy as jnp
      >>> fn = lambda x, w: jnp.maximum(tag(w @ x, "hidden"), 0).sum()
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"a tag's name must be a string that is not empty, got {name!r}.")
    return checkpoint_name(value, name)
