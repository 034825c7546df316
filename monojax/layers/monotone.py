r"""A network that is monotone in its inputs, and can come close to every such function."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from monojax.base.checks import check_positive, check_widths, choose, is_concrete
from monojax.base.directions import check_directions
from monojax.base.renamed import renamed
from monojax.layers.guarantee import Guaranteed
from monojax.layers.lipschitz_common import prepare
from monojax.layers.nonnegative import NonNegativeDense, nonnegative_init, nonnegative_map
from monojax.layers.spectral import gram_bound

Activation = Callable[[jax.Array], jax.Array]


def hard_tanh(t: jax.Array) -> jax.Array:
    """The identity between -1 and 1, constant beyond."""
    return jnp.clip(t, -1, 1)


BOUNDED: dict[str, Activation] = {"tanh": jnp.tanh, "hard_tanh": hard_tanh, "sigmoid": nn.sigmoid}
"""Non-decreasing and bounded, slopes at most 1: what universality needs."""

CONVEX: dict[str, Activation] = {
    "relu": nn.relu,
    "leaky_relu": nn.leaky_relu,
    "elu": nn.elu,
    "softplus": nn.softplus,
}
"""Convex and non-decreasing, slopes at most 1: the network is convex in its monotone inputs."""

ACTIVATIONS = BOUNDED | CONVEX

RELU_MEAN = (2 * math.pi) ** -0.5
"""E relu(z) of a standard normal z."""

RELU_VARIANCE = 0.5 - 0.5 / math.pi
"""Var relu(z)."""

MOMENTS = {"tanh": (0.0, 0.394294), "hard_tanh": (0.0, 0.516059), "sigmoid": (0.5, 0.043380)}
"""Mean and variance of the bounded activations of a standard normal; the others take relu's."""


def signed_inputs(x: jax.Array, directions: Any) -> tuple[jax.Array, jax.Array | None]:
    """Splits the inputs into those that must not decrease the output and the free ones.

    Args:
      x: `[..., d]`.
      directions: +1, -1 or 0 per input, `[d]`; None is +1 for all.

    Returns:
      ``(monotone, free)``: the inputs with a direction, those with -1 negated, and the inputs
      with direction 0, or None where there are none.

    Raises:
      ValueError: on another length or value, and if the directions are traced: which weights are
        non-negative must be known.
    """
    if directions is None:
        return x, None
    if not is_concrete(directions):
        raise ValueError("directions must be known; they cannot be traced here.")
    signs = np.asarray(check_directions(directions, x.shape[-1]))
    bound, free = np.flatnonzero(signs), np.flatnonzero(signs == 0)
    flips = jnp.broadcast_to(signs[bound].astype(x.dtype), (*x.shape[:-1], len(bound)))
    return x[..., bound] * flips, x[..., free] if len(free) else None


GONE = (
    "there are no concave units any more: their pairing with convex ones is patented. The "
    "activation is bounded instead (tanh), which reaches every monotone function as well; "
    "activation='relu' is the old concave=0."
)


@renamed(reparam="weight_map", concave=GONE)
class MonotoneMLP(Guaranteed):
    r"""A multilayer perceptron that is monotone in the inputs that ``directions`` names.

    .. math:: y = V_k\,\sigma(\cdots\sigma(V_0 x + b_0)\cdots) + b_k + V x, \qquad V_i, V \ge 0

    after the inputs with direction -1 are negated; free inputs (direction 0) enter the first layer
    through a column of any sign. For every value of the parameters the output is non-decreasing
    in inputs with +1, non-increasing in those with -1: exactly, up to rounding of the sums.

    **Universal.** With non-negative weights and a convex :math:`\sigma` alone every unit is a
    convex function of the inputs, so sqrt or tanh are out of reach, at any depth. Bounded units
    (tanh) have no such limit: with enough layers (as many as inputs suffice) they come close to
    every continuous monotone function on a box. The linear path V carries on outside the data,
    where bounded units are flat.

    The initialisation keeps variance (see ``nonnegative_init``) for inputs with the mean and the
    variance that are given, in the first layer exactly for uncorrelated inputs; deeper units are
    correlated, and it grows by about 2 a layer. The biases take off the mean of what comes in,
    and spread the places where units bend.

    Attributes:
      features: widths, the output's last: ``(64, 64, 1)``.
      directions: +1, -1 or 0 per input, `[d]`; None is +1 for all.
      activation: :math:`\sigma`: "tanh", "hard_tanh", "sigmoid"; "relu", "leaky_relu", "elu" or
        "softplus", which give convex functions; or a callable, which must be non-decreasing.
      weight_map: of the weights, see :class:`NonNegativeDense`.
      spread: of the initial weights, see ``nonnegative_init``.
      input_mean: roughly the mean of the inputs with a direction, after the sign flips; used at
        init only.
      input_variance: roughly their variance; used at init only.
      dtype: of the output; by default that of x and the parameters together.
      param_dtype: of the parameters.

    Call with ``x`` `[..., d]`, returns `[..., features[-1]]`; raises ValueError on empty
    features, directions of another length or value, an unknown name, or another width than at
    init.

    Reference:
      Daniels, Velikova, "Monotone and partially monotone neural networks", IEEE Transactions on
      Neural Networks 21, 2010 (universality with as many hidden layers as inputs).
    """

    features: Sequence[int]
    directions: Any = None
    activation: str | Activation = "tanh"
    weight_map: str = "square"
    spread: float = 2.0
    input_mean: float = 0.0
    input_variance: float = 1.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., d]` to `[..., features[-1]]`."""
        widths = check_widths(self.features)
        check_positive(self.input_variance, "input_variance")
        act = self.activation
        act = act if callable(act) else choose("activation", act, ACTIVATIONS)
        mean, variance = MOMENTS.get(str(self.activation), (RELU_MEAN, RELU_VARIANCE))
        x, _ = prepare(x, 1, self.dtype, self.param_dtype)
        x, free = signed_inputs(x, self.directions)
        h = self._first(x, free, widths[0])
        for i, width in enumerate(widths[1:], start=1):
            h = self._dense(width, f"dense_{i}", 1 / variance, mean)(act(h))
        if len(widths) > 1 and x.shape[-1]:
            # Small at the start: a tenth of the variance.
            h = h + self._dense(widths[-1], "linear", 0.1 / self.input_variance)(x)
        return h

    def bounds(self) -> tuple[float, jax.Array]:
        """Certified ``(smallest, largest)`` slope in l2, from the weights as they are.

        Called as ``net.apply(params, method="bounds")``.

        Raises:
          ValueError: if the activation is a callable: its slopes are not known.
        """
        if callable(self.activation):
            raise ValueError("bounds: the slopes of a callable activation are not known.")
        choose("activation", self.activation, ACTIVATIONS)
        params, positive = self.variables["params"], nonnegative_map(self.weight_map)
        wide = lambda raw: jnp.asarray(raw, jnp.promote_types(raw.dtype, jnp.float32))
        kernel = lambda name: positive(wide(params[name]["kernel"]))
        # Every entry of the Jacobian is at most that of the products of sizes of weights.
        first = [kernel("dense_0")] if "dense_0" in params else []
        if "free" in params:
            first.append(jnp.abs(wide(params["free"]["kernel"])))
        whole = jnp.concatenate(first)
        for i in range(1, len(self.features)):
            whole = whole @ kernel(f"dense_{i}")
        if "linear" in params:
            straight = kernel("linear")
            whole = whole.at[: straight.shape[0]].add(straight)
        return 0.0, gram_bound(whole)

    def _first(self, x: jax.Array, free: jax.Array | None, width: int) -> jax.Array:
        """The first layer, where directions come in."""
        scale = 1 / self.input_variance
        if free is None:
            return self._dense(width, "dense_0", scale, self.input_mean)(x)
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype, "name": "free"}
        if not x.shape[-1]:
            return nn.Dense(width, **options)(free)
        bound = self._dense(width, "dense_0", scale, self.input_mean)(x)
        return bound + nn.Dense(width, use_bias=False, **options)(free)

    def _dense(self, width: int, name: str, scale: float, mean: float = 0.0) -> nn.Module:
        last = name in ("linear", f"dense_{len(self.features) - 1}")
        return NonNegativeDense(
            width,
            weight_map=self.weight_map,
            use_bias=name != "linear",
            kernel_init=nonnegative_init(self.weight_map, scale, self.spread),
            input_mean=mean,
            bias_spread=0.0 if last else 1.0,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )
