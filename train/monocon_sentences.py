"""Sentence pairs for MonoCon: trained on SNLI's entailments, judged on the STS Benchmark."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from monojax.data.text import snli, stsb, unique
from monojax.models.minilm import MiniLM, load_minilm
from monojax.models.minilm_text import BUCKET, SentenceEncoder, Tokenizer
from train.monocon_encoders import Cached
from train.monocon_problems import Paired, Problem, paired_views
from train.sentences import embed

WATCHED = 10
"""Every so many unique sentences is watched during training (the paper: 10% of them)."""


class Sentences(nn.Module):
    """MiniLM on padded token ids; 0 is padding.

    Attributes:
      net: the encoder.
    """

    net: MiniLM

    @nn.compact
    def __call__(self, ids: jax.Array, train: bool = False) -> jax.Array:
        """`[b, t]` to `[b, 384]`."""
        return self.net(ids.astype(jnp.int32), ids > 0, train)


def cached_sentences(options: Any, data_dir: str | None = None) -> Problem:
    """Entailment pairs of SNLI's dev and test parts, MiniLM frozen, its embeddings computed once.

    Args:
      options: ``config.data``: cache (folder), folder (MiniLM's, "" for the package), limit (pairs
        per set, 0 for all).
      data_dir: the folder with text/.

    Returns:
      Problem; only the head is trained.
    """
    limit = options.limit or None
    pairs = [p for split in ("dev", "test") for p in snli(split, data_dir).pairs()][:limit]
    look_up = _Vectors(options)
    texts = unique(text for pair in pairs for text in pair)
    gallery = look_up("snli", texts)
    place = {text: i for i, text in enumerate(texts)}
    first, second = (gallery[[place[pair[side]] for pair in pairs]] for side in (0, 1))
    judged, test_inputs = {}, gallery[:0]
    for split in ("dev", "test"):
        data = stsb(split, data_dir)
        sides = data.first[:limit], data.second[:limit]
        texts = unique(sides[0] + sides[1])
        test_inputs, place = look_up(f"stsb_{split}", texts), {t: i for i, t in enumerate(texts)}
        a, b = (test_inputs[[place[text] for text in side]] for side in sides)
        judged[split] = Paired(a, b, data.scores[:limit])
    return Problem(
        title="SNLI dev + test entailments to STS-B, MiniLM frozen",
        classes=False,
        encoder=Cached(),
        dim=gallery.shape[1],
        train={"first": first, "second": second},
        views=paired_views,
        train_inputs=lambda key, x: x,
        eval_inputs=lambda x: x,
        gallery=gallery,
        gallery_label=None,
        valid=judged["dev"],
        test=judged["test"],
        test_inputs=test_inputs,
        watch=gallery[::WATCHED],
    )


class _Vectors:
    """Embeddings of named sets of texts; the encoder is built when one is not in the cache."""

    def __init__(self, options: Any):
        self.cache, self.folder = Path(options.cache), options.folder or None
        self.encoder: SentenceEncoder | None = None

    def __call__(self, name: str, texts: Sequence[str]) -> np.ndarray:
        path = self.cache / f"{name}.npz"
        digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
        if path.is_file():
            with np.load(path) as found:
                if str(found["texts"]) == digest and len(found["vectors"]) == len(texts):
                    return found["vectors"]
        path.parent.mkdir(parents=True, exist_ok=True)
        self.encoder = self.encoder or SentenceEncoder(self.folder)
        print(f"train: {len(texts)} sentences through MiniLM, once: {path}", flush=True)
        return embed(self.encoder, texts, path)


def sentences(options: Any, data_dir: str | None = None) -> Problem:
    """All of SNLI's training entailments, MiniLM trained with the head: the paper's setting.

    Args:
      options: ``config.data``: folder (MiniLM's, "" for the package), source ("tfds" or "files"),
        train (SNLI part), limit (pairs per set, 0 for all), length (tokens per sentence).
      data_dir: of text/, or of tensorflow-datasets for the source "tfds".

    Returns:
      Problem.
    """
    limit, tokenizer = options.limit or None, Tokenizer(options.folder or None, options.length)
    pairs = snli(options.train, data_dir, options.source).pairs()[:limit]
    ids = lambda texts: _padded(tokenizer(texts).ids, options.length)
    texts = unique(text for pair in pairs for text in pair)
    gallery = ids(texts)
    place = {text: i for i, text in enumerate(texts)}
    first, second = (gallery[[place[pair[side]] for pair in pairs]] for side in (0, 1))
    judged = {}
    for split in ("dev", "test"):
        # The test part's scores are in the files only: GLUE hides them.
        data = stsb(split, options.stsb_dir or None)
        sides = data.first[:limit], data.second[:limit]
        judged[split] = Paired(ids(sides[0]), ids(sides[1]), data.scores[:limit])
        last = unique(sides[0] + sides[1])
    return Problem(
        title="SNLI train entailments to STS-B, MiniLM",
        classes=False,
        encoder=Sentences(MiniLM()),
        dim=384,
        train={"first": first, "second": second},
        views=paired_views,
        train_inputs=lambda key, x: x,
        eval_inputs=lambda x: x,
        gallery=gallery,
        gallery_label=None,
        valid=judged["dev"],
        test=judged["test"],
        test_inputs=ids(last),
        watch=gallery[::WATCHED],
        pretrained=_published(options.folder or None),
        collate=trimmed,
    )


def trimmed(batch: Any) -> Any:
    """Cuts padding that no sentence of the batch needs; lengths are multiples of 16.

    Args:
      batch: pytree of token ids `[b, t]`, 0 for padding.

    Returns:
      The same with `[b, t']`, so that few shapes are compiled.
    """
    leaves = jax.tree.leaves(batch)
    longest = max(int((leaf > 0).sum(axis=1).max()) for leaf in leaves)
    length = min(-(-longest // BUCKET) * BUCKET, leaves[0].shape[1])
    return jax.tree.map(lambda leaf: leaf[:, :length], batch)


def _padded(ids: Sequence[np.ndarray], length: int) -> np.ndarray:
    """int16 `[n, length]`; the vocabulary has 30,522 entries."""
    out = np.zeros((len(ids), length), np.int16)
    for row, tokens in enumerate(ids):
        out[row, : len(tokens)] = tokens
    return out


def _published(folder: str | None) -> Callable[[jax.Array, dict[str, Any]], dict[str, Any]]:
    def load(key: jax.Array, fresh: dict[str, Any]) -> dict[str, Any]:
        _, variables = load_minilm(folder)
        return {"params": {"net": variables["params"]}}

    return load
