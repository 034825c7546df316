"""An index as one file: an npz archive without pickles, its metadata as JSON lines in it."""

import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from monojax.base.paths import local_path
from monojax.compact.rows import from_lines, to_lines

FORMAT = "monojax compact index 3"
OLDER = ("monojax compact index 1", "monojax compact index 2")
LINES = "metadata.jsonl"
ARRAYS = ("mean", "axes", "items", "labels", "ids", "scale", "row_scale")


def write(
    path: str | os.PathLike[str], fields: dict[str, Any], header: dict[str, Any], overwrite: bool
) -> Path:
    """Writes an index, all at once.

    Args:
      path: the file.
      fields: its arrays by name, None for those it has not; "model" (bytes), "metadata".
      header: JSON data.
      overwrite: replace an index that is there.

    Returns:
      The absolute path.

    Raises:
      FileExistsError: if the path exists and ``overwrite`` is False, or holds no index.
    """
    file = local_path(path)
    if file.exists() and not (overwrite and is_index(file)):
        raise FileExistsError(
            f"{file} exists; nothing was written. Choose another path"
            + ("." if overwrite else ", or pass overwrite=True to replace an index.")
        )
    arrays = {name: fields[name] for name in ARRAYS if fields[name] is not None}
    arrays["header"] = np.frombuffer(json.dumps({"format": FORMAT} | header).encode(), np.uint8)
    arrays["model"] = np.frombuffer(fields["model"], np.uint8)
    partial = file.with_name(f".{file.name}.partial")
    try:
        with partial.open("wb") as stream:
            np.savez(stream, **arrays)
        if fields["metadata"] is not None:
            with zipfile.ZipFile(partial, "a") as archive:
                archive.writestr(LINES, to_lines(fields["ids"], fields["metadata"]))
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
    return file


def read(path: str | os.PathLike[str], mmap: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads what :func:`write` wrote, or what older versions did.

    Args:
      path: the file.
      mmap: leave the items on disk.

    Returns:
      ``(fields, header)``.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is another kind of file, or of another version.
    """
    file = local_path(path)
    try:
        with np.load(file, allow_pickle=False) as archive:
            header = json.loads(archive["header"].tobytes())
            version = header["format"]
            known = version == FORMAT or version in OLDER
            names = [name for name in archive.files if not (mmap and name == "items")]
            found = {name: archive[name] for name in names} if known else {}
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever numpy raises on a file that is no archive
        raise ValueError(
            f"{path} is no compact index ({error}); make one with compress."
        ) from error
    if not known:
        raise ValueError(
            f"{path} has format {version!r}, this monojax reads {FORMAT!r} and those before it."
        )
    try:
        if mmap:
            found["items"] = _mapped(file, "items.npy")
        fields: dict[str, Any] = {name: found.get(name) for name in ARRAYS}
        if fields["ids"] is None:
            fields["ids"] = np.arange(len(fields["items"]))
        fields["model"] = found["model"].tobytes()
        lines = found.get(LINES)
        text = None if lines is None else lines.decode("utf-8")
        fields["metadata"] = None if text is None else from_lines(text, fields["ids"])
        _check(fields, header)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
    return fields, header


def is_index(file: Path) -> bool:
    """Whether a file is an index, of any version."""
    try:
        with zipfile.ZipFile(file) as archive:
            return {"header.npy", "items.npy", "axes.npy"} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _check(fields: dict[str, Any], header: dict[str, Any]) -> None:
    """That the parts are of one index."""
    num, width = fields["items"].shape
    shapes = {"axes": (len(fields["mean"]), width), "labels": (num,), "ids": (num,)}
    shapes |= {"scale": (width,), "row_scale": (num,)}
    for name, shape in shapes.items():
        if fields[name] is not None and fields[name].shape != shape:
            raise ValueError(f"{name} has shape {fields[name].shape}, expected {shape}")
    if fields["items"].dtype.name != header.get("storage", fields["items"].dtype.name):
        raise ValueError(f"items are {fields['items'].dtype}, not {header['storage']}")
    if fields["items"].dtype == np.int8 and fields["scale"] is None:
        raise ValueError("items of one byte have no scale")


def _mapped(file: Path, member: str) -> np.ndarray:
    """An array of an npz archive, left where it is: its members are stored as they are."""
    with zipfile.ZipFile(file) as archive:
        info = archive.getinfo(member)
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError("its items are compressed and cannot be memory-mapped; load without")
        with archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            formats = np.lib.format
            read = {1: formats.read_array_header_1_0, 2: formats.read_array_header_2_0}
            shape, fortran, dtype = read[version[0]](stream)
            inside = stream.tell()
    with file.open("rb") as stream:
        stream.seek(info.header_offset + 26)
        name, extra = struct.unpack("<HH", stream.read(4))
    start = info.header_offset + 30 + name + extra + inside
    return np.memmap(file, dtype, "r", start, shape, "F" if fortran else "C")
