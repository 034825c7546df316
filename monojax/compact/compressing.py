"""From a trained embedding to an index: cut to its effective dimension, and what that costs."""

from typing import Any

import numpy as np

from monojax.base.checks import check_function
from monojax.base.renamed import renamed
from monojax.compact import unlike
from monojax.compact.export import Embed
from monojax.compact.index import CompactIndex
from monojax.compact.rows import check_ids, check_metadata
from monojax.compact.searching import cut, embedded, nearest_stored
from monojax.compact.storage import Storage, Stored, num_bytes, restore, store
from monojax.metrics.embedding import principal_axes
from monojax.metrics.neighbours import check_embedding, nearest, unit_rows
from monojax.metrics.retrieval import check_class_labels, knn_accuracy, recall_at_k, vote


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
    ids: Any = None,
    storage: Storage = "float32",
    metadata: Any = None,
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
      ids: the rows' names, integers or texts `[n]`, all different; None counts them from 0.
      storage: "float32", "float16" (half the bytes), or "int8" (a quarter), one step per
        dimension being 1/127 of its largest entry.
      metadata: a list with one dictionary per row, of what JSON can hold.

    Returns:
      CompactIndex. Its ``stats``: "items", "full_dims", "dims", "variance_kept", "rmse" (of the
      gallery, per number), "bytes_full" (of the gallery in float32) and "bytes" (of the items as
      stored), "queries", "neighbours_kept" (share of the 10 nearest by the whole embedding that
      are among the 10 nearest by the stored one), "storage_kept" (the same from the cut embedding
      in float32 to the stored one), "row_error_typical", "row_error_high" (which 1% exceed) and
      "row_error_largest" (what the axes leave of rows that are not in the gallery; absent if
      nothing is left, or below 20 rows), and with labels "knn_full", "knn_cut", "recall_1_full",
      "recall_1_cut" and "recall_1_lost".

    Raises:
      ValueError: on NaN, labels, ids or metadata of another length, ids that repeat, dims outside
        [1, d], or another storage.
      TypeError: if embed is no function, as when the two are in the other order.
    """
    if embed is not None:
        check_function(embed, "embed", "compress(embed, gallery), or compress(None, embeddings)")
    z = unit_rows(check_embedding(embedded(embed, gallery, batch_size), "gallery"))
    if labels is not None:
        labels = check_class_labels(labels, len(z), "labels")
    ids = check_ids(np.arange(len(z)) if ids is None else ids, len(z))
    metadata = check_metadata(metadata, len(z))
    axes = principal_axes(z)
    k = max(axes.dims(variance), 1) if dims is None else dims
    if not 1 <= k <= z.shape[1]:
        raise ValueError(f"dims must lie between 1 and {z.shape[1]}, got {k}.")
    mean, kept = axes.mean.astype(np.float32), axes.axes[:, :k].astype(np.float32)
    items = cut(z, mean, kept)
    stored = store(items, storage)
    shares = axes.variances / max(axes.variances.sum(), np.finfo(np.float64).tiny)
    stats: dict[str, Any] = {
        "items": len(z),
        "full_dims": z.shape[1],
        "dims": k,
        "variance_kept": float(shares[:k].sum()),
        "rmse": axes.error(z, k),
        "bytes_full": 4 * z.size,
        "bytes": num_bytes(stored),
    }
    if held_out is None:
        query = None
        rows = np.linspace(0, len(z) - 1, min(len(z), 1000)).astype(int)
        stats |= _loss_inside(z, items, stored, labels, rows)
    else:
        query = embedded(embed, held_out, batch_size)
        query = unit_rows(check_embedding(query, "held_out"))
        stats |= _loss(query, cut(query, mean, kept), held_out_labels, z, items, stored, labels)
    stats |= unlike.reference(z, k, query, axes)
    return CompactIndex(
        mean=mean,
        axes=kept,
        items=np.ascontiguousarray(stored.codes),
        labels=labels,
        stats=stats,
        embed=embed,
        model=model,
        takes="embeddings" if embed is None and not model else "inputs",
        ids=ids,
        storage=storage,
        scale=stored.scale,
        row_scale=stored.row_scale,
        metadata=metadata,
    )


def _kept(whole: np.ndarray, cut: np.ndarray) -> float:
    """Share of the rows' entries of ``whole`` that are in the same row of ``cut``."""
    return float((whole[:, :, None] == cut[:, None, :]).any(axis=2).mean())


def _loss(query, cut_query, query_labels, z, items, stored: Stored, labels) -> dict[str, Any]:
    """What held-out queries lose."""
    near = min(10, len(z))
    whole = nearest(query, z, near).indices
    kept = nearest_stored(cut_query, stored, near)[0]
    stats: dict[str, Any] = {"queries": len(query), "neighbours_kept": _kept(whole, kept)}
    stats["storage_kept"] = 1.0
    if stored.codes.dtype != np.float32:
        stats["storage_kept"] = _kept(nearest(cut_query, items, near).indices, kept)
    if labels is None or query_labels is None:
        return stats
    for name, q, g in (("full", query, z), ("cut", cut_query, restore(stored))):
        data = q, query_labels, g, labels
        stats[f"knn_{name}"] = knn_accuracy(*data, min(5, len(z)))
        stats[f"recall_1_{name}"] = recall_at_k(*data, 1, similarity="euclidean")
    stats["recall_1_lost"] = stats["recall_1_full"] - stats["recall_1_cut"]
    return stats


def _loss_inside(z, items, stored: Stored, labels: Any, rows: Any) -> dict[str, Any]:
    """What gallery items lose as queries for the others; a query itself is not rounded."""
    near = min(11, len(z))
    found = [nearest(z[rows], z, near).indices, nearest_stored(items[rows], stored, near)[0]]
    if stored.codes.dtype != np.float32:
        found.append(nearest(items[rows], items, near).indices)
    # An item is among its own nearest, unless more than 10 are equal to it.
    others = [
        np.stack([row[row != i][: near - 1] for row, i in zip(side, rows, strict=True)])
        for side in found
    ]
    stats: dict[str, Any] = {"queries": len(rows), "neighbours_kept": 1.0, "storage_kept": 1.0}
    if near == 1:
        return stats
    stats["neighbours_kept"] = _kept(others[0], others[1])
    if len(others) > 2:
        stats["storage_kept"] = _kept(others[2], others[1])
    if labels is None:
        return stats
    for name, side in zip(("full", "cut"), others[:2], strict=True):
        classes = labels[side]
        stats[f"knn_{name}"] = float((vote(classes[:, :5]) == labels[rows]).mean())
        stats[f"recall_1_{name}"] = float((classes[:, 0] == labels[rows]).mean())
    stats["recall_1_lost"] = stats["recall_1_full"] - stats["recall_1_cut"]
    return stats
