"""Reading what :func:`monojax.exporting.export` wrote, and running it."""

import dataclasses
import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from monojax.base.extras import require
from monojax.base.paths import local_path
from monojax.exporting.file import FORMAT, METADATA, PROGRAM
from monojax.exporting.program import running_on


@dataclasses.dataclass(frozen=True)
class Exported:
    """A model from a file, a function of batches. Works under `jit` and `grad`, not `vmap`."""

    metadata: dict[str, Any]
    """Versions, "inputs", "outputs", "platforms", "bounds", "norms", "directions",
    "feature_names", "certificate", as far as there are, and what else the file was given."""
    call: Callable[..., Any]
    """The program, compiled at its first use."""

    def __call__(self, *inputs: Any) -> Any:
        """The model's values.

        Args:
          *inputs: batches `[b, ...]` of one b, as many as the model takes; any b of at least 1.

        Returns:
          What the module returns.

        Raises:
          ValueError: on another number of inputs, another shape, or values that are no numbers.
        """
        wanted = self.metadata["inputs"]
        leaves, tree = jax.tree.flatten(inputs)
        if len(leaves) != len(wanted):
            raise ValueError(
                f"the model takes {len(wanted)} inputs, each an array of shape [b, ...], got "
                f"{len(leaves)}; lists of numbers become an array by numpy.asarray."
            )
        found = [_checked(x, want, i) for i, (x, want) in enumerate(zip(leaves, wanted))]  # noqa: B905
        if len({x.shape[0] for x in found}) > 1:
            raise ValueError(f"inputs have batches of {[x.shape[0] for x in found]} examples.")
        return self.call(*jax.tree.unflatten(tree, found))


def load_exported(path: str | os.PathLike[str]) -> Exported:
    """A model of :func:`export`, ready to be called.

    Args:
      path: the file.

    Returns:
      Exported, a callable with ``.metadata``.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file is no export, is damaged, has another format, was made for other
        platforms than the one that this process runs on, or needs 64-bit numbers that are off.
      ImportError: without the package flatbuffers (extra "export").
    """
    require("flatbuffers", "export")
    file = local_path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no exported model at {file}.")
    try:
        with zipfile.ZipFile(file) as archive:
            program, metadata = archive.read(PROGRAM), json.loads(archive.read(METADATA))
        version = metadata["format"]
    except Exception as error:  # whatever zipfile and json raise on other files
        raise ValueError(
            f"{file} is no exported model ({error}); write one by mj.export."
        ) from error
    if version != FORMAT:
        raise ValueError(f"{file} has format {version!r}, this monojax reads {FORMAT!r}.")
    if hashlib.sha256(program).hexdigest() != metadata.get("sha256"):
        raise ValueError(f"{file} is damaged: its program's checksum does not agree.")
    _check_here(file, metadata)
    try:
        exported = jax.export.deserialize(bytearray(program))
    except Exception as error:  # a program of a later jax
        raise ValueError(
            f"{file} cannot be read by jax {jax.__version__} ({type(error).__name__}: {error}); "
            f"it was written by jax {metadata['jax']}."
        ) from error
    return Exported(metadata, jax.jit(exported.call))


def _check_here(file: Any, metadata: dict[str, Any]) -> None:
    """That this process can run it."""
    here, platforms = running_on(), metadata["platforms"]
    if here not in platforms:
        raise ValueError(
            f"{file} was made for {', '.join(platforms)}, and jax runs on {here} here; export it "
            f"again with platforms=({', '.join(map(repr, [*platforms, here]))})."
        )
    wide = {"float64", "int64", "uint64", "complex128"}
    if not jax.config.read("jax_enable_x64") and any(
        each["dtype"] in wide for each in (*metadata["inputs"], *metadata["outputs"])
    ):
        raise ValueError(
            f"{file} computes in 64 bits; enable them first: "
            'jax.config.update("jax_enable_x64", True).'
        )


def _checked(x: Any, want: dict[str, Any], number: int) -> Any:
    """An input in the program's dtype; rows of other widths and texts are refused."""
    dtype = jnp.dtype(want["dtype"])
    x = x if isinstance(x, jax.Array) else np.asarray(x)
    shape = tuple(want["shape"])
    if x.ndim != len(shape) or x.shape[1:] != shape[1:] or x.shape[0] == 0:
        text = f"[{', '.join(map(str, shape))}]"
        one = x.shape == shape[1:]
        raise ValueError(
            f"input {number} must have shape {text} for a batch of b examples, got {x.shape}"
            + ("; for one example give x[None]." if one else ".")
        )
    if x.dtype == object or not (jnp.issubdtype(x.dtype, jnp.number) or x.dtype == bool):
        raise ValueError(f"input {number} must hold numbers, got {x.dtype}.")
    if jnp.issubdtype(x.dtype, jnp.floating) and not jnp.issubdtype(dtype, jnp.inexact):
        raise ValueError(f"input {number} must hold {dtype}, got {x.dtype}.")
    return x.astype(dtype)
