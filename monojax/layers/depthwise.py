"""Depthwise convolution as shifts and sums: XLA's own is very slow on CPU."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def depthwise_conv(x: jax.Array, kernel: jax.Array, strides: Sequence[int]) -> jax.Array:
    """A convolution of each channel with its own kernel, padding "SAME".

    One product and sum per entry of the kernel, many times as fast as XLA's convolution on CPU
    (tests/bench/depthwise.py) and equal to it up to rounding. The split and LRP treat a call of it
    as one convolution.

    Args:
      x: `[b, h, w, c]`.
      kernel: `[kh, kw, 1, c]`.
      strides: of height and width.

    Returns:
      `[b, ceil(h / strides[0]), ceil(w / strides[1]), c]`.

    Raises:
      ValueError: on other shapes.
    """
    if x.ndim != 4 or kernel.ndim != 4 or kernel.shape[2:] != (1, x.shape[-1]):
        raise ValueError(
            "a depthwise convolution takes x [b, h, w, c] and a kernel [kh, kw, 1, c], got "
            f"{x.shape} and {kernel.shape}."
        )
    return _call(tuple(strides))(x, kernel)


@functools.cache
def _call(strides: tuple[int, ...]) -> Any:
    """The jitted call for these strides; its name is what the split knows it by."""

    def monojax_depthwise_conv(x, kernel):
        size = [-(-n // s) for n, s in zip(x.shape[1:3], strides, strict=True)]
        pad = [(0, 0)]
        for n, out, s, k in zip(x.shape[1:3], size, strides, kernel.shape[:2], strict=True):
            total = max((out - 1) * s + k - n, 0)
            pad.append((total // 2, total - total // 2))
        x = jnp.pad(x, [*pad, (0, 0)])
        reach = [(out - 1) * s + 1 for out, s in zip(size, strides, strict=True)]
        out = jnp.zeros((), x.dtype)
        for i in range(kernel.shape[0]):
            for j in range(kernel.shape[1]):
                part = x[:, i : i + reach[0] : strides[0], j : j + reach[1] : strides[1]]
                out = out + part * kernel[None, i : i + 1, j : j + 1, 0]
        return out

    return jax.jit(monojax_depthwise_conv)


def linen_depthwise(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any):
    """`depthwise_conv` for the field ``conv_general_dilated`` of linen's Conv.

    On other devices than CPUs it is XLA's own convolution.

    Args:
      x: `[b, h, w, c]`.
      kernel: `[kh, kw, 1, c]`.
      strides: of height and width.
      padding: must be "SAME".
      **options: what linen's Conv passes on; dilations must be 1.

    Returns:
      As :func:`depthwise_conv`.

    Raises:
      ValueError: on other padding or dilations.
    """
    if jax.default_backend() != "cpu":
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    dilations = (*(options.get("lhs_dilation") or ()), *(options.get("rhs_dilation") or ()))
    if padding != "SAME" or any(d != 1 for d in dilations):
        raise ValueError(f"padding must be 'SAME' and dilations 1, got {padding!r}, {dilations}.")
    return depthwise_conv(x, kernel, strides)
