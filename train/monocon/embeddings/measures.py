"""What a cut embedding finds: recall, neighbours, and the bytes that it takes."""

from typing import Any, NamedTuple

import numpy as np

from monojax.compact.storage import STORAGES, restore, store
from monojax.metrics.embedding import principal_axes
from monojax.metrics.intervals import mean_interval
from monojax.metrics.neighbours import nearest, unit_rows
from monojax.metrics.retrieval import vote
from train.monocon.embeddings.data import Parts, Rows


class Task(NamedTuple):
    """Who searches where, and what is right."""

    query: np.ndarray
    """Rows that search."""
    gallery: np.ndarray
    """Rows that are searched."""
    fit: np.ndarray
    """Rows that axes are fitted on."""
    truth: np.ndarray | None
    """Places in the gallery `[q, k]` of the nearest by the full embedding, without labels."""


def task(rows: Rows, parts: Parts, config: Any) -> Task:
    """The held-out rows' task.

    Args:
      rows: embeddings and what belongs together.
      parts: of the rows.
      config: see train/configs/compress_embeddings.py.

    Returns:
      Task. Pairs are searched for among all rows, since both members are held out.
    """
    fit = np.sort(np.concatenate([parts.train, parts.valid]))
    query = np.random.default_rng(config.seed).permutation(parts.test)
    gallery = fit
    if rows.kind == "pairs":
        assert rows.group is not None
        counts = np.bincount(rows.group)
        query = query[counts[rows.group[query]] > 1]
        gallery = np.arange(len(rows.z))
    query = np.sort(query[: config.queries])
    truth = None
    if rows.kind == "neighbours":
        truth = neighbours_of(rows.z, query, gallery, min(max(config.recall), len(gallery)))
    return Task(query, gallery, fit, truth)


def neighbours_of(z: np.ndarray, query: np.ndarray, gallery: np.ndarray, k: int) -> np.ndarray:
    """The k nearest other rows by the full embedding.

    Args:
      z: all embeddings.
      query: rows.
      gallery: rows.
      k: how many.

    Returns:
      Places in the gallery `[q, k]`.
    """
    k = min(k, len(gallery) - 1)
    found = nearest(unit_rows(z[query]), unit_rows(z[gallery]), k + 1).indices
    return _without(found, query, gallery, k)


def _without(found: np.ndarray, query: np.ndarray, gallery: np.ndarray, k: int) -> np.ndarray:
    """The first k that are not the query itself."""
    other = gallery[found] != query[:, None]
    return np.stack([row[keep][:k] for row, keep in zip(found, other, strict=True)])


def hits(rows: Rows, query: Any, gallery: Any, found: np.ndarray, truth: Any, k: int) -> np.ndarray:
    """Recall at k of every query.

    Args:
      rows: what belongs together.
      query: rows that searched.
      gallery: rows that were searched.
      found: places in the gallery, best first.
      truth: of the task.
      k: how many are looked at.

    Returns:
      floats `[q]`: 1 if one of the k belongs to the query; without labels the share of the true k
      nearest that are among them.
    """
    if truth is not None:
        same = found[:, :k, None] == truth[:, None, :k]
        return same.any(axis=2).mean(axis=1)
    assert rows.group is not None
    return (rows.group[gallery[found[:, :k]]] == rows.group[query][:, None]).any(axis=1) * 1.0


def measured(
    rows: Rows, job: Task, y: np.ndarray, config: Any, whole: bool = False
) -> dict[str, Any]:
    """What one embedding of all rows is worth, cut.

    Args:
      rows: what belongs together.
      job: of the held-out rows.
      y: embedding of all rows `[n, e]`.
      config: see train/configs/compress_embeddings.py.
      whole: measure it uncut, in float32, only.

    Returns:
      JSON-able: "dims", "recall_K" as [mean, low, high], "knn" (with labels), "rmse", "ratio" (held
      out by fitted), "storage" (per kind bytes a row and recall), "curve" (dims, and recall in
      float32 and int8).
    """
    unit = unit_rows(y)
    axes = principal_axes(unit[job.fit])
    full = unit.shape[1]
    most = min(max(*config.recall, 5), len(job.gallery) - 1)
    own = bool(np.isin(job.query, job.gallery).any())

    def search(q, g):
        found = nearest(q, g, most + own).indices
        return _without(found, job.query, job.gallery, most) if own else found

    def recall(found, k):
        return hits(rows, job.query, job.gallery, found, job.truth, min(k, most))

    dims = full if whole else min(config.dims or max(axes.dims(config.variance), 1), full)
    cut = axes.project(unit, full).astype(np.float32)
    out: dict[str, Any] = {"dims": dims, "full": full, "queries": len(job.query)}
    found = search(cut[job.query, :dims], cut[job.gallery, :dims])
    for k in config.recall:
        out[f"recall_{k}"] = list(mean_interval(recall(found, k)))
    if rows.kind == "labels":
        assert rows.group is not None
        chosen = vote(rows.group[job.gallery[found[:, :5]]])
        out["knn"] = list(mean_interval(chosen == rows.group[job.query]))
    if whole:
        return out
    out["rmse"] = axes.error(unit[job.query], dims)
    fitted = axes.error(unit[job.fit], dims)
    out["ratio"] = out["rmse"] / fitted if fitted > 1e-12 else None
    first = config.recall[0]

    def stored(kind: str, width: int) -> list[float]:
        kept = store(cut[job.gallery, :width], kind)
        found = search(cut[job.query, :width], np.asarray(restore(kept), np.float32))
        return [kept.codes.itemsize * width, float(recall(found, first).mean())]

    out["storage"] = {kind: stored(kind, dims) for kind in STORAGES}
    widths = sorted({width for width in (*config.curve, dims) if width <= full})
    out["curve"] = [[k, *stored("float32", k), *stored("int8", k)] for k in widths]
    return out
