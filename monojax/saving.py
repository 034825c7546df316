"""A trained model as one folder: the module's fields as JSON, its variables by orbax. No pickle."""

import dataclasses
import difflib
import importlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import monojax
from monojax.base.checksum import tree_checksum
from monojax.base.extras import require
from monojax.conjugate import activations
from monojax.conjugate.solvers import Solver

MODEL = "model.json"
VARIABLES = "variables"
# Functions a field may hold: looked up here by name, never imported from what a file says.
_FUNCTION_ROOMS = {
    "jax.nn": jax.nn,
    "jax.numpy": jnp,
    "flax.linen": nn,
    "monojax.conjugate": SimpleNamespace(squared_relu=activations.squared_relu),
}
# Frozen dataclasses a field may hold, under the names that a file uses.
_RECORDS: dict[str, Any] = {
    "monojax.conjugate.Activation": activations.Activation,
    "monojax.conjugate.Solver": Solver,
    "monojax.conjugate.SoftplusSlopes": activations.SoftplusSlopes,
    "monojax.conjugate.SoftplusValue": activations.SoftplusValue,
}
# Where monojax's own modules are defined; imported before a class is looked up.
_CLASS_ROOMS = ("monojax.models", "monojax.layers", "monojax.bilipschitz")


def save(
    path: str | os.PathLike, module: nn.Module, variables: Any, *, overwrite: bool = False
) -> Path:
    """Writes a model to a new folder, all at once.

    Args:
      path: the folder; must not exist yet unless ``overwrite``.
      module: linen module; its fields must be numbers, strings, None, sequences, dictionaries,
        dtypes, other modules, functions of `jax.nn`, `jax.numpy` or `flax.linen`, a
        `monojax.conjugate.Activation` of those, a `monojax.conjugate.Solver` with a named method,
        or defaults.
      variables: its variables, as `module.init` returns them.
      overwrite: replace a model that is there.

    Returns:
      The absolute path.

    Raises:
      FileExistsError: if the path exists and ``overwrite`` is False, or holds something that
        is no model.
      TypeError: if a field has no form that can be written safely.
    """
    path = Path(path).absolute()
    if path.exists() and not (overwrite and (path / MODEL).is_file()):
        raise FileExistsError(
            f"{path} exists; nothing was written. Choose another path"
            + ("." if overwrite else ", or pass overwrite=True to replace a model.")
        )
    record = {"format": 1, "monojax": monojax.__version__, "module": _encode(module, "module")}
    ocp = require("orbax.checkpoint", "train")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        host = jax.tree.map(lambda leaf: np.asarray(jax.device_get(leaf)), dict(variables))
        (temporary / "model").mkdir()
        if jax.tree.leaves(host):  # orbax refuses an empty tree
            with ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(temporary / "model" / VARIABLES, host)
        record["checksum"] = tree_checksum(host)
        (temporary / "model" / MODEL).write_text(json.dumps(record, indent=2) + "\n")
        _put_in_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def load(
    path: str | os.PathLike, *, classes: Iterable[type[nn.Module]] = ()
) -> tuple[nn.Module, Any]:
    """Reads a model that :func:`save` wrote. Nothing in the folder is executed.

    Args:
      path: the folder.
      classes: linen module classes of your own that the model uses; classes of monojax and
        flax.linen are known.

    Returns:
      ``(module, variables)``; use ``module.apply(variables, x)``.

    Raises:
      FileNotFoundError: if the folder holds no model.
      ValueError: if the model uses a class or a function that is not known, has another format,
        or is damaged.
    """
    path = Path(path).absolute()
    file = path / MODEL
    if not file.is_file():
        raise FileNotFoundError(f"{path} holds no {MODEL}; is it a folder written by mj.save?")
    try:
        record = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}).") from error
    if record.get("format") != 1:
        raise ValueError(
            f"{file} has format {record.get('format')!r}, this monojax reads format 1; upgrade it."
        )
    known = {_class_name(c): c for c in classes}
    module = _decode(record["module"], known)
    return module, jax.tree.map(_to_device, _read_variables(path / VARIABLES, record["checksum"]))


def _put_in_place(temporary: Path, path: Path) -> None:
    """Renames the finished folder to its name; on failure the old model comes back."""
    old = temporary.with_name(f"{temporary.name}.old")  # beside it: a crash must not lose it
    try:
        if path.exists():
            os.replace(path, old)
        os.replace(temporary / "model", path)
    except BaseException:
        if old.exists() and not path.exists():
            os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _read_variables(path: Path, checksum: int) -> Any:
    """Host arrays of a saved model; raises if a bit of them has changed."""
    ocp = require("orbax.checkpoint", "train")
    if checksum == tree_checksum({}) and not path.exists():
        return {}
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            variables = jax.tree.map(np.asarray, checkpointer.restore(path))
    except Exception as error:  # whatever orbax raises on a damaged file
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}).") from error
    if tree_checksum(variables) != checksum:
        raise ValueError(f"{path} is damaged: its checksum does not agree with its content.")
    return variables


def _to_device(leaf: np.ndarray) -> jax.Array:
    array = jnp.asarray(leaf)
    if array.dtype != leaf.dtype:
        warnings.warn(
            f"the model holds {leaf.dtype}, read as {array.dtype}; set jax_enable_x64 to keep it.",
            stacklevel=4,
        )
    return array


def _encode(value: Any, where: str) -> Any:
    """JSON form of a field; dictionaries with a "$" key stand for everything JSON lacks."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, nn.Module):
        return {"$module": _class_name(type(value)), "fields": _encode_fields(value, where)}
    for record, cls in _RECORDS.items():
        if type(value) is cls:
            return {"$record": record, "fields": _encode_fields(value, where)}
    if isinstance(value, (tuple, list)):
        items = [_encode(v, f"{where}[{i}]") for i, v in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, type) and issubclass(value, nn.Module):
        return {"$class": _class_name(value)}
    if hasattr(value, "items") and not isinstance(value, type):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"{where} has keys that are no strings: {list(value)[:5]}.")
        return {"$dict": {k: _encode(v, f"{where}[{k!r}]") for k, v in value.items()}}
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        array = np.asarray(value)
        return {"$array": array.tolist(), "dtype": str(array.dtype)}
    if (name := _function_name(value)) is not None:
        return {"$function": name}
    if (dtype := _dtype_name(value)) is not None:
        return {"$dtype": dtype}
    raise TypeError(
        f"{where} = {value!r} cannot be saved; use a function of "
        f"{', '.join(_FUNCTION_ROOMS)} or plain data there."
    )


def _encode_fields(record: Any, where: str) -> dict[str, Any]:
    """Every field by name, defaults included: a later version's default must not change a model."""
    fields = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if not field.init or field.name == "parent":
            continue
        try:
            fields[field.name] = _encode(value, f"{where}.{field.name}")
        except TypeError:
            if value is not field.default:  # a default without a name (an initialiser) comes back
                raise
    return fields


def _decode(value: Any, known: dict[str, type[nn.Module]]) -> Any:
    """The inverse of :func:`_encode`."""
    if isinstance(value, list):
        return [_decode(item, known) for item in value]
    if not isinstance(value, dict):
        return value
    if "$module" in value:
        cls = _find_class(value["$module"], known)
        return cls(**{k: _decode(v, known) for k, v in value["fields"].items()})
    if "$class" in value:
        return _find_class(value["$class"], known)
    if "$record" in value:
        if value["$record"] not in _RECORDS:
            raise ValueError(f"the model uses {value['$record']!r}, not known here.")
        return _RECORDS[value["$record"]](
            **{k: _decode(v, known) for k, v in value["fields"].items()}
        )
    if "$tuple" in value:
        return tuple(_decode(item, known) for item in value["$tuple"])
    if "$dict" in value:
        return {k: _decode(v, known) for k, v in value["$dict"].items()}
    if "$array" in value:
        return np.asarray(value["$array"], dtype=jnp.dtype(value["dtype"]))
    if "$function" in value:
        return _find_function(value["$function"])
    return jnp.dtype(value["$dtype"])


def _find_function(name: str) -> Any:
    """A public function of one of the rooms that neither reads nor writes files."""
    room, _, short = name.rpartition(".")
    found = getattr(_FUNCTION_ROOMS.get(room), short, None)
    files = ("load", "save", "savez", "fromfile")
    if short.startswith("_") or short in files or not callable(found) or isinstance(found, type):
        raise ValueError(f"the model uses the function {name!r}, not known here.")
    return found


def _dtype_name(value: Any) -> str | None:
    """Name of a numeric dtype or scalar type, None for everything else."""
    if not isinstance(value, (type, np.dtype)):
        return None
    try:
        dtype = jnp.dtype(value)
    except TypeError:
        return None
    return dtype.name if jnp.issubdtype(dtype, np.number) or dtype == np.bool_ else None


def _find_class(name: str, known: dict[str, type[nn.Module]]) -> type[nn.Module]:
    """A module class by name: the caller's, flax.linen's, or one of monojax's."""
    for room in _CLASS_ROOMS:  # names come from here, never from the file
        importlib.import_module(room)
    own = {_class_name(cls): cls for cls in _subclasses(nn.Module) if _is_ours(cls)}
    table = own | known
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=3)
    raise ValueError(
        f"the model uses the class {name!r}; pass it with mj.load(path, classes=[...])"
        + (f" (known and similar: {', '.join(near)})." if near else ".")
    )


def _is_ours(cls: type) -> bool:
    return cls.__module__.split(".")[0] in ("monojax", "flax")


def _subclasses(cls: type) -> set[type]:
    found: set[type] = set(cls.__subclasses__())
    return found.union(*(_subclasses(sub) for sub in found)) if found else found


def _class_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _function_name(value: Any) -> str | None:
    """``room.name`` if the value is that very object, by identity."""
    if not callable(value) or isinstance(value, type):
        return None
    name = getattr(value, "__name__", "")
    for room, module in _FUNCTION_ROOMS.items():
        if name and getattr(module, name, None) is value:
            return f"{room}.{name}"
    return None
