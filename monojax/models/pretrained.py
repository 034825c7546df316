"""Published weights: one table of names per model, every shape checked."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from monojax.base.checks import one_of
from monojax.models.tensor_files import read_tensors

# Published layout to ours, and back.
_LAYOUTS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[..., np.ndarray]]] = {
    "same": (lambda a: a, lambda a: a),  # HWIO kernels, (in, out) matrices, vectors
    "oihw": (lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1)),
    "linear": (np.transpose, np.transpose),
    "flattened": (lambda a: _channels(a, True), lambda a: _channels(a.T, False)),
}
_POOLED = 7  # positions per side before VGG's first dense layer


def _channels(a: np.ndarray, ours: bool) -> np.ndarray:
    """(out, c h w) to (h w c, out), or (out, h w c) to (out, c h w)."""
    if ours:
        split = a.reshape(a.shape[0], -1, _POOLED, _POOLED)
        return split.transpose(2, 3, 1, 0).reshape(-1, a.shape[0])
    split = a.reshape(a.shape[0], _POOLED, _POOLED, -1)
    return split.transpose(0, 3, 1, 2).reshape(a.shape[0], -1)


@dataclass(frozen=True)
class Entry:
    """One array of a published file and its place in the linen variables.

    Args:
      name: in the file.
      path: in the variables, such as ``"params/conv1/kernel"``.
      layout: the file's: "same", "oihw" (convolution of PyTorch), "linear" (dense of PyTorch) or
        "flattened" (dense of PyTorch on flattened maps of 7 x 7).
    """

    name: str
    path: str
    layout: str = "same"


@dataclass(frozen=True)
class Published:
    """How to build a model and read its published weights.

    Args:
      build: makes the linen module from the tensors (widths and depths are read off them).
      table: makes the entries from the tensors' names.
      example: shape of one input batch.
      ignored: endings of names that the file may hold and the model does not use.
    """

    build: Callable[[Mapping[str, np.ndarray]], nn.Module]
    table: Callable[[Mapping[str, np.ndarray]], list[Entry]]
    example: tuple[int, ...]
    ignored: tuple[str, ...] = ()


def load_pretrained(
    model: str, path: str | os.PathLike[str], dtype: Any = jnp.float32
) -> tuple[nn.Module, dict[str, Any]]:
    """A published network as a linen module and its variables.

    Args:
      model: a name in `PUBLISHED`, such as ``"squeezenet1_1"``.
      path: the weights file (.npz, .safetensors, or .pth without PyTorch).
      dtype: of the variables.

    Returns:
      ``(module, variables)``; ``module.apply(variables, images)`` gives logits.

    Raises:
      ValueError: for an unknown model, or a file of another model: lists what is missing, left
        over or of another shape.
      FileNotFoundError: if there is no such file.
    """
    one_of(model, sorted(PUBLISHED), "model")
    published = PUBLISHED[model]
    tensors = {
        name: array
        for name, array in read_tensors(path).items()
        if not name.endswith(published.ignored or ("\0",))
    }
    try:
        module = published.build(tensors)
        table = published.table(tensors)
    except KeyError as error:
        raise ValueError(f"{path} is no file of {model}: it has no tensor {error}.") from error
    example = jax.ShapeDtypeStruct(published.example, jnp.float32)
    template = jax.eval_shape(module.init, jax.random.key(0), example)
    return module, convert(tensors, table, template, dtype=dtype, source=str(path))


def convert(
    tensors: Mapping[str, np.ndarray],
    table: list[Entry],
    template: Any,
    *,
    dtype: Any = jnp.float32,
    source: str = "the file",
) -> dict[str, Any]:
    """Published arrays as linen variables.

    Args:
      tensors: arrays by their published names.
      table: where each belongs.
      template: variables of the module, arrays or shapes (`jax.eval_shape` of its `init`).
      dtype: of the result's floating arrays.
      source: named in errors.

    Returns:
      Variables with the template's tree.

    Raises:
      ValueError: lists the names that are missing, left over or of another shape.
    """
    wanted = flatten_dict(jax.tree.map(lambda leaf: tuple(leaf.shape), dict(template)), sep="/")
    placed: dict[str, jax.Array] = {}
    wrong = []
    for entry in table:
        if entry.name not in tensors or entry.path not in wanted:
            continue
        array = np.asarray(tensors[entry.name])
        # A wrong rank is reported below, with both shapes.
        if array.ndim == len(wanted[entry.path]) or entry.layout == "same":
            array = _LAYOUTS[entry.layout][0](array)
        if array.shape != wanted[entry.path]:
            wrong.append(f"{entry.name} {tensors[entry.name].shape}, expected {wanted[entry.path]}")
            continue
        placed[entry.path] = jnp.asarray(array, dtype)
    known = {entry.name for entry in table}
    unfilled = [path for path in wanted if path not in {entry.path for entry in table}]
    problems = {
        "missing": sorted(known - set(tensors)) + sorted(unfilled),
        "left over": sorted(set(tensors) - known)
        + sorted(e.path for e in table if e.path not in wanted),
        "of another shape": wrong,
    }
    if any(problems.values()):
        raise ValueError(f"{source} does not fit the model: {_describe(problems)}.")
    return unflatten_dict(placed, sep="/")


def export(variables: Mapping[str, Any], table: list[Entry]) -> dict[str, np.ndarray]:
    """Linen variables as arrays in the published names and layouts: `convert` backwards.

    Args:
      variables: as `convert` returns them.
      table: where each array belongs.

    Returns:
      Arrays by published name.
    """
    flat = flatten_dict(dict(variables), sep="/")
    return {e.name: _LAYOUTS[e.layout][1](np.asarray(flat[e.path])) for e in table}


def _describe(problems: Mapping[str, list[str]]) -> str:
    """Each kind of problem with its first names and the number of the others."""
    parts = []
    for kind, names in problems.items():
        if names:
            more = f" and {len(names) - 6} more" if len(names) > 6 else ""
            parts.append(f"{kind}: {', '.join(names[:6])}{more}")
    return "; ".join(parts)


def _plain(tensors: Mapping[str, np.ndarray]) -> list[Entry]:
    """``a/b/w`` and ``a/b/b`` to kernel and bias at ``a/b``; ``block7`` is block_7."""
    leaves = {"w": "kernel", "b": "bias"}
    entries = []
    for name in tensors:
        module, _, leaf = name.rpartition("/")
        module = re.sub(r"^block(\d+)", r"block_\1", module)
        entries.append(Entry(name, f"params/{module}/{leaves.get(leaf, leaf)}"))
    return entries


def _squeezenet(tensors: Mapping[str, np.ndarray]) -> nn.Module:
    from monojax.models.squeezenet import SqueezeNet

    return SqueezeNet(tensors["conv10/w"].shape[-1])


def _efficientnet_lite0(tensors: Mapping[str, np.ndarray]) -> nn.Module:
    from monojax.models.efficientnet import EfficientNetLite0

    return EfficientNetLite0(tensors["fc/w"].shape[-1])


def _vgg16(tensors: Mapping[str, np.ndarray]) -> nn.Module:
    from monojax.models.vgg import VGG16

    first, last = tensors["features.0.weight"], tensors["classifier.6.weight"]
    dense = (last.shape[1], last.shape[1])
    return VGG16(last.shape[0], width=first.shape[0] / 64, dense=dense)


def _vgg16_table(tensors: Mapping[str, np.ndarray]) -> list[Entry]:
    """``features.0`` to ``features_0``; the first dense layer reads positions, then channels."""
    entries = []
    for name in tensors:
        module, _, leaf = name.rpartition(".")
        path = module.replace(".", "_")
        if leaf == "bias":
            entries.append(Entry(name, f"params/{path}/bias"))
        elif module.startswith("features"):
            entries.append(Entry(name, f"params/{path}/kernel", "oihw"))
        else:
            layout = "flattened" if module == "classifier.0" else "linear"
            entries.append(Entry(name, f"params/{path}/kernel", layout))
    return entries


def torch_norm(name: str, path: str) -> list[Entry]:
    """Entries of a batch norm of PyTorch.

    Args:
      name: the published prefix, such as ``"layer1.0.bn1"``.
      path: the module's path, such as ``"layer1_0/bn1"``.

    Returns:
      Scale, bias, mean and variance.
    """
    return [
        Entry(f"{name}.weight", f"params/{path}/scale"),
        Entry(f"{name}.bias", f"params/{path}/bias"),
        Entry(f"{name}.running_mean", f"batch_stats/{path}/mean"),
        Entry(f"{name}.running_var", f"batch_stats/{path}/var"),
    ]


def _torch_conv(name: str, path: str) -> Entry:
    """A convolution of PyTorch without bias."""
    return Entry(f"{name}.weight", f"params/{path}/kernel", "oihw")


def _resnet(depth: int) -> Published:
    """torchvision's ResNet: width, classes and stem are read off the tensors."""

    def build(tensors):
        from monojax.models.resnet import ResNet

        kernel = tensors["conv1.weight"].shape
        stem = "imagenet" if kernel[-1] == 7 else "cifar"
        return ResNet(tensors["fc.weight"].shape[0], kernel[0], stem, depth=depth)

    return Published(build, _resnet_table, (1, 224, 224, 3), ("num_batches_tracked",))


def _resnet_table(tensors: Mapping[str, np.ndarray]) -> list[Entry]:
    """``layer1.0.conv1`` to ``layer1_0/conv1``, ``downsample.0`` and ``.1`` to conv and norm."""
    entries = [
        Entry("fc.weight", "params/fc/kernel", "linear"),
        Entry("fc.bias", "params/fc/bias"),
    ]
    for name in tensors:
        module = name.removesuffix(".weight")
        if module == name or module == "fc":
            continue
        path = re.sub(r"^(layer\d)\.(\d+)\.", r"\1_\2/", module)
        path = path.replace("downsample.0", "downsample_conv").replace(
            "downsample.1", "downsample_bn"
        )
        if tensors[name].ndim == 4:
            entries.append(_torch_conv(module, path))
        else:
            entries += torch_norm(module, path)
    return entries


PUBLISHED: dict[str, Published] = {
    "squeezenet1_1": Published(_squeezenet, _plain, (1, 224, 224, 3)),
    "efficientnet_lite0": Published(_efficientnet_lite0, _plain, (1, 224, 224, 3)),
    "resnet18": _resnet(18),
    "resnet34": _resnet(34),
    "resnet50": _resnet(50),
    "vgg16": Published(_vgg16, _vgg16_table, (1, 224, 224, 3)),
}
"""Models whose weights can be read, by name."""
