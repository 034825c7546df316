"""Lipschitz monotone networks: norm-constrained weights plus a linear term."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from monojax.base.checks import check_positive, check_width, check_widths, choose
from monojax.base.directions import check_directions
from monojax.layers.guarantee import Guaranteed
from monojax.layers.lipschitz_common import along, group_sort, magnitude, prepare, weight


def _two_norm(kernel: jax.Array) -> jax.Array:
    # Squares stay in range, whatever the weights are.
    size = magnitude(kernel, 0)
    unit = kernel / jnp.broadcast_to(size, kernel.shape)
    # The floor keeps the gradient of an all-zero row finite; the norm is capped at >= 1 later.
    tiny = jnp.finfo(kernel.dtype).tiny
    return jnp.sqrt(jnp.sum(unit * unit, axis=0, keepdims=True) + tiny) * size


NORMS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "one": lambda kernel: jnp.abs(kernel).sum(axis=1, keepdims=True),
    "inf": lambda kernel: jnp.abs(kernel).sum(axis=0, keepdims=True),
    "one-inf": jnp.abs,
    "two-inf": _two_norm,
}
KIND_NORMS = {
    "one": ("one", "one"),
    "inf": ("inf", "inf"),
    "one-inf": ("one", "inf"),
    "two-inf": ("two", "inf"),
}
"""The norms of the input and of the output between which each operator norm is."""

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
    shrink = jnp.maximum(1.0, norm(kernel) / max_norm)
    return kernel / jnp.broadcast_to(shrink, kernel.shape)


class NormDense(Guaranteed):
    """Dense layer with an operator norm of at most ``max_norm``, by construction.

    Attributes:
      features: output width.
      kind: which operator norm, from the norm of the inputs to that of the outputs: "one" is
        l1 to l1, "inf" l-inf to l-inf, "one-inf" l1 to l-inf, "two-inf" l2 to l-inf; see
        :func:`constrain`. (:class:`LMN`'s ``norm`` is another thing, the norm of the input space
        alone: ``LMN(norm="one")`` starts with a layer of the kind "one-inf".)
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
            y = y + along(bias, y)
        return y

    @property
    def norms(self) -> tuple[str, str]:
        """Of the inputs and of the outputs, as ``kind`` says."""
        return choose("kind", self.kind, KIND_NORMS)  # type: ignore[no-any-return]

    def bounds(self) -> tuple[float, Any]:
        """Certified ``(smallest, largest)`` slope in :attr:`norms`: ``(0, max_norm)``.

        Called as ``net.apply(params, method="bounds")``.
        """
        return 0.0, self.max_norm


class LMN(Guaranteed):
    r"""Lipschitz monotone network with slopes from 0 to **2** ``lipschitz`` in its directions.

    .. math:: f(x) = g(x) + \lambda \sum_i s_i x_i

    ``lipschitz`` is :math:`\lambda`, the constant of g, as published; for slopes in [0, L] pass
    L / 2.

    g is a GroupSort network that is :math:`\lambda`-Lipschitz in ``norm`` by construction (every
    layer's operator norm is at most :math:`\lambda^{1/n}`), so
    :math:`|\partial g/\partial x_i| \le \lambda` and f is monotone in every input with
    :math:`s_i \ne 0`. What is certified, for every value of the parameters, up to rounding:

    * inputs with :math:`s_i = \pm 1`: :math:`0 \le s_i\,\partial f/\partial x_i \le 2\lambda`;
    * free inputs: :math:`|\partial f/\partial x_i| \le \lambda`;
    * with m monotone inputs, the constant of f is at most :math:`2\lambda` in l1 (:math:`\lambda`
      if m = 0), :math:`\lambda(1 + \sqrt m)` in l2, :math:`\lambda(1 + m)` in l-inf, each for the
      ``norm`` of that name: :func:`lmn_bound`.

    Attributes:
      features: widths, the output's last: ``(64, 64, 1)``; hidden widths must be multiples of
        ``group_size``. With several outputs each has the linear term and the bounds.
      lipschitz: :math:`\lambda > 0`, half the largest slope; a traced scalar is allowed.
      directions: +1, -1 or 0 per input, `[d]`.
      norm: of the input space, "one", "two" or "inf" (the outputs are taken one by one); "one"
        constrains the least, and suffices for monotonicity. Not :class:`NormDense`'s ``kind``,
        which is an operator norm: "one" here is the kind "one-inf" there.
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
        signs = jnp.asarray(check_directions(self.directions, x.shape[-1]), x.dtype)
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
        line = (self.lipschitz * (x @ signs)[..., None]).astype(h.dtype)
        return h + jnp.broadcast_to(line, h.shape)

    @property
    def norms(self) -> tuple[str, str]:
        """``norm`` of the inputs; outputs one by one, which is "inf" ("any" for one output)."""
        return self.norm, "any" if self.features[-1] == 1 else "inf"

    def bounds(self) -> tuple[float, Any]:
        """Certified ``(smallest, largest)`` slope in :attr:`norms`, linear term included.

        Called as ``net.apply(params, method="bounds")``.

        The largest is that of :func:`lmn_bound`. Slopes in single inputs have the directions'
        signs and sizes up to 2 ``lipschitz``.
        """
        check_positive(self.lipschitz, "lipschitz")
        return 0.0, self.lipschitz * (1 + _linear_part(self.directions, self.norm))


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
    return float(lipschitz) * (1 + _linear_part(directions, norm))


def _linear_part(directions: Any, norm: str) -> float:
    """The constant of the sum of signed inputs, in ``norm``."""
    choose("norm", norm, FIRST_KIND)
    signs = check_directions(directions, np.size(directions))
    # Traced directions: as if every input had one.
    count = int((signs != 0).sum()) if isinstance(signs, np.ndarray) else signs.size
    return float({"one": min(count, 1), "two": count**0.5, "inf": count}[norm])
