"""Paths that orbax can read again."""

import os
from pathlib import Path


def check_path(path: str | os.PathLike, name: str = "path") -> Path:
    """A local path as an absolute one, refused if orbax could not read what it writes there.

    Orbax finds its files by patterns, so that a folder with "[", "*" or "?" in its name, or in
    the name of one above it, is written and never found again, or mixed up with a neighbour.

    Args:
      path: the path, to a file or folder that need not exist.
      name: the argument's name in the message.

    Returns:
      The absolute path.

    Raises:
      ValueError: if it has such a character, or a backslash.
    """
    text = os.path.abspath(path)
    bad = [sign for sign in "[]*?\\\0" if sign in text and sign != os.sep]
    if bad:
        raise ValueError(
            f"{name} must not have {' '.join(map(repr, bad))} in the name of a folder, which "
            f"orbax takes for a pattern; nothing was written to {text!r}. Choose another name."
        )
    return Path(text)
