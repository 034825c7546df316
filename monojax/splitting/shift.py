r"""The backward shift: how much of the mass's derivative each contraction passes on.

:math:`s \leftarrow \lambda |W|^T s`. The paper shifts by :math:`\alpha (D^+ + D^-)` after every
module, which multiplies s by :math:`1 - 2\alpha` each time; a convolution and the ReLU behind it
are two modules, so :math:`\lambda = (1 - 2\alpha)^2` per contraction. That is ``shift_at="module"``
(a folded batch norm changes nothing); ``"contraction"`` is :math:`\lambda = 1 - 2\alpha`.

``alpha="balanced"`` (not the paper's) chooses :math:`\lambda` at each contraction and example, so
that s is there as large as the gradient: mean s = mean \|grad\|. The map then does not depend on
the network's width, depth or scale. Every identity of the four maps holds for any
:math:`\lambda`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import is_concrete, one_of

SHIFT_AT = ("module", "contraction")
BALANCED = "balanced"
ALPHA = 0.4
"""The default: the poster's, and with `shift_at` "module" its meaning."""


def check_alpha(alpha: Any, shift_at: str = "module") -> Any:
    """``alpha``, checked where it is known: "balanced", or in [0, 0.5].

    Args:
      alpha: number, traced scalar, or "balanced".
      shift_at: one of `SHIFT_AT`.

    Returns:
      The same alpha.

    Raises:
      ValueError: if one of them is no such thing.
    """
    one_of(shift_at, SHIFT_AT, "shift_at")
    if isinstance(alpha, str):
        if alpha == BALANCED:
            return alpha
        raise ValueError(f"alpha must be a number in [0, 0.5] or {BALANCED!r}, got {alpha!r}.")
    if np.shape(alpha) != ():
        raise ValueError(f"alpha must be one number, got shape {np.shape(alpha)}.")
    # numpy: inside jit a comparison of jax arrays is traced, even of known ones.
    if is_concrete(alpha) and not 0 <= float(np.asarray(alpha)) <= 0.5:
        raise ValueError(
            f"alpha must lie in [0, 0.5], got {alpha}; 0 is the raw stream gradient, 0.5 half the "
            "ordinary gradient."
        )
    return alpha


def passed_on(alpha: Any, shift_at: str) -> Any:
    """The factor of the mass's derivative per contraction.

    Args:
      alpha: number or traced scalar in [0, 0.5].
      shift_at: one of `SHIFT_AT`.

    Returns:
      The factor, in [0, 1].
    """
    once = 1 - 2 * alpha
    return once * once if shift_at == "module" else once


@jax.custom_vjp
def balance(mass: jax.Array, size: jax.Array) -> jax.Array:
    """``mass``; its derivative, half of s, is scaled so that the mean of s is ``size``.

    Args:
      mass: at the input of a contraction.
      size: mean absolute gradient there, a scalar.

    Returns:
      ``mass``.
    """
    return mass


def _balance_forward(mass, size):
    return mass, size


def _balance_backward(size, cotangent):
    mean = 2 * jnp.abs(cotangent).mean()  # s is twice the derivative on the mass
    factor = jnp.where(mean > 0, size / jnp.where(mean > 0, mean, 1), 0)
    return factor.astype(cotangent.dtype) * cotangent, jnp.zeros_like(size)


balance.defvjp(_balance_forward, _balance_backward)
