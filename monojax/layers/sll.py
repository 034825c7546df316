"""SDP-based Lipschitz layers: residual blocks that cannot stretch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from monojax.base.checks import check_width, choose
from monojax.layers.aol import DIMENSIONS, balanced, gram_sums, pad_image, ratios
from monojax.layers.guarantee import Guaranteed
from monojax.layers.lipschitz_common import SLOPE_RESTRICTED, along, prepare, weight


def sll_scale(kernel: jax.Array, q: jax.Array) -> jax.Array:
    r"""The step of each hidden unit: :math:`T_i = 2 / \sum_j |W W^T|_{ij}\,q_j/q_i`.

    :math:`2T^{-1} - W W^T` is diagonally dominant after scaling by q > 0, so it is positive
    semi-definite, which is the condition for :math:`\|I - W^T T D W\|_2 \le 1` at all slopes
    :math:`0 \le D \le I`.

    Args:
      kernel: the transpose of W, shape `[d, hidden]`.
      q: positive, shape `[hidden]`.

    Returns:
      `[hidden]`; 0 for a unit whose weights are all 0.
    """
    _, size, step = sll_parts(kernel, q)
    return step / size**2


def sll_parts(kernel: jax.Array, q: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    r"""Units of the same size, their sizes c, and :math:`\tau = c^2 T`: never out of range.

    :math:`W^T T\sigma(Wx + b) = \hat W^T \tau\,\sigma(c \hat W x + b) / c` for
    :math:`W = c\hat W`. For convolutions the Gram matrix is that of the infinite plane: there W
    is a sub-matrix for zero padding, and ``R W E E^T W^T R^T`` is below ``R W W^T R^T`` for an
    embedding E, so the bound holds.

    Args:
      kernel: shape `[d, hidden]`, or `[kh, kw, channels, hidden]`.
      q: positive, shape `[hidden]`.

    Returns:
      ``(unit, size, step)``: the kernel's shape, `[hidden]`, `[hidden]`.
    """
    unit, size = balanced(kernel, -1)
    if kernel.ndim == 2:
        gram = jnp.abs(jnp.matmul(unit.T, unit, precision="highest"))
    else:
        gram = gram_sums(unit)
    return unit, size, _steps((gram * ratios(size) * ratios(q)).sum(axis=1))


def _steps(sums: jax.Array) -> jax.Array:
    positive = sums > 0
    return jnp.where(positive, 2.0 / jnp.where(positive, sums, 1.0), 0.0)


class SLLDense(Guaranteed):
    r"""Residual block :math:`y = x - W^T T\,\sigma(W x + b)`, 1-Lipschitz in l2 by construction.

    A residual block keeps its width: ``features`` must be the width of x (zero-pad before, slice
    after; both keep the bound, and :class:`monojax.layers.lipschitz.LipschitzMLP` does it).

    Attributes:
      features: width of the input and of the output.
      hidden: rows of W; ``features`` if None.
      activation: a name of an elementwise activation with slopes in [0, 1].
      kernel_init: initialiser of the raw kernel `[features, hidden]`.
      dtype: of the output; by default that of x and the parameters together.
      param_dtype: of the parameters.

    Call with ``x`` `[..., features]`, returns the same shape; raises ValueError on another width.

    Reference:
      Araujo et al., "A unified algebraic perspective on Lipschitz neural networks", ICLR 2023,
      https://arxiv.org/abs/2303.03169.
    """

    features: int
    hidden: int | None = None
    activation: str = "relu"
    kernel_init: Callable[..., jax.Array] = nn.initializers.glorot_normal()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., features]` to `[..., features]`."""
        features = check_width(self.features)
        hidden = check_width(features if self.hidden is None else self.hidden, "hidden")
        act = choose("activation", self.activation, SLOPE_RESTRICTED)
        x, build = prepare(x, 1, self.dtype, self.param_dtype)
        _check_square(x, features)
        kernel = weight(self, "kernel", self.kernel_init, (features, hidden), build)
        bias = weight(self, "bias", nn.initializers.zeros, (hidden,), build)
        unit, size, step = sll_parts(kernel, _positive_q(self, hidden, build))
        unit = unit.astype(x.dtype)
        t = (x @ unit).astype(build)
        t = along(step / size, t) * act(along(size, t) * t + along(bias, t))
        return x - t.astype(x.dtype) @ unit.T


class SLLConv(Guaranteed):
    """Convolutional :class:`SLLDense`: convolution, activation, transposed convolution.

    Attributes:
      features: channels of the input and of the output.
      hidden: channels in between; ``features`` if None.
      kernel_size: (kh, kw).
      activation: a name of an elementwise activation with slopes in [0, 1].
      kernel_init: initialiser of the raw kernel `[kh, kw, features, hidden]`.
      dtype: of the output; by default that of x and the parameters together.
      param_dtype: of the parameters.

    Call with ``x`` `[..., h, w, features]`, zero padding, returns the same shape; raises
    ValueError on other channels or images smaller than the kernel.

    Reference:
      Araujo et al., ICLR 2023, the convolutional block.
    """

    features: int
    hidden: int | None = None
    kernel_size: tuple[int, int] = (3, 3)
    activation: str = "relu"
    kernel_init: Callable[..., jax.Array] = nn.initializers.glorot_normal()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., h, w, features]` to the same shape."""
        features = check_width(self.features)
        hidden = check_width(features if self.hidden is None else self.hidden, "hidden")
        act = choose("activation", self.activation, SLOPE_RESTRICTED)
        x, build = prepare(x, 3, self.dtype, self.param_dtype)
        _check_square(x, features)
        shape = (*self.kernel_size, features, hidden)
        kernel = weight(self, "kernel", self.kernel_init, shape, build)
        bias = weight(self, "bias", nn.initializers.zeros, (hidden,), build)
        unit, size, step = sll_parts(kernel, _positive_q(self, hidden, build))

        def convolve(images: jax.Array) -> jax.Array:
            padded = pad_image(images, self.kernel_size, "SAME")
            taps = unit.astype(x.dtype)
            return jax.lax.conv_general_dilated(
                padded, taps, (1, 1), "VALID", dimension_numbers=DIMENSIONS
            )

        images = x.reshape(-1, *x.shape[-3:])
        # The adjoint comes from the convolution itself, so both see the same padding.
        adjoint = jax.linear_transpose(convolve, images)
        t = convolve(images).astype(build)
        t = along(step / size, t) * act(along(size, t) * t + along(bias, t))
        (down,) = adjoint(t.astype(x.dtype))
        return (images - down).reshape(x.shape)


def _check_square(x: jax.Array, features: int) -> None:
    if x.shape[-1] != features:
        raise ValueError(
            f"an SLL block is residual and keeps its width: features is {features}, but x has "
            f"{x.shape[-1]}; zero-pad or slice x to {features}, both keep the bound."
        )


def _positive_q(module: nn.Module, hidden: int, build: Any) -> jax.Array:
    """|q| as published, kept off 0, where the bound would read 0/0."""
    q = weight(module, "q", nn.initializers.ones, (hidden,), build)
    return jnp.abs(q) + jnp.asarray(1e-6, build)
