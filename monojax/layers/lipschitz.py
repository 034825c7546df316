"""Networks of 1-Lipschitz layers, and the layers' names in one place."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from monojax.base.checks import check_positive, check_widths, choose
from monojax.layers.aol import AOLConv, AOLDense
from monojax.layers.bilipnet import BiLipNet, MonLipDense
from monojax.layers.cayley import CayleyConv, CayleyDense
from monojax.layers.guarantee import Guaranteed
from monojax.layers.lipschitz_common import ONE_LIPSCHITZ, group_sort, prepare
from monojax.layers.lmn import LMN, NormDense
from monojax.layers.sandwich import SandwichConv, SandwichDense
from monojax.layers.sll import SLLConv, SLLDense
from monojax.layers.spectral import SpectralDense

__all__ = [
    "LMN",
    "AOLConv",
    "AOLDense",
    "BiLipNet",
    "CayleyConv",
    "CayleyDense",
    "LipschitzMLP",
    "MonLipDense",
    "NormDense",
    "SLLConv",
    "SLLDense",
    "SandwichConv",
    "SandwichDense",
    "SpectralDense",
    "group_sort",
]

LAYERS: dict[str, Any] = {
    "spectral": SpectralDense,
    "aol": AOLDense,
    "cayley": CayleyDense,
    "sll": SLLDense,
    "sandwich": SandwichDense,
}


class LipschitzMLP(Guaranteed):
    r"""A network that is ``lipschitz``-Lipschitz in l2: 1-Lipschitz layers, input scaled.

    The guarantee holds for every value of the parameters, up to rounding (about 1e-6 relative
    per layer in float32). As in the papers' toy networks, the scale is split: :math:`\sqrt L`
    before the first and :math:`\sqrt L` before the last layer, except for "spectral" (all of
    it before the first) and "sll" (the second on the output).

    Attributes:
      features: widths, the output's last: ``(45, 45, 45, 1)``. For "sll" every width but the
        last is a residual block with so many hidden units, on x zero-padded to the largest
        width; the output is its first coordinates. The padding hides a narrower x than at
        init; a wider one than the padding is an error.
      lipschitz: the constant L > 0; a traced scalar is allowed.
      layer: "spectral", "aol", "cayley", "sll" or "sandwich".
      activation: "relu", "leaky_relu", "elu", "softplus", "tanh", and "groupsort" for
        "spectral", "aol" and "cayley".
      dtype: of the output; by default that of x and the parameters together.
      param_dtype: of the parameters.

    Call with ``x`` `[..., d]`, returns `[..., features[-1]]`; raises ValueError on empty
    features, a constant that is not positive, an unknown name or another width than at init.
    """

    features: Sequence[int]
    lipschitz: float | jax.Array
    layer: str = "sandwich"
    activation: str = "relu"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., d]` to `[..., features[-1]]`."""
        widths = check_widths(self.features)
        check_positive(self.lipschitz, "lipschitz")
        make = choose("layer", self.layer, LAYERS)
        x, _ = prepare(x, 1, self.dtype, self.param_dtype)
        bound = jnp.asarray(self.lipschitz, x.dtype)
        if self.layer == "sll":
            return self._residual(x, widths, bound)
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        act = choose("activation", self.activation, ONE_LIPSCHITZ)
        first, last = (bound, 1.0) if self.layer == "spectral" else (jnp.sqrt(bound),) * 2
        x = x * first
        for width in widths[:-1]:
            if self.layer == "sandwich":
                x = make(width, activation=self.activation, **options)(x)
            else:
                x = act(make(width, **options)(x))
        x = x * last
        if self.layer == "sandwich":
            return make(widths[-1], activation=None, **options)(x)
        return make(widths[-1], **options)(x)

    def bounds(self) -> tuple[float, Any]:
        """Certified ``(smallest, largest)`` slope in l2: ``(0, lipschitz)``.

        Called as ``net.apply(params, method="bounds")``.
        """
        check_positive(self.lipschitz, "lipschitz")
        return 0.0, self.lipschitz

    def _residual(self, x: jax.Array, widths: tuple[int, ...], bound: jax.Array) -> jax.Array:
        if len(widths) < 2:
            raise ValueError(
                "layer='sll' needs at least one hidden width before the output's, "
                f"got features={widths}."
            )
        width = max(*widths, x.shape[-1])
        x = jnp.sqrt(bound) * x
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])])
        for hidden in widths[:-1]:
            x = SLLDense(
                width,
                hidden,
                self.activation,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
            )(x)
        return jnp.sqrt(bound) * x[..., : widths[-1]]
