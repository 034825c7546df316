"""Nearest neighbours in embeddings: exact, in blocks, for numbers of any size."""

import functools
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import one_of
from monojax.base.renamed import renamed

Similarity = Literal["dot", "cosine", "euclidean"]
SIMILARITIES = ("dot", "cosine", "euclidean")
SPARE = 16
"""Candidates kept beyond k, to be ranked again in float64."""
_ROOM = 2.0**40
"""Scaled numbers up to this size are compared: sums of their squares fit float32."""


class Neighbours(NamedTuple):
    """The k most similar gallery rows of every query, best first."""

    indices: np.ndarray
    """int64 `[q, k]`: rows of the gallery; of equal ones the first."""
    similarities: np.ndarray
    """float64 `[q, k]`: inner product, cosine, or minus the Euclidean distance."""


class _TooLarge(Exception):
    """A block of the gallery outgrows the scale that was chosen; says which one does."""


@renamed(block="batch_size")
def nearest(
    query: Any,
    gallery: Any,
    k: int,
    *,
    similarity: Similarity = "euclidean",
    batch_size: int = 8192,
) -> Neighbours:
    """The k most similar rows of a gallery, which may be larger than the memory.

    The gallery is read ``batch_size`` rows at a time, once as a rule, so a memory-mapped array
    does: the memory beyond the two arguments is a few times ``batch_size * (batch_size + d)``
    numbers. Blocks are compared in float32, scaled, around the first block's mean for "euclidean",
    and the best k + 16 ranked again in float64 from differences. Queries for which the rounding of
    float32 could have left a nearer row out (many rows nearly as near as the k-th, clusters far
    apart) are searched for once more, in float64, and again from differences. Numbers of any size
    that their dtype holds are compared as they are: nothing is floored, nothing overflows.

    Args:
      query: floats `[q, d]`.
      gallery: floats `[n, d]`; `numpy.memmap` is fine.
      k: how many, at most n.
      similarity: "euclidean" (nearest first), "cosine", or "dot" (largest inner product first).
      batch_size: rows of the gallery, and of the queries, compared at once.

    Returns:
      Neighbours. A row of zeros has cosine 0 with everything.

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
    one_of(similarity, SIMILARITIES, "similarity")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1 row, got {batch_size}.")
    first = np.asarray(gallery[:batch_size])
    _check_finite(first, len(gallery), "gallery")
    measure = _Measure.of(similarity, query, first)
    count = min(k + SPARE, len(gallery))
    while True:
        try:
            candidates, left_out = _candidates(query, gallery, count, measure, batch_size)
            break
        except _TooLarge as error:  # later rows are much larger: once more, in their scale
            measure = measure.with_scale(error.args[0])
    found = _rank_again(query, gallery, candidates, k, measure)
    if count < len(gallery):
        kth = measure.score(query, found.similarities[:, -1])
        doubtful = np.flatnonzero(~(left_out < kth))
        if len(doubtful):
            again = _search_again(query[doubtful], gallery, kth[doubtful], k, measure, batch_size)
            found.indices[doubtful], found.similarities[doubtful] = again
    return found._replace(similarities=measure.unscaled(query, found.similarities))


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
    if not np.isfinite(rows).all():
        bad = int((~np.isfinite(rows).all(axis=1)).sum())
        raise ValueError(
            f"{name} has NaN or infinite values in {bad} of the {len(rows)} rows looked at "
            f"({total} in all): a diverged training, or a file with gaps."
        )


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows of length one, float64, whatever their length was; rows of zeros stay.

    Args:
      rows: floats `[n, d]`, finite.

    Returns:
      float64 `[n, d]`.
    """
    rows = scaled_rows(rows)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


def scaled_rows(rows: np.ndarray) -> np.ndarray:
    """Rows times a power of two each, which rounds nothing, so that their largest entry is near 1.

    Squares of 1e-200 or 1e200 have no room in float64; the squares of these rows have.

    Args:
      rows: floats `[n, d]`, finite.

    Returns:
      float64 `[n, d]`.
    """
    rows = np.asarray(rows, np.float64)
    return np.ldexp(rows, -np.frexp(np.abs(rows).max(axis=1, keepdims=True))[1])


class _Measure(NamedTuple):
    """A similarity, and how numbers are brought to a size that float32 can compare."""

    similarity: str
    exponent: int
    """Rows of the gallery are divided by 2 to this power; for "euclidean" the queries, too."""
    centre: np.ndarray
    """`[d]`, scaled: distances around a near point round less. Zeros but for "euclidean"."""

    @classmethod
    def of(cls, similarity: str, query: np.ndarray, first: np.ndarray) -> "_Measure":
        """For queries and the first block of a gallery."""
        sizes = [int(np.frexp(np.float64(np.abs(rows).max()))[1]) for rows in (query, first)]
        exponent = {"euclidean": max(sizes), "dot": sizes[1], "cosine": 0}[similarity]
        plain = cls(similarity, exponent, np.zeros(query.shape[1]))
        if similarity != "euclidean":
            return plain
        return plain._replace(centre=plain.rows(first, 1).mean(axis=0))

    def with_scale(self, exponent: int) -> "_Measure":
        """The same with rows divided by more."""
        centre = np.ldexp(self.centre, self.exponent - exponent)
        return _Measure(self.similarity, exponent, centre)

    def rows(self, rows: np.ndarray, side: int) -> np.ndarray:
        """Queries (side 0) or gallery rows (1) as they are compared, float64, not yet centred."""
        if self.similarity == "cosine":
            return unit_rows(rows)
        if self.similarity == "dot" and side == 0:
            return scaled_rows(rows)  # one query's order does not depend on its length
        return _shifted(np.asarray(rows, np.float64), -self.exponent)

    def exact(self, rows: np.ndarray, side: int) -> np.ndarray:
        """The same for the last comparison: distances from halves of the rows as they came.

        Nothing is lost of rows that are 1e-300 of the largest, and no difference overflows.
        """
        if self.similarity == "euclidean":
            return np.asarray(rows, np.float64) / 2
        return self.rows(rows, side)

    def centred(self, rows: np.ndarray, side: int) -> np.ndarray:
        """The same around the centre."""
        return self.rows(rows, side) - self.centre[None, :]

    def score(self, query: np.ndarray, similarities: np.ndarray) -> np.ndarray:
        """What `_merge` scores a row of this (exact) similarity, float64, rounded down."""
        if self.similarity != "euclidean":
            return similarities - 8 * _UNIT64 * np.abs(similarities)
        square = np.square(self.centred(query, 0)).sum(axis=1)
        distance = np.square(np.ldexp(similarities, 1 - self.exponent))
        return (square - distance) / 2 - 8 * _UNIT64 * (square + distance)

    def unscaled(self, query: np.ndarray, similarities: np.ndarray) -> np.ndarray:
        """Similarities in the caller's units; infinite where float64 does not hold them."""
        with np.errstate(over="ignore"):
            if self.similarity == "euclidean":
                return 2 * similarities
            if self.similarity == "cosine":
                return similarities
            top = np.abs(np.asarray(query, np.float64)).max(axis=1, keepdims=True)
            return np.ldexp(similarities, np.frexp(top)[1] + self.exponent)


_UNIT64 = np.finfo(np.float64).eps / 2


def _shifted(rows: np.ndarray, exponent: int) -> np.ndarray:
    """Rows times a power of two; `numpy.ldexp` takes ten times as long."""
    if abs(exponent) > 1000:  # the power itself has no room
        return np.ldexp(rows, exponent)
    return rows * 2.0**exponent if exponent else rows


@functools.partial(jax.jit, static_argnums=5, donate_argnums=(0, 1))
def _merge(best, where, query, rows, start, euclidean, count):
    """The best candidates so far, `[q, c]` each, after one more block of the gallery."""
    scores = jnp.matmul(query, rows.T, precision=jax.lax.Precision.HIGHEST)
    if euclidean:
        scores = scores - jnp.square(rows).sum(axis=1)[None, :] / 2
    inside = jnp.arange(len(rows)) < count
    scores = jnp.where(inside[None, :], scores, -jnp.inf)
    # Earlier rows stand first, and top_k takes the first of equal scores.
    number = min(best.shape[1], len(rows))
    top, rank = jax.lax.top_k(scores, number)
    scores = jnp.concatenate([best, top], axis=1)
    places = jnp.concatenate([where, start + rank.astype(where.dtype)], axis=1)
    best, rank = jax.lax.top_k(scores, best.shape[1])
    return best, jnp.take_along_axis(places, rank, axis=1)


def _candidates(query, gallery, count, measure, batch_size) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the gallery that are most similar in float32, `[q, count]`, any order.

    Also `[q]`: what the score of no other row can exceed, whatever float32 has rounded.
    """
    block = min(batch_size, len(gallery))
    width = min(block, 4096, len(query))
    euclidean = measure.similarity == "euclidean"
    scaled = [measure.centred(rows, 0).astype(np.float32) for _, rows in _blocks(query, width)]
    parts = [jnp.asarray(_pad(rows, width)) for rows in scaled]
    best = [jnp.full((width, count), -jnp.inf, jnp.float32) for _ in parts]
    where = [jnp.zeros((width, count), jnp.int32) for _ in parts]
    longest = 0.0
    for start, rows in _blocks(gallery, block):
        _check_finite(rows, len(gallery), "gallery")
        here = measure.centred(rows, 1)
        with np.errstate(over="ignore"):
            length = float(np.linalg.norm(here, axis=1).max())
        if length > _ROOM:
            raise _TooLarge(measure.exponent + int(np.frexp(np.abs(here).max())[1]))
        longest = max(longest, length)
        device = jnp.asarray(_pad(here.astype(np.float32), block))
        for i, part in enumerate(parts):
            best[i], where[i] = _merge(best[i], where[i], part, device, start, euclidean, len(rows))
    worst = np.concatenate([np.asarray(part).min(axis=1) for part in best])[: len(query)]
    lengths = np.concatenate([np.linalg.norm(rows.astype(np.float64), axis=1) for rows in scaled])
    scale = lengths * longest + (longest**2 / 2 if euclidean else 0.0)
    # Rounding of sums of d products in float32 (Higham, 2002, section 3.1), and of the inputs;
    # then what is too small for float32, which flushes it to 0.
    width, finfo = query.shape[1], np.finfo(np.float32)
    left_out = worst.astype(np.float64) + (width + 8) * finfo.eps / 2 * scale
    left_out += width * float(finfo.tiny) * (lengths + longest + 1)
    return np.concatenate([np.asarray(part) for part in where])[: len(query)], left_out


def _search_again(query, gallery, kth, k, measure, batch_size) -> tuple[np.ndarray, np.ndarray]:
    """The best k of every query, whatever float32 has rounded: indices and similarities `[q, k]`.

    ``kth`` is a score that the k best reach. Rows whose score in float64 is not below it, by more
    than its rounding, are compared from differences.
    """
    width = min(4096, max(1, 2**24 // (batch_size + k)))  # at most 128 MiB of scores
    points = measure.exact(query, 0)
    centred = measure.centred(query, 0)
    lengths = np.linalg.norm(centred, axis=1)
    best = [(np.empty(0), np.empty(0, np.int64)) for _ in query]
    floor = kth.copy()
    for start, rows in _blocks(gallery, batch_size):
        exact = measure.exact(rows, 1)
        around = measure.centred(rows, 1)
        squares = np.square(around).sum(axis=1)
        size = np.sqrt(squares.max())
        half = squares / 2 if measure.similarity == "euclidean" else np.zeros(len(rows))
        slack = (query.shape[1] + 8) * _UNIT64 * (lengths * size + half.max())
        for low in range(0, len(query), width):
            part = slice(low, low + width)
            scores = centred[part] @ around.T - half[None, :]
            reach = scores >= (floor[part] - slack[part])[:, None]
            for i in np.flatnonzero(reach.any(axis=1)):
                near = np.flatnonzero(reach[i])
                here = _similarities(points[low + i], exact[near], measure.similarity)
                values, places = best[low + i]
                values = np.concatenate([values, here])
                places = np.concatenate([places, start + near])
                order = np.argsort(-values, kind="stable")[:k]  # of equal ones the first
                best[low + i] = values[order], places[order]
                if len(order) == k:
                    score = measure.score(query[low + i : low + i + 1], values[order[-1:]])
                    floor[low + i] = max(floor[low + i], score[0])
    return np.stack([places for _, places in best]), np.stack([values for values, _ in best])


def _similarities(point: np.ndarray, rows: np.ndarray, similarity: str) -> np.ndarray:
    """Of one scaled query `[d]` with scaled rows `[n, d]`, float64 `[n]`."""
    if similarity != "euclidean":
        return np.einsum("cd,d->c", rows, point)  # equal rows round equally, as in _rank_again
    gaps = rows - point[None, :]
    top = np.abs(gaps).max(axis=1)
    safe = np.where(top > 0, top, 1)
    # The largest difference apart: squares of 1e-200 have no room in float64.
    return -top * np.linalg.norm(gaps / safe[:, None], axis=1)


def _pad(rows: np.ndarray, length: int) -> np.ndarray:
    """Rows of zeros below, so that every block has one shape and one program."""
    return np.pad(rows, ((0, length - len(rows)), (0, 0)))


def _rank_again(query, gallery, candidates, k, measure) -> Neighbours:
    """The best k of the candidates, in float64, and their similarities, scaled."""
    indices = np.empty((len(query), k), np.int64)
    values = np.empty((len(query), k))
    # At most about 128 MiB of gathered rows at a time.
    step = max(1, 2**24 // (candidates.shape[1] * query.shape[1]))
    for start in range(0, len(query), step):
        rows = np.sort(candidates[start : start + step], axis=1)  # equal ones: the first
        points = measure.exact(query[start : start + step], 0)
        found = measure.exact(gallery[rows.reshape(-1)], 1).reshape(*rows.shape, -1)
        if measure.similarity == "euclidean":
            gaps = found - points[:, None]
            top = np.abs(gaps).max(axis=2)
            gaps /= np.where(top > 0, top, 1)[:, :, None]
            scores = -top * np.linalg.norm(gaps, axis=2)
        else:
            scores = np.einsum("qcd,qd->qc", found, points)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        indices[start : start + step] = np.take_along_axis(rows, order, axis=1)
        values[start : start + step] = np.take_along_axis(scores, order, axis=1)
    return Neighbours(indices, values)
