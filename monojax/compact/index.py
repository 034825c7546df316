"""A gallery cut to a few dimensions: searched, changed row by row, saved, opened from disk.

An index of a model's embeddings takes that model's inputs; embeddings go through
:meth:`CompactIndex.search_embeddings`, so that neither is taken for the other.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from monojax.base.extras import require
from monojax.compact import files, unlike
from monojax.compact.export import Embed, as_function
from monojax.compact.rows import Metadata, check_ids, check_metadata, places, shown
from monojax.compact.searching import BLOCK, cut, embedded, nearest_stored
from monojax.compact.storage import (
    Storage,
    Stored,
    exchanged,
    joined,
    num_bytes,
    restore,
    store,
    taken,
)
from monojax.metrics.neighbours import check_embedding, unit_rows
from monojax.metrics.retrieval import check_class_labels


class IndexNeighbours(NamedTuple):
    """The k nearest gallery rows of every query, best first."""

    indices: np.ndarray
    """int64 `[q, k]`: places in the index."""
    similarities: np.ndarray
    """float64 `[q, k]`: minus the Euclidean distance of the cut embeddings."""
    ids: np.ndarray
    """`[q, k]`: the rows' names."""


@dataclasses.dataclass(frozen=True)
class CompactIndex:
    """A gallery cut to a few dimensions, and how to bring a query there. Never changes itself.

    Made by :func:`compress` or :func:`load_index`.
    """

    mean: np.ndarray
    """float32 `[d]`: of the normalised gallery."""
    axes: np.ndarray
    """float32 `[d, k]`: its first principal axes, as columns."""
    items: np.ndarray
    """`[n, k]`: the gallery, cut, as it is stored; :meth:`vectors` gives numbers."""
    labels: np.ndarray | None
    """integers `[n]`, if they were given."""
    stats: dict[str, Any]
    """What was kept and what was lost when the index was made, see :func:`compress`; the counts of
    rows and bytes are of now."""
    embed: Embed | None = None
    """Inputs `[b, ...]` to embeddings `[b, d]`, if there is a model at hand."""
    model: bytes = b""
    """The same as an exported program, which :meth:`save` stores."""
    takes: Literal["inputs", "embeddings", "unknown"] = "embeddings"
    """What :meth:`encode` and :meth:`search` take: inputs of the model that the gallery was
    embedded with, or embeddings, for a gallery that came as embeddings. Unknown in files of
    version 0.1 that hold no model."""
    ids: Any = None
    """Integers or texts `[n]`, all different: the rows' names; 0 to n - 1 if none were given."""
    storage: Storage = "float32"
    """How the items are kept."""
    scale: np.ndarray | None = None
    """float32 `[k]`: what one step of an int8 item is worth."""
    row_scale: np.ndarray | None = None
    """float32 `[n]`: factors of rows beyond the range of ``scale``; None if all are 1."""
    metadata: Metadata | None = None
    """What is told of each row, if anything is."""

    def __post_init__(self):
        """Names the rows if nobody did."""
        if self.ids is None:
            object.__setattr__(self, "ids", np.arange(len(self.items)))

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.items)

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
        return self._cut(self._unit(self._embedded(inputs)))

    def search(self, inputs: Any, k: int = 10) -> IndexNeighbours:
        """The k nearest gallery items of each input.

        Args:
          inputs: as in :meth:`encode`.
          k: at most the number of items.

        Returns:
          IndexNeighbours: places and ids `[b, k]`, and minus Euclidean distances.

        Raises:
          ValueError: as :meth:`encode`, and if k is larger than the gallery.
        """
        return self._nearest(self.encode(inputs), k)

    def search_embeddings(self, z: Any, k: int = 10) -> IndexNeighbours:
        """The k nearest gallery items of each embedding.

        Args:
          z: embeddings by the gallery's own model, uncut, `[b, d]`; normalised here.
          k: at most the number of items.

        Returns:
          IndexNeighbours, as :meth:`search`.

        Raises:
          ValueError: on another width, NaN or infinite values, or k beyond the gallery.
        """
        return self._nearest(self._cut(self._unit(z)), k)

    def vectors(self, rows: Any = slice(None)) -> np.ndarray:
        """The gallery's cut embeddings as numbers.

        Args:
          rows: places, a slice or integers.

        Returns:
          float32 `[m, k]`; float16 as it is.
        """
        return restore(self._stored(), rows)

    def add(
        self, inputs: Any, ids: Any, *, metadata: Any = None, labels: Any = None
    ) -> "CompactIndex":
        """The index with more rows, cut by the axes that it has.

        Rows that these axes reconstruct much worse than the gallery are told by a warning,
        :class:`UnlikeGalleryWarning`, and counted in ``stats["rows_unlike"]``.

        Args:
          inputs: as in :meth:`encode`, `[m, ...]`.
          ids: their names `[m]`, new ones, of the kind that the index has.
          metadata: one dictionary per row, or None.
          labels: integers `[m]`, if the index has labels.

        Returns:
          CompactIndex.

        Raises:
          ValueError: as :meth:`encode`; on ids that repeat or are there, on another number of
            ids, labels or dictionaries, or if labels are missing.
        """
        stored, errors = self._coded(inputs)
        num = len(stored.codes)
        ids = check_ids(ids, num, self.ids)
        if (there := np.isin(ids, self.ids)).any():
            raise ValueError(f"the index has the ids {shown(ids[there])} already; use replace.")
        if (labels is None) != (self.labels is None):
            has = "has labels; give labels=" if labels is None else "has no labels; leave them out"
            raise ValueError(f"the index {has}.")
        if labels is not None:
            labels = np.concatenate([self.labels, check_class_labels(labels, num, "labels")])
        told = check_metadata(metadata, num)
        if told is not None or self.metadata is not None:
            told = (self.metadata or ({},) * len(self)) + (told or ({},) * num)
        unlike_rows = unlike.tell(errors, ids, self.stats)
        return self._changed(
            joined(self._stored(), stored),
            {"rows_added": num, "rows_unlike": unlike_rows},
            ids=np.concatenate([self.ids, ids]),
            labels=labels,
            metadata=told,
        )

    def remove(self, ids: Any) -> "CompactIndex":
        """The index without some rows; the others keep their order.

        Args:
          ids: names of rows.

        Returns:
          CompactIndex.

        Raises:
          ValueError: on ids that are not there or repeat, or if no row would be left.
        """
        rows = self._places(ids)
        keep = np.setdiff1d(np.arange(len(self)), rows)
        if not len(keep):
            raise ValueError("an index keeps at least one row.")
        told = self.metadata
        return self._changed(
            taken(self._stored(), keep),
            {"rows_removed": len(rows)},
            ids=self.ids[keep],
            labels=None if self.labels is None else self.labels[keep],
            metadata=None if told is None else tuple(told[row] for row in keep),
        )

    def replace(self, inputs: Any, ids: Any) -> "CompactIndex":
        """The index with other embeddings for some rows; their labels and metadata stay.

        Args:
          inputs: as in :meth:`encode`, `[m, ...]`.
          ids: names of rows that are there, `[m]`.

        Returns:
          CompactIndex.

        Raises:
          ValueError: as :meth:`encode`, and on ids that are not there or repeat.
        """
        stored, errors = self._coded(inputs)
        rows = self._places(check_ids(ids, len(stored.codes), self.ids))
        count = unlike.tell(errors, self.ids[rows], self.stats)
        changes = {"rows_replaced": len(rows), "rows_unlike": count}
        return self._changed(exchanged(self._stored(), rows, stored), changes)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Writes the index, its statistics and its exported model (if it has one) to one file.

        Without ``model`` the file says whether the gallery came as embeddings; if it was embedded
        by a model, the loaded index asks for it instead of taking inputs for embeddings. Metadata
        are its member ``metadata.jsonl``, which `unzip -p FILE metadata.jsonl` shows.

        Args:
          path: the file, an npz archive without pickles.
          overwrite: replace an index that is there.

        Returns:
          The absolute path.

        Raises:
          FileExistsError: if the path exists and ``overwrite`` is False, or holds no index.
        """
        fields = {name: getattr(self, name) for name in (*files.ARRAYS, "model", "metadata")}
        header = {"stats": self.stats, "takes": self.takes, "storage": self.storage}
        return files.write(path, fields, header, overwrite)

    def to_faiss(self) -> Any:
        """The rows as an exact index of faiss, which finds the same neighbours.

        Search it with :meth:`encode`'s embeddings; it gives squared distances. Its ids are those
        of this index, or the rows' places where these are texts.

        Returns:
          A ``faiss.IndexIDMap2`` over ``faiss.IndexFlatL2``.

        Raises:
          ImportError: without faiss (extra "faiss").
        """
        faiss = require("faiss", "faiss")
        made = faiss.IndexIDMap2(faiss.IndexFlatL2(self.items.shape[1]))
        ids = self.ids if self.ids.dtype.kind == "i" else np.arange(len(self))
        for start in range(0, len(self), BLOCK):
            rows = slice(start, start + BLOCK)
            numbers = np.ascontiguousarray(self.vectors(rows), np.float32)
            made.add_with_ids(numbers, np.ascontiguousarray(ids[rows], np.int64))
        return made

    def _stored(self) -> Stored:
        return Stored(self.items, self.scale, self.row_scale)

    def _embedded(self, inputs: Any) -> Any:
        if self.embed is not None:
            return embedded(self.embed, inputs, 1024)
        if self.takes == "embeddings":
            return inputs
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

    def _unit(self, z: Any) -> np.ndarray:
        y = unit_rows(check_embedding(z, "embeddings"))
        if y.shape[1] != len(self.mean):
            raise ValueError(
                f"embeddings have {y.shape[1]} dimensions and the index was made from "
                f"{len(self.mean)}; use the model that the gallery was embedded with."
            )
        return y

    def _cut(self, y: np.ndarray) -> np.ndarray:
        return cut(y, self.mean, self.axes)

    def _coded(self, inputs: Any) -> tuple[Stored, np.ndarray]:
        """Rows as they are stored here, and what the axes leave of them."""
        y = self._unit(self._embedded(inputs))
        errors = unlike.row_errors(y, self.mean, self.axes.astype(np.float64))
        return store(self._cut(y), self.storage, self.scale), errors

    def _places(self, ids: Any) -> np.ndarray:
        return places(self.ids, check_ids(ids, np.size(ids), self.ids))

    def _changed(self, stored: Stored, counts: dict[str, int], **fields: Any) -> "CompactIndex":
        """With other rows; statistics of what was lost stay those of :func:`compress`."""
        stats = dict(self.stats)
        for name, count in counts.items():
            stats[name] = stats.get(name, 0) + count
        num = len(stored.codes)
        stats |= {"items": num, "bytes": num_bytes(stored)}
        stats["bytes_full"] = 4 * num * len(self.mean)
        items, _, row_scale = stored
        return dataclasses.replace(self, items=items, row_scale=row_scale, stats=stats, **fields)

    def _nearest(self, query: np.ndarray, k: int) -> IndexNeighbours:
        indices, similarities = nearest_stored(query, self._stored(), k)
        return IndexNeighbours(indices, similarities, self.ids[indices])


def load_index(
    path: str | os.PathLike[str], *, embed: Embed | None = None, mmap: bool = False
) -> CompactIndex:
    """Reads what :meth:`CompactIndex.save` wrote, versions 1 to 3 of the format.

    Args:
      path: the file.
      embed: the model that the gallery was embedded with; None takes the exported one of the file,
        if it holds one. Without any, an index of a model's embeddings searches embeddings only
        (:meth:`CompactIndex.search_embeddings`).
      mmap: leave the items on disk and read them as they are searched; their checksum is then not
        looked at. Indices that are made of this one by `add`, `remove` and `replace` are in memory.

    Returns:
      CompactIndex.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is another kind of file, damaged, or of another version.
    """
    fields, header = files.read(path, mmap)
    model = fields["model"]
    if embed is None and model:
        embed = as_function(model)
    return CompactIndex(
        **fields,
        stats=header["stats"],
        embed=embed,
        # Version 0.1 did not write it: with a model it is plain, without one it cannot be known.
        takes=header.get("takes", "inputs" if model else "unknown"),
        storage=header.get("storage", "float32"),
    )
