"""Paths that can be written and read again: of this machine, or addresses of a store."""

import os
import re
from pathlib import Path
from typing import Any

from monojax.base.extras import require

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(/?)")
STORES = ("gs", "s3")
"""Schemes of addresses that etils and orbax read and write."""


def is_local(path: str | os.PathLike) -> bool:
    """True for a path on this machine, False for an address such as "gs://bucket/run".

    Args:
      path: see :func:`as_directory`.

    Returns:
      bool.
    """
    return _ADDRESS.match(os.fspath(path)) is None


def as_directory(path: str | os.PathLike, name: str = "path") -> Any:
    """A directory on this machine, or in a store that is named by an address.

    Args:
      path: a local path, or an address such as "gs://bucket/run" (as text: pathlib would fold its
        two slashes to one).
      name: the argument's name in messages.

    Returns:
      An absolute `pathlib.Path`, or an `etils.epath.Path` with the same methods.

    Raises:
      ValueError: if an address has lost a slash, or names a store that orbax does not know.
      ImportError: if etils, which reads addresses and comes with orbax, is not installed.
    """
    text = os.fspath(path)
    address = _ADDRESS.match(text)
    if address is None:
        return Path(text).absolute()
    if not address.group(2):
        raise ValueError(
            f"{name} {text!r} looks like an address that lost a slash, as pathlib.Path makes of "
            f"one; give it as text: {address.group(1)}://{text[address.end() :]}."
        )
    if address.group(1) not in STORES:
        raise ValueError(
            f"{name} {text!r} is an address of a store that orbax does not write to; there is: "
            + ", ".join(f"{store}://" for store in STORES)
        )
    return require("etils.epath").Path(text)


def local_path(path: str | os.PathLike, name: str = "path") -> Path:
    """A path of this machine as an absolute one.

    Args:
      path: the path, to a file or folder that need not exist.
      name: the argument's name in the message.

    Returns:
      The absolute path.

    Raises:
      ValueError: on an address such as gs://bucket/run, which would become a local folder "gs:".
    """
    if not is_local(path):
        raise ValueError(
            f"{name} must be on this machine, got the address {os.fspath(path)!r}; nothing was "
            "written. Write to a local disk and copy, or mount the bucket."
        )
    return Path(os.fspath(path)).absolute()


def check_path(path: str | os.PathLike, name: str = "path") -> Any:
    """As :func:`as_directory`, and refused if orbax could not read what it writes there.

    Orbax finds its files by patterns, so that a folder with "[", "*" or "?" in its name, or in
    the name of one above it, is written and never found again, or mixed up with a neighbour.

    Args:
      path: the path, to a folder that need not exist.
      name: the argument's name in the message.

    Returns:
      The absolute path.

    Raises:
      ValueError: if it has such a character, or a backslash.
    """
    found = as_directory(path, name)
    bad = [sign for sign in "[]*?\\\0" if sign in os.fspath(found) and sign != os.sep]
    if bad:
        raise ValueError(
            f"{name} must not have {' '.join(map(repr, bad))} in the name of a folder, which "
            f"orbax takes for a pattern; nothing was written to {os.fspath(found)!r}. Choose "
            "another name."
        )
    return found
