"""Features that are computed once and kept in a file: frozen parts of published encoders."""

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.data import images
from monojax.models.efficientnet import efficientnet_input
from monojax.models.minilm_text import SentenceEncoder
from monojax.models.pretrained import load_pretrained
from monojax.training import write_atomically

BLOCKS = 15
"""Blocks of EfficientNet-Lite0 that are frozen; one more follows."""


def lite_maps(
    weights: Path, side: int, cache: str | os.PathLike[str], data_dir: Any = None
) -> tuple[Any, Any, Any]:
    """EfficientNet-Lite0's maps before its last block for all of CIFAR-10.

    Args:
      weights: the published weights.
      side: images are enlarged to side x side (bilinear).
      cache: folder for ``lite0_SIDE_{train,test}.npy``, float16; made here if absent.
      data_dir: the folder with images/.

    Returns:
      ``((maps, labels) of training images, the same of test images, the last block's parameters)``.
    """
    module, variables = load_pretrained("efficientnet_lite0", weights)
    sets = images.cifar10(data_dir)
    parts = []
    for name, pixels, labels in (
        ("train", sets.x_train, sets.y_train),
        ("test", sets.x_test, sets.y_test),
    ):
        path = Path(cache) / f"lite0_{side}_{name}.npy"
        if not path.exists():
            print(
                f"train: {len(pixels)} images through the frozen blocks, once: {path}", flush=True
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            np.save(buffer, _maps(module, variables, pixels, side))
            write_atomically(path, buffer.getvalue())
        parts.append((np.load(path), labels))
    train, test = parts
    return train, test, variables["params"][f"block_{BLOCKS}"]


def _maps(module: Any, variables: Any, pixels: np.ndarray, side: int, batch: int = 100):
    """float16 `[n, side / 32, side / 32, 192]`"""

    @jax.jit
    def one(x):
        x = jax.image.resize(efficientnet_input(x), (len(x), side, side, 3), "bilinear")
        return module.apply(variables, x, BLOCKS, method="maps").astype(jnp.float16)

    starts = range(0, len(pixels), batch)
    rows = [np.arange(start, start + batch) % len(pixels) for start in starts]
    return np.concatenate([np.asarray(one(pixels[part])) for part in rows])[: len(pixels)]


def text_digest(texts: Sequence[str]) -> str:
    """What a cache of embeddings is recognised by."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def embed(
    encoder: SentenceEncoder, texts: Sequence[str], cache: Path, step: int = 2048, tick: Any = None
) -> np.ndarray:
    """Raw embeddings of texts, read from a cache if it holds them.

    Args:
      encoder: the encoder.
      texts: not empty.
      cache: an .npz file; written in parts of ``step`` texts, so that a killed run goes on.
      step: texts per part.
      tick: called with the number of texts that are done.

    Returns:
      float32 `[n, 384]`, not normalised.
    """
    texts = list(texts)
    digest = text_digest(texts)
    done = np.zeros((0, encoder.module.width), np.float32)
    if cache.is_file():
        with np.load(cache) as found:
            if str(found["texts"]) == digest:
                done = found["vectors"]
    if tick and len(done):
        tick(len(done))
    while len(done) < len(texts):
        part = encoder.encode(texts[len(done) : len(done) + step]).vectors
        done = np.concatenate([done, part])
        buffer = io.BytesIO()
        np.savez(buffer, texts=np.array(digest), vectors=done)
        write_atomically(cache, buffer.getvalue())
        if tick:
            tick(len(part))
    return done
