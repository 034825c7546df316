"""Finding a data file and making sure that it is the one meant."""

import hashlib
import os
from importlib import resources
from pathlib import Path

from monojax.base.choices import one_of

ENVIRONMENT_VARIABLE = "MONOJAX_DATA"


class MissingDataError(FileNotFoundError):
    """A data set is not there; the message says what to get, from where, and where to put it."""


def data_directory(data_dir: str | os.PathLike[str] | None, wanted: str, get: str) -> Path:
    """The folder that holds the user's data files.

    Args:
      data_dir: the folder, or None for the environment variable ``MONOJAX_DATA``.
      wanted: the file's path inside the folder, for the message.
      get: what to get and from where, for the message.

    Returns:
      An existing folder.

    Raises:
      MissingDataError: if no folder is named or it does not exist; says which file to get, from
        where, and where to put it.
    """
    named = data_dir if data_dir is not None else os.environ.get(ENVIRONMENT_VARIABLE)
    if not named:
        raise MissingDataError(
            f"{wanted} is not part of the package and no data folder is given. Get it: {get} "
            f"Put it at DIR/{wanted} for a folder DIR of your choice, then pass data_dir=DIR or "
            f"set {ENVIRONMENT_VARIABLE}=DIR."
        )
    directory = Path(named).expanduser()
    if not directory.is_dir():
        origin = "data_dir" if data_dir is not None else ENVIRONMENT_VARIABLE
        raise MissingDataError(
            f"{origin} names {directory}, which is not a folder. Make it, get {wanted} ({get}) "
            f"and put it at {directory / wanted}."
        )
    return directory


def external_bytes(
    wanted: str, sha256: str, get: str, data_dir: str | os.PathLike[str] | None = None
) -> bytes:
    """Content of a file of the user's data folder, checked against its sha256.

    Args:
      wanted: path inside the folder, such as ``"tabular/heart.csv"``.
      sha256: expected digest, 64 hexadecimal digits.
      get: what to get and from where, a sentence for the error message.
      data_dir: the folder, or None for the environment variable ``MONOJAX_DATA``.

    Returns:
      The bytes of the file, unchanged.

    Raises:
      MissingDataError: if the folder or the file is missing.
      ValueError: if the digest differs.
    """
    path = data_directory(data_dir, wanted, get) / wanted
    if not path.is_file():
        raise MissingDataError(f"{path} is missing. Get it: {get} Put it at {path}.")
    content = path.read_bytes()
    check_sha256(content, sha256, str(path), advice=f"Get the file again: {get}")
    return content


def embedded_bytes(name: str, sha256: str) -> bytes:
    """Content of a file in ``monojax/data/files``, checked against its sha256.

    Args:
      name: file name, such as ``"auto_mpg.csv"``.
      sha256: expected digest, 64 hexadecimal digits.

    Returns:
      The bytes of the file, unchanged.

    Raises:
      ValueError: if the digest differs (a changed or damaged installation).
    """
    entry = resources.files("monojax.data") / "files" / name
    content = entry.read_bytes()
    check_sha256(content, sha256, str(entry), advice="Reinstall the package.")
    return content


def embedded_csv(name: str) -> Path:
    """The CSV file of a table that is part of the package, for `pandas.read_csv` and the like.

    Args:
      name: "auto_mpg" or "heart_cleveland".

    Returns:
      Its path, raw units and a header line; the file must not be changed.

    Raises:
      ValueError: on another name.
    """
    file = EMBEDDED[one_of(name, EMBEDDED, "name")]
    return Path(str(resources.files("monojax.data") / "files" / file))


EMBEDDED = {
    "auto_mpg": "auto_mpg.csv",
    "heart_cleveland": "heart_cleveland_original.csv",
}


def check_sha256(content: bytes, expected: str, where: str, advice: str) -> None:
    """Raises unless ``content`` has the expected digest.

    Args:
      content: the bytes.
      expected: sha256 as 64 hexadecimal digits.
      where: path for the message.
      advice: what to do, for the message.

    Raises:
      ValueError: with both digests and the path.
    """
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise ValueError(
            f"{where} is not the expected file: sha256 {found} ({len(content)} bytes), expected "
            f"{expected}. {advice}"
        )
