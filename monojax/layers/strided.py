"""Convolutions that halve and double a picture, each the other's transpose, quick on CPU too.

A 4 x 4 kernel with stride 2 is what encoders and decoders of small pictures are made of. The
gradient that `jax.lax` derives for the doubling one runs at a tenth of the speed of its forward
pass on CPU (tests/bench/strided.py); here each derivative is written as a convolution that XLA has
fast code for.
"""

from typing import Any

import flax.linen as nn
import jax

from monojax.base.checks import check_width

_LAYOUT = ("NHWC", "HWIO", "NHWC")


@jax.custom_vjp
def halving_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution by 4 x 4 kernels with stride 2 and a border of one zero.

    Derivatives are in reverse mode, of any order; there is no forward mode.

    Args:
      x: `[b, h, w, wide]` with even h and w.
      kernel: `[4, 4, wide, narrow]`.

    Returns:
      `[b, h/2, w/2, narrow]`.
    """
    return _halving(x, kernel)


@jax.custom_vjp
def doubling_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The transpose of :func:`halving_conv` with the same kernel.

    Args:
      x: `[b, h, w, narrow]`.
      kernel: `[4, 4, wide, narrow]`.

    Returns:
      `[b, 2h, 2w, wide]`.
    """
    b, h, w, narrow = x.shape
    wide = kernel.shape[2]
    # Every 2 x 2 block of the result is a convolution of its own: together one of 2 x 2 kernels
    # with four times the channels, on a grid that is shifted by one pixel.
    blocks = kernel.reshape(2, 2, 2, 2, wide, narrow).transpose(0, 2, 5, 1, 3, 4)
    blocks = blocks[::-1, ::-1].reshape(2, 2, narrow, 4 * wide)
    y = jax.lax.conv_general_dilated(x, blocks, (1, 1), ((1, 1), (1, 1)), dimension_numbers=_LAYOUT)
    y = y.reshape(b, h + 1, w + 1, 2, 2, wide).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(b, 2 * h + 2, 2 * w + 2, wide)[:, 1:-1, 1:-1]


def _halving(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=_LAYOUT
    )


def _by_kernel(large: jax.Array, small: jax.Array, kernel: jax.Array) -> jax.Array:
    """The derivative by the kernel, of either convolution: both are linear in it."""
    _, back = jax.vjp(lambda kernel: _halving(large, kernel), kernel)
    return back(small)[0]


def _halving_fwd(x, kernel):
    return halving_conv(x, kernel), (x, kernel)


def _halving_bwd(kept, out):
    x, kernel = kept
    return doubling_conv(out, kernel), _by_kernel(x, out, kernel)


def _doubling_fwd(x, kernel):
    return doubling_conv(x, kernel), (x, kernel)


def _doubling_bwd(kept, out):
    x, kernel = kept
    return halving_conv(out, kernel), _by_kernel(out, x, kernel)


halving_conv.defvjp(_halving_fwd, _halving_bwd)
doubling_conv.defvjp(_doubling_fwd, _doubling_bwd)


class HalvingConv(nn.Module):
    """Convolution by 4 x 4 kernels with stride 2, and a bias: half the height and width."""

    features: int
    """Channels of the result."""
    dtype: Any = None
    """Of the computation; None follows the input and parameters."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b, h, w, c]` to `[b, h/2, w/2, features]`."""
        shape = (4, 4, x.shape[-1], check_width(self.features))
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return halving_conv(x, kernel) + bias[None, None, None]


class DoublingConv(nn.Module):
    """Transposed convolution by 4 x 4 kernels with stride 2: twice the height and width."""

    features: int
    """Channels of the result."""
    dtype: Any = None
    """Of the computation; None follows the input and parameters."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b, h, w, c]` to `[b, 2h, 2w, features]`."""
        shape = (4, 4, check_width(self.features), x.shape[-1])
        # Each result is a sum over four of the kernel's entries and all channels.
        start = nn.initializers.variance_scaling(4.0, "fan_in", "normal", in_axis=-1, out_axis=-2)
        kernel = self.param("kernel", start, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return doubling_conv(x, kernel) + bias[None, None, None]
