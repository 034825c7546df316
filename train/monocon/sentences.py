"""Sentence pairs for MonoCon: trained on SNLI's entailments, judged on the STS Benchmark."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from monojax.data.text import snli, stsb, unique
from monojax.models.minilm import MiniLM, load_minilm
from monojax.models.minilm_text import SentenceEncoder, Tokenizer
from train.monocon.data import Paired, Problem, paired_views
from train.monocon.encoders import Cached
from train.monocon.features import embed, text_digest

LENGTHS = 16
"""Training batches are padded to multiples of so many tokens: few shapes to compile."""

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
    return _problem(
        pairs,
        _Vectors(options),
        data_dir,
        limit,
        title="SNLI dev + test entailments to STS-B, MiniLM frozen",
        encoder=Cached(),
    )


def _problem(
    pairs: Sequence[tuple[str, str]],
    look_up: Callable[[str, Sequence[str]], np.ndarray],
    stsb_dir: str | None,
    limit: int | None,
    dim: int | None = None,
    **more: Any,
) -> Problem:
    """Pairs to train on and STS-B to judge by, each text as what ``look_up`` makes of it."""
    gallery, (first, second) = _sides("snli", list(zip(*pairs, strict=True)), look_up)
    judged, test_inputs = {}, gallery[:0]
    for split in ("dev", "test"):
        # The test part's scores are in the files only: GLUE hides them.
        data = stsb(split, stsb_dir)
        sides = data.first[:limit], data.second[:limit]
        test_inputs, (a, b) = _sides(f"stsb_{split}", sides, look_up)
        judged[split] = Paired(a, b, data.scores[:limit])
    return Problem(
        classes=False,
        dim=dim or gallery.shape[1],
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
        **more,
    )


def _sides(
    name: str, sides: Sequence[Sequence[str]], look_up: Callable[[str, Sequence[str]], np.ndarray]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """What ``look_up`` makes of the unique texts of pairs, and of each side in its order."""
    texts = unique(text for pair in zip(*sides, strict=True) for text in pair)
    found, place = look_up(name, texts), {text: i for i, text in enumerate(texts)}
    return found, [found[[place[text] for text in side]] for side in sides]


class _Vectors:
    """Embeddings of named sets of texts; the encoder is built when one is not in the cache."""

    def __init__(self, options: Any):
        self.cache, self.folder = Path(options.cache), options.folder or None
        self.encoder: SentenceEncoder | None = None

    def __call__(self, name: str, texts: Sequence[str]) -> np.ndarray:
        path = self.cache / f"{name}.npz"
        digest = text_digest(texts)
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

    def look_up(name: str, texts: Sequence[str]) -> np.ndarray:
        tokens = tokenizer(texts)
        if cut := int(tokens.truncated.sum()):
            print(f"train: {cut} of {len(texts)} texts of {name} cut to {options.length} tokens")
        return _padded(tokens.ids, options.length)

    return _problem(
        snli(options.train, data_dir, options.source).pairs()[:limit],
        look_up,
        options.stsb_dir or None,
        limit,
        dim=384,
        title="SNLI train entailments to STS-B, MiniLM",
        encoder=Sentences(MiniLM()),
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
    length = min(-(-longest // LENGTHS) * LENGTHS, leaves[0].shape[1])
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
