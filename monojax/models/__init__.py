"""Networks of the experiments, as linen modules."""

from monojax.models.minilm import MiniLM, load_minilm
from monojax.models.minilm_text import SentenceEncoder
from monojax.models.mlp import MLP, TwoBranch
from monojax.models.resnet import ResNet18
from monojax.models.vgg import VGG16
from monojax.models.vit import ViT

__all__ = [
    "MLP",
    "VGG16",
    "MiniLM",
    "ResNet18",
    "SentenceEncoder",
    "TwoBranch",
    "ViT",
    "load_minilm",
]
