"""Writing and reading a model's folder, checked by a digest of all that it means."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from monojax.base.checksum import tree_checksum
from monojax.base.paths import check_path, local_path
from monojax.saving import variables as arrays
from monojax.saving.fields import Reader, class_name, encode

MODEL = "model.json"
VARIABLES = "variables"
FORMAT = 2


def save(
    path: str | os.PathLike, module: nn.Module, variables: Any, *, overwrite: bool = False
) -> Path:
    """Writes a model to a new folder, all at once.

    What was written is read back (names, shapes, dtypes) before it gets its name.

    Args:
      path: the folder; must not exist yet unless ``overwrite``.
      module: linen module; its fields must be numbers, strings, None, sequences, dictionaries,
        arrays, dtypes, other modules, functions of `jax.nn`, `jax.numpy` or `flax.linen`, a
        `monojax.conjugate.Activation` of those, a `monojax.conjugate.Solver` with a named method,
        or defaults.
      variables: its variables, as `module.init` returns them: nested dictionaries (also tuples
        and lists) of arrays.
      overwrite: replace a model that is there.

    Returns:
      The absolute path.

    Raises:
      FileExistsError: if the path exists and ``overwrite`` is False, or holds something that
        is no model.
      TypeError: if a field or a variable has no form that can be written and read back.
      ValueError: if the path is one that orbax could not read again.
    """
    folder: Path = check_path(local_path(path))
    if folder.exists() and not (overwrite and (folder / MODEL).is_file()):
        raise FileExistsError(
            f"{folder} exists; nothing was written. Choose another path"
            + ("." if overwrite else ", or pass overwrite=True to replace a model.")
        )
    description, tree = arrays.pack(variables)
    record = {
        "format": FORMAT,
        "monojax": metadata.version("monojax"),
        "module": encode(module),
        "variables": description,
        "checksum": tree_checksum(tree),
    }
    record["digest"] = _digest(record)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        (temporary / "model").mkdir()
        arrays.write(temporary / "model" / VARIABLES, tree)
        (temporary / "model" / MODEL).write_text(json.dumps(record, indent=2) + "\n")
        _put_in_place(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def load(
    path: str | os.PathLike, *, classes: Iterable[type[nn.Module]] = ()
) -> tuple[nn.Module, Any]:
    """Reads a model that :func:`save` wrote. Nothing in the folder is executed.

    Args:
      path: the folder. Folders of monojax 0.1 (format 1) are read, too; words that have another
        meaning today are translated, so that the model predicts what it did.
      classes: linen module classes of your own that the model uses; classes of monojax and
        flax.linen are known.

    Returns:
      ``(module, variables)``; use ``module.apply(variables, x)``.

    Raises:
      FileNotFoundError: if the folder holds no model.
      ValueError: if the model uses a class or a function that is not known, has another format,
        or is damaged: a digest covers the fields as well as the variables. It tells accidents
        from the file that was written; it is no signature against somebody who writes another.
    """
    path = local_path(path)
    file = path / MODEL
    if not file.is_file():
        raise FileNotFoundError(f"{path} holds no {MODEL}; is it a folder written by mj.save?")
    record = _read_record(file)
    reader = Reader(record["format"], {class_name(c): c for c in classes})
    try:
        module = reader.read(record["module"])
    except RecursionError as error:
        raise ValueError(f"{file} is damaged: it is nested too deeply.") from error
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    if not isinstance(module, nn.Module):
        raise ValueError(f"{file} is damaged: it describes no module.")
    return module, _read_variables(path / VARIABLES, record)


def _read_record(file: Path) -> dict[str, Any]:
    """The content of model.json, checked against its digest."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged ({error}).") from error
    version = record.get("format") if isinstance(record, dict) else None
    if type(version) is not int or not 1 <= version <= FORMAT:
        raise ValueError(
            f"{file} has format {version!r}, this monojax reads 1 to {FORMAT}; upgrade it."
        )
    needs = {"module", "checksum"} | ({"variables", "digest"} if version > 1 else set())
    if missing := needs - record.keys():
        raise ValueError(f"{file} is damaged: it lacks {', '.join(sorted(missing))}.")
    if version > 1 and record["digest"] != _digest(record):
        raise ValueError(
            f"{file} is damaged: its digest does not agree with its content. A saved model is "
            "not to be edited: load it, make another module and save that."
        )
    return record


def _read_variables(path: Path, record: dict[str, Any]) -> Any:
    """Variables of a saved model on the device; raises if a bit of them has changed."""
    tree = arrays.read(path)
    if tree_checksum(tree) != record["checksum"]:
        raise ValueError(f"{path} is damaged: its checksum does not agree with its content.")
    if record["format"] > 1:
        try:
            tree = arrays.unpack(record["variables"], tree)
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}.") from error
    return jax.tree.map(arrays.to_device, tree)


def _digest(record: dict[str, Any]) -> str:
    """SHA-256 of all that a record says, the checksum of the variables included."""
    said = {key: value for key, value in record.items() if key != "digest"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _put_in_place(temporary: Path, path: Path) -> None:
    """Renames the finished folder to its name; on failure the old model comes back."""
    old = temporary.with_name(f"{temporary.name}.old")  # beside it: a crash must not lose it
    try:
        if path.exists():
            os.replace(path, old)
        os.replace(temporary / "model", path)
    except BaseException:
        if old.exists() and not path.exists():
            os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)
