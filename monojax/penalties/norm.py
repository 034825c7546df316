r"""A penalty that asks for a gradient of a given length, on both sides.

:math:`\frac1n \sum_x (\|\nabla f(x)\|_2 - g)^2`: with g = 1 the regulariser of Gulrajani et al.
(arXiv 1704.00028) and of DUQ (arXiv 2003.02037). It asks that an output change with the input,
and not too fast, at the points; it guarantees nothing between them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import check_number
from monojax.penalties.slopes import Fn, Slopes


def gradient_norm_penalty(fn: Fn, points: jax.Array, *, norm: Any = 1.0) -> jax.Array:
    """Mean squared difference between the gradient's Euclidean length and ``norm``.

    Args:
      fn: map of ONE example `[d]` to `()`, such as the sum of DUQ's kernels; no gradient flows
        through the points.
      points: float, shape `[n, d]`.
      norm: wanted length, >= 0, in units of output per input.

    Returns:
      `[]`; differentiable in what ``fn`` closes over, at points without slope too.

    Raises:
      ValueError: on wrong shapes, a ``fn`` with several outputs, NaN in concrete points.
      TypeError: on integer points.

    Example:
      >>> float(gradient_norm_penalty(lambda x: 3 * x[0], jnp.ones((5, 2))))
      4.0
    """
    check_number(norm, "norm", least=0)
    width = jnp.shape(points)[-1] if jnp.ndim(points) == 2 else 1
    asked, points, _ = Slopes.of(fn, points, np.ones(width, int), None, None)
    _, slopes = asked(points, None)
    squares = jnp.sum(jnp.square(slopes).reshape(len(points), -1), axis=1)
    # A root has no derivative at 0: where there is no slope, none is claimed.
    flat = squares == 0
    lengths = jnp.where(flat, 0, jnp.sqrt(jnp.where(flat, 1, squares)))
    return jnp.mean(jnp.square(lengths - jnp.asarray(norm, lengths.dtype)))
