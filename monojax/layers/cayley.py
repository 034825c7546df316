"""Orthogonal layers by the Cayley transform, dense and convolutional (per frequency)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from monojax.base.checks import check_width
from monojax.layers.guarantee import Guaranteed
from monojax.layers.lipschitz_common import (
    along,
    frobenius_init,
    magnitude,
    prepare,
    rescaled,
    weight,
)

LIMIT = 100.0
"""Largest Frobenius norm of a matrix whose Cayley transform is taken."""


def cayley(matrix: jax.Array) -> jax.Array:
    r"""A semi-orthogonal matrix of the same shape: orthonormal columns if tall, rows if wide.

    With the blocks :math:`W = [U; V]`, U square, and
    :math:`A = U - U^* + V^* V`, the result is
    :math:`[(I+A)^{-1}(I-A);\ -2V(I+A)^{-1}]`. The Hermitian part of I + A is at least I, so the
    inverse exists for every W and its norm is at most 1.

    **Range.** A matrix W of Frobenius norm above 100 is scaled to 100 first: rounding grows with
    the square of the norm, and what lies beyond moves the result by less than 1e-3. One step
    towards the nearest orthogonal matrix then takes off what the inverse left, so that the
    result is orthogonal to about 1e-5 in float32 for every W that is finite.

    Args:
      matrix: real or complex, shape `[..., m, n]`.

    Returns:
      `[..., m, n]`, same dtype.

    Reference:
      Trockman, Kolter, "Orthogonalizing convolutional layers with the Cayley transform",
      ICLR 2021, https://arxiv.org/abs/2104.07167; the tall form is from Wang, Manchester,
      ICML 2023.
    """
    m, n = matrix.shape[-2:]
    if m < n:
        return _adjoint(cayley(_adjoint(matrix)))
    matrix = limited(matrix, LIMIT)
    u, v = matrix[..., :n, :], matrix[..., n:, :]
    eye = jnp.broadcast_to(jnp.eye(n, dtype=matrix.dtype), u.shape)
    inverse = jnp.linalg.inv(eye + u - _adjoint(u) + _product(_adjoint(v), v))
    # (I + A)^{-1} (I - A) = 2 (I + A)^{-1} - I: one inverse serves both blocks.
    return polished(jnp.concatenate([2 * inverse - eye, -2 * _product(v, inverse)], axis=-2))


def limited(matrix: jax.Array, limit: float) -> jax.Array:
    """The matrix, scaled to the Frobenius norm ``limit`` where it is above.

    Args:
      matrix: real or complex, `[..., m, n]`.
      limit: > 0.

    Returns:
      The same shape.
    """
    size = magnitude(matrix, (-2, -1))
    unit = matrix / size
    tiny = jnp.finfo(size.dtype).tiny
    norm = jnp.sqrt(jnp.sum(jnp.abs(unit) ** 2, axis=(-2, -1), keepdims=True) + tiny)
    # Never norm * size, which may be out of range.
    return unit * jnp.minimum(size, limit / norm)


def polished(q: jax.Array) -> jax.Array:
    """One Newton-Schulz step: a deviation d from orthonormal columns becomes about d^2.

    Args:
      q: `[..., m, n]`, m >= n, near orthonormal columns.

    Returns:
      The same shape.
    """
    return 1.5 * q - 0.5 * _product(q, _product(_adjoint(q), q))


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    # Reduced precision on accelerators would undo the orthogonality.
    return jnp.matmul(a, b, precision="highest")


def _adjoint(matrix: jax.Array) -> jax.Array:
    return jnp.conj(jnp.swapaxes(matrix, -1, -2))


def scaled_cayley(
    module: nn.Module,
    init: Callable[..., jax.Array],
    shape: tuple[int, int],
    build: Any,
    names: tuple[str, str] = ("kernel", "scale"),
) -> jax.Array:
    """``cayley(scale * kernel / ||kernel||_F)`` with both learned, as the baselines train it.

    Args:
      module: the compact module that owns the parameters.
      init: initialiser of the kernel.
      shape: of the kernel and of the result.
      build: dtype to compute in.
      names: the parameters' names.

    Returns:
      A semi-orthogonal matrix of shape ``shape``.
    """
    kernel = weight(module, names[0], init, shape, build)
    scale = weight(module, names[1], frobenius_init(kernel), (), build)
    return cayley(rescaled(kernel, scale))


class CayleyDense(Guaranteed):
    r"""Dense layer :math:`y = Q x + b` with Q semi-orthogonal: 1-Lipschitz in l2, by construction.

    Norm preserving where features >= d (an isometry, so also inverse-1-Lipschitz).

    Attributes:
      features: output width.
      use_bias: whether to add a bias.
      kernel_init: initialiser of the raw kernel `[d, features]`.
      dtype: of the output; by default that of x and the parameters together.
      param_dtype: of the parameters.

    Call with ``x`` `[..., d]`, returns `[..., features]`; raises ValueError on another width
    than at init.

    Reference:
      Trockman, Kolter, ICLR 2021, https://arxiv.org/abs/2104.07167.
    """

    features: int
    use_bias: bool = True
    kernel_init: Callable[..., jax.Array] = nn.initializers.glorot_normal()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., d]` to `[..., features]`."""
        x, build = prepare(x, 1, self.dtype, self.param_dtype)
        q, bias = self._matrix(x.shape[-1], build)
        y = x @ q.astype(x.dtype)
        return y + along(bias, y)

    def bounds(self) -> tuple[float, float]:
        """Certified ``(smallest, largest)`` slope in l2: (1, 1) if features >= d, else (0, 1).

        Called as ``net.apply(params, method="bounds")``.
        """
        if self.scope is None or not self.has_variable("params", "kernel"):
            return 0.0, 1.0
        width: int = self.get_variable("params", "kernel").shape[0]
        return float(self.features >= width), 1.0

    def inverse(self, y: jax.Array) -> jax.Array:
        """The x with Q x + b = y, for a square layer; `[..., d]` to `[..., d]`.

        Args:
          y: float, shape `[..., features]`; x is taken to have the same width.

        Raises:
          ValueError: if the layer is not square, or ``y`` has another width.
        """
        y, build = prepare(y, 1, self.dtype, self.param_dtype)
        if y.shape[-1] != self.features:
            raise ValueError(f"y must have width {self.features}, got {y.shape[-1]}.")
        q, bias = self._matrix(y.shape[-1], build)
        return (y - along(bias, y)) @ q.astype(y.dtype).T

    @nn.compact
    def _matrix(self, width: int, build: Any) -> tuple[jax.Array, jax.Array]:
        features = check_width(self.features)
        q = scaled_cayley(self, self.kernel_init, (width, features), build)
        if not self.use_bias:
            return q, jnp.zeros((features,), build)
        return q, weight(self, "bias", nn.initializers.zeros, (features,), build)


def frequency_kernel(kernel: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """The matrix of a circular convolution at every frequency of the half spectrum.

    Args:
      kernel: real, shape `[kh, kw, channels, features]`, centred.
      size: (h, w) of the images, at least the kernel's.

    Returns:
      complex, shape `[h, w // 2 + 1, channels, features]`.

    Raises:
      ValueError: if the images are smaller than the kernel.
    """
    kh, kw = kernel.shape[:2]
    if size[0] < kh or size[1] < kw:
        raise ValueError(f"images of {size} are smaller than the kernel {(kh, kw)}.")
    padded = jnp.pad(kernel, [(0, size[0] - kh), (0, size[1] - kw), (0, 0), (0, 0)])
    centred = jnp.roll(padded, (-(kh // 2), -(kw // 2)), axis=(0, 1))
    return jnp.fft.rfft2(centred, axes=(0, 1))


def apply_frequency(x: jax.Array, matrices: jax.Array) -> jax.Array:
    """Circular convolution of images with matrices given per frequency.

    Args:
      x: real, shape `[n, h, w, channels]`.
      matrices: complex, shape `[h, w // 2 + 1, channels, features]`.

    Returns:
      real, shape `[n, h, w, features]`.
    """
    spectrum = jnp.fft.rfft2(x, axes=(1, 2))
    y = jnp.einsum("nhwc,hwcf->nhwf", spectrum, matrices, precision="highest")
    return jnp.fft.irfft2(y, s=x.shape[1:3], axes=(1, 2)).astype(x.dtype)


class CayleyConv(Guaranteed):
    """Orthogonal circular convolution, 1-Lipschitz in l2 by construction.

    The Cayley transform is taken at every frequency of the image, so the result is a convolution
    whose support is the whole image, and the parameters belong to no image size.

    Attributes:
      features: output channels.
      kernel_size: (kh, kw) of the raw kernel.
      use_bias: whether to add a bias per channel.
      kernel_init: initialiser of the raw kernel `[kh, kw, channels, features]`.
      dtype: of the output; by default that of x and the parameters together.
      param_dtype: of the parameters.

    Call with ``x`` `[..., h, w, channels]`, returns `[..., h, w, features]`; raises ValueError
    on other channels than at init or images smaller than the kernel.

    Reference:
      Trockman, Kolter, ICLR 2021, https://arxiv.org/abs/2104.07167.
    """

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    use_bias: bool = True
    kernel_init: Callable[..., jax.Array] = nn.initializers.glorot_normal()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., h, w, channels]` to `[..., h, w, features]`."""
        features = check_width(self.features)
        x, build = prepare(x, 3, self.dtype, self.param_dtype)
        shape = (*self.kernel_size, x.shape[-1], features)
        kernel = weight(self, "kernel", self.kernel_init, shape, build)
        scale = weight(self, "scale", frobenius_init(kernel), (), build)
        matrices = cayley(frequency_kernel(rescaled(kernel, scale), x.shape[-3:-1]))
        images = x.reshape(-1, *x.shape[-3:]).astype(build)
        y = apply_frequency(images, matrices).astype(x.dtype)
        if self.use_bias:
            bias = weight(self, "bias", nn.initializers.zeros, (features,), build)
            y = y + along(bias, y)
        return y.reshape(*x.shape[:-1], features)

    def bounds(self) -> tuple[float, float]:
        """Certified ``(smallest, largest)`` slope in l2: (1, 1) if features >= channels.

        Called as ``net.apply(params, method="bounds")``.
        """
        if self.scope is None or not self.has_variable("params", "kernel"):
            return 0.0, 1.0
        channels: int = self.get_variable("params", "kernel").shape[2]
        return float(self.features >= channels), 1.0
