"""Networks of the experiments, as linen modules."""

from monojax.models.mlp import MLP, TwoBranch

__all__ = ["MLP", "TwoBranch"]
