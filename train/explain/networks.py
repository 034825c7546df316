"""Networks, images and masks that explanations are judged on."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from monojax.data.crops import normalise
from monojax.data.locate import data_directory
from monojax.data.photos import coco128, imagenet_photos, imagenet_s
from monojax.models.efficientnet import efficientnet_input
from monojax.models.pretrained import load_pretrained
from monojax.models.squeezenet import squeezenet_input


@dataclass(frozen=True)
class Network:
    """A classifier of unit-scale inputs, and where its maps are taken."""

    name: str
    title: str
    fn: Callable[[jax.Array, Any], jax.Array]
    """``fn(x, variables)``: logits `[1000]` of ONE input `[size, size, 3]`."""
    variables: Any
    prepare: Callable[[np.ndarray], jax.Array]
    """uint8 images to inputs whose channels vary by about 1, so that noise of 0.2 means the same
    for every network."""
    layers: tuple[str | None, ...]
    """Candidates for every method; None is the input."""


@dataclass(frozen=True)
class Images:
    """What is explained."""

    name: str
    pixels: np.ndarray
    """uint8 `[n, size, size, 3]`."""
    masks: np.ndarray | None
    """bool `[n, size, size]`."""
    choices: list[tuple[int, ...]]
    """Classes that name what is in the mask; the one with the largest logit is explained."""
    ids: list[str]


# (weights in the data folder or "", title, input as the network takes it, its scale, layers)
_NETWORKS: dict[str, tuple[str, str, Callable[[Any], jax.Array], float, tuple[str | None, ...]]] = {
    "squeezenet1_1": (
        "weights/squeezenet11_imagenet_f32.npz",
        "SqueezeNet 1.1",
        squeezenet_input,
        57.4,
        (None, "fire3", "fire5", "fire7", "fire9", "conv10"),
    ),
    "efficientnet_lite0": (
        "weights/efficientnet_lite0_imagenet_f16.npz",
        "EfficientNet-Lite0",
        efficientnet_input,
        0.45,
        (None, "block_3/expand", "block_5/expand", "block_8/expand", "block_12/expand", "head"),
    ),
    "vgg16": (
        "",
        "VGG16",
        normalise,
        1.0,
        (None, "features_5", "features_12", "features_14", "features_26"),
    ),
    "resnet18": (
        "",
        "ResNet18",
        normalise,
        1.0,
        (None, "layer1_1", "layer2_1", "layer3_1", "layer4_1", "layer4_1/conv2"),
    ),
}
NETWORKS = tuple(_NETWORKS)


def network(name: str, weights: str = "") -> Network:
    """A pretrained network.

    Args:
      name: a name in `NETWORKS`.
      weights: its weights file; "" for the one in the data folder (``MONOJAX_DATA``).

    Returns:
      Network.

    Raises:
      FileNotFoundError: if the file is missing.
      ValueError: if it holds another model.
    """
    file, title, preprocess, scale, layers = _NETWORKS[name]
    if not weights:
        wanted = file or f"weights/{name}.safetensors"
        get = (
            "see the data section of BUILD.md."
            if file
            else f"torchvision's weights of {title}; or name the file: --config.weights.{name}=FILE"
        )
        weights = str(data_directory(None, wanted, get) / wanted)
    module, variables = load_pretrained(name, weights)

    def fn(x, variables):
        return module.apply(variables, scale * x[None])[0]

    return Network(name, title, fn, variables, lambda a: preprocess(a) / scale, layers)


def images(name: str, data_dir: str = "") -> Images:
    """A set of images.

    Args:
      name: "coco128", "imagenet" (250 photographs without masks) or "imagenet_s".
      data_dir: for "imagenet_s" its folder; the others are in ``MONOJAX_DATA``.

    Returns:
      Images.

    Raises:
      FileNotFoundError: if files are missing.
    """
    if name == "coco128":
        coco = coco128()
        ids = [f"{int(i):012d}" for i in coco.ids]
        return Images(name, coco.images, coco.masks, coco.classes, ids)
    if name == "imagenet":
        pixels, labels = imagenet_photos()
        ids = [str(i) for i in range(len(labels))]
        return Images(name, pixels, None, [(int(label),) for label in labels], ids)
    found = imagenet_s(Path(data_dir or os.environ.get("IMAGENET_S", "")))
    return Images(name, found.images, found.masks, found.classes, [str(i) for i in found.ids])


DATA = ("coco128", "imagenet", "imagenet_s")


def targets(net: Network, inputs: jax.Array, choices: Sequence[tuple[int, ...]]) -> Any:
    """The class to explain: the largest logit among those that name the object.

    Args:
      net: network.
      inputs: `[n, size, size, 3]`.
      choices: classes per image.

    Returns:
      ``(targets [n], right [n])``: right where it is the largest of all logits.
    """
    fn = jax.jit(jax.vmap(net.fn, (0, None)))
    parts = [fn(inputs[i : i + 16], net.variables) for i in range(0, len(inputs), 16)]
    logits = np.concatenate([np.asarray(part) for part in parts])
    chosen = [list(c)[int(np.argmax(row[list(c)]))] for row, c in zip(logits, choices, strict=True)]
    return np.asarray(chosen), logits.argmax(-1) == np.asarray(chosen)
