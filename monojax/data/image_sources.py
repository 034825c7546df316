"""Where encoded images come from: tensorflow-datasets, folders, the 250 photos, nowhere (fake).

A source has a length, gives ``(encoded image or pixels, label)`` by index and a ``name`` for
messages; it can be sent to another process.
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from monojax.base.choices import one_of
from monojax.base.extras import require
from monojax.data.folders import list_images
from monojax.data.locate import MissingDataError, external_bytes

SOURCES = ("tfds", "folder", "photos", "fake")
PHOTOS = "images/imagenet_samples_224.npz"
_PHOTOS_SHA256 = "66f0216a4484c4ef0031523b2489028cfcf74447c20174a66ef08bdcf869b80f"
_GET = (
    "To get ImageNet (ILSVRC 2012): register at image-net.org, download ILSVRC2012_img_train.tar "
    "and ILSVRC2012_img_val.tar into DIR/downloads/manual, install tensorflow beside "
    "tensorflow-datasets once, and run: tfds build imagenet2012 --file_format=array_record "
    "--data_dir=DIR; then give DIR as the data folder. Or unpack it as DIR/train/CLASS/*.JPEG and "
    "DIR/val/CLASS/*.JPEG and take the source 'folder'. Without it: the source 'fake'."
)


class Images(Protocol):
    """A source of images, by index."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, index: int) -> tuple[bytes | np.ndarray, int]:
        """``(encoded image or pixels uint8 [h, w, 3], label)``."""

    def name(self, index: int) -> str:
        """What to call an image in a message."""


def open_images(
    source: str,
    split: str,
    data_dir: str | os.PathLike | None = None,
    *,
    fake: int = 1_000,
    num_classes: int = 1_000,
) -> Images:
    """Opens a part of ImageNet, or of what stands in for it.

    Args:
      source: "tfds" (``imagenet2012``, prepared as array_record), "folder" (a folder per class),
        "photos" (the 250 photos of the project's data, in both parts) or "fake".
      split: "train" or "validation".
      data_dir: where it is; None or "" takes tensorflow-datasets' own folder for "tfds" and
        ``MONOJAX_DATA`` for "photos".
      fake: number of images of "fake".
      num_classes: of the model; a set with other labels is refused.

    Returns:
      Images.

    Raises:
      ValueError: on an unknown source or split, or another number of classes.
      MissingDataError: if there is no data; says how to get it.
    """
    one_of(split, ("train", "validation"), "split")
    one_of(source, SOURCES, "source of images")
    if source == "fake":
        return FakeImages(fake, num_classes=num_classes)
    images: TfdsImages | FolderImages | PhotoImages
    if source == "tfds":
        images = TfdsImages("imagenet2012", split, data_dir or None)
    elif source == "folder":
        if not data_dir:
            raise MissingDataError(f"source 'folder' needs a data folder. {_GET}")
        images = _folder(Path(data_dir).expanduser(), split)
    else:
        images = PhotoImages(data_dir or None)
    if images.num_classes != num_classes:
        raise ValueError(
            f"the {source} images have {images.num_classes} classes and the model has "
            f"{num_classes}; give num_classes={images.num_classes} and maps that "
            "divide by it, or other images."
        )
    return images


class TfdsImages:
    """A set of tensorflow-datasets in array_record files; the images stay encoded.

    Args:
      dataset: name, such as "imagenet2012"; needs features "image" and "label".
      split: such as "train" or "validation".
      data_dir: tensorflow-datasets' folder; None for its default.

    Raises:
      MissingDataError: if the set is not prepared there.
    """

    def __init__(self, dataset: str, split: str, data_dir: str | os.PathLike | None = None):
        """See the class."""
        self._args = dataset, split, None if data_dir is None else str(data_dir)
        self._rows: Any = None
        rows = self._open()
        self._length = len(rows)
        self.num_classes = int(rows.dataset_info.features["label"].num_classes)

    def _open(self) -> Any:
        """Rows of the split; opened again in every process."""
        if self._rows is not None:
            return self._rows
        tfds = require("tensorflow_datasets", "data")
        dataset, split, data_dir = self._args
        try:
            self._rows = tfds.data_source(
                dataset,
                split=split,
                data_dir=data_dir,
                download=False,
                decoders={"image": tfds.decode.SkipDecoding()},
            )
        except Exception as error:  # several kinds: no folder, no such version, other format
            where = data_dir or "tensorflow-datasets' default folder"
            kind = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
            raise MissingDataError(
                f"no prepared {dataset}/{split} in array_record format in {where} ({kind}). {_GET}"
            ) from error
        return self._rows

    def __getstate__(self) -> dict[str, Any]:
        """Without open files."""
        return {**self.__dict__, "_rows": None}

    def __len__(self) -> int:
        """Number of images."""
        return self._length

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        """Encoded image and label."""
        row = self._open()[index]
        return bytes(row["image"]), int(row["label"])

    def name(self, index: int) -> str:
        """Set, split and row."""
        return f"{self._args[0]}/{self._args[1]} row {index}"


class FolderImages:
    """A folder with one folder of JPEG or PNG files per class.

    Args:
      root: the folder of class folders; empty and hidden ones count for nothing.
      classes: names in the order of their numbers, such as the training part's; None numbers
        this folder's own in the order of their names.

    Raises:
      MissingDataError: if there is no such folder, or no image in it.
      ValueError: if a folder is none of ``classes``.
    """

    def __init__(self, root: str | os.PathLike, classes: Sequence[str] | None = None):
        """See the class."""
        self.root = Path(root)
        if not self.root.is_dir():
            raise MissingDataError(f"there is no folder {self.root}. {_GET}")
        try:
            listing = list_images(self.root, classes)
        except MissingDataError as error:
            raise MissingDataError(
                f"{error} A validation part in one flat folder must be sorted by class first. "
                f"{_GET}"
            ) from None
        self.classes, self.num_classes = listing.classes, len(listing.classes)
        # Bytes of one width: a list of a million names would be copied to every process.
        self._files = np.array([name.encode() for name in listing.files])
        self._labels = listing.labels

    def __len__(self) -> int:
        """Number of images."""
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        """Encoded image and label."""
        return (self.root / self._name(index)).read_bytes(), int(self._labels[index])

    def _name(self, index: int) -> str:
        return self._files[index].decode()

    def name(self, index: int) -> str:
        """The file's path."""
        return str(self.root / self._name(index))


class PhotoImages:
    """The 250 photos of the project's data folder: one of every fourth ImageNet class, 224 x 224.

    Args:
      data_dir: the data folder; None for ``MONOJAX_DATA``.

    Raises:
      MissingDataError: if the file is not there.
    """

    def __init__(self, data_dir: str | os.PathLike | None = None):
        """See the class."""
        get = "it comes with the project's shared data (from EliSchwartz/imagenet-sample-images)."
        with np.load(io.BytesIO(external_bytes(PHOTOS, _PHOTOS_SHA256, get, data_dir))) as file:
            self._bytes = file["jpeg"].tobytes()
            self._offset, self._labels = np.asarray(file["offset"]), np.asarray(file["label"])
        self.num_classes = 1_000  # the labels are ImageNet's

    def __len__(self) -> int:
        """250."""
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        """Encoded image and ImageNet-1k label."""
        begin, end = int(self._offset[index]), int(self._offset[index + 1])
        return self._bytes[begin:end], int(self._labels[index])

    def name(self, index: int) -> str:
        """File and row."""
        return f"{PHOTOS} row {index}"


class FakeImages:
    """Noise in the shape of photos, decoded already: for timing everything but the decoding.

    Args:
      num: number of images; 16 different ones are repeated.
      size: height and width.
      num_classes: labels are 0, 1, ..., num_classes - 1 in turn.
    """

    def __init__(self, num: int = 1_000, size: int = 256, num_classes: int = 1_000):
        """See the class."""
        if num < 1:
            raise ValueError(f"a fake set needs at least one image, got {num}.")
        self._num, self._classes = num, num_classes
        rng = np.random.default_rng(0)
        self._pool = rng.integers(256, size=(16, size, size, 3), dtype=np.uint8)

    def __len__(self) -> int:
        """Number of images."""
        return self._num

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Pixels and label."""
        return self._pool[index % len(self._pool)], index % self._classes

    def name(self, index: int) -> str:
        """Row."""
        return f"fake row {index}"


def _folder(root: Path, split: str) -> FolderImages:
    """A part of DIR/train and DIR/val; both number the classes as the training part does."""
    if split == "train" or not (root / "train").is_dir():
        return FolderImages(_part(root, split))
    return FolderImages(_part(root, split), FolderImages(root / "train").classes)


def _part(root: Path, split: str) -> Path:
    """The folder of a split: "val" and "validation" are both in use."""
    names = ("train",) if split == "train" else ("val", "validation")
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise MissingDataError(f"{root} has no folder {' or '.join(names)}. {_GET}")
