"""Features that are computed once and kept in a file: frozen parts of published encoders."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.data import images
from monojax.models.efficientnet import efficientnet_input
from monojax.models.pretrained import load_pretrained

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
            _write(path, _maps(module, variables, pixels, side))
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


def _write(path: Path, array: np.ndarray) -> None:
    partial = path.with_name(f".{path.name}")
    with partial.open("wb") as file:
        np.save(file, array)
    partial.replace(path)
