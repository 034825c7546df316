"""Extractors of features: the bi-Lipschitz network f, a perceptron, or one after the other."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import monojax as mj
from monojax.models import MLP

EXTRACTORS = ("mlp", "f", "f_mlp", "mlp_f")
"""A perceptron (plain DUQ), f alone, f and then a perceptron, a perceptron and then f."""


class Extractor(nn.Module):
    """Maps `[n, d]` to features `[n, p]`; with "f" the lower slope bound of f is its own.

    Attributes:
      kind: one of `EXTRACTORS`.
      core: widths of f's convex core.
      hidden: widths of the perceptron, the last one linear.
      sharpness: of the core's softplus at the start.
      lift: width that the input is turned into before f, by a fixed map that keeps all distances;
        0 for none.
    """

    kind: str = "f"
    core: Sequence[int] = (32, 32)
    hidden: Sequence[int] = (20, 20, 20)
    sharpness: float = 10.0
    lift: int = 0

    def setup(self):
        """Makes the parts."""
        if self.kind != "mlp":
            activation = mj.conjugate.softplus(self.sharpness)
            solver = mj.conjugate.Solver(max_steps=50)
            self.f = mj.BLNN(self.core, 1.0, 1.0, activation, solver)
        if self.kind != "f":
            self.mlp = MLP(self.hidden[:-1], self.hidden[-1])

    def __call__(self, x: jax.Array, alpha: Any = 1.0, beta: Any = 1.0) -> jax.Array:
        """Features `[n, p]` of `[n, d]`; alpha and beta may be traced."""
        if self.kind in ("mlp", "mlp_f"):
            x = self.mlp(x)
        if self.kind == "mlp":
            return x
        if self.lift > x.shape[-1]:
            x = x @ isometry(x.shape[-1], self.lift).astype(x.dtype)
        x = self.f(x, alpha=alpha, beta=beta)
        return self.mlp(x) if self.kind == "f_mlp" else x


def isometry(dim: int, width: int) -> jax.Array:
    """A fixed matrix `[dim, width]` with orthonormal rows: ``x @ matrix`` keeps all distances."""
    matrix = jax.random.normal(jax.random.key(0), (width, dim))
    return jnp.linalg.qr(matrix)[0].T
