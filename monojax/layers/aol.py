"""Almost-orthogonal layers: columns rescaled so that the Gram matrix is diagonally dominated."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from monojax.base.checks import check_width, one_of
from monojax.layers.guarantee import Guaranteed
from monojax.layers.lipschitz_common import along, magnitude, prepare, weight

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def balanced(kernel: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Units of the same size: each divided by the power of two below its largest weight.

    Args:
      kernel: any shape.
      axis: of the units.

    Returns:
      ``(unit, size)``: of the kernel's shape, and `[n]`, constant in derivatives.
    """
    axis %= kernel.ndim
    size = magnitude(kernel, tuple(i for i in range(kernel.ndim) if i != axis))
    return kernel / size, size.reshape(-1)


def ratios(size: jax.Array) -> jax.Array:
    """``size[j] / size[i]`` `[n, n]`, capped where what is left out moves a bound by 1e-8."""
    n = size.shape[0]
    rows, columns = (jnp.broadcast_to(size.reshape(s), (n, n)) for s in ((n, 1), (1, n)))
    return jnp.minimum(columns / rows, 2.0**55)


def aol_scale(kernel: jax.Array) -> jax.Array:
    r"""The scale of each input: :math:`T_i = (\sum_j |K K^T|_{ij})^{-1/2}`.

    :math:`T^{-2} - K K^T` has non-negative diagonally dominant rows, so it is positive
    semi-definite and :math:`\|K^T T\|_2 \le 1`.

    Args:
      kernel: shape `[d, features]`, applied as ``x @ kernel``.

    Returns:
      `[d]`; 1 for an input whose weights are all 0.
    """
    unit, size = balanced(kernel, 0)
    return _scale(_dense_gram(unit), size) / size


def aol_conv_scale(kernel: jax.Array) -> jax.Array:
    r"""The scale of each input channel: absolute sums of the kernel's correlation with itself.

    The sums bound the rows of :math:`|W^T W|` for the convolution W on the infinite plane.
    Zero padding takes a sub-matrix of W and circular padding folds its Gram matrix, so the bound
    holds for both, at every image size.

    Args:
      kernel: shape `[kh, kw, channels, features]`.

    Returns:
      `[channels]`; 1 for a channel whose weights are all 0.
    """
    unit, size = balanced(kernel, 2)
    return _scale(gram_sums(jnp.swapaxes(unit, 2, 3)), size) / size


def aol_kernel(kernel: jax.Array) -> jax.Array:
    """The kernel times :func:`aol_scale` or :func:`aol_conv_scale`, never out of range.

    Squares of weights leave the range of floats where the weights do not; so the Gram matrix is
    that of weights of the same size, put together by their ratios.

    Args:
      kernel: `[d, features]`, or `[kh, kw, channels, features]`.

    Returns:
      The same shape.
    """
    unit, size = balanced(kernel, -2)
    dense = kernel.ndim == 2
    gram = _dense_gram(unit) if dense else gram_sums(jnp.swapaxes(unit, 2, 3))
    scale = _scale(gram, size)
    return unit * jnp.broadcast_to(scale.reshape((1,) * (unit.ndim - 2) + (-1, 1)), unit.shape)


def _dense_gram(unit: jax.Array) -> jax.Array:
    return jnp.abs(jnp.matmul(unit, unit.T, precision="highest"))


def _scale(gram: jax.Array, size: jax.Array) -> jax.Array:
    """The scale of units of the same size, from their absolute Gram matrix."""
    return _inverse_root((gram * ratios(size)).sum(axis=1))


def gram_sums(kernel: jax.Array) -> jax.Array:
    """``|W W^T|`` of a convolution W on the infinite plane, summed over all shifts.

    Args:
      kernel: shape `[kh, kw, channels, features]`; W maps channels to features.

    Returns:
      `[features, features]`, symmetric and non-negative.
    """
    kh, kw = kernel.shape[:2]
    gram = jax.lax.conv_general_dilated(
        jnp.moveaxis(kernel, 3, 0),  # every filter as an image [features, kh, kw, channels]
        kernel,
        window_strides=(1, 1),
        padding=[(kh - 1, kh - 1), (kw - 1, kw - 1)],
        dimension_numbers=DIMENSIONS,
        precision=jax.lax.Precision.HIGHEST,
    )
    return jnp.abs(gram).sum(axis=(1, 2))


def _inverse_root(sums: jax.Array) -> jax.Array:
    positive = sums > 0
    return jnp.where(positive, jax.lax.rsqrt(jnp.where(positive, sums, 1.0)), 1.0)


def pad_image(x: jax.Array, kernel_size: tuple[int, int], padding: str) -> jax.Array:
    """Pads `[n, h, w, c]` so that a VALID convolution keeps the size.

    Args:
      x: images, shape `[n, h, w, c]`.
      kernel_size: (kh, kw).
      padding: "SAME" for zeros, "CIRCULAR" for a torus.

    Returns:
      `[n, h + kh - 1, w + kw - 1, c]`.

    Raises:
      ValueError: on another padding, or an image smaller than the kernel.
    """
    one_of(padding, ("SAME", "CIRCULAR"), "padding")
    if any(size < k for size, k in zip(x.shape[1:3], kernel_size, strict=True)):
        raise ValueError(f"images of {x.shape[1:3]} are smaller than the kernel {kernel_size}.")
    around = [((k - 1) // 2, k - 1 - (k - 1) // 2) for k in kernel_size]
    return jnp.pad(x, [(0, 0), *around, (0, 0)], mode="constant" if padding == "SAME" else "wrap")


class AOLDense(Guaranteed):
    r"""Dense layer :math:`y = W\,\mathrm{diag}(T)\,x + b`, 1-Lipschitz in l2 by construction.

    Attributes:
      features: output width.
      use_bias: whether to add a bias.
      kernel_init: initialiser of the raw kernel `[d, features]`.
      dtype: of the output; by default that of x and the parameters together.
      param_dtype: of the parameters.

    Call with ``x`` `[..., d]`, returns `[..., features]`; raises ValueError on another width
    than at init.

    Reference:
      Prach, Lampert, "Almost-orthogonal layers for efficient general-purpose Lipschitz
      networks", ECCV 2022, https://arxiv.org/abs/2208.03160.
    """

    features: int
    use_bias: bool = True
    kernel_init: Callable[..., jax.Array] = nn.initializers.glorot_normal()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., d]` to `[..., features]`."""
        features = check_width(self.features)
        x, build = prepare(x, 1, self.dtype, self.param_dtype)
        kernel = weight(self, "kernel", self.kernel_init, (x.shape[-1], features), build)
        y = x @ aol_kernel(kernel).astype(x.dtype)
        if self.use_bias:
            bias = weight(self, "bias", nn.initializers.zeros, (features,), build)
            y = y + along(bias, y)
        return y


class AOLConv(Guaranteed):
    """Convolution with channels rescaled as in AOL, 1-Lipschitz in l2 by construction.

    Attributes:
      features: output channels.
      kernel_size: (kh, kw).
      strides: subsampling, which keeps the bound.
      padding: "SAME" (zeros) or "CIRCULAR".
      use_bias: whether to add a bias per channel.
      kernel_init: initialiser of the raw kernel `[kh, kw, channels, features]`.
      dtype: of the output; by default that of x and the parameters together.
      param_dtype: of the parameters.

    Call with ``x`` `[..., h, w, channels]`, returns `[..., h', w', features]`; raises
    ValueError on other channels than at init or images smaller than the kernel.

    Reference:
      Prach, Lampert, "Almost-orthogonal layers", ECCV 2022, section on convolutions.
    """

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    padding: str = "SAME"
    use_bias: bool = True
    kernel_init: Callable[..., jax.Array] = nn.initializers.glorot_normal()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., h, w, channels]` to `[..., h', w', features]`."""
        features = check_width(self.features)
        x, build = prepare(x, 3, self.dtype, self.param_dtype)
        shape = (*self.kernel_size, x.shape[-1], features)
        kernel = weight(self, "kernel", self.kernel_init, shape, build)
        kernel = aol_kernel(kernel)
        images = pad_image(x.reshape(-1, *x.shape[-3:]), self.kernel_size, self.padding)
        y = jax.lax.conv_general_dilated(
            images, kernel.astype(x.dtype), self.strides, "VALID", dimension_numbers=DIMENSIONS
        )
        if self.use_bias:
            bias = weight(self, "bias", nn.initializers.zeros, (features,), build)
            y = y + along(bias, y)
        return y.reshape(*x.shape[:-3], *y.shape[1:])
