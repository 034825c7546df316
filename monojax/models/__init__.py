"""Networks of the experiments, as linen modules."""

from monojax.base import registry
from monojax.layers.strided import DoublingConv, HalvingConv
from monojax.models.efficientnet import EfficientNetLite0, InvertedResidual
from monojax.models.minilm import BertLayer, MiniLM, load_minilm
from monojax.models.minilm_text import SentenceEncoder
from monojax.models.mlp import MLP, TwoBranch
from monojax.models.mnist_cnn import MNISTNet
from monojax.models.pooled import ExtraMaps
from monojax.models.resnet import BasicBlock, Bottleneck, ResNet, ResNet18, ResNet34, ResNet50
from monojax.models.squeezenet import Fire, SqueezeNet
from monojax.models.vae import VAE, Comparator
from monojax.models.vgg import VGG16
from monojax.models.vit import ViT, ViTBlock
from monojax.models.wide_resnet import WideBlock, WideResNet

__all__ = [
    "MLP",
    "VAE",
    "VGG16",
    "Comparator",
    "EfficientNetLite0",
    "ExtraMaps",
    "MNISTNet",
    "MiniLM",
    "ResNet",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "SentenceEncoder",
    "SqueezeNet",
    "TwoBranch",
    "ViT",
    "WideResNet",
    "load_minilm",
]

# Parts of networks are no API, but they have been saved under these names.
registry.publish(
    __name__,
    BasicBlock,
    BertLayer,
    Bottleneck,
    DoublingConv,
    Fire,
    HalvingConv,
    InvertedResidual,
    ViTBlock,
    WideBlock,
)
