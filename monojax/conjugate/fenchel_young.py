r"""Fenchel-Young losses: how far a point is from being the maximiser, without its derivative.

.. math:: \ell(x, y) = G(y) + G^*(x) - \langle x, y\rangle \ge \frac{\mu}{2}\,\|y - y^*(x)\|^2,

0 exactly where :math:`y = y^*(x) = \nabla G^*(x)`; the bound holds for a :math:`\mu`-strongly
convex G, since the loss is the Bregman divergence of G from :math:`y^*` to y. By the envelope
theorem its gradient in the parameters is :math:`\partial_\theta G(y) - \partial_\theta G(y^*)`:
one inner solve, two gradients of the potential, and no system with its Hessian. Where the Hessian
varies by orders of magnitude (a sharp core), squared errors of :math:`y^*` are dominated by the
few examples where it is small; this loss is not.

It is a loss for targets **without noise**. Where y scatters around its mean m with a learned G, the
mean loss is :math:`D_G(m, y^*) + E\,G(y) - G(m)`, and the last two terms reward a flat G, that is,
steep slopes: for :math:`G = y^2/(2b)`, y = b_0 x + noise of variance s^2 and :math:`E x^2 = 1` the
minimiser is :math:`b = \sqrt{b_0^2 + s^2}`. With noise, use the squared error, or end with it.
"""

from typing import Any

import jax

from monojax.conjugate.legendre import Fn, conjugate, widened
from monojax.conjugate.potentials import Potential, as_potential
from monojax.conjugate.solvers import Solver


def fenchel_young_loss(
    potential: Fn | Potential,
    params: Any,
    x: jax.Array,
    y: jax.Array,
    solver: Solver | None = None,
) -> jax.Array:
    r"""The Fenchel-Young loss of one example; trains ``conjugate(...).argmax`` towards ``y``.

    Differentiable in ``params``, ``x`` and ``y``. The gradient in x is argmax - y, that in y is
    grad G(y) - x. Where the inner solve has not converged the value is too small by at most
    residual^2 / (2 mu).

    Args:
      potential: ``potential(params, y[d]) -> []``, strongly convex in y, as in
        :func:`monojax.conjugate.conjugate`.
      params: pytree, its first argument.
      x: one point, floating, shape `[d]`; use `jax.vmap` for a batch.
      y: the target for the maximiser at x, shape `[d]`.
      solver: see :class:`Solver`; None means ``Solver()``.

    Returns:
      `[]`, non-negative up to rounding.

    Raises:
      ValueError: if the shapes of ``x`` and ``y`` differ, or as ``conjugate``.

    Example:
      >>> G = lambda scale, y: 0.5 * scale * y @ y
      >>> fenchel_young_loss(G, 4.0, jnp.array([2.0]), jnp.array([1.5]))  # (4 / 2) (1.5 - 0.5)^2
      Array(2., dtype=float32)

    Reference:
      Blondel, Martins, Niculae, "Learning with Fenchel-Young losses", JMLR 21 (2020).
    """
    if x.shape != y.shape:
        raise ValueError(f"x and y must have one shape [d], got {x.shape} and {y.shape}.")
    given = x.dtype
    params, x, y = widened(params, x, y)
    at_target = as_potential(potential)(params, y)
    return (at_target + conjugate(potential, params, x, solver).value - x @ y).astype(given)
