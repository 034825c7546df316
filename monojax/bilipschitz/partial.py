"""Bi-Lipschitz in part of the input, for every value of the rest."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax

from monojax.base.checks import one_of
from monojax.bilipschitz.common import (
    Constants,
    check_constants,
    check_input,
    check_solver,
    inverse_case,
    known,
)
from monojax.bilipschitz.inner import Inner, forward, inverse
from monojax.bilipschitz.record import Diagnostics, sow_record, wants_record
from monojax.conjugate.activations import softplus
from monojax.conjugate.potentials import ContextPotential
from monojax.conjugate.solvers import Solver
from monojax.layers.convex import PairwiseICNN, PartialICNN, check_features


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

    **For solved values** the certificate means order up to the error of the solve. Let e and e' be
    the ``error_bound`` of :meth:`diagnostics` at two ordered inputs :math:`y \le y'`. Then every
    output at y' is at least that at y minus e + e' (for the mean, minus (e + e')/sqrt(d)), and it
    is not below it where alpha times the input's step is at least that. Since e is at most about
    beta * tolerance * (1 + norm of x_monotone), pairs keep their order up to a gap g where

        tolerance <= g / (2 beta (1 + norm of x_monotone));

    at beta = 1e3 and norm 1, float32's default 1e-4 allows 0.4, and g = 1e-3 asks for 2.5e-7, which
    float32 does not reach: use float64 there.

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
    activation: Any = softplus(10.0)
    solver: Solver | None = None
    train_alpha: bool = False
    train_beta: bool = False
    weight_map: str = "clamp"

    def setup(self):
        """Checks the options and makes the core."""
        check_constants(self.alpha, self.beta)
        one_of(self.output, ("vector", "mean"), "output")
        one_of(self.core, ("picnn", "pairwise"), "core")
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
        if self.is_initializing():
            out = y
        else:
            out, record = forward(self._inner(c), y, self._alpha, self._beta, wants_record(self))
            sow_record(self, record)
        return out if self.output == "vector" else out.mean(axis=-1)

    def diagnostics(self, x_free: jax.Array, x_monotone: jax.Array) -> Diagnostics:
        """What the solver did; fields `[...]`."""
        c, y = self._prepare(x_free, x_monotone)
        return forward(self._inner(c), y, self._alpha, self._beta, True)[1]

    def inverse(self, x_free: jax.Array, z: jax.Array) -> jax.Array:
        """The x_monotone `[..., d]` with f(x_free, x_monotone) = z `[..., d]`.

        Raises:
          ValueError: for ``output="mean"``, which has no inverse, and as :meth:`BLNN.inverse`.
        """
        return self._inverted(x_free, z, wants_record(self))[0]

    def inverse_diagnostics(self, x_free: jax.Array, z: jax.Array) -> Diagnostics:
        """What the solver of :meth:`inverse` did; ``error_bound`` bounds the inverse's error."""
        return self._inverted(x_free, z, True)[1]

    def _inverted(self, x_free: Any, z: Any, wanted: bool):
        if self.output == "mean":
            raise ValueError("no inverse: output='mean' maps d numbers to one; use 'vector'.")
        c, z = self._prepare(x_free, z)
        case = inverse_case(self._alpha, self.activation)
        x, record = inverse(self._inner(c), z, self._alpha, self._beta, case, wanted)
        sow_record(self, record)
        return x, record

    def bounds(self) -> tuple[Any, Any]:
        """Certified ``(smallest, largest)`` slope in x_monotone, Euclidean norm.

        Called as ``net.apply(params, method="bounds")``.
        """
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
        alpha, beta = known(self.alpha), known(self.beta)
        if alpha is None or beta is None:
            raise ValueError("certify_monotone needs constants that are known when tracing.")
        need = beta * (math.sqrt(dim) - 1) / 2
        if self.output != "mean":
            raise ValueError(
                "certify_monotone: single outputs of a 'picnn' core are not certified for any "
                f"alpha when d = {dim} > 1; use output='mean' or core='pairwise'."
            )
        if alpha < need:
            raise ValueError(
                f"certify_monotone with d = {dim} needs alpha >= beta (sqrt(d) - 1) / 2 = "
                f"{need:.6g}, got alpha = {alpha}; raise alpha, lower beta, or use "
                "core='pairwise'."
            )

    def _inner(self, context: jax.Array) -> Inner:
        potential = ContextPotential(self.net.clone(parent=None, name=None))
        core = self.net.variables["params"]
        return Inner(potential, self._checked, core, each={"context": context})
