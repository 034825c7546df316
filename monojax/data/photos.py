"""Photographs with ImageNet labels or with COCO masks, as the networks' own square size."""

import io
import itertools
import json
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from monojax.base.extras import require
from monojax.data.locate import MissingDataError, external_bytes
from monojax.data.pixels import to_rgb

PathLike = str | os.PathLike[str]

_FILES = {
    "imagenet": (
        "images/imagenet_samples_224.npz",
        "66f0216a4484c4ef0031523b2489028cfcf74447c20174a66ef08bdcf869b80f",
        "250 ImageNet photographs (every fourth class) as JPEG bytes, offsets and labels.",
    ),
    "coco": (
        "images/coco128_seg.npz",
        "43ea017055e3cee6319d333ae6a0e7aecc3955fbfd1fb73fb7e40c7f17b9ce43",
        "COCO128: 128 photographs as JPEG bytes with a class mask each.",
    ),
    "objects": (
        "images/coco128_seg_objects.jsonl",
        "290538fff427418b2d3a4cb7d0d2f62a906573e757a49b06f9f5bff5cf5cb0f7",
        "the objects of COCO128, one photograph per line, largest object first.",
    ),
}

# ImageNet-1k classes that name things of a COCO class. People have no class of their own (ball
# player and groom are roles), ImageNet's kite is a bird, its street sign is no stop sign, its
# passenger car is a railway coach.
IMAGENET_OF_COCO: dict[str, tuple[int, ...]] = {
    "airplane": (404, 895),
    "apple": (948,),
    "backpack": (414,),
    "banana": (954,),
    "bear": (294, 295, 296, 297),
    "bed": (520, 564),
    "bench": (703,),
    "bicycle": (444, 671),
    "bird": (*range(7, 25), *range(80, 101), *range(127, 147)),
    "boat": (472, 484, 510, 554, 576, 625, 628, 780, 814, 871, 914),
    "bottle": (440, 720, 737, 898, 907),
    "bowl": (659, 809),
    "broccoli": (937,),
    "bus": (654, 779, 874),
    "car": (436, 468, 511, 609, 627, 656, 661, 751, 817),
    "cat": tuple(range(281, 286)),
    "cell_phone": (487,),
    "chair": (423, 559, 765),
    "clock": (409, 530, 892),
    "couch": (831,),
    "cow": (345,),
    "cup": (504, 968),
    "dining_table": (532,),
    "dog": tuple(range(151, 269)),
    "elephant": (101, 385, 386),
    "hair_drier": (589,),
    "handbag": (748,),
    "horse": (339,),
    "hot_dog": (934,),
    "keyboard": (508,),
    "laptop": (620, 681),
    "microwave": (651,),
    "motorcycle": (665, 670),
    "mouse": (673,),
    "orange": (950,),
    "oven": (827,),
    "parking_meter": (704,),
    "pizza": (963,),
    "potted_plant": (738,),
    "refrigerator": (760,),
    "remote": (761,),
    "sandwich": (933,),
    "sheep": (348, 349),
    "sink": (896,),
    "skis": (795,),
    "spoon": (910,),
    "sports_ball": (429, 430, 522, 574, 722, 768, 805, 852, 890),
    "teddy_bear": (850,),
    "tennis_racket": (752,),
    "tie": (451, 457, 906),
    "toaster": (859,),
    "toilet": (861,),
    "traffic_light": (920,),
    "train": (466, 547, 565, 705, 820, 829),
    "truck": (555, 569, 675, 717, 864, 867),
    "tv": (664, 851),
    "umbrella": (879,),
    "vase": (883,),
    "zebra": (340,),
}
"""COCO class to the indices of ImageNet-1k classes that name it; 59 of 80 classes have some."""


@dataclass(frozen=True)
class MaskedPhotos:
    """Photographs and the masks of their largest object's class."""

    images: np.ndarray
    """uint8 `[n, size, size, 3]`, RGB, the whole photograph resized (its aspect is lost)."""
    masks: np.ndarray
    """bool `[n, size, size]`: all pixels of the class."""
    names: list[str]
    """COCO class of the largest object."""
    classes: list[tuple[int, ...]]
    """ImageNet classes that name it; empty where none does."""
    ids: np.ndarray
    """COCO's image ids, `[n]`."""


def imagenet_photos(data_dir: PathLike | None = None) -> tuple[np.ndarray, np.ndarray]:
    """250 photographs of ImageNet, classes 0, 4, 8, ..., 996.

    They probably come from ImageNet's training part: accuracy on them is too high.

    Args:
      data_dir: the folder with ``images/imagenet_samples_224.npz``, or None for ``MONOJAX_DATA``.

    Returns:
      ``(images, labels)``: uint8 `[250, 224, 224, 3]`, RGB, and int `[250]`.

    Raises:
      MissingDataError: if the file is missing.
      ValueError: if it is another file.
    """
    with _load("imagenet", data_dir) as file:
        images = np.stack([np.asarray(p) for p in _pictures(file["jpeg"], file["offset"])])
        return images, file["label"].astype(np.int64)


def coco128(data_dir: PathLike | None = None, size: int = 224) -> MaskedPhotos:
    """COCO128: photographs whose largest object ImageNet names, with that class's mask.

    The mask holds all pixels of the largest object's class, other objects of it too.

    Args:
      data_dir: the folder with ``images/coco128_seg.npz``, or None for ``MONOJAX_DATA``.
      size: side of the square the whole photograph is resized to.

    Returns:
      MaskedPhotos, in the file's order, without photographs whose largest object has no ImageNet
      class.

    Raises:
      MissingDataError: if the file or the object list is missing.
      ValueError: if the file is another one, or size < 1.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}.")
    image_module = require("PIL.Image", "data")
    lines = external_bytes(*_FILES["objects"], data_dir).decode().splitlines()
    objects = [json.loads(line)["objects"] for line in lines]
    with _load("coco", data_dir) as file:
        pictures = _pictures(file["jpeg"], file["jpeg_offset"])
        heights, offsets = file["height_width"], file["mask_offset"]
        flat, names, ids = file["class_mask"], file["class_names"].tolist(), file["image_id"]
    kept = []
    for i, (picture, found) in enumerate(zip(pictures, objects, strict=True)):
        name = found[0]["name"].replace(" ", "_") if found else ""
        if not IMAGENET_OF_COCO.get(name):
            continue
        mask = flat[offsets[i] : offsets[i + 1]].reshape(tuple(heights[i]))
        own = image_module.fromarray((mask == names.index(name)).astype(np.uint8))
        picture = picture.resize((size, size), image_module.Resampling.BICUBIC)
        own = own.resize((size, size), image_module.Resampling.NEAREST)
        kept.append((np.asarray(picture), np.asarray(own, bool), name, ids[i]))
    images, masks, labels, numbers = zip(*kept, strict=True)
    return MaskedPhotos(
        images=np.stack(images),
        masks=np.stack(masks),
        names=list(labels),
        classes=[IMAGENET_OF_COCO[name] for name in labels],
        ids=np.asarray(numbers),
    )


def _load(name: str, data_dir: PathLike | None) -> np.lib.npyio.NpzFile:
    path, sha256, get = _FILES[name]
    return np.load(io.BytesIO(external_bytes(path, sha256, get, data_dir)), allow_pickle=False)


def _pictures(content: np.ndarray, offsets: np.ndarray) -> list:
    """Decoded images of a flat array of JPEG bytes."""
    image_module = require("PIL.Image", "data")
    parts = [content[a:b].tobytes() for a, b in itertools.pairwise(offsets)]
    return [to_rgb(image_module.open(io.BytesIO(part))) for part in parts]


def imagenet_s(directory: PathLike, part: str = "validation", size: int = 224) -> MaskedPhotos:
    """ImageNet-S (50, 300 or 919 classes): photographs of ImageNet with masks of their class.

    Layout, as published: ``PART/WNID/NAME.JPEG``, ``PART-segmentation/WNID/NAME.png`` and
    ``categories.txt`` (one WNID per line: line i is mask id i) in the folder; masks hold
    id = R + 256 G, 0 for other things and 1000 for pixels to ignore. Shorter side to 256 / 224 of
    ``size``, centre crop.

    Args:
      directory: the folder.
      part: "validation" or another part with masks.
      size: side of the square.

    Returns:
      MaskedPhotos; ``ids`` are the images' names, ``names`` their WNIDs. Images without a pixel of
      their class in the crop are left out.

    Raises:
      MissingDataError: if a folder or file is missing; says what is expected where.
    """
    image_module = require("PIL.Image", "data")
    root = Path(directory)
    listing = root / "categories.txt"
    if not (root / part).is_dir() or not listing.is_file():
        raise MissingDataError(
            f"{root} is no copy of ImageNet-S: it needs {part}/WNID/*.JPEG, "
            f"{part}-segmentation/WNID/*.png and categories.txt (WNIDs in the order of mask ids). "
            "Get ImageNet (a licence is needed) and the ImageNet-S annotations, then pass the "
            "folder."
        )
    wnids = listing.read_text().split()
    index = {wnid: i for i, wnid in enumerate(imagenet_wnids())}
    kept = []
    for wnid in wnids:
        for path in sorted((root / part / wnid).glob("*.JPEG")):
            mask_path = root / f"{part}-segmentation" / wnid / f"{path.stem}.png"
            if not mask_path.is_file():
                raise MissingDataError(f"{mask_path} is missing.")
            code = np.asarray(image_module.open(mask_path).convert("RGB"), np.int64)
            own = code[..., 0] + 256 * code[..., 1] == wnids.index(wnid) + 1
            picture = _centre(to_rgb(image_module.open(path)), size, "BICUBIC")
            mask = _centre(image_module.fromarray(own.astype(np.uint8)), size, "NEAREST")
            if np.asarray(mask).any():
                kept.append((np.asarray(picture), np.asarray(mask, bool), wnid, path.stem))
    if not kept:
        raise MissingDataError(f"{root / part} has no images with masks.")
    images, masks, names, ids = zip(*kept, strict=True)
    classes: list[tuple[int, ...]] = [(index[name],) for name in names]
    return MaskedPhotos(np.stack(images), np.stack(masks), list(names), classes, np.asarray(ids))


def _centre(picture: Any, size: int, method: str) -> Any:
    """Shorter side to size * 256 / 224, then the middle square."""
    image_module = require("PIL.Image", "data")
    short = round(size * 256 / 224)
    scale = short / min(picture.size)
    shape = [max(short, round(n * scale)) for n in picture.size]
    picture = picture.resize(shape, getattr(image_module.Resampling, method))
    left, top = ((n - size) // 2 for n in picture.size)
    return picture.crop((left, top, left + size, top + size))


def imagenet_wnids() -> list[str]:
    """The 1000 WNIDs of ImageNet-1k, in the order of their class indices.

    Returns:
      Names such as "n01440764".
    """
    entry = resources.files("monojax.data") / "files" / "imagenet_wnids.txt"
    return entry.read_text().split()
