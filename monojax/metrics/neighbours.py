"""Nearest neighbours in embeddings, exact and in blocks, and the scores that are read off them."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Similarity = Literal["dot", "cosine", "euclidean"]
SIMILARITIES = ("dot", "cosine", "euclidean")
SPARE = 16
"""Candidates kept beyond k, to be ranked again in float64."""
_FLOOR = 1e-12


class Neighbours(NamedTuple):
    """The k most similar gallery rows of every query, best first."""

    indices: np.ndarray
    """int64 `[q, k]`: rows of the gallery; of equal ones the first."""
    similarities: np.ndarray
    """float64 `[q, k]`: inner product, cosine, or minus the Euclidean distance."""


def nearest(
    query: Any,
    gallery: Any,
    k: int,
    *,
    similarity: Similarity = "euclidean",
    block: int = 8192,
) -> Neighbours:
    """The k most similar rows of a gallery, which may be larger than the memory.

    The gallery is read once, ``block`` rows at a time, so a memory-mapped array does: the memory
    beyond the two arguments is a few times ``block * (block + d)`` numbers. Blocks are compared in
    float32, around the first block's mean for "euclidean", and the best k + 16 ranked again in
    float64 from differences. Queries for which the rounding of float32 could have left a nearer
    row out (many rows nearly as near as the k-th) are searched for once more, in float64.

    Args:
      query: floats `[q, d]`.
      gallery: floats `[n, d]`; `numpy.memmap` is fine.
      k: how many, at most n.
      similarity: "euclidean" (nearest first), "cosine", or "dot" (largest inner product first).
      block: rows of the gallery, and of the queries, compared at once.

    Returns:
      Neighbours.

    Raises:
      ValueError: on other shapes, NaN or infinite values, k beyond the gallery, another name.

    Example:
      >>> nearest(np.array([[0.9]]), np.array([[0.0], [1.0], [3.0]]), 2).indices.tolist()
      [[1, 0]]
    """
    query, gallery = check_embedding(query, "query", values=True), _as_rows(gallery, "gallery")
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"query has {query.shape[1]} dimensions and gallery {gallery.shape[1]}; "
            "embed both with the same model."
        )
    if not 1 <= k <= len(gallery):
        raise ValueError(f"k must lie between 1 and the gallery's {len(gallery)} rows, got {k}.")
    if similarity not in SIMILARITIES:
        raise ValueError(
            f"similarity must be one of {', '.join(SIMILARITIES)}, got {similarity!r}."
        )
    if block < 1:
        raise ValueError(f"block must be at least 1 row, got {block}.")
    centre = np.zeros(query.shape[1])
    if similarity == "euclidean":  # distances around a near point round less
        centre = np.asarray(gallery[:block]).mean(axis=0, dtype=np.float64)
    count = min(k + SPARE, len(gallery))
    candidates, left_out = _candidates(query, gallery, count, similarity, block, centre)
    found = _rank_again(query, gallery, candidates, k, similarity)
    if count < len(gallery):
        doubtful = _doubtful(query, found.similarities[:, -1], left_out, similarity, centre)
        if len(doubtful):
            again = query[doubtful]
            candidates = _candidates_again(again, gallery, count, similarity, block, centre)
            better = _rank_again(again, gallery, candidates, k, similarity)
            found.indices[doubtful], found.similarities[doubtful] = better
    return found


def knn_accuracy(
    query: Any,
    query_labels: Any,
    gallery: Any,
    gallery_labels: Any,
    k: int = 5,
    *,
    similarity: Similarity = "euclidean",
    block: int = 8192,
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
      block: as in :func:`nearest`.

    Returns:
      Accuracy in [0, 1].

    Raises:
      ValueError: as :func:`nearest`, and on labels of another length.
    """
    labels = check_class_labels(query_labels, len(query), "query_labels")
    votes = check_class_labels(gallery_labels, len(gallery), "gallery_labels")
    found = nearest(query, gallery, k, similarity=similarity, block=block)
    return float((vote(votes[found.indices]) == labels).mean())


def recall_at_k(
    query: Any,
    query_labels: Any,
    gallery: Any,
    gallery_labels: Any,
    k: int | Sequence[int],
    *,
    similarity: Similarity = "cosine",
    block: int = 8192,
) -> Any:
    """Share of queries with at least one row of their class among the k most similar.

    Args:
      query: floats `[q, d]`.
      query_labels: integers `[q]`.
      gallery: floats `[n, d]`; may be memory-mapped.
      gallery_labels: integers `[n]`.
      k: a number, or several: one search serves them all.
      similarity: "cosine" unless given; "dot" ranks by the raw inner product.
      block: as in :func:`nearest`.

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
    found = nearest(query, gallery, int(ks.max()), similarity=similarity, block=block)
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


def check_embedding(z: Any, name: str, values: bool = True) -> np.ndarray:
    """An embedding as a floating array `[n, d]`, n and d at least 1, finite.

    Args:
      z: array-like.
      name: the argument's name in messages.
      values: False leaves the values unread (they are checked elsewhere).

    Returns:
      A numpy array; a memory-mapped one stays on disk.

    Raises:
      ValueError: on another shape or type, or on NaN and infinite values, with their rows' count.
    """
    z = _as_rows(z, name)
    if values:
        for _, rows in _blocks(z, 65_536):
            _check_finite(rows, len(z), name)
    return z


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


def _as_rows(z: Any, name: str) -> np.ndarray:
    z = z if isinstance(z, np.ndarray) else np.asarray(z)
    if z.ndim != 2 or 0 in z.shape or not jnp.issubdtype(z.dtype, jnp.floating):
        raise ValueError(
            f"{name} must be floats of shape [n, d], n and d at least 1, "
            f"got {z.dtype} of shape {z.shape}."
        )
    return z


def _blocks(rows: np.ndarray, block: int) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(rows), block):
        yield start, np.asarray(rows[start : start + block])


def _check_finite(rows: np.ndarray, total: int, name: str) -> None:
    if not np.isfinite(np.asarray(rows.sum(dtype=np.float64))):
        bad = int((~np.isfinite(rows).all(axis=1)).sum())
        raise ValueError(
            f"{name} has NaN or infinite values ({bad} of {len(rows)} rows looked at, {total} in "
            "all): did the training diverge?"
        )


def _scaled(rows: np.ndarray, similarity: str, centre: Any, dtype: Any) -> np.ndarray:
    """Rows as they are compared: around the centre, or of length one; float64 on the way."""
    rows = np.asarray(rows, np.float64)
    if similarity == "cosine":
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _FLOOR)
    return (rows - centre).astype(dtype)


@functools.partial(jax.jit, static_argnums=5, donate_argnums=(0, 1))
def _merge(best, where, query, rows, start, euclidean, count):
    """The best candidates so far, `[q, c]` each, after one more block of the gallery."""
    scores = jnp.matmul(query, rows.T, precision=jax.lax.Precision.HIGHEST)
    if euclidean:
        scores = scores - jnp.square(rows).sum(axis=1) / 2
    inside = jnp.arange(len(rows)) < count
    scores = jnp.where(inside, scores, -jnp.inf)
    # Earlier rows stand first, and top_k takes the first of equal scores.
    number = min(best.shape[1], len(rows))
    top, rank = jax.lax.top_k(scores, number)
    scores = jnp.concatenate([best, top], axis=1)
    places = jnp.concatenate([where, start + rank.astype(where.dtype)], axis=1)
    best, rank = jax.lax.top_k(scores, best.shape[1])
    return best, jnp.take_along_axis(places, rank, axis=1)


def _candidates(query, gallery, count, similarity, block, centre) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the gallery that are most similar in float32, `[q, count]`, any order.

    Also `[q]`: what the score of no other row can exceed, whatever float32 has rounded.
    """
    block = min(block, len(gallery))
    width = min(block, 4096, len(query))
    parts = [
        jnp.asarray(_pad(_scaled(rows, similarity, centre, np.float32), width))
        for _, rows in _blocks(query, width)
    ]
    best = [jnp.full((width, count), -jnp.inf) for _ in parts]
    where = [jnp.zeros((width, count), jnp.int32) for _ in parts]
    longest = 0.0
    for start, rows in _blocks(gallery, block):
        _check_finite(rows, len(gallery), "gallery")
        scaled = _scaled(rows, similarity, centre, np.float32)
        longest = max(longest, float(np.linalg.norm(scaled, axis=1).max()))
        device = jnp.asarray(_pad(scaled, block))
        for i, part in enumerate(parts):
            best[i], where[i] = _merge(
                best[i], where[i], part, device, start, similarity == "euclidean", len(rows)
            )
    worst = np.concatenate([np.asarray(part).min(axis=1) for part in best])[: len(query)]
    lengths = np.concatenate([np.linalg.norm(part, axis=1) for part in parts])[: len(query)]
    scale = lengths * longest + (longest**2 / 2 if similarity == "euclidean" else 0.0)
    # Rounding of sums of d products in float32 (Higham, 2002, section 3.1), and of the inputs.
    unit = np.finfo(np.float32).eps / 2
    left_out = worst.astype(np.float64) + (query.shape[1] + 8) * unit * scale
    return np.concatenate([np.asarray(part) for part in where])[: len(query)], left_out


def _doubtful(query, similarities, left_out, similarity, centre) -> np.ndarray:
    """Queries of which a row that was left out may be nearer than the k-th of `similarities`."""
    if similarity == "euclidean":  # back to the scores: (|q|^2 - distance^2) / 2
        around = _scaled(query, similarity, centre, np.float64)
        similarities = (np.square(around).sum(axis=1) - similarities**2) / 2
    return np.flatnonzero(left_out >= similarities)


def _candidates_again(query, gallery, count, similarity, block, centre) -> np.ndarray:
    """As :func:`_candidates`, in float64."""
    width = min(4096, max(1, 2**24 // (block + count)))  # at most 128 MiB of scores
    parts = [_scaled(rows, similarity, centre, np.float64) for _, rows in _blocks(query, width)]
    best = [np.empty((len(part), 0)) for part in parts]
    where = [np.empty((len(part), 0), np.int64) for part in parts]
    for start, rows in _blocks(gallery, block):
        scaled = _scaled(rows, similarity, centre, np.float64)
        half = np.square(scaled).sum(axis=1) / 2 if similarity == "euclidean" else 0.0
        places = np.arange(start, start + len(rows))
        for i, part in enumerate(parts):
            scores = np.concatenate([best[i], part @ scaled.T - half], axis=1)
            places_here = np.broadcast_to(places, (len(part), len(rows)))
            all_places = np.concatenate([where[i], places_here], axis=1)
            kept = _largest(scores, min(count, scores.shape[1]))
            best[i] = np.take_along_axis(scores, kept, axis=1)
            where[i] = np.take_along_axis(all_places, kept, axis=1)
    return np.concatenate(where)


def _largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Columns of the largest of each row, `[q, count]`, in their order; of equal ones the first."""
    last = -np.partition(-scores, count - 1, axis=1)[:, count - 1, None]
    above, equal = scores > last, scores == last
    free = count - above.sum(axis=1, keepdims=True)
    return np.nonzero(above | (equal & (np.cumsum(equal, axis=1) <= free)))[1].reshape(-1, count)


def _pad(rows: np.ndarray, length: int) -> np.ndarray:
    """Rows of zeros below, so that every block has one shape and one program."""
    return np.pad(rows, ((0, length - len(rows)), (0, 0)))


def _rank_again(query, gallery, candidates, k, similarity) -> Neighbours:
    """The best k of the candidates, in float64, and their similarities."""
    indices = np.empty((len(query), k), np.int64)
    values = np.empty((len(query), k))
    # At most about 128 MiB of gathered rows at a time.
    step = max(1, 2**24 // (candidates.shape[1] * query.shape[1]))
    for start in range(0, len(query), step):
        rows = np.sort(candidates[start : start + step], axis=1)  # equal ones: the first
        points = _scaled(query[start : start + step], similarity, 0, np.float64)
        found = _scaled(gallery[rows.reshape(-1)], similarity, 0, np.float64)
        found = found.reshape(*rows.shape, -1)
        if similarity == "euclidean":
            scores = -np.linalg.norm(found - points[:, None], axis=2)
        else:
            scores = np.einsum("qcd,qd->qc", found, points)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        indices[start : start + step] = np.take_along_axis(rows, order, axis=1)
        values[start : start + step] = np.take_along_axis(scores, order, axis=1)
    return Neighbours(indices, values)
