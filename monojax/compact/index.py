"""From a trained embedding to a small index: cut to its effective dimension, saved, searched.

:func:`compress` embeds a gallery, keeps the principal components that hold 99% of the variance,
and says what that costs. An index of a model's embeddings takes that model's inputs; embeddings
go through :meth:`CompactIndex.search_embeddings`, so that neither is taken for the other.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from monojax.base.checks import check_function
from monojax.base.renamed import renamed
from monojax.compact.export import Embed, as_function
from monojax.metrics.embedding import principal_axes
from monojax.metrics.neighbours import Neighbours, check_embedding, nearest, unit_rows
from monojax.metrics.retrieval import check_class_labels, knn_accuracy, recall_at_k, vote

_FORMAT = "monojax compact index 2"
_FORMAT_1 = "monojax compact index 1"


@dataclasses.dataclass(frozen=True)
class CompactIndex:
    """A gallery cut to a few dimensions, and how to bring a query there.

    Made by :func:`compress` or :func:`load_index`.
    """

    mean: np.ndarray
    """float32 `[d]`: of the normalised gallery."""
    axes: np.ndarray
    """float32 `[d, k]`: its first principal axes, as columns."""
    items: np.ndarray
    """`[n, k]`: the gallery, cut."""
    labels: np.ndarray | None
    """integers `[n]`, if they were given."""
    stats: dict[str, Any]
    """What was kept and what was lost, see :func:`compress`."""
    embed: Embed | None = None
    """Inputs `[b, ...]` to embeddings `[b, d]`, if there is a model at hand."""
    model: bytes = b""
    """The same as an exported program, which :meth:`save` stores."""
    takes: Literal["inputs", "embeddings", "unknown"] = "embeddings"
    """What :meth:`encode` and :meth:`search` take: inputs of the model that the gallery was
    embedded with, or embeddings, for a gallery that came as embeddings. Unknown in files of
    version 0.1 that hold no model."""

    def encode(self, inputs: Any) -> np.ndarray:
        """Cut embeddings of inputs.

        Args:
          inputs: what ``embed`` takes; embeddings `[b, d]` if the gallery came as embeddings.

        Returns:
          float32 `[b, k]`.

        Raises:
          ValueError: if the index takes inputs and has no model, or if the embeddings have another
            width, NaN or infinite values.
        """
        if self.embed is not None:
            return self._cut(self.embed(inputs))
        if self.takes == "embeddings":
            return self._cut(inputs)
        raise ValueError(
            "this index has no model to embed inputs with"
            + (
                ", and its file does not say whether its gallery came as embeddings"
                if self.takes == "unknown"
                else ": its gallery was embedded by a model that was not saved with it"
            )
            + ". Give load_index(path, embed=model) or compress(..., model=export_model(...)); for "
            "embeddings of that model use search_embeddings."
        )

    def search(self, inputs: Any, k: int = 10) -> Neighbours:
        """The k nearest gallery items of each input.

        Args:
          inputs: as in :meth:`encode`.
          k: at most the number of items.

        Returns:
          Neighbours: indices `[b, k]` and similarities (minus Euclidean distances).

        Raises:
          ValueError: as :meth:`encode`, and if k is larger than the gallery.
        """
        return nearest(self.encode(inputs), self.items, k)

    def search_embeddings(self, z: Any, k: int = 10) -> Neighbours:
        """The k nearest gallery items of each embedding.

        Args:
          z: embeddings by the gallery's own model, uncut, `[b, d]`; normalised here.
          k: at most the number of items.

        Returns:
          Neighbours, as :meth:`search`.

        Raises:
          ValueError: on another width, NaN or infinite values, or k beyond the gallery.
        """
        return nearest(self._cut(z), self.items, k)

    def _cut(self, z: Any) -> np.ndarray:
        y = unit_rows(check_embedding(z, "embeddings"))
        if y.shape[1] != len(self.mean):
            raise ValueError(
                f"embeddings have {y.shape[1]} dimensions and the index was made from "
                f"{len(self.mean)}; use the model that the gallery was embedded with."
            )
        return ((y - self.mean[None, :]) @ self.axes.astype(np.float64)).astype(np.float32)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the index, its statistics and its exported model (if it has one) to one file.

        Without ``model`` the file says whether the gallery came as embeddings; if it was embedded
        by a model, the loaded index asks for it instead of taking inputs for embeddings.

        Args:
          path: the file, an npz archive without pickles.

        Returns:
          The path.
        """
        path = Path(path)
        arrays: dict[str, Any] = {"mean": self.mean, "axes": self.axes, "items": self.items}
        if self.labels is not None:
            arrays["labels"] = self.labels
        text = json.dumps({"format": _FORMAT, "stats": self.stats, "takes": self.takes})
        arrays["header"] = np.frombuffer(text.encode(), np.uint8)
        arrays["model"] = np.frombuffer(self.model, np.uint8)
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("wb") as file:
            np.savez(file, **arrays)
        os.replace(partial, path)
        return path


@renamed(batch="batch_size")
def compress(
    embed: Embed | None,
    gallery: Any,
    *,
    dims: int | None = None,
    variance: float = 0.99,
    labels: Any = None,
    held_out: Any = None,
    held_out_labels: Any = None,
    model: bytes = b"",
    batch_size: int = 1024,
) -> CompactIndex:
    """Cuts a gallery to the effective dimension of its embedding, and measures the loss.

    Args:
      embed: inputs `[b, ...]` to embeddings `[b, d]` (a jitted model, or :func:`load_model` of an
        exported one); None if gallery and held_out are embeddings already. Normalised here.
      gallery: inputs `[n, ...]`, or embeddings `[n, d]`.
      dims: k; None takes the effective dimension at ``variance``.
      variance: share of the variance to keep.
      labels: integers `[n]`, classes of the gallery; states accuracies as well.
      held_out: inputs that are not in the gallery, to state the loss on; None states it on up to
        1,000 gallery items, each searched for among the others.
      held_out_labels: their classes; without them a held-out loss states no accuracies.
      model: the bytes of :func:`export_model`, to be saved with the index.
      batch_size: inputs embedded at a time.

    Returns:
      CompactIndex. Its ``stats``: "items", "full_dims", "dims", "variance_kept", "rmse" (of the
      gallery, per number), "bytes_full" and "bytes" (of the items in float32), "queries",
      "neighbours_kept" (share of the 10 nearest by the whole embedding that are among the 10
      nearest by the cut one), and with labels "knn_full", "knn_cut", "recall_1_full",
      "recall_1_cut" and "recall_1_lost".

    Raises:
      ValueError: on NaN, labels of another length, or dims outside [1, d].
      TypeError: if embed is no function, as when the two are in the other order.
    """
    if embed is not None:
        check_function(embed, "embed", "compress(embed, gallery), or compress(None, embeddings)")
    z = unit_rows(check_embedding(_embedded(embed, gallery, batch_size), "gallery"))
    if labels is not None:
        labels = check_class_labels(labels, len(z), "labels")
    axes = principal_axes(z)
    k = max(axes.dims(variance), 1) if dims is None else dims
    items = axes.project(z, k).astype(np.float32)
    shares = axes.variances / max(axes.variances.sum(), np.finfo(np.float64).tiny)
    stats: dict[str, Any] = {
        "items": len(z),
        "full_dims": z.shape[1],
        "dims": k,
        "variance_kept": float(shares[:k].sum()),
        "rmse": axes.error(z, k),
        "bytes_full": 4 * z.size,
        "bytes": 4 * items.size,
    }
    if held_out is None:
        rows = np.linspace(0, len(z) - 1, min(len(z), 1000)).astype(int)
        stats |= _loss_inside(z, items, labels, rows)
    else:
        query = _embedded(embed, held_out, batch_size)
        query = unit_rows(check_embedding(query, "held_out"))
        stats |= _loss(query, axes.project(query, k), held_out_labels, z, items, labels)
    mean, kept = axes.mean.astype(np.float32), axes.axes[:, :k].astype(np.float32)
    takes: Any = "embeddings" if embed is None and not model else "inputs"
    return CompactIndex(mean, kept, items, labels, stats, embed, model, takes)


def load_index(path: str | os.PathLike[str], embed: Embed | None = None) -> CompactIndex:
    """Reads what :meth:`CompactIndex.save` wrote.

    Args:
      path: the file.
      embed: the model that the gallery was embedded with; None takes the exported one of the file,
        if it holds one. Without any, an index of a model's embeddings searches embeddings only
        (:meth:`CompactIndex.search_embeddings`).

    Returns:
      CompactIndex.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is another kind of file.
    """
    try:
        with np.load(path) as file:
            arrays = dict(file)
        header = json.loads(arrays["header"].tobytes())
        known = header["format"] in (_FORMAT, _FORMAT_1)
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever numpy raises on a file that is no archive
        raise ValueError(
            f"{path} is no compact index ({error}); make one with compress."
        ) from error
    if not known:
        raise ValueError(f"{path} has format {header['format']!r}, expected {_FORMAT!r}.")
    model = arrays["model"].tobytes()
    if embed is None and model:
        embed = as_function(model)
    names = ("mean", "axes", "items")
    mean, axes, items = (arrays[name] for name in names)
    # Version 0.1 did not write it: with a model it is plain, without one it cannot be known.
    takes = header.get("takes", "inputs" if model else "unknown")
    labels = arrays.get("labels")
    return CompactIndex(mean, axes, items, labels, header["stats"], embed, model, takes)


def _embedded(embed: Embed | None, inputs: Any, batch_size: int) -> Any:
    """Embeddings of all inputs; the last batch is filled up, so one shape is compiled."""
    if embed is None:
        return inputs
    num = len(jax.tree.leaves(inputs)[0])
    size = min(batch_size, num)
    parts = []
    for start in range(0, num, size):
        rows = np.arange(start, start + size) % num
        parts.append(np.asarray(embed(jax.tree.map(lambda leaf, rows=rows: leaf[rows], inputs))))
    return np.concatenate(parts)[:num]


def _kept(whole: np.ndarray, cut: np.ndarray) -> float:
    """Share of the rows' entries of ``whole`` that are in the same row of ``cut``."""
    return float((whole[:, :, None] == cut[:, None, :]).any(axis=2).mean())


def _loss(query, cut, query_labels, z, items, labels) -> dict[str, Any]:
    """What held-out queries lose."""
    near = min(10, len(z))
    found = [nearest(q, g, near).indices for q, g in ((query, z), (cut, items))]
    stats: dict[str, Any] = {"queries": len(query), "neighbours_kept": _kept(*found)}
    if labels is None or query_labels is None:
        return stats
    for name, q, g in (("full", query, z), ("cut", cut, items)):
        data = q, query_labels, g, labels
        stats[f"knn_{name}"] = knn_accuracy(*data, min(5, len(z)))
        stats[f"recall_1_{name}"] = recall_at_k(*data, 1, similarity="euclidean")
    stats["recall_1_lost"] = stats["recall_1_full"] - stats["recall_1_cut"]
    return stats


def _loss_inside(z: np.ndarray, items: np.ndarray, labels: Any, rows: Any) -> dict[str, Any]:
    """What gallery items lose as queries for the others."""
    near = min(11, len(z))
    found = [nearest(side[rows], side, near).indices for side in (z, items)]
    # An item is among its own nearest, unless more than 10 are equal to it.
    others = [
        np.stack([row[row != i][: near - 1] for row, i in zip(side, rows, strict=True)])
        for side in found
    ]
    stats: dict[str, Any] = {"queries": len(rows)}
    stats["neighbours_kept"] = _kept(*others) if near > 1 else 1.0
    if labels is None or near == 1:
        return stats
    for name, side in zip(("full", "cut"), others, strict=True):
        classes = labels[side]
        stats[f"knn_{name}"] = float((vote(classes[:, :5]) == labels[rows]).mean())
        stats[f"recall_1_{name}"] = float((classes[:, 0] == labels[rows]).mean())
    stats["recall_1_lost"] = stats["recall_1_full"] - stats["recall_1_cut"]
    return stats
