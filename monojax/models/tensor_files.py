"""Reading files of named arrays: .npz, .safetensors and PyTorch's .pth, without PyTorch."""

import collections
import io
import json
import math
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

_SAFETENSORS = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_DAMAGE = (
    AttributeError, IndexError, KeyError, OSError, TypeError, pickle.UnpicklingError,
    zipfile.BadZipFile,
)  # fmt: skip
_STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


def read_tensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Arrays of a weights file by name.

    Nothing in the file is executed: a .pth is read by an unpickler that knows tensors and plain
    containers only.

    Args:
      path: a file that ends in .npz, .safetensors, .pth, .pt or .bin.

    Returns:
      The arrays, in the file's own layout.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the ending is unknown, the file is damaged, or it holds more than tensors.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"no weights file at {file}.")
    readers = {".npz": _read_npz, ".safetensors": _read_safetensors}
    readers.update(dict.fromkeys((".pth", ".pt", ".bin"), _read_torch))
    if file.suffix not in readers:
        raise ValueError(f"{file.name} ends in none of {', '.join(readers)}.")
    try:
        return readers[file.suffix](file)
    except _DAMAGE as error:
        raise ValueError(f"{file} cannot be read as weights: {error}") from error


def _read_npz(file: Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _read_safetensors(file: Path) -> dict[str, np.ndarray]:
    """Eight bytes of header length, a JSON header, the raw buffer."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise ValueError(f"{file} is shorter than its header says; get it again.")
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    buffer = memoryview(content)[8 + length :]
    arrays = {}
    for name, entry in header.items():
        dtype = np.dtype(_SAFETENSORS[entry["dtype"]])
        start, end = entry["data_offsets"]
        if end > len(buffer) or end - start != dtype.itemsize * math.prod(entry["shape"]):
            raise ValueError(f"{file} is damaged at tensor {name!r}; get it again.")
        arrays[name] = np.frombuffer(buffer[start:end], dtype).reshape(entry["shape"])
    return arrays


class _TensorUnpickler(pickle.Unpickler):
    """Rebuilds tensors of a .pth as arrays and refuses every other class."""

    def __init__(self, file: io.BytesIO, archive: zipfile.ZipFile, root: str):
        super().__init__(file)
        self._archive, self._root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict  # a plain dict cannot take a state_dict's _metadata
        if module == "torch" and name in _STORAGES:
            return np.dtype(_STORAGES[name])
        known = {"_rebuild_tensor_v2": _rebuild_tensor, "_rebuild_parameter": lambda data, *_: data}
        if module == "torch._utils" and name in known:
            return known[name]
        raise pickle.UnpicklingError(
            f"it holds {module}.{name}, not only tensors; save the model's state_dict instead"
        )

    def persistent_load(self, pid: Any) -> np.ndarray:
        _, dtype, key, _, _ = pid
        return np.frombuffer(self._archive.read(f"{self._root}/data/{key}"), dtype)


def _rebuild_tensor(storage: np.ndarray, offset: int, size: Any, stride: Any, *_: Any) -> Any:
    """A tensor's view of its storage, copied; the bounds are checked before the view is made."""
    size, stride = tuple(size), tuple(stride)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if 0 in size:
        return np.zeros(size, storage.dtype)
    if offset < 0 or min(stride, default=0) < 0 or last >= storage.size:
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    steps = [s * storage.itemsize for s in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps).copy()


def _read_torch(file: Path) -> dict[str, np.ndarray]:
    if not zipfile.is_zipfile(file):
        raise ValueError(
            f"{file} is in PyTorch's format from before version 1.6. Load and save it once with "
            "PyTorch (torch.save(torch.load(FILE, weights_only=True), NEW)), or get .safetensors."
        )
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"{file} is a zip file, but not one that torch.save wrote.")
        root = pickles[0].removesuffix("/data.pkl")
        found = _TensorUnpickler(io.BytesIO(archive.read(pickles[0])), archive, root).load()
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(v, np.ndarray) for v in found.values()):
        raise ValueError(f"{file} holds more than named tensors; save the model's state_dict.")
    return found
