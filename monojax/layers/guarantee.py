"""What layers with a guarantee share: bounds of their slopes, their norms, frozen options."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from monojax.base.checks import is_concrete


class Frozen(nn.Module):
    """A linen module whose options are hashable and known where they are concrete.

    Options given as lists, numpy values or concrete jax values are kept as tuples and numbers, so
    that the module can be a static argument of `jax.jit` and its options can be checked inside
    `jax.jit`; traced ones stay traced.
    """

    def __post_init__(self):  # noqa: D105
        for field in dataclasses.fields(self):
            if field.name not in ("parent", "name"):
                object.__setattr__(self, field.name, frozen(getattr(self, field.name)))
        super().__post_init__()


class Guaranteed(Frozen):
    r"""A linen module with slopes between two constants, for every value of its parameters.

    ``module.apply(variables, method="bounds")`` gives them: s and L with

    .. math:: s\,\|x - x'\|_p \le \|f(x) - f(x')\|_q \le L\,\|x - x'\|_p,

    up to rounding; ``module.norms`` names (p, q): "one", "two" or "inf". Here: 1-Lipschitz in the
    Euclidean norm, "two" on both sides.
    """

    @property
    def norms(self) -> tuple[str, str]:
        """The norm of the inputs and the norm of the outputs that :meth:`bounds` speaks of."""
        return "two", "two"

    def bounds(self) -> tuple[Any, Any]:
        """Certified ``(smallest, largest)`` slope in :attr:`norms`: ``(0, 1)``.

        Called as ``net.apply(params, method="bounds")``.
        """
        return 0.0, 1.0


def frozen(value: Any) -> Any:
    """An option as something hashable with known values, where it is concrete.

    Args:
      value: any option.

    Returns:
      Lists as tuples, concrete arrays as numbers or nested tuples, all else as it is.
    """
    if type(value) in (list, tuple):
        return tuple(map(frozen, value))
    if isinstance(value, (jax.Array, np.ndarray, np.generic)) and is_concrete(value):
        if jnp.issubdtype(value.dtype, jnp.floating):
            return frozen(np.asarray(value, np.float64).tolist())
        if jnp.issubdtype(value.dtype, jnp.integer) or value.dtype == bool:
            return frozen(np.asarray(value).tolist())
    return value
