"""A function as a program of StableHLO that runs without this library, for any batch size."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import one_of
from monojax.base.extras import require

PLATFORMS = ("cpu", "cuda", "tpu")
KNOWN_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def exported_program(
    fn: Callable[..., Any], examples: tuple[Any, ...], platforms: tuple[str, ...]
) -> jax.export.Exported:
    """The program of a function of batches, its batch size left open.

    Args:
      fn: of JAX operations; arrays that it closes over become constants of the program.
      examples: one batch per argument (pytrees of arrays); only shapes and dtypes matter.
      platforms: what it shall run on: of "cpu", "cuda", "rocm" and "tpu".

    Returns:
      jax.export's record; its batch size is the symbol "b".

    Raises:
      ValueError: on another platform, or if a leaf has no leading batch axis.
      ImportError: without the package flatbuffers, which jax.export writes with.
    """
    require("flatbuffers", "export")
    if isinstance(platforms, str) or not len(platforms):
        raise ValueError(f"platforms must be a tuple such as {PLATFORMS}, got {platforms!r}.")
    for platform in platforms:
        one_of(platform, KNOWN_PLATFORMS, "platforms")
    leaves, tree = jax.tree.flatten(examples)
    if not leaves or any(np.ndim(leaf) == 0 for leaf in leaves):
        raise ValueError("example must be a batch: arrays with one leading axis.")
    (batch,) = jax.export.symbolic_shape("b")
    shapes = [
        jax.ShapeDtypeStruct((batch, *np.shape(leaf)[1:]), jnp.result_type(leaf)) for leaf in leaves
    ]
    given = jax.tree.unflatten(tree, shapes)
    with without_places():
        # Not the caller's own jit: what it was lowered to before names places.
        once = jax.jit(lambda *batches: fn(*batches))
        return jax.export.export(once, platforms=tuple(platforms))(*given)


@contextlib.contextmanager
def without_places() -> Iterator[None]:
    """No names of source files in what is lowered: a file that is handed on would tell folders.

    Derivatives are lowered when the record is serialised: that belongs inside, too.
    """
    before = jax.config.jax_traceback_in_locations_limit  # type: ignore[attr-defined]
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)


def running_on() -> str:
    """The platform of this process, as jax.export names it."""
    platform = jax.default_backend()
    if platform != "gpu":
        return platform
    version = getattr(jax.devices()[0].client, "platform_version", "")
    return "rocm" if "rocm" in version.lower() else "cuda"
