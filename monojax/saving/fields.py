"""The fields of a module as JSON and back. Nothing that a file says is imported or executed.

Dictionaries with one key that starts with "$" stand for what JSON lacks: "$module", "$same" (a
module met before, counted in order), "$class", "$record", "$tuple", "$dict", "$array" (numpy),
"$jax" (a jax array), "$scalar" (numpy), "$function", "$dtype".
"""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from monojax.base import registry
from monojax.saving import format1

_ROOMS = {"jax.nn": jax.nn, "jax.numpy": jnp, "flax.linen": nn}
"""Functions a field may hold are looked up here by name, beside those that are published."""

_BESIDE: dict[Any, set[str]] = {
    "$module": {"fields"},
    "$record": {"fields"},
    "$array": {"dtype"},
    "$jax": {"dtype"},
    "$scalar": {"dtype"},
}
"""Keys that stand beside the one with the "$"."""

_FILES = ("load", "save", "savez", "fromfile")
"""Functions of those rooms that read or write files; never taken from a file."""


def encode(module: nn.Module) -> dict[str, Any]:
    """A module as JSON data.

    Args:
      module: linen module.

    Returns:
      JSON data that :meth:`Reader.read` turns into an equal module.

    Raises:
      TypeError: if a field, at any depth, has no form that can be written safely.
    """
    return _Writer().write(module, "module")


class _Writer:
    """Remembers the modules met, so that one that is shared stays one."""

    def __init__(self) -> None:
        self._met: list[nn.Module] = []

    def write(self, value: Any, where: str) -> Any:
        # Exact types: an enumeration or numpy's float64 is no plain number.
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, nn.Module):
            return self._module(value, where)
        if isinstance(value, (np.ndarray, np.generic, jax.Array)):
            return _write_array(value, where)
        if type(value) in (tuple, list):
            items = [self.write(v, f"{where}[{i}]") for i, v in enumerate(value)]
            return {"$tuple": items} if type(value) is tuple else items
        if type(value) in (dict, flax.core.FrozenDict):
            if not all(type(key) is str for key in value):
                raise TypeError(f"{where} has keys that are no strings: {list(value)[:5]}.")
            return {"$dict": {k: self.write(v, f"{where}[{k!r}]") for k, v in value.items()}}
        if isinstance(value, type) and issubclass(value, nn.Module):
            return {"$class": class_name(value)}
        if (name := _function_name(value)) is not None:
            return {"$function": name}
        if (dtype := _dtype_name(value)) is not None:
            return {"$dtype": dtype}
        if dataclasses.is_dataclass(type(value)) and (name := registry.name_of(type(value))):
            return {"$record": name, "fields": self._fields(value, where)}
        raise TypeError(
            f"{where} = {value!r} cannot be saved; use a function of {', '.join(_ROOMS)}, a "
            "record of monojax.conjugate or plain data there."
        )

    def _module(self, module: nn.Module, where: str) -> dict[str, Any]:
        for number, met in enumerate(self._met):
            if met is module:
                return {"$same": number}
        self._met.append(module)
        return {"$module": class_name(type(module)), "fields": self._fields(module, where)}

    def _fields(self, record: Any, where: str) -> dict[str, Any]:
        """Every field by name, defaults included: a later default must not change a model."""
        fields = {}
        for field in dataclasses.fields(record):
            value = getattr(record, field.name)
            if not field.init or field.name == "parent":
                continue
            try:
                fields[field.name] = self.write(value, f"{where}.{field.name}")
            except TypeError:
                if value is not field.default:  # an initialiser has no name: the default returns
                    raise
        return fields


class Reader:
    """Turns JSON data into a module.

    Args:
      version: the format of the file.
      classes: the caller's own classes by name.
    """

    def __init__(self, version: int, classes: Mapping[str, type[nn.Module]]):
        """See the class."""
        self._old, self._classes = version == 1, classes
        self._met: list[nn.Module | None] = []

    def read(self, value: Any) -> Any:
        """The inverse of :func:`encode`.

        Args:
          value: JSON data.

        Returns:
          The module, or a field's value.

        Raises:
          ValueError: on a class, record or function that is not known, fields that a class does
            not have, or data of no known form.
        """
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, list):
            return [self.read(item) for item in value]
        kind = next((key for key in value if key.startswith("$")), None)
        readers: dict[Any, Any] = {
            "$module": self._module,
            "$same": self._same,
            "$class": lambda value: self._class(value["$class"])[1],
            "$record": self._record,
            "$tuple": lambda value: tuple(map(self.read, _expect(value["$tuple"], list))),
            "$dict": lambda value: {
                key: self.read(item) for key, item in _expect(value["$dict"], dict).items()
            },
            "$array": lambda value: _read_array(value, "$array"),
            "$jax": lambda value: jnp.asarray(_read_array(value, "$jax")),
            "$scalar": lambda value: _read_array(value, "$scalar")[()],
            "$function": lambda value: _find_function(_expect(value["$function"], str)),
            "$dtype": lambda value: _read_dtype(value["$dtype"]),
        }
        want = {kind} | _BESIDE.get(kind, set())
        if kind not in readers or value.keys() != want:
            raise ValueError(f"it holds data of no known form, {_short(value)}.")
        return readers[kind](value)

    def _module(self, value: dict[str, Any]) -> nn.Module:
        name, cls = self._class(value["$module"])
        place = len(self._met)
        self._met.append(None)
        self._met[place] = module = self._make(name, cls, value["fields"])
        return module

    def _same(self, value: dict[str, Any]) -> nn.Module:
        number = value["$same"]
        found = self._met[number] if type(number) is int and 0 <= number < len(self._met) else None
        if found is None:
            raise ValueError(f"it refers to a module that it does not hold, {_short(value)}.")
        return found

    def _record(self, value: dict[str, Any]) -> Any:
        name = value["$record"]
        cls = registry.find(name) if isinstance(name, str) else None
        if not isinstance(cls, type) or issubclass(cls, nn.Module):
            raise ValueError(f"the model uses {name!r}, not known here.")
        return self._make(name, cls, value["fields"])

    def _make(self, name: str, cls: type, fields: Any) -> Any:
        """The module or record with those fields, checked to be fields of it."""
        found = {key: self.read(item) for key, item in _expect(fields, dict).items()}
        if self._old:
            found = format1.translate(name, cls, found)
        known = {field.name for field in dataclasses.fields(cls) if field.init} - {"parent"}
        if more := found.keys() - known:
            raise ValueError(
                f"the model's {name} has the fields {sorted(more)}, which {name} of this monojax "
                "has not; upgrade monojax."
            )
        try:
            return cls(**found)
        except Exception as error:  # a field is missing, or the class itself refuses a value
            raise ValueError(
                f"the model's {name} cannot be made ({type(error).__name__}: {error})."
            ) from error

    def _class(self, name: Any) -> tuple[str, type[nn.Module]]:
        """A module class by name: the caller's, a published one, or flax.linen's."""
        name = format1.class_name(_expect(name, str)) if self._old else _expect(name, str)
        found = self._classes.get(name) or registry.find(name)
        if found is None and name.startswith("flax.linen."):
            found = getattr(nn, name.removeprefix("flax.linen."), None)
        if isinstance(found, type) and issubclass(found, nn.Module):
            return name, found
        near = difflib.get_close_matches(name, [*self._classes, *registry.names()], n=3)
        raise ValueError(
            f"the model uses the class {name!r}; pass it with mj.load(path, classes=[...])"
            + (f" (known and similar: {', '.join(near)})." if near else ".")
        )


def class_name(cls: type[nn.Module]) -> str:
    """The name by which a file calls a class.

    Args:
      cls: linen class.

    Returns:
      The public name of one of monojax's or flax's; else module and name, for ``classes=``.

    Raises:
      TypeError: if the class is one of monojax's insides, which may move.
    """
    if (name := registry.name_of(cls)) is not None:
        return name
    if getattr(nn, cls.__name__, None) is cls:
        return f"flax.linen.{cls.__name__}"
    if cls.__module__.split(".")[0] == "monojax":
        raise TypeError(f"{cls.__qualname__} has no public name in monojax and cannot be saved.")
    return f"{cls.__module__}.{cls.__qualname__}"


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"it holds {_short(value)} where a {kind.__name__} belongs.")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."


def _write_array(value: Any, where: str) -> dict[str, Any]:
    if isinstance(value, jax.core.Tracer):
        raise TypeError(f"{where} is traced; save outside of jit.")
    kind = "$jax" if isinstance(value, jax.Array) else "$scalar"
    kind = "$array" if isinstance(value, np.ndarray) else kind
    if _dtype_name(value.dtype) is None or jnp.issubdtype(value.dtype, np.complexfloating):
        raise TypeError(f"{where} is an array of {value.dtype}, which cannot be saved.")
    array = np.asarray(value)
    return {kind: array.tolist(), "dtype": array.dtype.name}  # by name: in this byte order


def _read_array(value: dict[str, Any], kind: str) -> np.ndarray:
    dtype = _read_dtype(value["dtype"])
    try:
        return np.asarray(value[kind], dtype=dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"it holds an array that is none, {_short(value)}.") from error


def _dtype_name(value: Any) -> str | None:
    """Name of a numeric dtype or scalar type, None for everything else."""
    if not isinstance(value, (type, np.dtype)):
        return None
    try:
        dtype = jnp.dtype(value)
    except TypeError:
        return None
    return dtype.name if jnp.issubdtype(dtype, np.number) or dtype == np.bool_ else None


def _read_dtype(name: Any) -> np.dtype:
    try:
        dtype = jnp.dtype(_expect(name, str)).newbyteorder("=")
    except TypeError:
        dtype = None
    if dtype is None or _dtype_name(dtype) is None:
        raise ValueError(f"it holds the dtype {name!r}, not known here.")
    return dtype


def _function_name(value: Any) -> str | None:
    """A function's public name; by identity, so that a file never means another one."""
    if not callable(value) or isinstance(value, type):
        return None
    if (name := registry.name_of(value)) is not None:
        return name
    short = getattr(value, "__name__", "")
    for room, module in _ROOMS.items():
        if short and getattr(module, short, None) is value:
            return f"{room}.{short}"
    return None


def _find_function(name: str) -> Any:
    """A published function, or a public one of jax or flax that touches no files."""
    room, _, short = name.rpartition(".")
    found = registry.find(name) or getattr(_ROOMS.get(room), short, None)
    if short.startswith("_") or short in _FILES or not callable(found) or isinstance(found, type):
        raise ValueError(f"the model uses the function {name!r}, not known here.")
    return found
