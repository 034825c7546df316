"""Extractors of features: the bi-Lipschitz network f, a perceptron, or one after the other."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import monojax as mj
from monojax.models import MLP

EXTRACTORS = ("mlp", "cnn", "f", "f_mlp", "mlp_f")
"""A perceptron or a convolutional network (plain DUQ), f alone, f and then a perceptron, a
perceptron and then f."""


class Extractor(nn.Module):
    """Maps `[n, d]` to features `[n, p]`; with "f" the lower slope bound of f is its own.

    Attributes:
      kind: one of `EXTRACTORS`.
      core: widths of f's convex core.
      hidden: widths of the perceptron, the last one linear; channels of the "cnn".
      sharpness: of the core's softplus at the start.
      lift: width that the input is turned into before f, by a fixed map that keeps all distances;
        0 for none. In the plane f is the gradient of a convex function; in a wider space, on the
        plane that the inputs lie in, it need not be one, and the bounds stay.
      max_steps: of the inner solver.
    """

    kind: str = "f"
    core: Sequence[int] = (32, 32)
    hidden: Sequence[int] = (20, 20, 20)
    sharpness: float = 10.0
    lift: int = 0
    max_steps: int = 50

    def setup(self):
        """Makes the parts."""
        if "f" in self.kind.split("_"):
            activation = mj.conjugate.softplus(self.sharpness)
            solver = mj.conjugate.Solver(max_steps=self.max_steps)
            self.f = mj.BLNN(self.core, 1.0, 1.0, activation, solver)
        if "mlp" in self.kind.split("_"):
            self.mlp = MLP(self.hidden[:-1], self.hidden[-1])
        if self.kind == "cnn":
            self.convolutions = [nn.Dense(c) for c in self.hidden]  # of 3 x 3 patches
            self.out = nn.Dense(self.hidden[-1])

    def __call__(self, x: jax.Array, alpha: Any = 1.0, beta: Any = 1.0) -> jax.Array:
        """Features `[n, p]` of `[n, d]`; alpha and beta may be traced."""
        if self.kind == "cnn":
            return self._convolved(x)
        if self.kind.startswith("mlp"):
            x = self.mlp(x)
        if self.kind == "mlp":
            return x
        if self.lift > x.shape[-1]:
            x = x @ isometry(x.shape[-1], self.lift).astype(x.dtype)
        x = self.f(x, alpha=alpha, beta=beta)
        return self.mlp(x) if self.kind == "f_mlp" else x

    def _convolved(self, x: jax.Array) -> jax.Array:
        size = round(x.shape[-1] ** 0.5)
        x = x.reshape(-1, size, size, 1)
        for convolution in self.convolutions:
            x = halved(nn.relu(convolution(patches(x))))
        return self.out(x.reshape(len(x), -1))


def patches(x: jax.Array) -> jax.Array:
    """The 3 x 3 pixels about each one, 0 outside, `[n, h, w, c]` to `[n, h, w, 9 c]`.

    A dense layer of them is a convolution, written out: of the two-sided penalty's second
    derivatives, XLA's CPU is several times as quick at products of matrices.
    """
    h, w = x.shape[1:3]
    wide = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.concatenate(
        [wide[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=-1
    )


def halved(x: jax.Array) -> jax.Array:
    """Each 2 by 2 pixels' largest, `[n, h, w, c]` to `[n, h // 2, w // 2, c]`."""
    n, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c)
    return x.max(axis=(2, 4))


def isometry(dim: int, width: int) -> jax.Array:
    """A fixed matrix `[dim, width]` with orthonormal rows: ``x @ matrix`` keeps all distances."""
    draws = np.random.default_rng(0).normal(size=(width, dim))
    return jnp.asarray(np.linalg.qr(draws)[0].T, jnp.float32)
