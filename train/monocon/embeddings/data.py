"""A person's embeddings, labels, pairs and texts: read, checked, and partly held out."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from monojax.metrics.neighbours import check_embedding

FEWEST = 50
"""Rows: below it nothing can be held out."""


class Rows(NamedTuple):
    """What is compressed."""

    z: np.ndarray
    """float32 `[n, d]`."""
    kind: str
    """"labels", "pairs" or "neighbours": what says which rows belong together."""
    group: np.ndarray | None
    """integers `[n]`: equal where rows belong together; None for neighbours."""
    pairs: np.ndarray | None
    """integers `[m, 2]`, if they were given."""
    names: np.ndarray | None
    """Of the groups, if they came as labels: the labels themselves."""
    texts: tuple[str, ...] | None
    sha256: str
    """Of all files."""


class Parts(NamedTuple):
    """Rows by what they are used for."""

    train: np.ndarray
    valid: np.ndarray
    """Of the rows for training, those that say when to stop."""
    test: np.ndarray
    """Nothing is fitted on them."""


def read(config: Any, embed: bool = True) -> Rows:
    """The files of a config.

    Args:
      config: see train/configs/compress_embeddings.py.
      embed: False leaves texts without embeddings alone: their ``z`` is zeros `[n, 1]`.

    Returns:
      Rows.

    Raises:
      ValueError: on what cannot be used: NaN, another length, rows that are no numbers.
      FileNotFoundError: if a file is missing.
    """
    texts = _texts(config.texts) if config.texts else None
    if not config.embeddings and texts is None:
        raise ValueError("config.embeddings must name a file of embeddings, or config.texts texts.")
    if config.labels and config.pairs:
        raise ValueError("give config.labels or config.pairs, not both.")
    if config.embeddings:
        z = _array(config.embeddings, "embeddings", "config.embeddings")
        if z.dtype.kind != "f":
            raise ValueError(f"config.embeddings must hold floats, got {z.dtype}.")
        z = check_embedding(z, "config.embeddings").astype(np.float32)
        if not np.isfinite(z).all():
            raise ValueError("config.embeddings has values beyond float32; scale them.")
    else:
        assert texts is not None
        _enough(len(texts))  # before anything is embedded
        z = embedded(texts) if embed else np.zeros((len(texts), 1), np.float32)
    _enough(len(z))
    if texts is not None and len(texts) != len(z):
        raise ValueError(f"config.texts has {len(texts)} lines for {len(z)} embeddings.")
    names = (config.embeddings, config.labels, config.pairs, config.texts)
    digest = hashlib.sha256()
    for name in names:
        digest.update(Path(name).expanduser().read_bytes() if name else b"-")
    return Rows(z, *_together(config, len(z)), texts, digest.hexdigest())


def _enough(num: int) -> None:
    if num < FEWEST:
        raise ValueError(f"{num} rows are too few to hold some out; at least {FEWEST} are needed.")


def _together(config: Any, num: int) -> tuple[str, Any, Any, Any]:
    """What belongs together: kind, groups, pairs, names of the groups."""
    if config.labels:
        labels = _array(config.labels, "labels", "config.labels")
        if labels.shape != (num,) or labels.dtype.kind not in "iuUSb":
            raise ValueError(
                f"config.labels must be one integer or text per row, shape ({num},), got "
                f"{labels.dtype} of shape {labels.shape}."
            )
        names, group = np.unique(labels, return_inverse=True)
        if len(names) < 2 or len(names) == num:
            raise ValueError(
                f"config.labels name {len(names)} classes for {num} rows: there is nothing to "
                "learn from. Leave them out to learn from neighbours."
            )
        return "labels", group.reshape(-1), None, names
    if not config.pairs:
        return "neighbours", None, None, None
    pairs = _array(config.pairs, "pairs", "config.pairs")
    if pairs.ndim != 2 or pairs.shape[1:] != (2,) or pairs.dtype.kind not in "iu":
        raise ValueError(
            f"config.pairs must be integers [m, 2], got {pairs.dtype} of shape {pairs.shape}."
        )
    if len(pairs) < 10 or pairs.min() < 0 or pairs.max() >= num:
        raise ValueError(
            f"config.pairs must be at least 10 pairs of rows 0 to {num - 1}, got {len(pairs)}"
            + (f" from {pairs.min()} to {pairs.max()}." if len(pairs) else ".")
        )
    if same := int((pairs[:, 0] == pairs[:, 1]).sum()):
        raise ValueError(f"config.pairs: {same} rows are paired with themselves.")
    pairs = pairs.astype(np.int64)
    return "pairs", components(pairs, num), pairs, None


def components(pairs: np.ndarray, num: int) -> np.ndarray:
    """Numbers of the connected parts that pairs make of rows.

    Args:
      pairs: integers `[m, 2]`.
      num: of rows.

    Returns:
      integers `[num]`, equal for rows that a chain of pairs connects.
    """
    parent = np.arange(num)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in pairs.tolist():
        parent[root(a)] = root(b)
    return np.unique([root(i) for i in range(num)], return_inverse=True)[1].reshape(-1)


def split(rows: Rows, held_out: float, seed: int) -> Parts:
    """A part for training, one for stopping, one for measuring; what is paired stays together.

    Args:
      rows: from :func:`read`.
      held_out: share of the last part; the second takes a tenth of the rest.
      seed: of the draw.

    Returns:
      Parts, in rising order.
    """
    num, rng = len(rows.z), np.random.default_rng(seed)
    group = np.arange(num) if rows.kind != "pairs" else rows.group
    assert group is not None
    order = rng.permutation(int(group.max()) + 1)[group]
    place = np.argsort(order, kind="stable")
    test, valid = int(held_out * num), max(int((1 - held_out) * num / 10), 1)
    # Whole groups: the group at a border goes to the part before it.
    border = lambda at: int(np.searchsorted(order[place], order[place[at - 1]], side="right"))
    first = border(test)
    second = border(min(first + valid, num - 1))
    return Parts(*map(np.sort, (place[second:], place[first:second], place[:first])))


def _array(name: str, key: str, option: str) -> np.ndarray:
    """One array of a file, without pickles."""
    path = Path(name).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{option}: there is no file {path}.")
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found as archive:
            names = list(archive.files)
            wanted = key if key in names else names[0] if len(names) == 1 else None
            arrays = archive[wanted] if wanted else None
    except Exception as error:  # whatever numpy raises on other files
        raise ValueError(
            f"{option}: {path} cannot be read as .npy or .npz of numbers or texts ({error}); an "
            "array of objects is saved as texts by array.astype(str)."
        ) from error
    if arrays is None:
        raise ValueError(f"{option}: {path} holds {', '.join(names)}; name one of them {key!r}.")
    return arrays


def _texts(name: str) -> tuple[str, ...]:
    path = Path(name).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"config.texts: there is no file {path}.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"config.texts: {path} is no text in UTF-8.") from error
    lines = text.removesuffix("\n").split("\n")
    if empty := [i + 1 for i, line in enumerate(lines) if not line.strip()]:
        raise ValueError(f"config.texts: line {empty[0]} is empty; one line per row is wanted.")
    return tuple(lines)


def embedded(texts: Sequence[str]) -> np.ndarray:
    """MiniLM's embeddings of texts.

    Args:
      texts: what to embed.

    Returns:
      float32 `[n, 384]`.
    """
    from monojax.models.minilm_text import SentenceEncoder

    print(f"compress_embeddings: MiniLM embeds {len(texts)} texts", flush=True)
    return np.asarray(SentenceEncoder().encode(list(texts)).vectors, np.float32)
