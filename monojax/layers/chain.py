"""Modules with known constants, one after another."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class Rotation(nn.Module):
    r"""A learned rotation of `[..., d]`: the Cayley transform of a skew matrix, slopes exactly 1.

    Q = (I + A)^-1 (I - A) with A = W - W', orthogonal with determinant 1.
    """

    def _matrix(self, dim: int) -> jax.Array:
        w = self.param("skew", nn.initializers.normal(dim**-0.5), (dim, dim))
        skew, eye = w - w.T, jnp.eye(dim, dtype=w.dtype)
        return jnp.linalg.solve(eye + skew, eye - skew)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Q x, `[..., d]`."""
        return x @ self._matrix(x.shape[-1]).T

    @nn.compact
    def inverse(self, y: jax.Array) -> jax.Array:
        """Q' y, `[..., d]`."""
        return y @ self._matrix(y.shape[-1])

    def bounds(self) -> tuple[float, float]:
        """``(1, 1)``."""
        return 1.0, 1.0


class Chain(nn.Module):
    """Modules one after another, with constants and inverses carried through.

    Constants multiply: the chain is certified between the products of the smallest and of the
    largest slopes. Unlike one BLNN it is not a gradient, so it can turn.

    Attributes:
      modules: linen modules with ``bounds()``, and ``inverse(y)`` if the chain's is asked for.
    """

    modules: Sequence[nn.Module]

    def __call__(self, x: jax.Array) -> jax.Array:
        """All modules in order, `[..., d]` to `[..., d]`."""
        for module in self._checked():
            x = module(x)
        return x

    def inverse(self, y: jax.Array) -> jax.Array:
        """All inverses in reverse order.

        Raises:
          ValueError: if a module has none.
        """
        for module in reversed(self._checked()):
            if not hasattr(module, "inverse"):
                raise ValueError(f"no inverse: {type(module).__name__} in the chain has none.")
            y = module.inverse(y)
        return y

    def bounds(self) -> tuple[Any, Any]:
        """Certified ``(smallest, largest)`` slope of the chain."""
        low, high = 1.0, 1.0
        for module in self._checked():
            one_low, one_high = module.bounds()
            low, high = low * one_low, high * one_high
        return low, high

    def _checked(self) -> Sequence[nn.Module]:
        if not self.modules:
            raise ValueError("modules must hold at least one module, got none.")
        for module in self.modules:
            if not hasattr(module, "bounds"):
                raise ValueError(
                    f"{type(module).__name__} has no bounds(), so the chain's are not known."
                )
        return self.modules
