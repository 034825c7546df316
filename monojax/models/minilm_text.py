"""Texts to MiniLM's embeddings: tokens, length buckets, one compiled program per shape."""

import functools
import os
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.extras import require
from monojax.models.minilm import MAX_LENGTH, MiniLM, load_minilm, minilm_folder

PUBLISHED_LENGTH = 128
"""Tokens, start and end included, that the published encoder was trained with."""
BUCKET = 8
"""Texts are padded to a multiple of so many tokens."""


class Tokens(NamedTuple):
    """Token ids of texts, without padding."""

    ids: list[np.ndarray]
    """One int32 array per text, with start and end token."""
    truncated: np.ndarray
    """Whether each text was longer than the limit and lost its end, bool `[n]`."""


class Embeddings(NamedTuple):
    """Embeddings of texts, in their order."""

    vectors: np.ndarray
    """float32 `[n, d]`, not normalised."""
    truncated: np.ndarray
    """Whether each text was longer than the limit and lost its end, bool `[n]`."""
    lengths: np.ndarray
    """Tokens per text, int `[n]`."""


class Tokenizer:
    """WordPiece in lower case, as published, truncated at an explicit length and never padded.

    Args:
      folder: holds tokenizer.json; None for the installed package that ships it.
      max_length: tokens per text at most, start and end included.

    Raises:
      FileNotFoundError: if there is no tokenizer.json.
      ImportError: without the package `tokenizers`; names the extra `text`.
      ValueError: if ``max_length`` is not between 3 and 512.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        max_length: int = PUBLISHED_LENGTH,
    ):
        """See the class."""
        if not 3 <= max_length <= MAX_LENGTH:
            raise ValueError(f"max_length must lie between 3 and {MAX_LENGTH}, got {max_length}.")
        path = minilm_folder(folder) / "tokenizer.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: the encoder needs the tokenizer.json that its weights were "
                "published with, in the folder of model.safetensors."
            )
        self._tokenizer = require("tokenizers", "text").Tokenizer.from_file(str(path))
        self._tokenizer.no_padding()  # the file asks for 128 always
        self._tokenizer.enable_truncation(max_length)
        self.max_length = max_length

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Texts to token ids.

        Args:
          texts: not empty, none of them empty, blank or without a visible character.

        Returns:
          Tokens.

        Raises:
          TypeError: if ``texts`` is one string, or holds something else than strings.
          ValueError: if there is no text, or one is empty.
        """
        texts = check_texts(texts)
        encodings = self._tokenizer.encode_batch(texts)
        for text, encoding in zip(texts, encodings, strict=True):
            check_words(text, encoding.ids)
        ids = [np.asarray(encoding.ids, np.int32) for encoding in encodings]
        return Tokens(ids, np.array([bool(encoding.overflowing) for encoding in encodings]))

    def words(self, text: str) -> list[str]:
        """The tokens of one text as words and pieces of words, for showing.

        Args:
          text: not empty.

        Returns:
          As many strings as ``self([text]).ids[0]`` has numbers.
        """
        encoding = self._tokenizer.encode(check_texts([text])[0])
        check_words(text, encoding.ids)
        return encoding.tokens


def check_texts(texts: Sequence[str]) -> list[str]:
    """The texts as a list, checked.

    Args:
      texts: sequence of strings.

    Returns:
      list.

    Raises:
      TypeError: if it is one string, or holds something else than strings.
      ValueError: if there is none, or one is empty.
    """
    if isinstance(texts, str):
        raise TypeError(f"texts must be a list of strings, got one string: [{texts[:40]!r}].")
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{i}] must be a string, got {type(text).__name__}.")
        if not text.strip():
            raise ValueError(
                f"texts[{i}] is empty, and a mean over no words means nothing; drop such texts."
            )
    if not texts:
        raise ValueError("texts is empty: give at least one.")
    return texts


def check_words(text: str, ids: Sequence[int]) -> None:
    """Raises if a text has no word: characters without width, control characters, lone accents.

    Args:
      text: for the message.
      ids: its token ids, start and end included.

    Raises:
      ValueError: if there is nothing between start and end.
    """
    if len(ids) <= 2:
        raise ValueError(
            f"the text {text[:40]!r} has no character that the tokenizer knows, and a mean over "
            "no words means nothing; drop such texts."
        )


def batches(
    lengths: np.ndarray, batch_size: int, bucket: int = BUCKET
) -> list[tuple[np.ndarray, int, int]]:
    """Texts sorted by length into batches of few different shapes.

    Batches hold ``batch_size`` texts of similar length, padded to a multiple of ``bucket``; the
    last one has the smallest power of two of rows that holds it, so there are at most
    log2(batch_size) + 1 numbers of rows.

    Args:
      lengths: tokens per text, `[n]`.
      batch_size: texts per batch, a power of two.
      bucket: tokens.

    Returns:
      ``(indices, rows, length)`` each: the texts of a batch, and its shape.
    """
    order = np.argsort(lengths, kind="stable")
    found, start = [], 0
    while start < len(order):
        rows = batch_size
        while rows > 1 and rows // 2 >= len(order) - start:
            rows //= 2
        indices = order[start : start + rows]
        length = min(-(-int(lengths[indices].max()) // bucket) * bucket, MAX_LENGTH)
        found.append((indices, rows, length))
        start += rows
    return found


@functools.partial(jax.jit, static_argnums=0)
def _embed(module: MiniLM, variables: Any, ids: jax.Array, lengths: jax.Array) -> jax.Array:
    mask = jnp.arange(ids.shape[1])[None] < lengths[:, None]
    return jnp.asarray(module.apply(variables, ids, mask))


class SentenceEncoder:
    """MiniLM with its tokenizer: ``SentenceEncoder().encode(texts).vectors``.

    Args:
      folder: holds model.safetensors and tokenizer.json; None for the installed package.
      max_length: tokens per text at most; what is longer is truncated and counted.
      batch_size: texts per batch, a power of two.
      bucket: texts are padded to a multiple of so many tokens.
      dtype: of the weights and the computation.

    Raises:
      FileNotFoundError: if files are missing; ImportError without `tokenizers`; ValueError for
        another model's weights.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        max_length: int = PUBLISHED_LENGTH,
        batch_size: int = 32,
        bucket: int = BUCKET,
        dtype: Any = jnp.float32,
    ):
        """See the class."""
        if batch_size < 1 or batch_size & (batch_size - 1):
            raise ValueError(f"batch_size must be a power of two, got {batch_size}.")
        if bucket < 1:
            raise ValueError(f"bucket must be at least 1, got {bucket}.")
        self.tokenizer = Tokenizer(folder, max_length)
        self.module, self.variables = load_minilm(folder, dtype)
        self.batch_size, self.bucket = batch_size, bucket

    def encode(self, texts: Sequence[str], normalise: bool = False) -> Embeddings:
        """Embeddings of texts.

        Args:
          texts: not empty, none of them empty or blank.
          normalise: divide each vector by its norm: the published encoder does, MonoCon does not.

        Returns:
          Embeddings. A text that is too long is truncated; how many were is also a warning.

        Raises:
          TypeError: as the tokenizer.
          ValueError: as the tokenizer.
        """
        tokens = self.tokenizer(texts)
        if cut := int(tokens.truncated.sum()):
            warnings.warn(
                f"{cut} of {len(tokens.ids)} texts are longer than {self.tokenizer.max_length} "
                "tokens and were truncated; the result's `truncated` says which.",
                stacklevel=2,
            )
        vectors = self.embed_tokens(tokens.ids)
        if normalise:
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return Embeddings(vectors, tokens.truncated, np.array([len(ids) for ids in tokens.ids]))

    def embed_tokens(self, ids: Sequence[np.ndarray]) -> np.ndarray:
        """Embeddings of token ids.

        Args:
          ids: one int array per text, as the tokenizer gives them.

        Returns:
          float32 `[n, d]`.
        """
        lengths = np.array([len(one) for one in ids])
        done = []
        for indices, rows, length in batches(lengths, self.batch_size, self.bucket):
            # Rows that are left over repeat the first text, so that no row is all padding.
            chosen = np.concatenate([indices, np.repeat(indices[:1], rows - len(indices))])
            padded = np.zeros((rows, length), np.int32)
            for row, i in enumerate(chosen):
                padded[row, : lengths[i]] = ids[i]
            # Not waited for: the next batch is put together while this one is computed.
            done.append((indices, _embed(self.module, self.variables, padded, lengths[chosen])))
        vectors = np.empty((len(ids), self.module.width), np.float32)
        for indices, values in done:
            vectors[indices] = np.asarray(values, np.float32)[: len(indices)]
        return vectors
