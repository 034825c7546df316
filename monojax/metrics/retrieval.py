"""Scores read off nearest neighbours: the accuracy of their vote, and recall."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from monojax.base.renamed import renamed
from monojax.metrics.neighbours import Similarity, nearest


@renamed(block="batch_size")
def knn_accuracy(
    query: Any,
    query_labels: Any,
    gallery: Any,
    gallery_labels: Any,
    k: int = 5,
    *,
    similarity: Similarity = "euclidean",
    batch_size: int = 8192,
) -> float:
    """Share of queries whose class is the commonest among the k nearest gallery rows.

    Every neighbour has one vote; of classes with equally many votes the smallest label wins, as in
    scikit-learn's `KNeighborsClassifier`.

    Args:
      query: floats `[q, d]`.
      query_labels: integers `[q]`.
      gallery: floats `[n, d]`; may be memory-mapped.
      gallery_labels: integers `[n]`.
      k: neighbours that vote.
      similarity: as in :func:`nearest`.
      batch_size: as in :func:`nearest`.

    Returns:
      Accuracy in [0, 1].

    Raises:
      ValueError: as :func:`nearest`, and on labels of another length.
    """
    labels = check_class_labels(query_labels, len(query), "query_labels")
    votes = check_class_labels(gallery_labels, len(gallery), "gallery_labels")
    found = nearest(query, gallery, k, similarity=similarity, batch_size=batch_size)
    return float((vote(votes[found.indices]) == labels).mean())


@renamed(block="batch_size")
def recall_at_k(
    query: Any,
    query_labels: Any,
    gallery: Any,
    gallery_labels: Any,
    k: int | Sequence[int],
    *,
    similarity: Similarity = "cosine",
    batch_size: int = 8192,
) -> Any:
    """Share of queries with at least one row of their class among the k most similar.

    Args:
      query: floats `[q, d]`.
      query_labels: integers `[q]`.
      gallery: floats `[n, d]`; may be memory-mapped.
      gallery_labels: integers `[n]`.
      k: a number, or several: one search serves them all.
      similarity: "cosine" unless given; "dot" ranks by the raw inner product.
      batch_size: as in :func:`nearest`.

    Returns:
      Recall in [0, 1]: a float, or float64 `[len(k)]`.

    Raises:
      ValueError: as :func:`nearest`, and on labels of another length.
    """
    labels = check_class_labels(query_labels, len(query), "query_labels")
    classes = check_class_labels(gallery_labels, len(gallery), "gallery_labels")
    ks = np.atleast_1d(np.asarray(k))
    if ks.size == 0 or ks.ndim > 1 or ks.min() < 1:
        raise ValueError(f"k must be one number of at least 1, or several, got {k}.")
    found = nearest(query, gallery, int(ks.max()), similarity=similarity, batch_size=batch_size)
    hits = np.maximum.accumulate(classes[found.indices] == labels[:, None], axis=1).mean(axis=0)
    return float(hits[ks[0] - 1]) if np.ndim(k) == 0 else hits[ks - 1]


def vote(labels: np.ndarray) -> np.ndarray:
    """The commonest label of each row, the smallest of those that are equally common.

    Args:
      labels: integers `[q, k]`.

    Returns:
      integers `[q]`.
    """
    labels = np.sort(labels, axis=1)  # the first of the largest counts is the smallest label
    counts = (labels[:, :, None] == labels[:, None, :]).sum(axis=2)
    return np.take_along_axis(labels, counts.argmax(axis=1)[:, None], axis=1)[:, 0]


def check_class_labels(labels: Any, num: int, name: str = "labels") -> np.ndarray:
    """Class labels as integers `[num]`.

    Args:
      labels: array-like.
      num: rows that they belong to.
      name: the argument's name in messages.

    Returns:
      integer array `[num]`.

    Raises:
      ValueError: on another length or on values that are no integers.
    """
    labels = np.asarray(labels)
    if labels.shape != (num,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{name} must be one integer per row, shape ({num},), "
            f"got {labels.dtype} of shape {labels.shape}."
        )
    return labels
