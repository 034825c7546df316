"""Small image sets as numpy arrays: MNIST, Fashion-MNIST, notMNIST, CIFAR-10.

Files are read from the user's data folder and checked against their sha256. All but notMNIST can
come from tensorflow-datasets or from folders of images instead, MNIST and Fashion-MNIST from
the IDX files of their authors. Pixels stay as they are stored.
"""

import hashlib
import importlib.util
import io
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from monojax.base.extras import require
from monojax.data.downloads import one_error
from monojax.data.folders import int32_labels, list_images
from monojax.data.idx import SPLITS, read_split
from monojax.data.locate import MissingDataError, external_bytes
from monojax.data.pixels import to_eight_bits

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
    "cifar10_train": (
        "images/cifar10_train_jpeg.npz",
        "711ea4788409a0f2cc1765a49fb9e74c2d4c76aeb7220141c0cce0b3a390e063",
        "the 50,000 training images of CIFAR-10 as JPEG bytes: jpeg, offset, label.",
    ),
    "cifar10_test": (
        "images/cifar10_test_jpeg.npz",
        "f5bec1651563f1e66df65f3f75d96e758a75d726623d826b88d59e816192be86",
        "the 10,000 test images of CIFAR-10 as JPEG bytes: jpeg, offset, label.",
    ),
}
"""Set to its path in the data folder, the file's sha256, and what it is."""
TEST_LABELS = {
    "mnist": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    "fashion_mnist": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
}
"""sha256 of the 10,000 test labels as bytes, as published."""


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
        tensorflow-datasets its own folder, or None for its default; for "directory" see
        :func:`from_directory`.
      source: "files", "tfds" (which may order and download as it likes), "directory", or "idx",
        the authors' four files in ``data_dir``, gzipped or not, which are not checked otherwise
        than against being the other set.

    Returns:
      ImageSplits, images uint8 `[n, 28, 28]`.

    Raises:
      MissingDataError: if the file is missing.
      ValueError: if it is another file, or on an unknown source.
      ImportError: if tensorflow-datasets is asked for and not installed.
    """
    return _splits("mnist", data_dir, source)


def fashion_mnist(data_dir: PathLike | None = None, *, source: str = "files") -> ImageSplits:
    """Zalando's articles: 28 x 28, classes 0 (T-shirt) to 9 (ankle boot), 10,000 for testing.

    **The file holds the first 20,000 training images**; tensorflow-datasets and the authors' own
    files ("idx") have all 60,000.

    Args:
      data_dir: as in :func:`mnist`.
      source: "files", "tfds", "directory" or "idx".

    Returns:
      ImageSplits, images uint8 `[n, 28, 28]`.

    Raises:
      MissingDataError, ValueError, ImportError: as :func:`mnist`.
    """
    return _splits("fashion_mnist", data_dir, source)


def cifar10(data_dir: PathLike | None = None, *, source: str = "files") -> ImageSplits:
    """Ten kinds of things in colour, 50,000 + 10,000 images of 32 x 32 (Krizhevsky, 2009).

    **The file's images went through JPEG** (quality about 75): pixels differ from the original's,
    so results are not exactly comparable with published ones. Its order is by number within the
    class, classes in turn: every prefix of 10 k images is balanced. The others are lossless.

    Args:
      data_dir: the folder with ``images/cifar10_{train,test}_jpeg.npz``; as in :func:`mnist`.
      source: "files", "tfds" or "directory".

    Returns:
      ImageSplits, images uint8 `[n, 32, 32, 3]`; labels airplane, automobile, bird, cat, deer,
      dog, frog, horse, ship, truck.

    Raises:
      MissingDataError, ValueError, ImportError: as :func:`mnist`; "files" needs Pillow.
    """
    if source != "files":
        return _splits("cifar10", data_dir, source)
    parts: list[np.ndarray] = []
    for split in ("train", "test"):
        arrays = read_npz(f"cifar10_{split}", data_dir)
        ends = zip(arrays["offset"][:-1], arrays["offset"][1:], strict=True)
        images = np.stack([decode(arrays["jpeg"][start:end].tobytes()) for start, end in ends])
        parts += [images, arrays["label"].astype(np.int32)]
    return ImageSplits(*parts)


def decode(content: bytes) -> np.ndarray:
    """An encoded image as pixels.

    Args:
      content: a JPEG or PNG file.

    Returns:
      uint8 `[h, w]` if it is grey (16 bits are scaled to 8), `[h, w, 3]` otherwise.

    Raises:
      ImportError: if Pillow is not installed.
      OSError: if it is no image, or damaged.
      ValueError: for 32-bit pixels, whose range is not known.
    """
    image = to_eight_bits(require("PIL.Image", "data").open(io.BytesIO(content)))
    return np.asarray(image if image.mode == "L" else image.convert("RGB"))


def notmnist(data_dir: PathLike | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Letters A to J in many typefaces, 1,000 each, some wrongly labelled: a set to be told apart.

    Args:
      data_dir: the folder with ``images/notmnist.npz``, or None for ``MONOJAX_DATA``.

    Returns:
      ``(x uint8 [10000, 28, 28], y int32 [10000])``, y = 0 for A.

    Raises:
      MissingDataError: if the file is missing.
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
      MissingDataError: if the folder or the file is missing.
      ValueError: if the digest differs.
    """
    path, sha256, get = FILES[name]
    with np.load(io.BytesIO(external_bytes(path, sha256, get, data_dir))) as arrays:
        return dict(arrays)


def _splits(name: str, data_dir: PathLike | None, source: str) -> ImageSplits:
    if source == "tfds":
        return from_tfds(name, data_dir)
    if source == "directory":
        return from_directory(data_dir)
    if source == "idx" and name != "cifar10":
        return _from_idx(name, data_dir)
    if source != "files":
        known = "'tfds' or 'directory'" if name == "cifar10" else "'tfds', 'directory' or 'idx'"
        raise ValueError(f"source of {name} must be 'files', {known}, got {source!r}.")
    arrays = read_npz(name, data_dir)
    return ImageSplits(
        arrays["x_train"],
        arrays["y_train"].astype(np.int32),
        arrays["x_test"],
        arrays["y_test"].astype(np.int32),
    )


def _from_idx(name: str, data_dir: PathLike | None) -> ImageSplits:
    """The authors' files. Both sets' have the same names: the test labels tell them apart."""
    splits = ImageSplits(*(part for split in SPLITS for part in read_split(data_dir, split)))
    found = hashlib.sha256(splits.y_test.astype(np.uint8).tobytes()).hexdigest()
    for other, digest in TEST_LABELS.items():
        if found == digest and other != name:
            raise ValueError(f"{data_dir} holds {other}, not {name}.")
    return splits


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
      MissingDataError: if the set is not prepared and cannot be had, as without a network.
    """
    tfds = require("tensorflow_datasets", "data")
    parts: list[np.ndarray] = []
    for split in ("train", "test"):
        options: dict[str, Any] = {"split": split, "data_dir": data_dir}
        if importlib.util.find_spec("tensorflow") is not None:
            with one_error(name):
                whole = tfds.as_numpy(tfds.load(name, batch_size=-1, **options))
            images, labels = np.asarray(whole["image"]), np.asarray(whole["label"])
        else:
            with one_error(name):
                rows = list(tfds.data_source(name, **options))
            images = np.stack([row["image"] for row in rows])
            labels = np.asarray([row["label"] for row in rows])
        parts += [
            images[..., 0] if images.shape[-1] == 1 else images,
            int32_labels(labels, f"labels of {name}"),
        ]
    return ImageSplits(*parts)


def from_directory(data_dir: PathLike | None) -> ImageSplits:
    """Folders of equally large images, ``DIR/train/CLASS/*`` and ``DIR/test/CLASS/*``.

    Args:
      data_dir: DIR; files end in .png, .jpg or .jpeg.

    Returns:
      ImageSplits; labels number the class folders of "train" in alphabetical order.

    Raises:
      MissingDataError: if there is no such folder, or no image in it.
      ValueError: if images differ in size, or "test" has a class that "train" has not.
      ImportError: if Pillow is not installed.
    """
    root = Path(data_dir) if data_dir is not None else None
    if root is None or not (root / "train").is_dir():
        raise MissingDataError(
            f"{root} has no folder train; lay images out as DIR/train/CLASS/NAME.png and "
            "DIR/test/CLASS/NAME.png and pass data_dir=DIR."
        )
    classes, parts = None, []
    for split in ("train", "test"):
        if not (root / split).is_dir():
            raise MissingDataError(f"{root} has no folder {split}.")
        classes, files, labels = list_images(root / split, classes)
        images = [decode((root / split / name).read_bytes()) for name in files]
        sizes = {image.shape for image in images}
        if len(sizes) > 1:
            raise ValueError(
                f"images in {root / split} differ in size ({sorted(sizes)[:4]}); make them equal."
            )
        parts += [np.stack(images), labels]
    return ImageSplits(*parts)
