"""Lipschitz monotone networks: norm-constrained weights plus a linear term."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from monojax.base.checks import check_positive, check_width, check_widths, choose
from monojax.base.directions import check_directions
from monojax.layers.lipschitz_common import group_sort, prepare, weight


def _two_norm(kernel: jax.Array) -> jax.Array:
    # The floor keeps the gradient of an all-zero row finite; the norm is capped at >= 1 later.
    tiny = jnp.finfo(kernel.dtype).tiny
    return jnp.sqrt(jnp.sum(kernel * kernel, axis=0, keepdims=True) + tiny)


NORMS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "one": lambda kernel: jnp.abs(kernel).sum(axis=1, keepdims=True),
    "inf": lambda kernel: jnp.abs(kernel).sum(axis=0, keepdims=True),
    "one-inf": jnp.abs,
    "two-inf": _two_norm,
}
FIRST_KIND = {"one": "one-inf", "two": "two-inf", "inf": "inf"}


def constrain(kernel: jax.Array, kind: str, max_norm: float | jax.Array = 1.0) -> jax.Array:
    r"""Shrinks the weights, vector by vector, until their operator norm is at most ``max_norm``.

    | kind | norm of the map x -> x @ kernel | each is divided by max(1, norm/max_norm) |
    | --- | --- | --- |
    | "one" | l1 to l1 | the weights of one input, by their absolute sum |
    | "inf" | l-inf to l-inf | the weights of one output, by their absolute sum |
    | "one-inf" | l1 to l-inf | every weight, by its absolute value |
    | "two-inf" | l2 to l-inf | the weights of one output, by their length |

    Args:
      kernel: shape `[d, features]`.
      kind: "one", "inf", "one-inf" or "two-inf", the names of the package monotonenorm.
      max_norm: > 0.

    Returns:
      `[d, features]`.

    Raises:
      ValueError: on an unknown kind or a max_norm that is not positive.
    """
    norm = choose("kind", kind, NORMS)
    check_positive(max_norm, "max_norm")
    return kernel / jnp.maximum(1.0, norm(kernel) / max_norm)


class NormDense(nn.Module):
    """Dense layer whose weights are constrained by :func:`constrain`, by construction.

    Attributes:
      features: output width.
      kind: the norm, see :func:`constrain`.
      max_norm: the bound of that operator norm, > 0.
      use_bias: whether to add a bias.
      kernel_init: initialiser of the raw kernel `[d, features]`; the default is that of the
        published code's framework, uniform on +-1/sqrt(d).
      dtype: of the output; by default that of x and the parameters together.
      param_dtype: of the parameters.

    Call with ``x`` `[..., d]`, returns `[..., features]`; raises ValueError on another width
    than at init.

    Reference:
      Kitouni, Nolte, Williams, "Expressive monotonic neural networks", ICLR 2023,
      https://arxiv.org/abs/2307.07512.
    """

    features: int
    kind: str = "inf"
    max_norm: float | jax.Array = 1.0
    use_bias: bool = True
    kernel_init: Callable[..., jax.Array] = nn.initializers.variance_scaling(
        1 / 3, "fan_in", "uniform"
    )
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., d]` to `[..., features]`."""
        features = check_width(self.features)
        x, build = prepare(x, 1, self.dtype, self.param_dtype)
        kernel = weight(self, "kernel", self.kernel_init, (x.shape[-1], features), build)
        y = x @ constrain(kernel, self.kind, self.max_norm).astype(x.dtype)
        if self.use_bias:
            bias = weight(self, "bias", nn.initializers.zeros, (features,), build)
            y = y + bias.astype(x.dtype)
        return y


class LMN(nn.Module):
    r"""Lipschitz monotone network :math:`f(x) = g(x) + \lambda \sum_i s_i x_i`.

    g is a GroupSort network that is :math:`\lambda`-Lipschitz in ``norm`` by construction (every
    layer's operator norm is at most :math:`\lambda^{1/n}`), so
    :math:`|\partial g/\partial x_i| \le \lambda` and f is monotone in every input with
    :math:`s_i \ne 0`. What is certified, for every value of the parameters, up to rounding:

    * inputs with :math:`s_i = \pm 1`: :math:`0 \le s_i\,\partial f/\partial x_i \le 2\lambda`;
    * free inputs: :math:`|\partial f/\partial x_i| \le \lambda`;
    * with m monotone inputs, the constant of f is at most :math:`2\lambda` in l1 (:math:`\lambda`
      if m = 0), :math:`\lambda(1 + \sqrt m)` in l2, :math:`\lambda(1 + m)` in l-inf, each for the
      ``norm`` of that name: :func:`lmn_bound`.

    ``lipschitz`` is :math:`\lambda`, as published. For slopes in [0, L] pass L / 2.

    Attributes:
      features: widths, the output's last: ``(64, 64, 1)``; hidden widths must be multiples of
        ``group_size``. With several outputs each has the linear term and the bounds.
      lipschitz: :math:`\lambda > 0`; a traced scalar is allowed.
      directions: +1, -1 or 0 per input, `[d]`.
      norm: of the input space, "one", "two" or "inf"; "one" constrains the least, and suffices
        for monotonicity.
      group_size: units sorted together.
      dtype: of the output; by default that of x and the parameters together.
      param_dtype: of the parameters.

    Call with ``x`` `[..., d]`, returns `[..., features[-1]]`; raises ValueError on empty
    features, a constant that is not positive, directions of another length or value, an unknown
    norm, or another width than at init.

    Reference:
      Kitouni, Nolte, Williams, ICLR 2023, https://arxiv.org/abs/2307.07512.
    """

    features: Sequence[int]
    lipschitz: float | jax.Array
    directions: Any
    norm: str = "one"
    group_size: int = 2
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., d]` to `[..., features[-1]]`."""
        widths = check_widths(self.features)
        check_positive(self.lipschitz, "lipschitz")
        kind = choose("norm", self.norm, FIRST_KIND)
        size = check_width(self.group_size, "group_size")
        x, _ = prepare(x, 1, self.dtype, self.param_dtype)
        signs = check_directions(self.directions, x.shape[-1]).astype(x.dtype)
        per_layer = self.lipschitz ** (1.0 / len(widths))
        h = x
        for i, width in enumerate(widths):
            h = NormDense(width, kind, per_layer, dtype=self.dtype, param_dtype=self.param_dtype)(h)
            kind = "inf"
            if i < len(widths) - 1:
                if width % size:
                    raise ValueError(
                        f"hidden widths must be multiples of group_size {size}, got {widths}."
                    )
                h = group_sort(h, width // size)
        return h + (self.lipschitz * (x @ signs)[..., None]).astype(h.dtype)


def lmn_bound(lipschitz: float, directions: Any, norm: str = "one") -> float:
    """The certified Lipschitz constant of an :class:`LMN` in its norm, linear term included.

    Args:
      lipschitz: the network's ``lipschitz``.
      directions: the network's ``directions``.
      norm: the network's ``norm``.

    Returns:
      The constant, per output.

    Raises:
      ValueError: on a constant that is not positive, bad directions or an unknown norm.
    """
    check_positive(lipschitz, "lipschitz")
    choose("norm", norm, FIRST_KIND)
    signs = np.asarray(check_directions(directions, np.size(directions)))
    count = int((signs != 0).sum())
    linear = {"one": min(count, 1), "two": count**0.5, "inf": count}[norm]
    return float(lipschitz) * (1 + linear)
