"""PyTorch's .pth files without PyTorch: nothing in them is run, nothing larger is allocated."""

import collections
import io
import math
import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from monojax.models.archives import Archive, open_archive

_STORAGES: dict[str, Any] = {
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
    "UntypedStorage": np.uint8,
}
_DTYPES: dict[str, Any] = {
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
}
"""Of tensors that torch keeps in untyped storages."""
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")
"""Keys under which checkpoints keep the parameters beside an optimiser, an epoch, ..."""


def read_torch(file: Path) -> dict[str, np.ndarray]:
    """Arrays of a file that `torch.save` wrote: a state_dict, or a checkpoint that holds one.

    Args:
      file: its path.

    Returns:
      The arrays by name, read-only views of what the file holds.

    Raises:
      ValueError: if it is in the format from before PyTorch 1.6, holds more than tensors, or
        several sets of them.
      Exception: many kinds, on damaged files.
    """
    if not zipfile.is_zipfile(file):
        raise ValueError(
            "it is in PyTorch's format from before version 1.6, or no weights file. Load and save "
            "it once with PyTorch (torch.save(torch.load(FILE, weights_only=True), NEW)), or get "
            ".safetensors"
        )
    with open_archive(file) as archive:
        pickles = [name for name in archive.names if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("it is a zip file, but not one that torch.save wrote")
        content = archive.read(pickles[0])
        _check_memo(content)
        root = pickles[0].removesuffix("/data.pkl")
        found = _Unpickler(content, archive, root).load()
    return {name: tensor.array for name, tensor in _unwrapped(found).items()}


class _Tensor:
    """A tensor while it is unpickled; not an array, whose state a pickle could set."""

    __slots__ = ("array",)

    def __init__(self, array: np.ndarray):
        self.array = array


def _unwrapped(found: Any) -> dict[str, _Tensor]:
    """The named tensors of a file, behind at most two wrappers."""
    for _ in range(3):
        if _are_tensors(found):
            return found
        inner = [key for key in WRAPPERS if _get(found, key) and _has_tensors(_get(found, key))]
        if len(inner) > 1:
            raise ValueError(
                f"it holds several sets of tensors ({', '.join(inner)}); save the one that is meant"
            )
        if not inner:
            break
        found = found[inner[0]]
    raise ValueError("it holds more than named tensors; save the model's state_dict")


def _get(found: Any, key: str) -> Any:
    return found.get(key) if isinstance(found, dict) else None


def _has_tensors(found: Any) -> bool:
    """True for named tensors and for a wrapper of them."""
    return _are_tensors(found) or any(_are_tensors(_get(found, key)) for key in WRAPPERS)


def _are_tensors(found: Any) -> bool:
    return (
        isinstance(found, dict)
        and len(found) > 0
        and all(isinstance(name, str) for name in found)
        and all(isinstance(tensor, _Tensor) for tensor in found.values())
        and all(isinstance(tensor.array, np.ndarray) for tensor in found.values())
    )


def _check_memo(content: bytes) -> None:
    """Refuses a pickle whose memo would be larger than itself: C's unpickler allocates it."""
    for opcode, argument, _ in pickletools.genops(content):
        if "PUT" in opcode.name and isinstance(argument, int) and argument > len(content):
            raise pickle.UnpicklingError(f"its memo has a place {argument}")


class _Unpickler(pickle.Unpickler):
    """Rebuilds tensors and refuses every other class."""

    def __init__(self, content: bytes, archive: Archive, root: str):
        super().__init__(io.BytesIO(content))
        self._archive, self._root = archive, root
        self._storages: dict[tuple[str, str], np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict  # a plain dict cannot take a state_dict's _metadata
        if module in ("torch", "torch.storage") and name in (_STORAGES | _DTYPES):
            return name  # as text: a pickle could set the state of a dtype
        known = {
            "_rebuild_tensor_v2": _rebuild_tensor,
            "_rebuild_tensor_v3": _rebuild_typed,
            "_rebuild_parameter": _rebuild_parameter,
        }
        if module == "torch._utils" and name in known:
            return known[name]
        raise pickle.UnpicklingError(
            f"it holds {module}.{name}, not only tensors; save the model's state_dict instead"
        )

    def persistent_load(self, pid: Any) -> _Tensor:
        """The storage that a tensor names: kind, member, place, number of elements."""
        _, kind, key, _, _ = pid
        if (kind, key) not in self._storages:
            content = self._archive.read(f"{self._root}/data/{key}")
            self._storages[kind, key] = np.frombuffer(content, _STORAGES[kind])
        return _Tensor(self._storages[kind, key])


def _rebuild_tensor(storage: _Tensor, offset: int, size: Any, stride: Any, *_: Any) -> _Tensor:
    """A tensor's view of its storage; the bounds are checked before the view is made."""
    values, size, stride = storage.array, tuple(size), tuple(stride)
    if not all(isinstance(n, int) for n in (offset, *size, *stride)):
        raise pickle.UnpicklingError("a tensor's shape is not made of integers")
    if min((offset, *size, *stride)) < 0:
        raise pickle.UnpicklingError("a tensor has a negative size, stride or offset")
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    count = math.prod(size)
    if count == 0:
        return _Tensor(np.zeros(size, values.dtype))
    if last >= values.size or count > values.size:
        raise pickle.UnpicklingError(
            f"a tensor of {count} elements reaches beyond its storage of {values.size}; save a "
            "copy (tensor.contiguous())"
        )
    steps = [s * values.itemsize for s in stride]
    return _Tensor(np.lib.stride_tricks.as_strided(values[offset:], size, steps, writeable=False))


def _rebuild_typed(
    storage: _Tensor, offset: int, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: str,
    *_: Any,
) -> _Tensor:  # fmt: skip
    """A tensor of a kind that has no storage of its own."""
    typed = _Tensor(storage.array.view(_DTYPES[dtype]))
    return _rebuild_tensor(typed, offset, size, stride)


def _rebuild_parameter(data: _Tensor, *_: Any) -> _Tensor:
    return data
