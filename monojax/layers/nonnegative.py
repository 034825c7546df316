r"""A dense layer with non-negative weights: non-decreasing in every input, for any parameters."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from monojax.base.checks import check_number, check_positive, check_width, choose, known
from monojax.base.renamed import renamed
from monojax.layers.guarantee import Guaranteed
from monojax.layers.lipschitz_common import along, prepare, weight
from monojax.layers.spectral import gram_bound

Initializer = Callable[..., jax.Array]

NONNEGATIVE_MAPS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "square": jnp.square,
    "softplus": jax.nn.softplus,
    "abs": jnp.abs,
    "clamp": jax.nn.relu,
    "exp": jnp.exp,
}
"""How raw weights of any sign become non-negative."""

CAP = 1e9
"""Largest non-negative weight that is used: products and sums of a few layers stay in range."""

INVERSES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "square": jnp.sqrt,
    "softplus": lambda v: v + jnp.log(-jnp.expm1(-v)),
    "abs": lambda v: v,
    "clamp": lambda v: v,
    "exp": jnp.log,
}
"""Raw weights of given positive ones; for the even maps the non-negative root."""


def nonnegative_map(weight_map: Any) -> Callable[[jax.Array], jax.Array]:
    """The map of that name, from raw weights to non-negative ones.

    Args:
      weight_map: key of ``NONNEGATIVE_MAPS``.

    Returns:
      An elementwise function; its values are at most ``CAP``.

    Raises:
      ValueError: on an unknown name, and on "clip", which is named "clamp" now.
    """
    if weight_map == "clip":
        raise ValueError("weight_map 'clip' is named 'clamp' now.")
    positive = choose("weight_map", weight_map, NONNEGATIVE_MAPS)
    # The raw weight is cut off, not the mapped one, whose slope may be infinite where it is.
    root = {"square": CAP**0.5, "exp": math.log(CAP)}.get(weight_map, CAP)
    low = -root if weight_map in ("square", "abs") else None
    return lambda raw: positive(jnp.clip(raw, low, root))


def spread_columns(scale: float = 1.0, spread: float = 2.0) -> Initializer:
    r"""Initialiser of non-negative weights V `[d, n]` that keeps variance: columns of norm 1.

    V is log-normal, :math:`V_{ij} = c_j e^{\sigma z_{ij}}`, with :math:`c_j` such that
    :math:`\sum_i V_{ij}^2` is ``scale`` for each unit j. So with inputs that are uncorrelated and
    of unit variance every unit has variance ``scale``.

    **Why it spreads.** Non-negative columns all point into one orthant: two units have the
    correlation :math:`V_j\cdot V_k / (|V_j||V_k|)`, near :math:`e^{-\sigma^2}` for many inputs:
    0.64 for half-normal weights (they all see little more than the mean of the inputs), 0.02 at
    :math:`\sigma = 2`, where each unit listens to a few inputs only.

    Args:
      scale: variance of the units, > 0.
      spread: :math:`\sigma \ge 0`; 0 gives equal weights.

    Returns:
      ``init(key, (d, n), dtype)`` of the weights themselves.

    Raises:
      ValueError: on a number out of range.
    """
    check_positive(scale, "scale")
    check_number(spread, "spread", least=0)

    def init(key, shape, dtype=jnp.float32):
        draw = jax.random.normal(key, shape, jnp.promote_types(dtype, jnp.float32))
        # Against the largest of the column, so that no exponential overflows.
        powers = jnp.exp(spread * (draw - draw.max(axis=-2, keepdims=True)))
        norm = jnp.sqrt(jnp.sum(powers**2, axis=-2, keepdims=True))
        return (powers * (scale**0.5 / norm)).astype(dtype)

    return init


@renamed(reparam="weight_map")
def nonnegative_init(weight_map: str, scale: float = 1.0, spread: float = 2.0) -> Initializer:
    """Initialiser of raw weights `[d, n]` whose mapped values are :func:`spread_columns`.

    Args:
      weight_map: key of ``NONNEGATIVE_MAPS``.
      scale: variance of the units, > 0, whatever ``weight_map`` is.
      spread: see :func:`spread_columns`.

    Returns:
      ``init(key, (d, n), dtype)``; raw weights of the even maps are positive.

    Raises:
      ValueError: on an unknown name or a number out of range.
    """
    nonnegative_map(weight_map)
    inverse, draw = INVERSES[weight_map], spread_columns(scale, spread)

    def init(key, shape, dtype=jnp.float32):
        values = draw(key, shape, jnp.promote_types(dtype, jnp.float32))
        # exp and softplus have no finite raw weight for 0, which far tails round to.
        return inverse(jnp.maximum(values, 1e-20)).astype(dtype)

    return init


def fan_in_uniform(fan_in: int) -> Initializer:
    r"""Uniform on :math:`\pm 1/\sqrt{n}`, n = ``fan_in``: PyTorch's for a dense layer.

    Args:
      fan_in: n >= 1.

    Returns:
      ``init(key, shape, dtype)``, of kernels and biases alike.
    """
    bound = check_width(fan_in, "fan_in") ** -0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


@renamed(reparam="weight_map")
class NonNegativeDense(Guaranteed):
    r"""A dense layer :math:`y = x\,r(W) + b` with :math:`r(W) \ge 0`: all slopes are :math:`\ge 0`.

    The guarantee holds for every value of the parameters; weights above 1e9 are taken as 1e9.
    Which map r trains how: with "square"
    and "abs" the sign of W does not matter; W = 0 stays 0 under "square"; "clamp" gives negative
    raw weights no gradient (they stay 0); "exp" and "softplus" move weights by factors when they
    are small, and want rates ten times those of the others.

    Attributes:
      features: output width n.
      weight_map: r, a key of ``NONNEGATIVE_MAPS``: "square", "softplus", "abs", "clamp", "exp".
      use_bias: whether to add a bias, of any sign.
      kernel_init: of the raw kernel `[d, n]`; None is ``nonnegative_init(weight_map)``, which keeps
        the variance of the inputs.
      bias_init: of the bias, or None: :math:`-m\,r(W)`, m being ``input_mean``. A mean of the
        inputs that is not 0 is multiplied by a sum of non-negative weights, so this matters more
        than in a free layer.
      input_mean: what the inputs are on average at the start, a number or `[d]`.
      bias_spread: standard deviation of normal noise on that initial bias, so that the units
        before a kink do not all have it in the same place; 0 for an output layer.
      dtype: of the output; by default that of x and the parameters together.
      param_dtype: of the parameters.

    Call with ``x`` `[..., d]`, returns `[..., n]`; raises ValueError on another width than at
    init, or on a bad option.
    """

    features: int
    weight_map: str = "square"
    use_bias: bool = True
    kernel_init: Initializer | None = None
    bias_init: Initializer | None = None
    input_mean: float | Sequence[float] = 0.0
    bias_spread: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def bounds(self) -> tuple[float, jax.Array]:
        """Certified ``(smallest, largest)`` slope in l2, from the weights as they are.

        Called as ``net.apply(params, method="bounds")``.
        """
        raw: jax.Array = self.get_variable("params", "kernel")
        positive = nonnegative_map(self.weight_map)
        return 0.0, gram_bound(positive(raw.astype(jnp.promote_types(raw.dtype, jnp.float32))))

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., d]` to `[..., features]`."""
        features = check_width(self.features)
        positive = nonnegative_map(self.weight_map)
        x, build = prepare(x, 1, self.dtype, self.param_dtype)
        width = x.shape[-1]
        check_number(self.bias_spread, "bias_spread", least=0)
        given = known(self.input_mean)
        if given is not None and not np.isfinite(given).all():
            raise ValueError(f"input_mean must be finite, got {self.input_mean}.")
        if np.shape(self.input_mean) not in ((), (width,)):
            raise ValueError(
                f"input_mean must be one number or one per input ({width}), "
                f"got shape {np.shape(self.input_mean)}."
            )
        raw_init = self.kernel_init or nonnegative_init(self.weight_map)
        kernel = positive(weight(self, "kernel", raw_init, (width, features), build))
        y = x @ kernel.astype(x.dtype)
        if self.use_bias:
            mean = jnp.broadcast_to(jnp.asarray(self.input_mean, build), (width,))

            def centred(key, shape, dtype):
                noise = self.bias_spread * jax.random.normal(key, shape, build)
                return (noise - mean @ kernel).astype(dtype)

            bias = weight(self, "bias", self.bias_init or centred, (features,), build)
            y = y + along(bias, y)
        return y
