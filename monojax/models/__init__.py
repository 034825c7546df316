"""Networks of the experiments, as linen modules."""

from monojax.models.minilm import MiniLM, load_minilm
from monojax.models.minilm_text import SentenceEncoder
from monojax.models.mlp import MLP, TwoBranch
from monojax.models.mnist_cnn import MNISTNet
from monojax.models.resnet import ResNet, ResNet18, ResNet34, ResNet50
from monojax.models.vgg import VGG16
from monojax.models.vit import ViT
from monojax.models.wide_resnet import WideResNet

__all__ = [
    "MLP",
    "VGG16",
    "MNISTNet",
    "MiniLM",
    "ResNet",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "SentenceEncoder",
    "TwoBranch",
    "ViT",
    "WideResNet",
    "load_minilm",
]
