"""Models saved in format 1: names and fields of old, and what they are called today.

Format 1 held the place where a class was defined, and words that have another meaning now. To
extend: add the class's place to ``CLASSES``; a field that has another name to ``FIELDS``, a value
that has another name to ``VALUES``, and a word that means something else today to ``MEANINGS``.
Fields and values are translated only where today's class has the new field and lacks the old one.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from monojax.conjugate.activations import softplus

_PLACES = {
    "monojax": {"bilipschitz": "BLNN PartialBLNN", "bilipschitz_conv": "ConvBLNN"},
    "monojax.layers": {
        "layers.aol": "AOLConv AOLDense",
        "layers.bilipnet": "BiLipNet MonLipDense",
        "layers.cayley": "CayleyConv CayleyDense",
        "layers.chain": "Chain Rotation",
        "layers.convex": "ICNN PairwiseICNN PartialICNN",
        "layers.convex_conv": "ConvICNN",
        "layers.difference": "ConvexMLP DCNetwork",
        "layers.lipschitz": "LipschitzMLP",
        "layers.lmn": "LMN NormDense",
        "layers.monotone": "MonotoneHead MonotoneMLP",
        "layers.nonnegative": "NonNegativeDense",
        "layers.sandwich": "SandwichConv SandwichDense",
        "layers.sll": "SLLConv SLLDense",
        "layers.spectral": "SpectralDense",
    },
    "monojax.models": {
        "groups": "ExtraMaps",
        "models.efficientnet": "EfficientNetLite0 InvertedResidual",
        "models.minilm": "BertLayer MiniLM",
        "models.mlp": "MLP TwoBranch",
        "models.mnist_cnn": "MNISTNet",
        "models.resnet": "BasicBlock Bottleneck ResNet ResNet18 ResNet34 ResNet50",
        "models.squeezenet": "Fire SqueezeNet",
        "models.vgg": "VGG16",
        "models.vit": "ViT ViTBlock",
        "models.wide_resnet": "WideBlock WideResNet",
    },
}

CLASSES = {
    f"monojax.{place}.{name}": f"{room}.{name}"
    for room, places in _PLACES.items()
    for place, names in places.items()
    for name in names.split()
}
"""Where a class was defined -> its public name. Public names themselves stay as they are."""

_WEIGHT_MAP, _REDUCE = {"reparam": "weight_map"}, {"pool": "reduce"}
FIELDS: dict[str, dict[str, str]] = {
    "monojax.layers.NonNegativeDense": _WEIGHT_MAP,
    "monojax.layers.MonotoneMLP": _WEIGHT_MAP,
    "monojax.layers.DCNetwork": _WEIGHT_MAP,
    "monojax.ConvBLNN": _REDUCE,
    "monojax.layers.ConvICNN": _REDUCE,
    "monojax.models.ViT": _REDUCE,
}
"""Public name of a class -> old name of a field -> new name."""

_CLAMP = {"weight_map": {"clip": "clamp"}}
VALUES: dict[str, dict[str, dict[Any, Any]]] = {
    "monojax.layers.NonNegativeDense": _CLAMP,
    "monojax.layers.MonotoneMLP": _CLAMP,
    "monojax.layers.DCNetwork": _CLAMP,
}
"""Public name of a class -> new name of a field -> old value -> new value."""


def _sharpness_10(fields: dict[str, Any]) -> dict[str, Any]:
    """ "softplus" of convex networks had sharpness 10, as softplus(10) has it today."""
    convex = fields.get("kind", "convex") == "convex"  # DCNetwork's other kind meant sharpness 1
    activation = fields.get("activation")
    if convex and isinstance(activation, str) and activation == "softplus":
        return fields | {"activation": softplus(10.0)}
    return fields


def _no_pairs(fields: dict[str, Any]) -> dict[str, Any]:
    """MonotoneMLP paired convex with concave units, which is patented; its weights fit nothing now.

    Raises:
      ValueError: always.
    """
    raise ValueError(
        "a MonotoneMLP of monojax 0.1 has pairs of convex and concave units, which are patented "
        "and gone; train a new one, or predict with monojax 0.1."
    )


def _difference(fields: dict[str, Any]) -> dict[str, Any]:
    """A DCNetwork of the convex kind had a share of concave units without a meaning."""
    if fields.get("kind", "convex") == "monotone":
        _no_pairs(fields)
    fields.pop("concave", None)
    return _sharpness_10(fields)


MEANINGS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "monojax.BLNN": _sharpness_10,
    "monojax.PartialBLNN": _sharpness_10,
    "monojax.ConvBLNN": _sharpness_10,
    "monojax.layers.ICNN": _sharpness_10,
    "monojax.layers.PartialICNN": _sharpness_10,
    "monojax.layers.PairwiseICNN": _sharpness_10,
    "monojax.layers.ConvICNN": _sharpness_10,
    "monojax.layers.ConvexMLP": _sharpness_10,
    "monojax.layers.DCNetwork": _difference,
    "monojax.layers.MonotoneMLP": _no_pairs,
}
"""Public name of a class -> the fields as format 1 meant them, in today's words."""


def class_name(name: str) -> str:
    """The public name of a class that format 1 names.

    Args:
      name: as the file has it.

    Returns:
      The name to look up today; names of other libraries and of users' classes are unchanged.
    """
    if name.startswith("flax.linen."):  # flax's own modules: flax.linen.linear.Dense
        return f"flax.linen.{name.rpartition('.')[2]}"
    return CLASSES.get(name, name)


def translate(name: str, cls: type, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a record of format 1, as today's class takes them.

    Args:
      name: public name of the class.
      cls: the class.
      fields: name to value, decoded.

    Returns:
      The same with today's names and meanings.
    """
    today = {field.name for field in dataclasses.fields(cls)}
    for old, new in FIELDS.get(name, {}).items():
        if old in fields and old not in today and new in today:
            value = fields.pop(old)
            words = VALUES.get(name, {}).get(new, {})
            fields[new] = words.get(value, value) if isinstance(value, str) else value
    return MEANINGS.get(name, dict)(fields)
