"""A work directory belongs to one config: it is resumed, or refused, never overwritten."""

import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from monojax.base import paths
from monojax.base.paths import is_local

CONFIG = "config.json"


class WorkdirError(ValueError):
    """The directory cannot be used for this run; nothing in it was changed."""


@dataclasses.dataclass(frozen=True)
class Versioned:
    """A config that also opens the directories that older words for it made.

    Args:
      config: a mapping of JSON-able values, or an object with `to_dict`, in today's words.
      today: stored plain data, in the words of its day, to the same in today's.
    """

    config: Any
    today: Callable[[dict[str, Any]], dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """The config as plain data, in today's words."""
        return plain_config(self.config)


def as_directory(path: str | os.PathLike) -> Any:
    """A work directory on this machine, or in a store that is named by an address.

    Args:
      path: a local path, or an address such as "gs://bucket/run" (as text: pathlib would fold its
        two slashes to one).

    Returns:
      An absolute `pathlib.Path`, or an `etils.epath.Path` with the same methods.

    Raises:
      WorkdirError: if an address has lost a slash, or a name holds what orbax takes for a pattern.
    """
    try:
        return paths.check_path(path, "the work directory")
    except ValueError as error:
        raise WorkdirError(str(error)) from None


def open_workdir(path: str | os.PathLike, config: Any) -> Any:
    """Creates a work directory for ``config``, or opens the one that this config made.

    Args:
      path: the directory; created with its parents if absent. An address such as
        "gs://bucket/run" works where etils finds the store's client (gcsfs for Google's).
      config: a mapping of JSON-able values, or an object with `to_dict` (ml_collections), or
        :class:`Versioned`, for directories that were made when options had other names.

    Returns:
      The directory as :func:`as_directory` gives it.

    Raises:
      WorkdirError: if the directory holds something else, or was made with another config;
        the message lists the keys that differ. Nothing is changed then.
    """
    place = as_directory(path)
    wanted = plain_config(config)
    today = config.today if isinstance(config, Versioned) else lambda stored: stored
    if place.exists() and not place.is_dir():
        raise WorkdirError(f"{place} is a file; give a directory for the results.")
    if place.is_dir() and any(not _is_leftover(item) for item in place.iterdir()):
        _check_same(place, wanted, today)
    else:
        place.mkdir(parents=True, exist_ok=True)
        write_atomically(place / CONFIG, json.dumps(wanted, indent=2, sort_keys=True) + "\n")
    return place


def plain_config(config: Any) -> dict[str, Any]:
    """The config as plain JSON data (tuples become lists), the form it is compared in.

    Args:
      config: a mapping, or an object with `to_dict`.

    Returns:
      Nested dictionaries.

    Raises:
      TypeError: if a value has no JSON form.
    """
    data = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return json.loads(json.dumps(data))


def write_atomically(path: str | os.PathLike, content: str | bytes) -> Any:
    """Writes a file so that a reader, or a crash, sees the old content or the new, never half.

    Args:
      path: the file, also by an address (see :func:`as_directory`); its directory must exist.
      content: text (UTF-8) or bytes.

    Returns:
      The path.
    """
    data = content.encode() if isinstance(content, str) else content
    if not is_local(path):
        remote = paths.as_directory(path)
        remote.write_bytes(data)  # stores replace an object as a whole
        return remote
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp gives 0o600
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path


def _is_leftover(path: Any) -> bool:
    """A half-written config of our own, from a run killed in its first moment."""
    return path.name.startswith(f".{CONFIG}.")


def machine() -> str:
    """One line on where a result was computed: processor kind and count, Python, jax."""
    import jax

    kinds = sorted({device.device_kind for device in jax.devices()})
    python = ".".join(map(str, sys.version_info[:3]))
    return (
        f"{jax.device_count()} x {', '.join(kinds)} ({os.cpu_count()} cores), "
        f"Python {python}, jax {jax.__version__}"
    )


def _check_same(path: Any, wanted: dict[str, Any], today: Callable[[Any], Any]) -> None:
    """Raises unless the directory was made with the wanted config, in whatever words."""
    file = path / CONFIG
    if not file.exists():
        raise WorkdirError(
            f"{path} is not empty and holds no {CONFIG}, so it is no work directory of monojax; "
            "choose another work directory."
        )
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise WorkdirError(
            f"{file} is damaged ({error}); choose another work directory."
        ) from error
    found = today(found) if isinstance(found, dict) else found
    found_different = [
        f"{key} is {there!r} there and {now!r} now"
        for key, there, now in differences(found, wanted)
    ]
    if found_different:
        raise WorkdirError(
            f"{path} belongs to another config: "
            + "; ".join(found_different[:8])
            + ". Choose another directory, or use the same config to resume this one."
        )


def differences(found: Any, wanted: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Compares nested dictionaries of JSON-able values.

    Args:
      found: one.
      wanted: the other.
      key: prefix of the names.

    Yields:
      ``(dotted key, value in found, value in wanted)`` for every leaf that differs; "(absent)"
      stands for a value that one side has not.
    """
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in sorted(found.keys() | wanted.keys()):
            missing = "(absent)"
            yield from differences(
                found.get(name, missing), wanted.get(name, missing), f"{key}.{name}".lstrip(".")
            )
    elif json.dumps(found) != json.dumps(wanted):  # as text, so that NaN equals NaN
        yield key, found, wanted
