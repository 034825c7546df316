r"""Networks with slopes between two given constants, as gradients of convex conjugates.

With F convex, :math:`G(y) = F(y) + \|y\|^2/(2\beta)` and :math:`y^*(x) = \nabla G^*(x)`,

.. math:: f(x) = \alpha x + y^*(x), \qquad \alpha I \preceq J_f(x) \preceq (\alpha + \beta) I,

because :math:`J_{y^*} = (\nabla^2 F + I/\beta)^{-1}`: certified in the Euclidean norm, at every x,
for any parameters, up to the residual of the inner solve. J is symmetric: f is a gradient, so
rotations are outside the class; `layers.Chain` with `layers.Rotation` reaches them.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from monojax.bilipschitz.common import (
    Constants,
    check_constants,
    check_input,
    check_solver,
    inverse_case,
    over_batch,
    sharpened,
)
from monojax.bilipschitz.record import (
    Diagnostics,
    diagnostics_of,
    sow_record,
    unconverged,
    worst_residual,
)
from monojax.conjugate.icnn import ScaledICNN
from monojax.conjugate.legendre import Conjugate, conjugate
from monojax.conjugate.potentials import ContextPotential
from monojax.conjugate.solvers import Solver
from monojax.layers.convex import ICNN, PairwiseICNN, PartialICNN, check_features

__all__ = ["BLNN", "Diagnostics", "PartialBLNN", "unconverged", "worst_residual"]


class BLNN(Constants):
    r"""alpha-inverse-Lipschitz and (alpha + beta)-Lipschitz: maps `[..., d]` to `[..., d]`.

    Certified for the Euclidean norm, up to an error of beta * residual per example, which
    :meth:`diagnostics` returns. NaN input gives an example that has not converged. In training,
    ``apply(..., mutable=["diagnostics"])`` also returns the record of the forward solve, which
    :func:`unconverged` turns into one count for the log.

    Attributes:
      features: widths of the convex core's hidden layers.
      alpha: smallest slope, >= 0.
      beta: gap to the largest slope, > 0.
      activation: of the core: "softplus" (sharpness 10), ``softplus(tau)``, "elu", a callable.
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
    activation: Any = "softplus"
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
            return alpha * x
        return alpha * x + self._solve(x, 1.0, 1 / beta).argmax

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
        y = targets - alpha * x
        params = self._potential_params(1.0, 1 / beta, x.dtype)
        potential = ScaledICNN(self.core.maths)
        at_target = over_batch(lambda y: potential(params, y), y)
        return at_target + self._solve(x, 1.0, 1 / beta).value - jnp.sum(x * y, axis=-1)

    def diagnostics(self, x: jax.Array, *, alpha: Any = None, beta: Any = None) -> Diagnostics:
        """What the solver did for ``x`` `[..., d]`; fields `[...]`."""
        x, _, beta = self._prepare(x, "x", alpha, beta)
        return diagnostics_of(self._solve(x, 1.0, 1 / beta))

    def inverse(self, y: jax.Array, *, alpha: Any = None, beta: Any = None) -> jax.Array:
        r"""The x with f(x) = y, itself :math:`1/\alpha`-Lipschitz if alpha > 0.

        With alpha = 0 it is explicit, :math:`\nabla G(y)`. Otherwise
        :math:`w = \arg\min \frac12\|w\|^2 + \alpha G(w) - \langle y, w\rangle` and x = grad G(w).

        Args:
          y: floating, shape `[..., d]`.
          alpha: as in the call.
          beta: as in the call.

        Returns:
          `[..., d]`.

        Raises:
          ValueError: if alpha is 0 and the activation piecewise linear: f is not injective then.
        """
        y, alpha, beta = self._prepare(y, "y", alpha, beta)
        zero, kinked = inverse_case(alpha, self.activation)
        w = y if zero else self._solve(y, alpha, 1 + alpha / beta).argmax
        if kinked:
            return (y - w) / alpha
        params = self._potential_params(1.0, 1 / beta, y.dtype)
        return over_batch(lambda w: jax.grad(ScaledICNN(self.core.maths), 1)(params, w), w)

    def inverse_diagnostics(self, y: jax.Array, *, alpha: Any = None, beta: Any = None):
        """What the solver of :meth:`inverse` did for ``y`` `[..., d]`; needs alpha > 0.

        ``error_bound`` is residual / alpha and bounds the error of the inverse.
        """
        y, alpha, beta = self._prepare(y, "y", alpha, beta)
        record = diagnostics_of(self._solve(y, alpha, 1 + alpha / beta))
        # The x returned is grad G(w), and f there is y - residual.
        return record._replace(error_bound=record.residual / alpha)

    def bounds(self) -> tuple[Any, Any]:
        """Certified ``(smallest, largest)`` slope: alpha and alpha + beta."""
        return self._alpha, self._alpha + self._beta

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
        alpha, beta = (
            (self._alpha if alpha is None else alpha),
            (self._beta if beta is None else beta),
        )
        return x, alpha, beta

    def _potential_params(self, weight: Any, curvature: Any, dtype: Any) -> dict[str, Any]:
        return {
            "core": self._core_params(),
            "weight": jnp.asarray(weight / self._sharpness, dtype),
            "curvature": jnp.asarray(curvature, dtype),
        }

    def _core_params(self) -> dict[str, jax.Array]:
        """The core's parameters with the learned sharpness in its y kernels and biases."""
        return sharpened(self.core.variables["params"], self._sharpness)

    def _solve(self, x: jax.Array, weight: Any, curvature: Any) -> Conjugate:
        params = self._potential_params(weight, curvature, x.dtype)
        potential = ScaledICNN(self.core.maths)
        result = over_batch(lambda x: conjugate(potential, params, x, self._checked), x)
        sow_record(self, result)
        return result


class PartialBLNN(Constants):
    r"""Bi-Lipschitz in part of the input: maps ``(x_free [..., p], x_monotone [..., d])``.

    For every fixed context x_free, :math:`f(c, \cdot)` has the symmetric Jacobian H^-1 + alpha I,
    between alpha and alpha + beta. That makes it a monotone *operator*; it is coordinate-wise
    monotone only where ``certify_monotone=True`` says so, which needs one of

    - d = 1: the slope is at least alpha;
    - ``output="mean"`` and alpha >= beta (sqrt(d) - 1) / 2. Proof: with 0 <= P = H^-1 <= beta I,
      :math:`1^\top P e_j \ge \beta(1 - \sqrt d)/2`, since P - beta/2 I has norm at most beta/2, so
      :math:`1^\top P e_j \ge \frac\beta2 1^\top e_j - \frac\beta2\|1\|\|e_j\|`. It is tight, and
      says nothing of single outputs: their off-diagonal slopes can reach -beta/2 for any alpha;
    - ``core="pairwise"``, any alpha >= 0 and either output: every entry of H^-1 is non-negative
      (see :class:`monojax.layers.PairwiseICNN` for the proof), so each output is
      non-decreasing in each monotone input. Decreasing features: negate them before the call.

    Attributes:
      features: widths of the convex core's hidden blocks.
      alpha: smallest slope in x_monotone, >= 0.
      beta: gap to the largest, > 0.
      output: "vector" `[..., d]`, or its "mean" `[...]`.
      certify_monotone: raise unless coordinate-wise monotonicity follows from the above.
      core: "picnn" (the paper's) or "pairwise".
      activation: smooth, convex, non-decreasing.
      solver: None means ``Solver()``.
      train_alpha: learn log(alpha); not with a certificate, which needs fixed constants.
      train_beta: likewise.
      weight_map: of the non-negative weights ("picnn").

    Reference:
      arXiv 2404.09821, appendix on partially bi-Lipschitz networks; the certificates are ours.
    """

    features: Sequence[int]
    alpha: float
    beta: float
    output: str = "vector"
    certify_monotone: bool = False
    core: str = "picnn"
    activation: Any = "softplus"
    solver: Solver | None = None
    train_alpha: bool = False
    train_beta: bool = False
    weight_map: str = "clamp"

    def setup(self):
        """Checks the options and makes the core."""
        check_constants(self.alpha, self.beta)
        if self.output not in ("vector", "mean"):
            raise ValueError(f"output must be 'vector' or 'mean', got {self.output!r}.")
        if self.core not in ("picnn", "pairwise"):
            raise ValueError(f"core must be 'picnn' or 'pairwise', got {self.core!r}.")
        self._checked = check_solver(self.solver, self.activation)
        widths = check_features(self.features)
        self.net: nn.Module = (
            PartialICNN(widths, self.activation, self.weight_map)
            if self.core == "picnn"
            else PairwiseICNN(widths, self.activation)
        )
        self._alpha = self._constant("alpha", self.alpha, self.train_alpha)
        self._beta = self._constant("beta", self.beta, self.train_beta)

    def __call__(self, x_free: jax.Array, x_monotone: jax.Array) -> jax.Array:
        """f(c, y): `[..., d]`, or `[...]` for ``output="mean"``."""
        c, y = self._prepare(x_free, x_monotone)
        out = self._alpha * y
        if not self.is_initializing():
            out = out + self._solve(c, y, 1.0, 1 / self._beta).argmax
        return out if self.output == "vector" else out.mean(axis=-1)

    def diagnostics(self, x_free: jax.Array, x_monotone: jax.Array) -> Diagnostics:
        """What the solver did; fields `[...]`."""
        c, y = self._prepare(x_free, x_monotone)
        return diagnostics_of(self._solve(c, y, 1.0, 1 / self._beta))

    def inverse(self, x_free: jax.Array, z: jax.Array) -> jax.Array:
        """The x_monotone `[..., d]` with f(x_free, x_monotone) = z `[..., d]`.

        Raises:
          ValueError: for ``output="mean"``, which has no inverse, and as :meth:`BLNN.inverse`.
        """
        if self.output == "mean":
            raise ValueError("no inverse: output='mean' maps d numbers to one; use 'vector'.")
        c, z = self._prepare(x_free, z)
        alpha, beta = self._alpha, self._beta
        zero, kinked = inverse_case(alpha, self.activation)
        w = z if zero else self._solve(c, z, alpha, 1 + alpha / beta).argmax
        if kinked:
            return (z - w) / alpha
        potential, params = self._potential(1.0, 1 / beta, z.dtype)
        return over_batch(lambda c, w: jax.grad(potential, 1)({**params, "context": c}, w), c, w)

    def bounds(self) -> tuple[Any, Any]:
        """Certified ``(smallest, largest)`` slope in x_monotone: alpha and alpha + beta."""
        return self._alpha, self._alpha + self._beta

    def _prepare(self, x_free: Any, x_monotone: Any) -> tuple[jax.Array, jax.Array]:
        c, y = check_input(x_free, "x_free"), check_input(x_monotone, "x_monotone")
        if c.shape[:-1] != y.shape[:-1]:
            raise ValueError(
                "x_free [..., p] and x_monotone [..., d] must have the same leading shape, got "
                f"{c.shape} and {y.shape}."
            )
        if self.certify_monotone:
            self._certify(y.shape[-1])
        if self.is_initializing():
            self.net(c, y)
            return c, y
        params = self.net.variables["params"]
        if self.core == "picnn":
            found = params["yu_0"]["kernel"].shape
        else:
            units = params["heads"]["kernel"].shape[1] // 4
            found = (params["context_0"]["kernel"].shape[0], units // self.features[-1])
        if (c.shape[-1], y.shape[-1]) != found:
            raise ValueError(
                f"x_free and x_monotone have widths {c.shape[-1]} and {y.shape[-1]}, but the "
                f"parameters are for {found[0]} and {found[1]}."
            )
        return c, y

    def _certify(self, dim: int) -> None:
        """Raises unless monotonicity in every coordinate follows from the construction."""
        if self.train_alpha or self.train_beta:
            raise ValueError(
                "certify_monotone needs fixed constants; set train_alpha=train_beta=False."
            )
        if dim == 1 or self.core == "pairwise":
            return
        need = self.beta * (math.sqrt(dim) - 1) / 2
        if self.output != "mean":
            raise ValueError(
                "certify_monotone: single outputs of a 'picnn' core are not certified for any "
                f"alpha when d = {dim} > 1; use output='mean' or core='pairwise'."
            )
        if self.alpha < need:
            raise ValueError(
                f"certify_monotone with d = {dim} needs alpha >= beta (sqrt(d) - 1) / 2 = "
                f"{need:.6g}, got alpha = {self.alpha}; raise alpha, lower beta, or use "
                "core='pairwise'."
            )

    def _potential(self, weight: Any, curvature: Any, dtype: Any):
        core = self.net.clone(parent=None, name=None)
        params = {
            "core": self.net.variables["params"],
            "weight": jnp.asarray(weight, dtype),
            "curvature": jnp.asarray(curvature, dtype),
        }
        return ContextPotential(core), params

    def _solve(self, c: jax.Array, y: jax.Array, weight: Any, curvature: Any) -> Conjugate:
        potential, params = self._potential(weight, curvature, y.dtype)

        def one(c, y):
            return conjugate(potential, {**params, "context": c}, y, self._checked)

        result = over_batch(one, c, y)
        sow_record(self, result)
        return result
