"""Networks whose maps cover images, and auxiliary classifiers that look at what is left.

Every network here ends in maps a `[h, w, W]`, a linear layer V and a mean over positions, in
either order, so its logits are the means of K class maps, a V + b. After a ReLU these are maps in
slices of one per class: the exact last layer of a pretrained network, with nothing fitted, in
which a class's slice exists. A network that was trained with slices (a ResNet with ``maps``)
brings its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from monojax.data.crops import normalise
from monojax.data.locate import data_directory
from monojax.models.efficientnet import efficientnet_input
from monojax.models.pretrained import load_pretrained
from monojax.models.squeezenet import squeezenet_input
from monojax.saving import load

AUXILIARIES = {
    "efficientnet_lite0": "EfficientNet-Lite0",
    "squeezenet1_1": "SqueezeNet 1.1",
    "resnet18": "ResNet-18",
    "resnet34": "ResNet-34",
    "resnet50": "ResNet-50",
}
SOURCES = (*AUXILIARIES, "saved")
_FILES = {
    "efficientnet_lite0": "weights/efficientnet_lite0_imagenet_f16.npz",
    "squeezenet1_1": "weights/squeezenet11_imagenet_f32.npz",
}


@dataclass(frozen=True)
class Source:
    """A network whose maps cover images."""

    title: str
    backbone: Callable[[jax.Array], jax.Array]
    """Raw images `[n, s, s, 3]` to maps `[n, h, w, W]`, non-negative."""
    kernel: jax.Array
    """V, `[W, K]`."""
    bias: jax.Array
    """b, `[K]`."""
    native: bool = False
    """The maps are in class slices already, by training."""

    @property
    def num_classes(self) -> int:
        """K."""
        return self.kernel.shape[1]

    def maps(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps `[n, h, w, W]` and logits `[n, K]` of raw images."""
        maps = self.backbone(images)
        return maps, jax.vmap(self.head)(maps)

    def head(self, maps: jax.Array) -> jax.Array:
        """Logits `[K]` of one example's maps."""
        return maps.mean(axis=(0, 1)) @ self.kernel + self.bias

    def sliced(self, maps: jax.Array) -> jax.Array:
        """One example's maps in class slices: its own, or the ReLU of its class maps."""
        return maps if self.native else jax.nn.relu(maps @ self.kernel + self.bias[None, None])

    def sliced_head(self, sliced: jax.Array) -> jax.Array:
        """Logits of one example's sliced maps (class maps: without their negative part)."""
        return self.head(sliced) if self.native else sliced.mean(axis=(0, 1))


def source(name: str, config: Any) -> Source:
    """A network of `SOURCES` as a source of maps.

    Args:
      name: its name; "saved" is a ResNet in a folder written by `monojax.save`.
      config: files (name to weights file or folder), data_dir.

    Returns:
      Source.

    Raises:
      FileNotFoundError: if its weights are missing.
      ValueError: if they are another model's.
    """
    if name == "saved":
        module, variables = load(config.files[name])
        return _resnet(module, variables, f"{type(module).__name__} (saved)")
    module, variables = _pretrained(name, config)
    if name == "squeezenet1_1":
        conv10 = variables["params"]["conv10"]
        return Source(
            AUXILIARIES[name],
            lambda images: _squeezenet_maps(module, variables, images),
            conv10["kernel"][0, 0],
            conv10["bias"],
        )
    if name == "efficientnet_lite0":
        fc = variables["params"]["fc"]
        backbone = lambda x: module.apply(variables, efficientnet_input(x), method="maps")
        return Source(AUXILIARIES[name], backbone, fc["kernel"], fc["bias"])
    return _resnet(module, variables, AUXILIARIES[name])


def _resnet(module: Any, variables: Any, title: str) -> Source:
    fc = variables["params"]["fc"]
    backbone = lambda x: module.apply(variables, normalise(x), method="features")
    return Source(title, backbone, fc["kernel"], fc["bias"], native=bool(module.maps))


def _squeezenet_maps(module: Any, variables: Any, images: jax.Array) -> jax.Array:
    """The 512 maps before SqueezeNet's last convolution."""
    _, state = module.apply(
        variables,
        squeezenet_input(images),
        capture_intermediates=lambda layer, _: layer.name == "fire9",
        mutable=["intermediates"],
    )
    return state["intermediates"]["fire9"]["__call__"][0]


def auxiliary(name: str, config: Any) -> Callable[[np.ndarray], np.ndarray]:
    """A classifier of raw images; any callable of this form can take its place.

    Args:
      name: a key of `AUXILIARIES`.
      config: files, data_dir.

    Returns:
      ``predict(images [n, s, s, 3] in [0, 255]) -> logits [n, 1000]``.

    Raises:
      FileNotFoundError, ValueError: as :func:`source`.
    """
    module, variables = _pretrained(name, config)
    prepare = {"squeezenet1_1": squeezenet_input, "efficientnet_lite0": efficientnet_input}
    into = prepare.get(name, normalise)
    predict = jax.jit(lambda variables, images: module.apply(variables, into(images)))
    return lambda images: np.asarray(predict(variables, images))


def _pretrained(name: str, config: Any) -> tuple[Any, Any]:
    """Module and variables, from the file that the config names or the data folder's."""
    file = config.files[name]
    if not file:
        wanted = _FILES.get(name, f"weights/{name}.safetensors")
        get = f"weights of {AUXILIARIES[name]}, or name the file: --config.files.{name}=FILE."
        file = data_directory(config.data_dir or None, wanted, get) / wanted
    return load_pretrained(name, file)
