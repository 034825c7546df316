r"""Networks with slopes between two given constants, as gradients of convex conjugates.

With F convex, :math:`G(y) = F(y) + \|y\|^2/(2\beta)` and :math:`y^*(x) = \nabla G^*(x)`,

.. math:: f(x) = \alpha x + y^*(x), \qquad \alpha I \preceq J_f(x) \preceq (\alpha + \beta) I,

because :math:`J_{y^*} = (\nabla^2 F + I/\beta)^{-1}`: certified in the Euclidean norm, at every x,
for any parameters, up to the residual of the inner solve. J is symmetric: f is a gradient, so
rotations are outside the class; `layers.Chain` with `layers.Rotation` reaches them.
"""

from collections.abc import Sequence
from typing import Any

import jax

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
from monojax.conjugate.potentials import ScaledICNN
from monojax.conjugate.solvers import Solver
from monojax.layers.convex import ICNN, check_features


class BLNN(Solved):
    r"""alpha-inverse-Lipschitz and (alpha + beta)-Lipschitz: maps `[..., d]` to `[..., d]`.

    Certified for the Euclidean norm, up to an error of beta * residual per example, which
    :meth:`diagnostics` returns. NaN input gives an example that has not converged. Computed in at
    least float32, returned in the dtype of x. Outside `jax.jit` the compiled solve is kept, but a
    whole program under `jax.jit` is faster. In training, ``apply(..., mutable=["diagnostics"])``
    also returns the record of the forward solve, which
    :func:`monojax.bilipschitz.unconverged` turns into one count for the log.

    Attributes:
      features: widths of the convex core's hidden layers.
      alpha: smallest slope, >= 0.
      beta: gap to the largest slope, > 0.
      activation: of the core: ``softplus(tau)``, "softplus" (tau = 1), "elu", a callable.
        "relu" needs a solver with ``differentiation="unrolled"``.
      solver: None means ``Solver()``.
      train_alpha: learn log(alpha), starting from ``alpha``; the constants are then trained values.
      train_beta: likewise for beta.
      train_sharpness: learn log(s), starting from s = 1: the core is :math:`F(y) = F_s(y)/s` with
        y kernels and biases times s, which is the activation :math:`g(sa)/s`. A core can so become
        as sharp as the target in a few hundred steps. Without effect on relu.
      weight_map: of the core's non-negative weights, as in :class:`monojax.layers.ICNN`.
      z_init: of those weights.

    Example:
      >>> net = BLNN((32, 32), alpha=0.5, beta=2.0)
      >>> variables = net.init(jax.random.key(0), jnp.ones((4, 3)))
      >>> net.apply(variables, jnp.ones((4, 3))).shape
      (4, 3)

    Reference:
      Kinoshita and Toyoizumi, NeurIPS 2024, arXiv 2404.09821.
    """

    features: Sequence[int]
    alpha: float
    beta: float
    activation: Any = softplus(10.0)
    solver: Solver | None = None
    train_alpha: bool = False
    train_beta: bool = False
    train_sharpness: bool = True
    weight_map: str = "clamp"
    z_init: Any = "glorot_normal"

    def setup(self):
        """Checks the constants and makes the core."""
        check_constants(self.alpha, self.beta)
        self._checked = check_solver(self.solver, self.activation)
        self.core = ICNN(
            check_features(self.features), self.activation, self.weight_map, self.z_init
        )
        self._alpha = self._constant("alpha", self.alpha, self.train_alpha)
        self._beta = self._constant("beta", self.beta, self.train_beta)
        self._sharpness = self._learned_sharpness(self.train_sharpness, self.activation)

    def __call__(self, x: jax.Array, *, alpha: Any = None, beta: Any = None) -> jax.Array:
        """f(x).

        Args:
          x: floating, shape `[..., d]`.
          alpha: `[]`, instead of the module's, for annealing without compiling again.
          beta: `[]`, likewise.

        Returns:
          `[..., d]`.
        """
        x, alpha, beta = self._prepare(x, "x", alpha, beta)
        if self.is_initializing():  # parameters depend on shapes only: nothing to solve
            return x
        out, record = forward(self._inner(x), x, alpha, beta, wants_record(self))
        sow_record(self, record)
        return out

    def fenchel_young(
        self, x: jax.Array, targets: jax.Array, *, alpha: Any = None, beta: Any = None
    ) -> jax.Array:
        r"""A loss for regression on targets without noise, per example.

        The Fenchel-Young loss of (x, targets - alpha x): 0 exactly where f(x) = targets, and at
        least :math:`\|f(x) - t\|^2 / (2\beta)`. Its gradient needs no derivative of the solve, and
        steep parts do not drown the others: kinks and jumps are fitted that the squared error
        does not reach. **Noise in the targets makes it prefer steep slopes** (see
        :mod:`monojax.conjugate.fenchel_young`): use the squared error there, or end with it.

        Args:
          x: floating, shape `[..., d]`.
          targets: wanted values of f, shape `[..., d]`.
          alpha: as in the call.
          beta: as in the call.

        Returns:
          `[...]`; average it over the batch.

        Example:
          >>> net = BLNN((8,), alpha=1.0, beta=2.0)
          >>> x = jnp.ones((4, 3))
          >>> net.apply(net.init(jax.random.key(0), x), x, 2 * x, method="fenchel_young").shape
          (4,)
        """
        x, alpha, beta = self._prepare(x, "x", alpha, beta)
        targets = check_input(targets, "targets", x.shape[-1])
        if targets.shape != x.shape:
            raise ValueError(f"targets must have x's shape {x.shape}, got {targets.shape}.")
        loss, record = fenchel_young(self._inner(x), x, targets, alpha, beta, wants_record(self))
        sow_record(self, record)
        return loss

    def core_bounds(self) -> tuple[jax.Array, jax.Array]:
        r"""Certified ``(lipschitz, smoothness)`` of F; slopes are >= alpha + 1/(M + 1/beta)."""
        return jax.tree.map(
            lambda bound: bound / self._sharpness, self.core.maths.bounds(self._core_params())
        )

    def _prepare(self, x: Any, name: str, alpha: Any, beta: Any):
        check_constants(alpha, beta)
        core = {} if self.is_initializing() else self.core.variables["params"]
        x = check_input(x, name, core["y_kernel_0"].shape[0] if core else None)
        if self.is_initializing():
            self.core(x)
        return (
            x,
            self._alpha if alpha is None else alpha,
            self._beta if beta is None else beta,
        )

    def _inner(self, x: jax.Array) -> Inner:
        """The problem, the same for every input."""
        return Inner(
            ScaledICNN(self.core.maths), self._checked, self._core_params(), self._sharpness
        )

    def _core_params(self) -> dict[str, jax.Array]:
        """The core's parameters with the learned sharpness in its y kernels and biases."""
        return sharpened(self.core.variables["params"], self._sharpness)

    def _flat(self, x: jax.Array) -> jax.Array:
        return x
