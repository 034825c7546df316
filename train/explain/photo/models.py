"""The networks a photograph is explained by: their input, and what their weights file must hold."""

import csv
import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.data.crops import normalise
from monojax.data.locate import data_directory
from monojax.data.photos import imagenet_wnids
from monojax.models.efficientnet import efficientnet_input
from monojax.models.pretrained import load_pretrained
from monojax.models.squeezenet import squeezenet_input
from train.checks import one_of

SIZE = 224
_TORCHVISION = (
    "torchvision's names and shapes, as `save_file(model.state_dict(), FILE)` writes them"
)


@dataclass(frozen=True)
class Known:
    """A model that a person may name."""

    title: str
    published: str
    """Its name in `monojax.models.pretrained`."""
    prepare: Callable[[Any], jax.Array]
    """uint8 RGB `[h, w, 3]` to the network's input: the mean and scale it was trained with."""
    holds: str
    """What its weights file must hold."""
    shipped: str = ""
    """Its file in a data folder, if there is one."""


MODELS = {
    "squeezenet": Known(
        "SqueezeNet 1.1",
        "squeezenet1_1",
        squeezenet_input,
        "arrays conv1/w, conv1/b, fire2/squeeze1x1/w, ... in the layout HWIO",
        "weights/squeezenet11_imagenet_f32.npz",
    ),
    "efficientnet_lite0": Known(
        "EfficientNet-Lite0",
        "efficientnet_lite0",
        efficientnet_input,
        "arrays stem/w, block0/depthwise/w, ..., fc/b, batch norms folded in, in the layout HWIO",
        "weights/efficientnet_lite0_imagenet_f16.npz",
    ),
    "resnet18": Known("ResNet18", "resnet18", normalise, _TORCHVISION),
    "resnet34": Known("ResNet34", "resnet34", normalise, _TORCHVISION),
    "resnet50": Known("ResNet50", "resnet50", normalise, _TORCHVISION),
    "vgg16": Known("VGG16", "vgg16", normalise, _TORCHVISION),
}
"""All take the central square at 224 x 224, the shorter side being scaled to 256 first."""
SAME = {"squeezenet1_1": "squeezenet"}


@dataclass(frozen=True)
class Classifier:
    """A network that is ready to explain."""

    title: str
    fn: Callable[[jax.Array, Any], jax.Array]
    """``fn(x, variables)``: logits `[c]` of ONE input."""
    variables: Any
    prepare: Callable[[np.ndarray], jax.Array]
    """uint8 pixels to the input."""
    size: int
    names: tuple[str, ...]
    """Of the classes."""
    sha256: str
    """Of the weights, or of what trained them."""


def classifier(model: str, weights: str, classes: str) -> Classifier:
    """A person's network.

    Args:
      model: a name in `MODELS`.
      weights: its file; "" for the one in the data folder.
      classes: a file of names; "" for ImageNet's where there are 1,000.

    Returns:
      Classifier.

    Raises:
      ValueError: on another model, a file of another one, or names of another number.
      FileNotFoundError: if a file is missing.
    """
    known = MODELS[one_of(SAME.get(model, model), MODELS, "config.model")]
    file = _weights(known, weights)
    module, variables, digest = _loaded(known.published, known.holds, file)
    shape = (1, SIZE, SIZE, 3)
    logits = jax.eval_shape(module.apply, variables, jax.ShapeDtypeStruct(shape, jnp.float32))
    fn = lambda x, v: module.apply(v, x[None])[0]
    names = class_names(classes, logits.shape[-1])
    return Classifier(known.title, fn, variables, known.prepare, SIZE, names, digest)


def _weights(known: Known, weights: str) -> Path:
    if weights:
        return Path(weights).expanduser()
    if known.shipped:
        return data_directory(None, known.shipped, "see the data section of BUILD.md.") / (
            known.shipped
        )
    raise ValueError(
        f"config.weights must name the weights of {known.title}: {known.holds} (.safetensors, "
        ".npz or .pth)."
    )


@functools.lru_cache(maxsize=1)
def _loaded(published: str, holds: str, file: Path) -> tuple[Any, Any, str]:
    """Read once, for the check and for the run."""
    try:
        module, variables = load_pretrained(published, file)
    except ValueError as error:
        raise ValueError(f"{error} Wanted: {holds}.") from error
    return module, variables, hashlib.sha256(file.read_bytes()).hexdigest()


def class_names(classes: str, num: int) -> tuple[str, ...]:
    """What the network's outputs are called.

    Args:
      classes: a text file with one name per line, or a CSV file with a column "name"; "" for none.
      num: of outputs.

    Returns:
      As many names.

    Raises:
      ValueError: on another number of names.
      FileNotFoundError: if there is no such file.
    """
    if not classes:
        return tuple(imagenet_wnids()) if num == 1000 else tuple(f"class {i}" for i in range(num))
    path = Path(classes).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"config.classes: no file of names at {path}.")
    try:
        text = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"config.classes: {path} is no text in UTF-8.") from error
    names = [line.strip() for line in text.splitlines()]
    rows = list(csv.DictReader(text.splitlines())) if path.suffix == ".csv" else []
    if rows and "name" in rows[0]:
        names = [row["name"] for row in rows]
    if len(names) != num:
        raise ValueError(
            f"config.classes: {path} has {len(names)} names, and the network has {num} outputs."
        )
    return tuple(names)


def target_of(target: Any, names: Sequence[str]) -> int | None:
    """The class that a person means.

    Args:
      target: a number, a name, or None.
      names: of the classes.

    Returns:
      Its number, None for None.

    Raises:
      ValueError: on a number out of range, or a name that is not there or there twice.
    """
    if target is None:
        return None
    if isinstance(target, int) and not isinstance(target, bool):
        if not 0 <= target < len(names):
            raise ValueError(f"config.target must lie in [0, {len(names) - 1}], got {target}.")
        return target
    one_of(target, names, "config.target") if len(names) <= 20 else _near(target, names)
    if list(names).count(target) > 1:
        raise ValueError(f"config.target: several classes are called {target!r}; give the number.")
    return list(names).index(target)


def _near(target: Any, names: Sequence[str]) -> None:
    """A short message for a long list."""
    if target not in names:
        from train.checks import near

        text = str(target)
        inside = [name for name in names if text and text.lower() in name.lower()][:5]
        hint = f"did you mean {' or '.join(inside)}?" if inside else near(text, names)
        raise ValueError(f"config.target: no class is called {target!r}; {hint[:300]}")
