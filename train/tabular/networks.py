"""The networks of the benchmark: name, title, module, what it guarantees, which candidates."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import monojax as mj
from monojax.layers import LMN, MonotoneMLP, ScalableMonotoneNetwork, SmoothMinMax
from monojax.models import MLP

RATES: tuple[dict[str, float], ...] = ({"lr": 3e-2}, {"lr": 1e-2}, {"lr": 3e-3})


class Partial(nn.Module):
    """A `mj.PartialBLNN` of the columns: falling ones negated, the mean of its outputs.

    Attributes:
      directions: +1, -1 or 0 per input, as a tuple.
      features: of the core.
      beta: gap between the slopes' bounds before the factor that is trained here; alpha is 0.
        What the authors took for each set is not published.
      guarantee: the pairwise core, for which every slope has its sign.
    """

    directions: tuple[int, ...]
    features: tuple[int, ...] = (16, 16)
    beta: float = 1.0
    guarantee: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., d]` to `[...]`."""
        signs = np.asarray(self.directions)
        bound, free = np.flatnonzero(signs), np.flatnonzero(signs == 0)
        rising = x[..., bound] * jnp.broadcast_to(
            jnp.asarray(signs[bound], x.dtype), (*x.shape[:-1], len(bound))
        )
        net = mj.PartialBLNN(
            self.features,
            0.0,
            self.beta,
            output="mean",
            core="pairwise" if self.guarantee else "picnn",
            certify_monotone=self.guarantee,
        )
        scale = self.param("scale", nn.initializers.zeros, ())
        shift = self.param("shift", nn.initializers.zeros, ())
        # The mean has slopes of at most beta / d: a positive factor, trained, carries them.
        return len(bound) * jnp.exp(scale) * net(x[..., free], rising) + shift


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """A network of the table."""

    title: str
    make: Callable[[dict[str, float], tuple[int, ...]], nn.Module]
    """A candidate's options, which may be traced, and the directions to the module."""
    guaranteed: bool = True
    candidates: tuple[dict[str, float], ...] = RATES
    region: str = ""
    """Where the penalty is asked: "random", "train" or "mixup"; "" for none."""
    solves: bool = False
    """An inner solve: one run after the other, fewer epochs."""


def _mlp(options: dict[str, float], directions: tuple[int, ...]) -> nn.Module:
    return MLP((32, 32))


def _pblnn(guarantee: bool) -> Callable[[dict[str, float], tuple[int, ...]], nn.Module]:
    return lambda o, d: Partial(d, guarantee=guarantee)


SOLVED = ({"lr": 1e-2}, {"lr": 3e-3})
CONSTANTS = tuple({"lr": 1e-2, "lipschitz": bound} for bound in (0.5, 1.0, 3.0))

ROWS: dict[str, Row] = {
    "mlp": Row("MLP, unconstrained", _mlp, False),
    "random": Row("MLP, penalty on random points", _mlp, False, region="random"),
    "train": Row("MLP, penalty on the batch", _mlp, False, region="train"),
    "mixup": Row("MLP, penalty on mixup", _mlp, False, region="mixup"),
    "pblnn": Row("PBLNN as published", _pblnn(False), False, SOLVED, solves=True),
    "pblnn_guaranteed": Row("PBLNN, guaranteed", _pblnn(True), True, SOLVED, solves=True),
    "lmn": Row("LMN", lambda o, d: LMN((32, 32, 1), o["lipschitz"], d), True, CONSTANTS),
    "smnn": Row("SMNN", lambda o, d: ScalableMonotoneNetwork((32, 32), d)),
    "min_max": Row("smooth min-max", lambda o, d: SmoothMinMax(6, 6, d)),
    "monotone_mlp": Row("MonotoneMLP", lambda o, d: MonotoneMLP((32, 32, 1), d)),
}
"""Name to network, in the table's order."""


def value(module: nn.Module, variables: Any, x: jax.Array) -> jax.Array:
    """One number per row, `[...]`, whatever the module's output shape is."""
    out: Any = module.apply(variables, x)
    return out if out.ndim == x.ndim - 1 else out[..., 0]
