"""Networks of the experiments, as linen modules."""

from monojax.models.mlp import MLP, TwoBranch
from monojax.models.mnist_cnn import MNISTNet
from monojax.models.resnet import ResNet, ResNet18, ResNet34, ResNet50
from monojax.models.vgg import VGG16
from monojax.models.wide_resnet import WideResNet

__all__ = [
    "MLP",
    "VGG16",
    "MNISTNet",
    "ResNet",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "TwoBranch",
    "WideResNet",
]
