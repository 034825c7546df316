r"""The scalable monotone network: exponentiated, ReLU and confluence units."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from monojax.base.checks import check_width, check_widths
from monojax.base.renamed import renamed
from monojax.layers.guarantee import Guaranteed
from monojax.layers.lipschitz_common import prepare, weight
from monojax.layers.monotone import signed_inputs
from monojax.layers.spectral import gram_bound

LEAK = 0.01
RAW_LIMIT = 20.0


def leaky_clip(t: jax.Array) -> jax.Array:
    """0.99 min(max(t, 0), 1) + 0.01 t: bounded but for a leak, so that no unit is without slope."""
    return (1 - LEAK) * jnp.clip(t, 0, 1) + LEAK * t


@renamed(
    reparam="the monotone weights are exponentials, as published; what is named weight_map now is "
    "an option of MonotoneMLP and SmoothMinMax."
)
class ScalableMonotoneNetwork(Guaranteed):
    r"""SMNN: monotone in the inputs with a direction, any function of the free ones.

    With m the monotone inputs (negated where the direction is -1), :math:`r_0 = c_0` the free
    ones, :math:`\rho` = :func:`leaky_clip` and exponentials elementwise, layer i is

    .. math::
      e_{i} &= \rho(e^{W_i}\,[e_{i-1}, c_{i-1}] + b_i) && \text{exponentiated units, } e_0 = m \\
      c_{i} &= \rho(W^c_i\, r_{i-1} + b^c_i) && \text{confluence units} \\
      r_{i} &= \max(0, W^r_i\, r_{i-1} + b^r_i) && \text{ReLU units}

    and :math:`y = e^{W}[e_k, c_k, r_k] + b`. Monotone inputs pass exponentiated weights only, so
    the slopes in them have the right sign for every value of the parameters, up to rounding.

    Attributes:
      features: numbers of exponentiated units, layer by layer.
      directions: +1, -1 or 0 per input, `[d]`; None is +1 for all. Without free inputs there are
        exponentiated units only.
      relu: numbers of ReLU units; None takes ``features``.
      confluence: numbers of confluence units; None takes ``features``.
      outputs: width of the output.
      dtype: of the output; by default that of x and the parameters together.
      param_dtype: of the parameters.

    **Range.** Exponents are used up to 20; the free side's weights have any size, and values that
    leave the range of floats are NaN. Exponents start uniform on [-20, 2], those of the last
    layer normal around -10, as in the published code.

    Call with ``x`` `[..., d]`, returns `[..., outputs]`; raises ValueError on widths that do not
    fit, directions of another length or value, or another width than at init.

    Reference:
      Kim, Lee, "Scalable monotonic neural networks", ICLR 2024.
    """

    features: Sequence[int]
    directions: Any = None
    relu: Sequence[int] | None = None
    confluence: Sequence[int] | None = None
    outputs: int = 1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def _widths(self) -> tuple[tuple[int, ...], ...]:
        widths = check_widths(self.features)
        others = []
        for name in ("confluence", "relu"):
            given = getattr(self, name)
            found = widths if given is None else check_widths(given, name)
            if len(found) != len(widths):
                raise ValueError(
                    f"{name} must name as many layers as features ({len(widths)}), got {found}."
                )
            others.append(found)
        return widths, *others

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., d]` to `[..., outputs]`."""
        layers = zip(*self._widths(), strict=True)
        x, _ = prepare(x, 1, self.dtype, self.param_dtype)
        rising, free = signed_inputs(x, self.directions)
        wide = nn.initializers.uniform(22.0)
        start = lambda key, shape, dtype: wide(key, shape, dtype) - 20
        for i, (exponentiated, confluence, relu) in enumerate(layers):
            up = leaky_clip(self._dense(rising, f"exp_{i}", exponentiated, start, True))
            rising = up
            if free is not None:
                glorot = nn.initializers.glorot_uniform()
                met = leaky_clip(self._dense(free, f"confluence_{i}", confluence, glorot))
                free = nn.relu(self._dense(free, f"relu_{i}", relu, glorot))
                rising = jnp.concatenate([up, met], axis=-1)
        if free is not None:
            rising = jnp.concatenate([rising, free], axis=-1)
        normal = nn.initializers.truncated_normal(3.0)
        last = lambda key, shape, dtype: normal(key, shape, dtype) - 10
        return self._dense(rising, "out", check_width(self.outputs, "outputs"), last, True)

    def _dense(
        self, x: jax.Array, name: str, width: int, init: Any, exponentiated: bool = False
    ) -> jax.Array:
        _, build = prepare(x, 1, self.dtype, self.param_dtype)
        kernel = weight(self, f"{name}_kernel", init, (x.shape[-1], width), build)
        if exponentiated:
            kernel = exponential(kernel)
        bias = weight(self, f"{name}_bias", nn.initializers.truncated_normal(0.5), (width,), build)
        y = x @ kernel.astype(x.dtype)
        return y + jnp.broadcast_to(bias.astype(x.dtype), y.shape)

    def bounds(self) -> tuple[float, jax.Array]:
        """Certified ``(smallest, largest)`` slope in l2, from the weights as they are.

        Called as ``net.apply(params, method="bounds")``.
        """
        params, (widths, _, _) = self.variables["params"], self._widths()

        def size(name: str) -> jax.Array:
            raw = params[f"{name}_kernel"]
            raw = jnp.asarray(raw, jnp.promote_types(raw.dtype, jnp.float32))
            return exponential(raw) if name.startswith(("exp", "out")) else jnp.abs(raw)

        # Entry by entry the Jacobian of each path is at most the product of its weights' sizes.
        free = "relu_0_kernel" in params
        count = params["exp_0_kernel"].shape[0]
        others = params["relu_0_kernel"].shape[0] if free else 0
        eye = jnp.eye(count + others)
        rising, loose = eye[:, :count], eye[:, count:]
        for i in range(len(widths)):
            rising = rising @ size(f"exp_{i}")
            if free:
                met = loose @ size(f"confluence_{i}")
                rising = jnp.concatenate([rising, met], axis=1)
                loose = loose @ size(f"relu_{i}")
        if free:
            rising = jnp.concatenate([rising, loose], axis=1)
        return 0.0, gram_bound(rising @ size("out"))


def exponential(raw: jax.Array) -> jax.Array:
    """Weights from their logarithms, those above 20 taken as 20."""
    return jnp.exp(jnp.minimum(raw, RAW_LIMIT))
