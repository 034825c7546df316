"""Networks of the experiments, as linen modules."""

from monojax.models.mlp import MLP, TwoBranch
from monojax.models.resnet import ResNet18
from monojax.models.vgg import VGG16
from monojax.models.vit import ViT

__all__ = ["MLP", "VGG16", "ResNet18", "TwoBranch", "ViT"]
