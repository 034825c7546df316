"""Writing a model as one file: its program, and what is promised of it, as JSON beside it.

The file is a zip archive of two members, so that a process without this library opens it by
``zipfile``, ``json`` and ``jax.export.deserialize``.
"""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from importlib import metadata as packages
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.export
import numpy as np

from monojax.base import registry
from monojax.base.directions import check_directions
from monojax.base.paths import local_path
from monojax.exporting.program import PLATFORMS, exported_program, without_places

FORMAT = "monojax export 1"
PROGRAM = "program.bin"
METADATA = "metadata.json"


def export(
    path: str | os.PathLike[str],
    module: nn.Module,
    variables: Any,
    example: Any,
    *,
    platforms: tuple[str, ...] = PLATFORMS,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes a model as one file that jax runs without this library, for any batch size.

    The variables become constants of the program. Derivatives by the inputs are in the file, too.
    Its metadata hold versions, shapes, the bounds on the slopes and their norms (where the module
    has them), its directions, and what is given here.

    Args:
      path: the file; must not exist yet unless ``overwrite``.
      module: linen module; called as ``module.apply(variables, *inputs)``.
      variables: its variables.
      example: a batch `[b, ...]`; a tuple of batches for a module of several inputs. Only shapes
        and dtypes matter.
      platforms: what it shall run on: of "cpu", "cuda", "rocm" and "tpu".
      metadata: data that JSON can hold, by name. Three names are checked: "feature_names", one
        text per input; "directions", +1, -1 or 0 per input; "certificate", an `mj.Certificate` or
        its text.
      overwrite: replace an export that is there.

    Returns:
      The absolute path.

    Raises:
      FileExistsError: if the path exists and ``overwrite`` is False, or holds no export.
      ValueError: on an example without batch axis, another platform, or metadata that contradict
        the module, each other or the example.
      TypeError: on metadata that JSON cannot hold, or if the module is none.
      ImportError: without the package flatbuffers (extra "export").
    """
    file = local_path(path)
    if file.exists() and not (overwrite and is_export(file)):
        raise FileExistsError(
            f"{file} exists; nothing was written. Choose another path"
            + ("." if overwrite else ", or pass overwrite=True to replace an export.")
        )
    if not callable(getattr(module, "apply", None)):
        raise TypeError(
            f"module must be a linen module, got {type(module).__name__}; write "
            "mj.export(path, module, variables, example)."
        )
    examples = example if isinstance(example, tuple) else (example,)
    told = _told(module, examples, metadata or {})
    exported = exported_program(
        lambda *inputs: module.apply(variables, *inputs), examples, platforms
    )
    program, differentiable = _serialised(exported)
    record = {
        "format": FORMAT,
        "monojax": packages.version("monojax"),
        "jax": jax.__version__,
        "module": registry.name_of(type(module)) or type(module).__name__,
        "platforms": list(exported.platforms),
        "inputs": [_described(aval) for aval in exported.in_avals],
        "outputs": [_described(aval) for aval in exported.out_avals],
        "differentiable": differentiable,
        **_promised(module, variables),
        **told,
        "sha256": hashlib.sha256(program).hexdigest(),
    }
    _write(file, program, json.dumps(record, indent=2, allow_nan=False))
    return file


def is_export(file: Path) -> bool:
    """Whether a file is one that :func:`export` wrote, of any version.

    Args:
      file: its path.

    Returns:
      bool.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return set(archive.namelist()) == {PROGRAM, METADATA}
    except (OSError, zipfile.BadZipFile):
        return False


def _serialised(exported: jax.export.Exported) -> tuple[bytes, bool]:
    """The program's bytes, with its derivative if it has one."""
    try:
        with without_places():
            return bytes(exported.serialize(vjp_order=1)), True
    except Exception:  # whatever a function without derivative raises, integers or callbacks
        return bytes(exported.serialize()), False


def _described(aval: Any) -> dict[str, Any]:
    """Shape and dtype of an input or output; the batch is "b"."""
    sizes = [size if isinstance(size, int) else str(size) for size in aval.shape]
    return {"shape": sizes, "dtype": np.dtype(aval.dtype).name}


def _promised(module: Any, variables: Any) -> dict[str, Any]:
    """The module's bounds and their norms, where it has them and knows them."""
    try:
        low, high = module.apply(variables, method="bounds")
        bounds = [float(low), float(high)]
        return {"bounds": bounds, "norms": list(module.norms)} if np.isfinite(bounds).all() else {}
    except (AttributeError, ValueError, TypeError):  # no such method, or no bound for its options
        return {}


def _told(module: Any, examples: tuple[Any, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """The caller's metadata, checked."""
    told = dict(given)
    reserved = {"format", "monojax", "jax", "module", "platforms", "inputs", "outputs", "bounds"}
    reserved |= {"norms", "differentiable", "sha256"}
    if taken := sorted(reserved & told.keys()):
        raise ValueError(f"metadata {', '.join(taken)} are written by mj.export itself.")
    width = _width(examples)
    own = getattr(module, "directions", None)
    if told.get("directions") is not None or own is not None:
        told["directions"] = _directions(own, told.get("directions"), width)
    if told.get("feature_names") is not None:
        told["feature_names"] = _names(told["feature_names"], width)
    if told.get("certificate") is not None:
        told["certificate"] = _certificate(told["certificate"], told.get("directions"))
    try:
        json.dumps(told, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"metadata must be data that JSON can hold: {error}.") from error
    return told


def _width(examples: tuple[Any, ...]) -> int | None:
    """The number of inputs, over all of the arguments; None where they are no rows of features."""
    leaves = jax.tree.leaves(examples)
    flat = all(np.ndim(leaf) == 2 for leaf in leaves)
    return sum(np.shape(leaf)[1] for leaf in leaves) if flat else None


def _directions(own: Any, given: Any, width: int | None) -> list[int]:
    width = np.size(own if given is None else given) if width is None else width
    found = [np.asarray(check_directions(d, width)).tolist() for d in (own, given) if d is not None]
    if found[0] != found[-1]:
        raise ValueError(
            f"metadata directions {found[-1]} contradict those of the module, {found[0]}."
        )
    return found[0]


def _names(names: Any, width: int | None) -> list[str]:
    names = list(names) if isinstance(names, (list, tuple)) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"feature_names must be a list of texts, got {names!r}.")
    if len(names) != width or len(set(names)) != width:
        raise ValueError(
            f"feature_names must be one text per input, all different: {len(names)} names, "
            f"{len(set(names))} different ones, for "
            + ("inputs that are no rows [b, d]." if width is None else f"{width} inputs.")
        )
    return names


def _certificate(certificate: Any, directions: list[int] | None) -> str:
    """The text of a certificate that speaks of these directions."""
    to_json = getattr(certificate, "to_json", None)
    text = to_json() if to_json is not None else certificate
    try:
        record = json.loads(text)
        status, about = record["status"], [int(d) for d in record["directions"]]
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(
            "certificate must be an mj.Certificate, or the text of its to_json()."
        ) from error
    if directions is not None and about != directions:
        raise ValueError(f"the certificate ({status}) is about {about}, not about {directions}.")
    return text


def _write(file: Path, program: bytes, text: str) -> None:
    """All at once; an old file stays until the new one is whole."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(PROGRAM, program)
        archive.writestr(METADATA, text)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    try:
        partial.write_bytes(content.getvalue())
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
