"""A person's embeddings: PCA, a standard head and a monotone head, compared; indices and models."""

import functools
import json
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np

import monojax as mj
from monojax.base.extras import require
from monojax.compact import compress, export_model
from monojax.compact.storage import STORAGES
from monojax.training import Cells
from train.checks import at_least, choice, one_of, same_inputs
from train.monocon.embeddings import report
from train.monocon.embeddings.data import Parts, Rows, read, split
from train.monocon.embeddings.heads import KINDS, Compressor, trained
from train.monocon.embeddings.measures import measured, task

INPUTS = ("embeddings", "labels", "pairs", "texts")


def check(config: Any) -> None:
    """Finds what is wrong with the options and with the files before anything is written.

    Args:
      config: see train/configs/compress_embeddings.py.

    Raises:
      ValueError: naming the first mistake.
      FileNotFoundError: if a file is missing.
      ImportError: without flatbuffers.
    """
    choice(config, KINDS, "heads")
    one_of(config.storage, STORAGES, "config.storage")
    at_least(config, 1, "queries", "recall", "curve")
    at_least(config.recipe, 1, "steps", "neighbours", "patience", "validate_every", at="recipe")
    at_least(config.recipe, 4, "batch_size", at="config.recipe")
    for k in (*config.recall, *config.curve):
        if not isinstance(k, int) or k < 1:
            raise ValueError(f"config.recall and config.curve hold integers >= 1, got {k!r}.")
    if not 0.05 <= config.held_out <= 0.5:
        raise ValueError(f"config.held_out must lie in [0.05, 0.5], got {config.held_out}.")
    if not 0 < config.variance <= 1:
        raise ValueError(f"config.variance must lie in (0, 1], got {config.variance}.")
    rows = read(config, embed=False)
    dims = config.dims
    if dims is not None and not (isinstance(dims, int) and dims >= 1):
        raise ValueError(f"config.dims must be an integer >= 1 or None, got {dims!r}.")
    if dims is not None and config.embeddings and dims > rows.z.shape[1]:
        raise ValueError(f"config.dims must be at most {rows.z.shape[1]}, got {dims}.")
    if config.heads:
        require("flatbuffers", "export")  # which models are written with, after the training


def total_steps(config: Any) -> int:
    """Training steps of all heads, and a hundred for measuring each model.

    Args:
      config: see train/configs/compress_embeddings.py.

    Returns:
      Their number, an upper bound.
    """
    return len(config.heads) * config.recipe.steps + 100 * (len(config.heads) + 2)


def run(config: Any, workdir: Path, bar: Any) -> None:
    """Trains, measures, and writes tables, a picture, indices and models.

    Args:
      config: see train/configs/compress_embeddings.py.
      workdir: where to: compressed.md, storage.md (and .csv), recall.png, and for every model
        index_MODEL.npz; for heads model_MODEL.mjx, too.
      bar: progress bar over :func:`total_steps`.
    """
    same_inputs(workdir, {name: config[name] for name in INPUTS})
    rows = read(config)
    parts = split(rows, config.held_out, config.seed)
    job, cells = task(rows, parts, config), Cells(workdir)
    asked = {key: value for key, value in config.to_dict().items() if key not in ("storage",)}
    asked |= {"sha256": rows.sha256}
    found: dict[str, Any] = {}
    names = {}
    for name in ("full", "pca"):
        whole = name == "full"
        compute = functools.partial(measured, rows, job, rows.z, config, whole)
        found[name] = _plain(cells, name, asked, compute)
        bar.update(100)
    names["pca"] = _index(rows, "pca", None, None, found["pca"]["dims"], config, workdir)
    for kind in dict.fromkeys(config.heads):
        module, variables, found[kind] = _head(rows, parts, job, kind, config, cells, asked, bar)
        dims = found[kind]["dims"]
        names[kind] = _index(rows, kind, module, variables, dims, config, workdir)
    report.tables(found, rows.kind, config, workdir, names)
    report.curves(found, config, rows.kind, workdir / "recall.png")
    print(f"compress_embeddings: {', '.join(names.values())} in {workdir}", flush=True)


def _plain(cells: Cells, name: str, asked: Any, compute: Any) -> dict[str, Any]:
    """A cell of nested numbers, kept as text: cells hold arrays."""

    found, _ = cells.get(name, asked, lambda: ({"text": json.dumps(compute())}, {}))
    return json.loads(found["text"])


def _head(rows: Rows, parts: Parts, job: Any, kind: str, config: Any, cells: Cells, asked: Any,
          bar: Any) -> tuple[Compressor, Any, dict[str, Any]]:  # fmt: skip
    """One head, trained or taken from its cell."""
    done = 0

    def tick(steps: int) -> None:
        nonlocal done
        done += steps
        bar.update(steps)

    def compute():
        module, variables, about = trained(rows, parts, kind, config, tick)
        numbers = measured(rows, job, _embedding(module, variables)(rows.z), config) | about
        flat = flax.traverse_util.flatten_dict(variables, sep="/")
        return {"text": json.dumps(numbers)}, flat

    numbers, arrays = cells.get(kind, asked, compute)
    bar.update(max(config.recipe.steps - done, 0) + 100)
    variables = flax.traverse_util.unflatten_dict(arrays, sep="/")
    module = Compressor(rows.z.shape[1], KINDS[kind])
    return module, variables, json.loads(numbers["text"])


def _embedding(module: Compressor, variables: Any) -> Any:
    """Embeddings `[n, d]` to the head's, in blocks of one shape."""
    apply: Any = jax.jit(lambda z: module.apply(variables, z))

    def embed(z: np.ndarray, block: int = 4096) -> np.ndarray:
        block = min(block, len(z))
        parts = [np.arange(start, start + block) % len(z) for start in range(0, len(z), block)]
        return np.concatenate([np.asarray(apply(z[part])) for part in parts])[: len(z)]

    return embed


def _told(rows: Rows) -> tuple[Any, Any]:
    """Metadata and labels of the rows, for an index, whose labels are integers."""
    told: list[dict[str, Any]] = [{} for _ in rows.z]
    labels = None
    if rows.names is not None:
        assert rows.group is not None
        labels = rows.group
        if rows.names.dtype.kind in "iu":
            labels = rows.names[rows.group]
        else:
            for each, name in zip(told, rows.names[rows.group].tolist(), strict=True):
                each["label"] = name if isinstance(name, (str, bool)) else name.decode("latin-1")
    for each, text in zip(told, rows.texts or (), strict=False):
        each["text"] = text
    return told if any(told) else None, labels


def _index(rows: Rows, kind: str, module: Any, variables: Any, dims: int, config: Any,
           workdir: Path) -> str:  # fmt: skip
    """Writes the index of all rows, and the head as a model to take elsewhere."""
    told, labels = _told(rows)
    embed, model = None, b""
    if module is not None:
        embed = jax.jit(lambda z: module.apply(variables, z))
        model = export_model(embed, rows.z[:1])
        about = {"kind": kind, "dimensions that hold the variance": dims}
        if module.monotone:
            about["directions"] = [1] * rows.z.shape[1]
        file = workdir / f"model_{kind}.mjx"
        mj.export(file, module, variables, rows.z[:1], metadata=about, overwrite=file.exists())
    made = compress(
        embed, rows.z, dims=dims, labels=labels, model=model, storage=config.storage, metadata=told
    )
    file = workdir / f"index_{kind}.npz"
    made.save(file, overwrite=file.exists())
    return file.name
