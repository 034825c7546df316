r"""Min-max networks: the smallest of largest linear functions, hard or smooth."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from monojax.base.checks import check_width
from monojax.base.renamed import renamed
from monojax.layers.guarantee import Guaranteed
from monojax.layers.lipschitz_common import length, prepare, weight
from monojax.layers.monotone import signed_inputs
from monojax.layers.nonnegative import nonnegative_map

LOG_SHARPNESS_LIMIT = 20.0
LIMIT = 1e6
"""Of the linear functions: rounding of larger ones would be larger than what is smoothed."""


@renamed(reparam="weight_map")
class SmoothMinMax(Guaranteed):
    r"""Smooth min-max network: monotone, universal with one layer, no unit without a gradient.

    With linear functions :math:`a_{kj}(x) = w_{kj}\cdot x + b_{kj}`, :math:`w \ge 0`, in K groups,

    .. math:: y = \gamma - e^{-\beta} \log \sum_k \Big(\sum_j e^{a_{kj}(x)}\Big)^{-1},

    a smooth minimum over groups of smooth maxima within them; :math:`\beta` and :math:`\gamma` are
    trained. ``smooth=False`` is the network of 1997, :math:`y = \min_k \max_j a_{kj}(x)`. Inputs
    with direction -1 are negated, free ones (0) have weights of any sign. For every value of the
    parameters y is non-decreasing in inputs with +1 and non-increasing in those with -1, up to
    rounding. Every continuous monotone function on a box is a limit of such networks.

    Attributes:
      groups: K.
      units: linear functions per group.
      directions: +1, -1 or 0 per input, `[d]`; None is +1 for all.
      outputs: how many networks side by side.
      smooth: whether minimum and maximum are.
      weight_map: of the weights, see :class:`monojax.layers.NonNegativeDense`; "square" as the
        published code runs. "exp", the paper's, had twice the error on Auto MPG.
      dtype: of the output; by default that of x and the parameters together.
      param_dtype: of the parameters.

    **Range.** The parameter ``log_sharpness`` is :math:`\beta`, used between -20 and 20; with
    ``smooth`` the linear functions are used between -1e6 and 1e6, beyond which y is flat. Weights
    and biases start normal, cut off at two standard deviations, as in the published code.

    Call with ``x`` `[..., d]`, returns `[..., outputs]`; raises ValueError on directions of another
    length or value, an unknown name, or another width than at init.

    Reference:
      Igel, "Smooth min-max monotonic networks", ICML 2024, https://arxiv.org/abs/2306.01147;
      Sill, "Monotonic networks", NIPS 1997.
    """

    groups: int = 6
    units: int = 6
    directions: Any = None
    outputs: int = 1
    smooth: bool = True
    weight_map: str = "square"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., d]` to `[..., outputs]`."""
        shape = tuple(
            check_width(getattr(self, name), name) for name in ("outputs", "groups", "units")
        )
        count = shape[0] * shape[1] * shape[2]
        x, build = prepare(x, 1, self.dtype, self.param_dtype)
        x, free = signed_inputs(x, self.directions)
        draw = nn.initializers.truncated_normal(1.0)
        positive = nonnegative_map(self.weight_map)
        a = jnp.broadcast_to(weight(self, "bias", draw, (count,), build), (*x.shape[:-1], count))
        if x.shape[-1]:
            kernel = weight(self, "kernel", draw, (x.shape[-1], count), build)
            a = a + x @ positive(kernel)
        if free is not None:
            a = a + free @ weight(self, "free_kernel", draw, (free.shape[-1], count), build)
        a = a.reshape(*x.shape[:-1], *shape)
        if not self.smooth:
            return -_largest(-_largest(a)).astype(x.dtype)
        a = jnp.clip(a, -LIMIT, LIMIT)
        start = lambda key, shape, dtype: -jnp.ones(shape, dtype)
        log_sharpness = weight(self, "log_sharpness", start, shape[:1], build)
        offset = weight(self, "offset", nn.initializers.zeros, shape[:1], build)
        soft = -jax.nn.logsumexp(-jax.nn.logsumexp(a, axis=-1), axis=-1)
        lead = (1,) * (x.ndim - 1)
        y = soft * _inverse(log_sharpness).reshape(*lead, -1) + offset.reshape(*lead, -1)
        return y.astype(x.dtype)

    def bounds(self) -> tuple[float, jax.Array]:
        """Certified ``(smallest, largest)`` slope in l2, from the weights as they are.

        Called as ``net.apply(params, method="bounds")``.
        """
        params, parts = self.variables["params"], []
        wide = lambda raw: jnp.asarray(raw, jnp.promote_types(raw.dtype, jnp.float32))
        if "kernel" in params:
            parts.append(nonnegative_map(self.weight_map)(wide(params["kernel"])))
        if "free_kernel" in params:
            parts.append(wide(params["free_kernel"]))
        # The slope is an average of the units' weights.
        lengths = jax.vmap(length, 1)(jnp.concatenate(parts)).reshape(self.outputs, -1)
        slopes = lengths.max(axis=1)
        if self.smooth:
            slopes = slopes * _inverse(wide(params["log_sharpness"]))
        return 0.0, length(slopes)  # squares of small weights leave the range of floats


def _largest(a: jax.Array) -> jax.Array:
    """The maximum over the last axis, with the slope of the first that attains it.

    That of `jnp.max` compares with the maximum, which a compiler may compute again and round
    otherwise: 0/0 then.
    """
    index = jnp.argmax(a, axis=-1, keepdims=True)
    return jnp.take_along_axis(a, index, axis=-1)[..., 0]


def _inverse(log_sharpness: jax.Array) -> jax.Array:
    limit = LOG_SHARPNESS_LIMIT
    return jnp.exp(-jnp.clip(log_sharpness, -limit, limit))
