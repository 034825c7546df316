"""Potentials with a context: convex in one argument, arbitrary in another."""

import dataclasses
from typing import Any

import jax

from monojax.conjugate.activations import as_activation


@dataclasses.dataclass(frozen=True)
class ContextPotential:
    r""":math:`G(w; c) = s F(w; c) + \tfrac{k}{2}\|w\|^2` for a linen module ``net(c, w) -> []``.

    Parameters: ``{"core", "context" [p], "weight": s [], "curvature": k []}``; the context is one
    of them so that the implicit rule differentiates in it.
    """

    net: Any

    @property
    def piecewise_linear(self) -> bool:
        """Whether the implicit rule is wrong for it."""
        return as_activation(self.net.activation).piecewise_linear

    def __call__(self, params: Any, w: jax.Array) -> jax.Array:
        """G `[]` at one point `[d]`."""
        value = self.net.apply({"params": params["core"]}, params["context"], w)
        return params["weight"] * value + 0.5 * params["curvature"] * (w @ w)

    def strong_convexity(self, params: Any) -> jax.Array:
        """The curvature k `[]`."""
        return params["curvature"]

    def start(self, params: Any, x: jax.Array) -> jax.Array:
        """x / k, the solution for F = 0."""
        return x / params["curvature"]
