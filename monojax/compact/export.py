"""A model as a program that runs without this library, on CPU, CUDA and TPU, for any batch size."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.export

from monojax.base.extras import require
from monojax.exporting.program import PLATFORMS, exported_program

Embed = Callable[[Any], Any]


def export_model(
    embed: Embed,
    example: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    platforms: tuple[str, ...] = PLATFORMS,
) -> bytes:
    """The encoder and its head as a program for any batch size, without this library.

    Args:
      embed: inputs `[b, ...]` to embeddings `[b, d]`, of JAX operations; parameters that it
        closes over become constants of the program.
      example: a batch of inputs (a pytree of arrays); only shapes and dtypes matter.
      path: where to write the program; None does not.
      platforms: what it shall run on: of "cpu", "cuda", "rocm" and "tpu".

    Returns:
      The program's bytes (StableHLO in jax.export's form).

    Raises:
      ValueError: if a leaf of the example has no leading batch axis.
      ImportError: without the package flatbuffers, which jax.export writes with.
    """
    exported = exported_program(embed, (example,), platforms)
    program = bytes(exported.serialize())
    if path is not None:
        Path(path).write_bytes(program)
    return program


def load_model(path: str | os.PathLike[str]) -> Embed:
    """A program of :func:`export_model` as a function of a batch.

    Args:
      path: the file.

    Returns:
      inputs `[b, ...]` to embeddings `[b, d]`.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is no exported program.
      ImportError: without the package flatbuffers.
    """
    content = Path(path).read_bytes()
    try:
        return as_function(content)
    except ImportError:
        raise
    except Exception as error:  # whatever the reader of the format raises
        raise ValueError(f"{path} is no exported program; write one with export_model.") from error


def as_function(program: bytes) -> Embed:
    """The program's bytes as a function of a batch.

    Args:
      program: from :func:`export_model`.

    Returns:
      inputs `[b, ...]` to embeddings `[b, d]`.

    Raises:
      ImportError: without the package flatbuffers.
    """
    require("flatbuffers", "export")
    return jax.jit(jax.export.deserialize(bytearray(program)).call)
