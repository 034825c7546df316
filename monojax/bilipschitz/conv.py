r"""Bi-Lipschitz maps of images with a convolutional convex core.

As in `monojax.bilipschitz`, f(x) = alpha x + grad G*(x) for the flattened image, with
:math:`G = F + \|\cdot\|^2/(2\beta)` and F a `ConvICNN`. Above ``DENSE_LIMIT`` pixels times
channels no Hessian is formed: the solve and its derivatives use products with it.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from monojax.base.renamed import renamed
from monojax.bilipschitz.common import (
    check_constants,
    check_input,
    check_solver,
    sharpened,
)
from monojax.bilipschitz.inner import Inner, fenchel_young, forward
from monojax.bilipschitz.record import sow_record, wants_record
from monojax.bilipschitz.solved import Solved
from monojax.conjugate.activations import softplus
from monojax.conjugate.potentials import ContextPotential
from monojax.conjugate.solvers import Solver
from monojax.layers.convex import check_features
from monojax.layers.convex_conv import ConvICNN, check_images, check_strides


@dataclasses.dataclass(frozen=True)
class _ImagePotential(ContextPotential):
    """:math:`G(w) = s F(w) + (k/2)||w||^2` of flattened images `[h w c]`; no context."""

    shape: tuple[int, ...] = ()

    def __call__(self, params: Any, w: jax.Array) -> jax.Array:
        """G `[]` at one point `[h w c]`."""
        value = self.net.apply({"params": params["core"]}, w.reshape(self.shape))
        return params["weight"] * value + 0.5 * params["curvature"] * (w @ w)


@renamed(pool="reduce")
class ConvBLNN(Solved):
    r"""alpha-inverse-Lipschitz and (alpha + beta)-Lipschitz on images `[..., h, w, c]`.

    Certified for the Euclidean norm of the flattened image, up to an error of beta * residual per
    image, which :meth:`diagnostics` returns. The Jacobian is symmetric, as for
    :class:`monojax.BLNN`; trained parameters apply to images of any size. Sows the same record.

    Attributes:
      features: channels of the convex core's hidden layers.
      alpha: smallest slope, >= 0.
      beta: gap to the largest slope, > 0.
      kernel_size: of the core, as in :class:`monojax.layers.ConvICNN`.
      strides: of the core.
      activation: of the core, smooth; "relu" needs a solver with ``differentiation="unrolled"``.
      solver: None means ``Solver()``.
      train_alpha: learn log(alpha), starting from ``alpha``.
      train_beta: likewise for beta.
      train_sharpness: as in :class:`monojax.BLNN`.
      weight_map: of the core's non-negative weights.
      z_init: of those weights.
      reduce: "sum" or "mean", as in :class:`monojax.layers.ConvICNN`.

    Example:
      >>> net = ConvBLNN((8,), alpha=0.5, beta=2.0)
      >>> variables = net.init(jax.random.key(0), jnp.ones((2, 4, 4, 1)))
      >>> net.apply(variables, jnp.ones((2, 4, 4, 1))).shape
      (2, 4, 4, 1)

    Reference:
      Kinoshita and Toyoizumi, NeurIPS 2024, arXiv 2404.09821; the core is ours.
    """

    features: Sequence[int]
    alpha: float
    beta: float
    kernel_size: int = 3
    strides: int | Sequence[int] = 1
    activation: Any = softplus(10.0)
    solver: Solver | None = None
    train_alpha: bool = False
    train_beta: bool = False
    train_sharpness: bool = True
    weight_map: str = "clamp"
    z_init: Any = "glorot_normal"
    reduce: str = "sum"

    def setup(self):
        """Checks the constants and makes the core."""
        check_constants(self.alpha, self.beta)
        self._checked = check_solver(self.solver, self.activation)
        widths = check_features(self.features)
        self.core = ConvICNN(
            widths,
            self.kernel_size,
            check_strides(self.strides, len(widths)),
            self.activation,
            self.weight_map,
            self.z_init,
            self.reduce,
        )
        self._alpha = self._constant("alpha", self.alpha, self.train_alpha)
        self._beta = self._constant("beta", self.beta, self.train_beta)
        self._sharpness = self._learned_sharpness(self.train_sharpness, self.activation)

    def __call__(self, x: jax.Array, *, alpha: Any = None, beta: Any = None) -> jax.Array:
        """f(x).

        Args:
          x: floating, shape `[..., h, w, c]`.
          alpha: `[]`, instead of the module's.
          beta: `[]`, likewise.

        Returns:
          `[..., h, w, c]`.
        """
        x, alpha, beta = self._prepare(x, "x", alpha, beta)
        if self.is_initializing():  # nothing to solve for the shapes of parameters
            return x
        out, record = forward(self._inner(x), self._flat(x), alpha, beta, wants_record(self))
        sow_record(self, record)
        return out.reshape(x.shape)

    def fenchel_young(
        self, x: jax.Array, targets: jax.Array, *, alpha: Any = None, beta: Any = None
    ) -> jax.Array:
        """The loss of :meth:`monojax.BLNN.fenchel_young`, per image.

        Args:
          x: floating, shape `[..., h, w, c]`.
          targets: wanted values of f, of the same shape.
          alpha: as in the call.
          beta: as in the call.

        Returns:
          `[...]`, >= 0 up to the residual of the solve.

        Raises:
          ValueError: if the shapes differ.
        """
        x, alpha, beta = self._prepare(x, "x", alpha, beta)
        targets = check_input(targets, "targets")
        if targets.shape != x.shape:
            raise ValueError(f"targets must have x's shape {x.shape}, got {targets.shape}.")
        loss, record = fenchel_young(
            self._inner(x), self._flat(x), self._flat(targets), alpha, beta, wants_record(self)
        )
        sow_record(self, record)
        return loss

    def _prepare(self, x: Any, name: str, alpha: Any, beta: Any):
        check_constants(alpha, beta)
        x = jnp.asarray(x)
        core = {} if self.is_initializing() else self.core.variables["params"]
        check_images(x, name, core["y_kernel_0"].shape[2] if core else None)
        x = check_input(x, name)
        if self.is_initializing():
            self.core(x)
        return (
            x,
            self._alpha if alpha is None else alpha,
            self._beta if beta is None else beta,
        )

    def _inner(self, x: jax.Array) -> Inner:
        """The problem for images of the shape of ``x``."""
        potential = _ImagePotential(self.core.clone(parent=None, name=None), x.shape[-3:])
        core = sharpened(self.core.variables["params"], self._sharpness)
        return Inner(potential, self._checked, core, self._sharpness)

    def _flat(self, x: jax.Array) -> jax.Array:
        """`[..., h, w, c]` to `[..., h w c]`."""
        return x.reshape(*x.shape[:-3], math.prod(x.shape[-3:]))
