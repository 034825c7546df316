"""Members of a zip archive, their sizes checked before anything is allocated for them."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MOST = 1032
"""Deflate packs at most so many bytes into one; a member that claims more is damaged."""


class Archive:
    """A zip archive whose members are read whole.

    Args:
      archive: opened.
      size: of the file in bytes.
    """

    def __init__(self, archive: zipfile.ZipFile, size: int):
        """See the class."""
        self._archive, self._size = archive, size
        self.names = archive.namelist()

    def read(self, name: str) -> bytes:
        """A member's content.

        Args:
          name: of the member.

        Returns:
          bytes.

        Raises:
          ValueError: if it claims more bytes than the archive can hold.
          zipfile.BadZipFile: if it is damaged.
        """
        member = self._archive.getinfo(name)
        stored = member.compress_type == zipfile.ZIP_STORED
        most = member.compress_size * (1 if stored else MOST)
        if member.compress_size > self._size or member.file_size > most:
            raise ValueError(
                f"{name} claims {member.file_size} bytes, more than {member.compress_size} bytes "
                f"in a file of {self._size} can hold"
            )
        return self._archive.read(member)


@contextmanager
def open_archive(file: Path) -> Iterator[Archive]:
    """Opens a zip archive.

    Args:
      file: its path.

    Yields:
      Archive.

    Raises:
      zipfile.BadZipFile: if it is none.
    """
    with zipfile.ZipFile(file) as archive:
        yield Archive(archive, file.stat().st_size)
