"""The networks behind each method, as linen modules of scaled inputs, and how they are named."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from monojax.bilipschitz.partial import PartialBLNN
from monojax.conjugate.solvers import Solver
from monojax.layers.lmn import LMN
from monojax.layers.monotone import MonotoneMLP

METHODS = ("auto", "lmn", "mlp", "bilipschitz", "penalty")
GUARANTEED = ("lmn", "mlp", "bilipschitz")
"""Methods whose network is monotone for every value of its parameters."""

ALPHA, BETA = 0.01, 8.0
"""Slopes of the bi-Lipschitz part, in scaled units, before its learned scale."""
FIRST_LOG_SCALE = -1.5
"""So that slopes are about 1 at the start."""


@dataclasses.dataclass(frozen=True)
class Net:
    """Which network: hashable, so that what was compiled for it is found again."""

    method: str
    """One of "lmn", "mlp", "bilipschitz", "penalty"."""
    hidden: tuple[int, ...]
    """Widths of the hidden layers."""
    directions: tuple[int, ...]
    """+1, -1 or 0 per scaled input, `[d]`."""
    outputs: int = 1
    """Width of the output."""

    def module(self) -> nn.Module:
        """The linen module, `[..., d]` to `[..., outputs]`."""
        if self.method == "lmn":
            return _LipschitzNet(self.hidden, self.directions, self.outputs)
        if self.method == "mlp":
            return _MixedMonotoneNet(self.hidden, self.directions, self.outputs)
        if self.method == "bilipschitz" and any(self.directions):
            return _BiLipschitzNet(self.hidden, self.directions)
        return _FreeNet(self.hidden, self.outputs)

    @property
    def guaranteed(self) -> bool:
        """Whether the form of the network makes it monotone."""
        return self.method in GUARANTEED or not any(self.directions)


class _LipschitzNet(nn.Module):
    """Method "lmn": an :class:`monojax.layers.LMN` whose constant is trained, as its exponential.

    It is monotone whatever the constant is, since the linear term has the same one.
    """

    hidden: tuple[int, ...]
    directions: tuple[int, ...]
    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., d]` to `[..., outputs]`."""
        log = self.param("log_lipschitz", nn.initializers.zeros, (), jnp.float32)
        constant = jnp.exp(jnp.clip(log, -10, 10))
        return LMN((*self.hidden, self.outputs), constant, self.directions, name="lmn")(x)


class _MixedMonotoneNet(nn.Module):
    """Method "mlp": a :class:`monojax.layers.MonotoneMLP` beside a free network of free inputs.

    Free inputs pass a layer of relu units of any sign first; what comes out enters the monotone
    network as further free inputs.
    """

    hidden: tuple[int, ...]
    directions: tuple[int, ...]
    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., d]` to `[..., outputs]`."""
        free = np.flatnonzero(np.asarray(self.directions) == 0)
        directions = self.directions
        if free.size:
            embedded = nn.relu(nn.Dense(self.hidden[0], name="free")(x[..., free]))
            x = jnp.concatenate([x, embedded], axis=-1)
            directions = (*directions, *(0,) * self.hidden[0])
        return MonotoneMLP((*self.hidden, self.outputs), directions, name="monotone")(x)


class _BiLipschitzNet(nn.Module):
    """Method "bilipschitz": the mean of a pairwise :class:`monojax.PartialBLNN`, times a scale.

    The free inputs are its context; a free network of them is added. Slopes in the inputs with a
    direction lie between ALPHA/m and (ALPHA + BETA)/sqrt(m) times the scale, m their number.
    """

    hidden: tuple[int, ...]
    directions: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., d]` to `[..., 1]`."""
        signs = np.asarray(self.directions)
        bound, free = np.flatnonzero(signs), np.flatnonzero(signs == 0)
        flips = jnp.broadcast_to(jnp.asarray(signs[bound], x.dtype), (*x.shape[:-1], bound.size))
        context = x[..., free] if free.size else jnp.ones_like(x[..., :1])
        core = PartialBLNN(
            self.hidden,
            ALPHA,
            BETA,
            output="mean",
            certify_monotone=True,
            core="pairwise",
            solver=Solver("newton"),
            name="core",
        )
        start = lambda key, shape, dtype: jnp.full(shape, FIRST_LOG_SCALE, dtype)
        scale = jnp.exp(self.param("log_scale", start, (), jnp.float32))
        y = scale.astype(x.dtype) * core(context, x[..., bound] * flips)[..., None]
        return y + _FreeNet(self.hidden[:1], 1, name="free")(context)


class _FreeNet(nn.Module):
    """Method "penalty", and every method where no column has a direction: a plain network, tanh.

    Smooth, so that its slopes can be bounded.
    """

    hidden: tuple[int, ...]
    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., d]` to `[..., outputs]`."""
        for i, width in enumerate(self.hidden):
            x = jnp.tanh(nn.Dense(width, name=f"dense_{i}")(x))
        return nn.Dense(self.outputs, name="out")(x)


def slope_bounds(net: Net, params: Any) -> np.ndarray:
    """What the form of a guaranteed network says of its slopes.

    Args:
      net: with one output.
      params: of ONE member, ``{"params": ...}``.

    Returns:
      float64 `[d, 2]`: the raw slopes by each scaled input lie between these, up to rounding;
      infinite where the form says nothing.
    """
    signs = np.asarray(net.directions)
    low = np.where(signs > 0, 0.0, -np.inf)
    high = np.where(signs < 0, 0.0, np.inf)
    if net.method == "lmn":
        constant = float(np.exp(np.clip(np.float64(params["params"]["log_lipschitz"]), -10, 10)))
        low = np.where(signs == 0, -constant, np.where(signs > 0, 0.0, -2 * constant))
        high = np.where(signs == 0, constant, np.where(signs > 0, 2 * constant, 0.0))
    elif net.method == "mlp":
        size = _weights_product(net, params["params"])
        low = np.where(signs > 0, 0.0, -size)
        high = np.where(signs < 0, 0.0, size)
    elif net.method == "bilipschitz" and signs.any():
        scale = float(np.exp(np.float64(params["params"]["log_scale"])))
        count = np.count_nonzero(signs)
        least, most = scale * ALPHA / count, scale * (ALPHA + BETA) / count**0.5
        low = np.where(signs > 0, least, np.where(signs < 0, -most, low))
        high = np.where(signs > 0, most, np.where(signs < 0, -least, high))
    return np.stack([low, high], axis=1)


def _weights_product(net: Net, params: Any) -> np.ndarray:
    """Largest possible sizes `[d]` of the slopes of a :class:`_MixedMonotoneNet`, one output."""
    inner, signs = params["monotone"], np.asarray(net.directions)
    wide = lambda kernel: np.asarray(kernel, np.float64)
    bound, free = np.flatnonzero(signs), np.flatnonzero(signs == 0)
    whole = np.ones((1, 1))
    for i in range(len(net.hidden), 0, -1):  # units have slopes of at most 1
        whole = np.square(wide(inner[f"dense_{i}"]["kernel"])) @ whole
    size = np.zeros(len(signs))
    if bound.size:
        size[bound] = (np.square(wide(inner["dense_0"]["kernel"])) @ whole)[:, 0]
        size[bound] += np.square(wide(inner["linear"]["kernel"]))[:, 0]
    if free.size:
        both = (np.abs(wide(inner["free"]["kernel"])) @ whole)[:, 0]
        embedded = np.abs(wide(params["free"]["kernel"])) @ both[free.size :]
        size[free] = both[: free.size] + embedded
    return size * (1 + 1e-12)  # rounding of these sums
