r"""A convolutional network that is convex in its input images."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from monojax.base.checks import check_width, one_of
from monojax.base.renamed import renamed
from monojax.conjugate.activations import as_activation, softplus
from monojax.conjugate.icnn import WEIGHT_MAPS
from monojax.layers.convex import check_features, convex_init, uniform
from monojax.layers.guarantee import Frozen
from monojax.layers.lipschitz_common import along


@renamed(pool="reduce")
class ConvICNN(Frozen):
    r"""A scalar function convex in images: maps `[..., h, w, c]` to `[...]`.

    With * a zero-padded convolution of stride :math:`s_i`, and :math:`*_S` one of the stride
    :math:`S_i = s_0 \cdots s_i` that takes images straight to the size of :math:`z_i`,

    .. math::
      z_0 &= g(W^y_0 *_S y + b_0), \qquad z_i = g([W^z_i]_+ * z_{i-1} + W^y_i *_S y + b_i), \\
      F(y) &= \sum_p \langle [v]_+, z_{k-1}(p)\rangle + \sum_p \langle u, y(p)\rangle

    over pixels p. Convex for any parameters, because g is convex and non-decreasing and the
    weights between units are non-negative. The parameters fit images of any size.

    Parameters: ``y_kernel_i`` `[n, n, c, f_i]`, ``bias_i`` `[f_i]`, ``z_kernel_i``
    `[n, n, f_{i-1}, f_i]` (i >= 1), and, with k layers, v = ``z_kernel_k`` `[f_{k-1}, 1]` and
    u = ``y_kernel_k`` `[c, 1]`.

    Attributes:
      features: channels of the hidden layers.
      kernel_size: n, side of the square kernels.
      strides: of the hidden layers, one for all or one each. Where S_i > n the kernels
        ``y_kernel_i`` do not see every pixel.
      activation: ``softplus(sharpness)``, "relu", "elu", an Activation or a callable; sharpness 10
        by default.
      weight_map: as in :class:`monojax.layers.ICNN`; "projected" with ``project_convex``.
      z_init: of the raw non-negative weights, as there.
      reduce: "sum" over pixels: curvature does not depend on the size of the images; or "mean".

    Reference:
      Amos, Xu, Kolter, "Input Convex Neural Networks", ICML 2017, section 3 (convolutions).
    """

    features: Sequence[int]
    kernel_size: int = 3
    strides: int | Sequence[int] = 1
    activation: Any = softplus(10.0)
    weight_map: str = "clamp"
    z_init: Any = "glorot_normal"
    reduce: str = "sum"

    @nn.compact
    def __call__(self, y: jax.Array) -> jax.Array:
        """F(y), shape `[...]`, for images ``y`` `[..., h, w, c]`.

        Raises:
          ValueError: on an option or a shape that does not fit.
        """
        widths = check_features(self.features)
        strides = check_strides(self.strides, len(widths))
        check_width(self.kernel_size, "kernel_size")
        over = jnp.sum if one_of(self.reduce, ("sum", "mean"), "reduce") == "sum" else jnp.mean
        check_images(y, "y", self._trained_channels())
        g, channels = as_activation(self.activation), y.shape[-1]
        window = (self.kernel_size, self.kernel_size)
        bound = (channels * math.prod(window)) ** -0.5
        free = uniform(-bound, bound)
        raw = convex_init(self.z_init, self.weight_map)
        positive = WEIGHT_MAPS[self.weight_map]
        images = y.reshape(-1, *y.shape[-3:])
        z, total = images, 1
        for i, (width, stride) in enumerate(zip(widths, strides, strict=True)):
            total *= stride
            a = _convolve(
                images,
                self.param(f"y_kernel_{i}", free, (*window, channels, width), y.dtype),
                total,
            )
            a = a + along(self.param(f"bias_{i}", free, (width,), y.dtype), a)
            if i:
                shape = (*window, widths[i - 1], width)
                weights = positive(self.param(f"z_kernel_{i}", raw, shape, y.dtype))
                a = a + _convolve(z, weights, stride)
            z = g(a)
        count = len(widths)
        weights = positive(self.param(f"z_kernel_{count}", raw, (widths[-1], 1), y.dtype))
        linear = self.param(f"y_kernel_{count}", free, (channels, 1), y.dtype)
        # Pooled before the products, which are linear: fewer operations.
        out = over(z, axis=(1, 2)) @ weights + over(images, axis=(1, 2)) @ linear
        return out.reshape(y.shape[:-3])

    def _trained_channels(self) -> int | None:
        """The channels the parameters are for, or None before there are any."""
        if not self.has_variable("params", "y_kernel_0"):
            return None
        found: int = self.get_variable("params", "y_kernel_0").shape[2]
        return found


def check_strides(strides: int | Sequence[int], count: int) -> tuple[int, ...]:
    """One stride >= 1 for each of ``count`` layers.

    Raises:
      ValueError: if there is another number of them, or one is below 1.
    """
    each = (strides,) * count if isinstance(strides, int) else tuple(int(s) for s in strides)
    if len(each) != count or min(each) < 1:
        raise ValueError(
            f"strides must be one integer >= 1, or one for each of {count} layers, got {strides}."
        )
    return each


def check_images(y: jax.Array, name: str, channels: int | None = None) -> None:
    """Raises unless ``y`` is `[..., h, w, c]` with the channels the parameters are for.

    Raises:
      ValueError: on fewer than three dimensions, an empty image, or other channels.
    """
    if y.ndim < 3 or min(y.shape[-3:]) < 1:
        raise ValueError(f"{name} must have shape [..., h, w, c], each >= 1, got {y.shape}.")
    if channels is not None and y.shape[-1] != channels:
        raise ValueError(
            f"{name} has {y.shape[-1]} channels, but the parameters are for {channels}."
        )


def _convolve(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`[b, h, w, c]` with a kernel `[n, n, c, f]`, zero padded, to `[b, h/stride, w/stride, f]`."""
    return jax.lax.conv_general_dilated(
        images,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        # Reduced precision on accelerators would keep residuals above the solver's tolerance.
        precision=jax.lax.Precision.HIGHEST,
    )
