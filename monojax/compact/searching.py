"""Nearest stored rows, block by block, and embeddings of many inputs."""

from typing import Any

import jax
import numpy as np

from monojax.compact.export import Embed
from monojax.compact.storage import Stored, restore
from monojax.metrics.neighbours import nearest

BLOCK = 65_536
"""Rows whose codes are restored at once."""


def cut(y: np.ndarray, mean: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Normalised embeddings in the index's dimensions: of a row, whatever came with it.

    Args:
      y: `[n, d]`.
      mean: float32 `[d]`.
      axes: float32 `[d, k]`.

    Returns:
      float32 `[n, k]`.
    """
    return ((y - mean[None, :]) @ axes.astype(np.float64)).astype(np.float32)


def nearest_stored(query: np.ndarray, stored: Stored, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest stored rows of cut embeddings, exactly, codes restored block by block.

    Args:
      query: float32 `[q, k]`.
      stored: rows.
      k: at most their number.

    Returns:
      ``(indices, similarities)``.

    Raises:
      ValueError: on k beyond the rows.
    """
    num = len(stored.codes)
    if stored.scale is None or num <= BLOCK or not 1 <= k <= num:
        gallery = stored.codes if stored.scale is None else restore(stored)
        found = nearest(query, gallery, k)
        return found.indices, found.similarities
    places, scores = np.empty((len(query), 0), np.int64), np.empty((len(query), 0))
    for start in range(0, num, BLOCK):
        part = restore(stored, slice(start, start + BLOCK))
        found = nearest(query, part, min(k, len(part)))
        indices = np.concatenate([places, start + found.indices], axis=1)
        values = np.concatenate([scores, found.similarities], axis=1)
        order = np.argsort(-values, axis=1, kind="stable")[:, :k]  # of equal ones the first
        places, scores = (np.take_along_axis(side, order, axis=1) for side in (indices, values))
    return places, scores


def embedded(embed: Embed | None, inputs: Any, batch_size: int) -> Any:
    """Embeddings of all inputs; the last batch is filled up, so one shape is compiled.

    Args:
      embed: inputs to embeddings, None if they are embeddings.
      inputs: pytree of arrays `[n, ...]`.
      batch_size: at a time.

    Returns:
      `[n, d]`.
    """
    if embed is None:
        return inputs
    num = len(jax.tree.leaves(inputs)[0])
    size = min(batch_size, num)
    parts = []
    for start in range(0, num, size):
        rows = np.arange(start, start + size) % num
        parts.append(np.asarray(embed(jax.tree.map(lambda leaf, rows=rows: leaf[rows], inputs))))
    return np.concatenate(parts)[:num]
