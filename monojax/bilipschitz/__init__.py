"""The dual way: networks with exact bounds on their slopes, as linen modules."""

from monojax.base import registry
from monojax.bilipschitz.conv import ConvBLNN
from monojax.bilipschitz.dense import BLNN
from monojax.bilipschitz.partial import PartialBLNN
from monojax.bilipschitz.record import Diagnostics, unconverged, worst_residual

__all__ = ["BLNN", "ConvBLNN", "Diagnostics", "PartialBLNN", "unconverged", "worst_residual"]

registry.publish(__name__)
