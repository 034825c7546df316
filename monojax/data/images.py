"""Small image sets as numpy arrays: MNIST, Fashion-MNIST, notMNIST.

Files are read from the user's data folder and checked against their sha256; MNIST and
Fashion-MNIST can come from tensorflow-datasets instead. Pixels stay as they are stored.
"""

import importlib.util
import io
import os
from typing import Any, NamedTuple

import numpy as np

from monojax.data.locate import external_bytes
from monojax.extras import require

PathLike = str | os.PathLike[str]

FILES = {
    "mnist": (
        "images/mnist.npz",
        "06af5dfe73b70e3bc1c36439982b18a8d76803db9b544f6fdf838a37fbb01b64",
        "MNIST (LeCun, Cortes, Burges) as x_train, y_train, x_test, y_test, uint8 [n, 28, 28].",
    ),
    "fashion_mnist": (
        "images/fashion_mnist.npz",
        "85cc4e3a7edcf7da06bfc8437d4fc0831f9cf035c115eb538f5318dc995a22af",
        "the first 20,000 training and all test images of Fashion-MNIST (Zalando, MIT), "
        "as x_train, y_train, x_test, y_test.",
    ),
    "notmnist": (
        "images/notmnist.npz",
        "af85c06d5c91a4859d017a8ff4ba734b00c07edba63aa0f1392371cd52d16b77",
        "10,000 images of notMNIST_small (Bulatov) as x, y.",
    ),
}
"""Set to its path in the data folder, the file's sha256, and what it is."""


class ImageSplits(NamedTuple):
    """Images and labels in two parts."""

    x_train: np.ndarray
    """uint8 `[n, h, w]`, or `[n, h, w, c]` in colour."""
    y_train: np.ndarray
    """int32 `[n]`."""
    x_test: np.ndarray
    y_test: np.ndarray


def mnist(data_dir: PathLike | None = None, *, source: str = "files") -> ImageSplits:
    """Handwritten digits: 60,000 + 10,000 images of 28 x 28, classes 0 to 9, in LeCun's order.

    Args:
      data_dir: the folder with ``images/mnist.npz``, or None for ``MONOJAX_DATA``; for
        tensorflow-datasets its own folder, or None for its default.
      source: "files", or "tfds" (which may order and download as it likes).

    Returns:
      ImageSplits, images uint8 `[n, 28, 28]`.

    Raises:
      FileNotFoundError: if the file is missing.
      ValueError: if it is another file, or on an unknown source.
      ImportError: if tensorflow-datasets is asked for and not installed.
    """
    return _splits("mnist", data_dir, source)


def fashion_mnist(data_dir: PathLike | None = None, *, source: str = "files") -> ImageSplits:
    """Zalando's articles: 28 x 28, classes 0 (T-shirt) to 9 (ankle boot), 10,000 for testing.

    **The file holds the first 20,000 training images**; tensorflow-datasets has all 60,000.

    Args:
      data_dir: as in :func:`mnist`.
      source: "files" or "tfds".

    Returns:
      ImageSplits, images uint8 `[n, 28, 28]`.

    Raises:
      FileNotFoundError, ValueError, ImportError: as :func:`mnist`.
    """
    return _splits("fashion_mnist", data_dir, source)


def notmnist(data_dir: PathLike | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Letters A to J in many typefaces, 1,000 each, some wrongly labelled: a set to be told apart.

    Args:
      data_dir: the folder with ``images/notmnist.npz``, or None for ``MONOJAX_DATA``.

    Returns:
      ``(x uint8 [10000, 28, 28], y int32 [10000])``, y = 0 for A.

    Raises:
      FileNotFoundError: if the file is missing.
      ValueError: if it is another file.
    """
    arrays = read_npz("notmnist", data_dir)
    return arrays["x"], arrays["y"].astype(np.int32)


def read_npz(name: str, data_dir: PathLike | None = None) -> dict[str, np.ndarray]:
    """All arrays of a file in ``FILES``, checked against its sha256; pickles are refused.

    Args:
      name: key of ``FILES``.
      data_dir: the folder, or None for ``MONOJAX_DATA``.

    Returns:
      Name to array.

    Raises:
      FileNotFoundError: if the folder or the file is missing.
      ValueError: if the digest differs.
    """
    path, sha256, get = FILES[name]
    with np.load(io.BytesIO(external_bytes(path, sha256, get, data_dir))) as arrays:
        return dict(arrays)


def _splits(name: str, data_dir: PathLike | None, source: str) -> ImageSplits:
    if source == "tfds":
        return from_tfds(name, data_dir)
    if source != "files":
        raise ValueError(f"source must be 'files' or 'tfds', got {source!r}.")
    arrays = read_npz(name, data_dir)
    return ImageSplits(
        arrays["x_train"],
        arrays["y_train"].astype(np.int32),
        arrays["x_test"],
        arrays["y_test"].astype(np.int32),
    )


def from_tfds(name: str, data_dir: PathLike | None = None) -> ImageSplits:
    """The splits "train" and "test" of an image set of tensorflow-datasets, as numpy arrays.

    `tfds.load` where TensorFlow is installed (it prepares the set if need be), otherwise
    `tfds.data_source`, which reads a set that was prepared with ``file_format="array_record"``.

    Args:
      name: its name there.
      data_dir: its folder, or None for its default.

    Returns:
      ImageSplits; a single channel is dropped.

    Raises:
      ImportError: if it is not installed, naming the extra.
    """
    tfds = require("tensorflow_datasets", "data")
    parts: list[np.ndarray] = []
    for split in ("train", "test"):
        options: dict[str, Any] = {"split": split, "data_dir": data_dir}
        if importlib.util.find_spec("tensorflow") is not None:
            whole = tfds.as_numpy(tfds.load(name, batch_size=-1, **options))
            images, labels = np.asarray(whole["image"]), np.asarray(whole["label"])
        else:
            rows = list(tfds.data_source(name, **options))
            images = np.stack([row["image"] for row in rows])
            labels = np.asarray([row["label"] for row in rows])
        parts += [images[..., 0] if images.shape[-1] == 1 else images, labels.astype(np.int32)]
    return ImageSplits(*parts)
