"""Public names of what a saved model may be made of: linen classes, records, functions.

A file holds public names (`monojax.BLNN`, `monojax.layers.ICNN`), never the place of a definition,
so code may move. Every package fills the registry in its `__init__`; a name that has been published
is never taken away, since folders on somebody's disk hold it.
"""

import importlib
import sys
from typing import Any

import flax.linen as nn

_THINGS: dict[str, Any] = {}
_LATER: list[str] = []


def publish(room: str, *also: Any) -> None:
    """Publishes the linen classes that a package names in ``__all__``, and other things.

    To be called at the end of the package's `__init__`.

    Args:
      room: the package, `__name__`.
      *also: classes and functions beyond those, named by their ``__name__``.

    Raises:
      ValueError: if a name is taken by something else.
    """
    here = vars(sys.modules[room])
    things = {name: here[name] for name in here["__all__"] if _is_module_class(here.get(name))}
    for name, thing in (things | {thing.__name__: thing for thing in also}).items():
        name = f"{room}.{name}"
        if _THINGS.setdefault(name, thing) is not thing:
            raise ValueError(f"the public name {name!r} is taken by {_THINGS[name]!r}.")


def publish_later(*rooms: str) -> None:
    """Names packages that publish when they are imported, which :func:`find` does at need.

    Args:
      *rooms: dotted names of packages.
    """
    _LATER.extend(room for room in rooms if room not in _LATER)


def find(name: str) -> Any:
    """What is published under a name; only packages of :func:`publish_later` are imported.

    Args:
      name: dotted public name.

    Returns:
      The class or function, None if there is none of that name.
    """
    if name not in _THINGS:
        _import_later()
    return _THINGS.get(name)


def name_of(thing: Any) -> str | None:
    """The public name of a class or function: the shortest, if it has several.

    Args:
      thing: a class or function, compared by identity.

    Returns:
      The dotted name, None if it was never published.
    """
    names = [name for name, other in _THINGS.items() if other is thing]
    return min(names, key=lambda name: (name.count("."), name), default=None)


def names() -> list[str]:
    """All public names, those of packages that publish later included, in order."""
    _import_later()
    return sorted(_THINGS)


def _import_later() -> None:
    for room in _LATER:
        importlib.import_module(room)


def _is_module_class(thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, nn.Module)
