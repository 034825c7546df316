"""Checks of a config's values, with messages that name what was found and what there is."""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from monojax.base.checks import one_of
from monojax.training import write_atomically
from monojax.training.workdir import WorkdirError

__all__ = ["above", "at_least", "choice", "near", "one_of", "same_inputs", "value"]

NOTE = "input.json"
"""File in a work directory with the digests of the files that it was made from."""


def near(name: str, known: Iterable[str]) -> str:
    """The closest of the known names as a question, or all of them.

    Args:
      name: what was typed.
      known: what exists.

    Returns:
      Text to end an error with.
    """
    known = list(known)
    matches = difflib.get_close_matches(name, known, n=3)
    if matches:
        return f"did you mean {' or '.join(matches)}?"
    return f"there is: {', '.join(known) or 'nothing'}."


def value(config: Any, key: str) -> Any:
    """The value at a dotted key.

    Args:
      config: nested mapping.
      key: such as "recipe.batch_size".

    Returns:
      What is there.
    """
    for part in key.split("."):
        config = config[part]
    return config


def choice(config: Any, choices: Iterable[Any], *keys: str, at: str = "config") -> None:
    """Raises unless the values, or all entries of those that are tuples, are among the choices.

    Args:
      config: nested mapping.
      choices: what there is.
      *keys: dotted keys.
      at: what the message calls ``config``.

    Raises:
      ValueError: naming the first wrong one, the choices and what is near.
    """
    choices = list(choices)
    for key in keys:
        found = value(config, key)
        for entry in found if isinstance(found, (tuple, list)) else (found,):
            one_of(entry, choices, f"{at}.{key}")


def at_least(config: Any, bound: float, *keys: str, at: str = "config") -> None:
    """Raises unless the values are at least so large; of a tuple or a group, its length.

    Args:
      config: nested mapping.
      bound: the least allowed value; NaN never passes.
      *keys: dotted keys.
      at: what the message calls ``config``.

    Raises:
      ValueError: naming the first one that is too small.
    """
    for key in keys:
        found = value(config, key)
        if hasattr(found, "__len__"):
            if len(found) < bound:
                raise ValueError(f"{at}.{key} must hold at least {bound}, got {len(found)}.")
        elif not found >= bound:
            raise ValueError(f"{at}.{key} must be at least {bound}, got {found!r}.")


def above(config: Any, bound: float, *keys: str, at: str = "config") -> None:
    """Raises unless the values are larger than the bound.

    Args:
      config: nested mapping.
      bound: not allowed itself; NaN never passes.
      *keys: dotted keys.
      at: what the message calls ``config``.

    Raises:
      ValueError: naming the first one that is too small.
    """
    for key in keys:
        if not (found := value(config, key)) > bound:
            raise ValueError(f"{at}.{key} must be > {bound}, got {found!r}.")


def same_inputs(workdir: Path, files: Mapping[str, Any]) -> str:
    """Notes the digests of files in a new directory; refuses one that was made from others.

    Args:
      workdir: the run's directory.
      files: what each is to its path; "" or None for none.

    Returns:
      Hexadecimal text, of all of them.

    Raises:
      WorkdirError: if a file has changed since, was added or is gone.
    """
    found = {name: _digest(path) for name, path in files.items()}
    note = workdir / NOTE
    if note.exists():
        stored = json.loads(note.read_text())
        for name in (*found, *(n for n in stored if n not in found)):
            if stored.get(name) != found.get(name):
                both = name in stored and name in found
                what = "has changed" if both else "was added or taken away"
                raise WorkdirError(
                    f"{files.get(name) or name} {what} since {workdir} was made; give another "
                    "--workdir."
                )
    else:
        write_atomically(note, json.dumps(found, indent=1) + "\n")
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _digest(path: Any) -> str:
    if not path:
        return hashlib.sha256(b"").hexdigest()
    with Path(path).expanduser().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
