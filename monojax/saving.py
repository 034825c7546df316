"""A trained model as one folder: the module's fields as JSON, its variables by orbax. No pickle."""

import dataclasses
import difflib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import monojax
from monojax.conjugate import activations
from monojax.conjugate.solvers import Solver
from monojax.extras import require

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
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(temporary / "model" / VARIABLES, host)
        (temporary / "model" / MODEL).write_text(json.dumps(record, indent=2) + "\n")
        if path.exists():
            os.replace(path, temporary / "old")
        os.replace(temporary / "model", path)
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
      ValueError: if the model uses a class or a function that is not known, or another format.
    """
    path = Path(path).absolute()
    file = path / MODEL
    if not file.is_file():
        raise FileNotFoundError(f"{path} holds no {MODEL}; is it a folder written by mj.save?")
    record = json.loads(file.read_text())
    if record.get("format") != 1:
        raise ValueError(
            f"{file} has format {record.get('format')!r}, this monojax reads format 1; upgrade it."
        )
    known = {_class_name(c): c for c in classes}
    module = _decode(record["module"], known)
    ocp = require("orbax.checkpoint", "train")
    with ocp.StandardCheckpointer() as checkpointer:
        variables = checkpointer.restore(path / VARIABLES)
    return module, jax.tree.map(jnp.asarray, variables)


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
    if isinstance(value, dict) or hasattr(value, "items"):
        return {"$dict": {str(k): _encode(v, f"{where}[{k!r}]") for k, v in value.items()}}
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        array = np.asarray(value)
        return {"$array": array.tolist(), "dtype": str(array.dtype)}
    if (name := _function_name(value)) is not None:
        return {"$function": name}
    if isinstance(value, (type, np.dtype)):
        return {"$dtype": np.dtype(value).name}
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
        room, _, name = value["$function"].rpartition(".")
        if room not in _FUNCTION_ROOMS or not hasattr(_FUNCTION_ROOMS[room], name):
            raise ValueError(f"the model uses the function {value['$function']!r}, not known here.")
        return getattr(_FUNCTION_ROOMS[room], name)
    return jnp.dtype(value["$dtype"])


def _find_class(name: str, known: dict[str, type[nn.Module]]) -> type[nn.Module]:
    """A module class by name: the caller's, flax.linen's, or one of monojax's already defined."""
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
