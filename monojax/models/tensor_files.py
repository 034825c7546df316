"""Reading files of named arrays: .npz, .safetensors and PyTorch's .pth, without PyTorch."""

import io
import math
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from monojax.base.extras import require
from monojax.models.archives import open_archive
from monojax.models.torch_files import read_torch

_SAFETENSORS: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "C64": np.complex64,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_PREFIXES = ("module.", "_orig_mod.")  # of torch's DataParallel and torch.compile
_TORCH = (".pth.tar", ".pth", ".pt", ".bin", ".ckpt")


def read_tensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Arrays of a weights file by name.

    Nothing in the file is executed: a .pth is read by an unpickler that knows tensors and plain
    containers only. Of a checkpoint the parameters are taken ({"state_dict": ...}, {"model": ...});
    a prefix "module." or "_orig_mod." that all names have is left out.

    Args:
      path: a file that ends in .npz, .safetensors, .pth, .pth.tar, .pt, .bin or .ckpt.

    Returns:
      The arrays, in the file's own layout; they may be read-only.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the ending is unknown, the file is damaged, or it holds more than tensors.
      ImportError: for .safetensors without the library; names the extra.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"no weights file at {file}.")
    readers: dict[str, Any] = {".npz": _read_npz, ".safetensors": _read_safetensors}
    readers |= dict.fromkeys(_TORCH, read_torch)
    ending = next((e for e in readers if file.name.lower().endswith(e)), None)
    if ending is None:
        raise ValueError(f"{file.name} ends in none of {', '.join(readers)}.")
    try:
        return _without_prefix(readers[ending](file))
    except ImportError:
        raise
    except Exception as error:  # damaged files raise nearly every kind there is
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        raise ValueError(
            f"{file} cannot be read as weights: {kind}{error}. If it is damaged, get it again."
        ) from error


def _without_prefix(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for prefix in (*_PREFIXES, *_PREFIXES):
        if arrays and all(name.startswith(prefix) for name in arrays):
            arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
    return arrays


def _read_npz(file: Path) -> dict[str, np.ndarray]:
    with open_archive(file) as archive:
        return {name.removesuffix(".npy"): _array(archive.read(name)) for name in archive.names}


def _array(content: bytes) -> np.ndarray:
    """An array in numpy's format; its claimed size is compared before it is allocated."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    shape, _, dtype = readers[version](stream)
    if math.prod(shape) * dtype.itemsize > len(content) - stream.tell():
        raise ValueError(f"an array of shape {shape} is longer than its member of the archive")
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)


def _read_safetensors(file: Path) -> dict[str, np.ndarray]:
    library = require("safetensors", "weights")
    arrays = {}
    for name, entry in library.deserialize(file.read_bytes()):
        if entry["dtype"] not in _SAFETENSORS:
            raise ValueError(f"its tensor {name!r} has the unknown dtype {entry['dtype']}")
        values = np.frombuffer(entry["data"], _SAFETENSORS[entry["dtype"]])
        arrays[name] = values.reshape(entry["shape"])
    return arrays
