r"""Convex conjugates :math:`G^*(x) = \max_y \langle x, y\rangle - G(y)` and their derivatives.

The maximiser is the gradient of the conjugate, :math:`y^*(x) = \nabla G^*(x)`, and solves
:math:`\nabla_y G(\theta, y) = x`. Differentiating that equation gives its tangent,

.. math:: H\,\dot y = \dot x - \partial_\theta\nabla_y G\,\dot\theta, \qquad H = \nabla_y^2 G,

so derivatives cost one symmetric solve and remember nothing of the inner loop. The rule is a
`jax.custom_jvp` around `jax.lax.custom_linear_solve`: forward, reverse and mixed modes, any order.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from monojax.conjugate.newton import Model, conjugate_gradients, dense_solve, plain_model
from monojax.conjugate.solvers import DENSE_LIMIT, Solution, Solver, minimise

Potential = Callable[[Any, jax.Array], jax.Array]


class Conjugate(NamedTuple):
    """A conjugate at one example, and what happened on the way."""

    value: jax.Array
    """`[]`: the conjugate at x."""
    argmax: jax.Array
    """`[d]`: the maximiser, which is the gradient of the conjugate."""
    residual: jax.Array
    """`[]`: norm of x - grad G(argmax)."""
    steps: jax.Array
    """`[]` int: steps of the inner loop."""
    converged: jax.Array
    """`[]` bool: the residual met the tolerance. Derivatives are meaningful only then."""
    curvature: jax.Array
    """`[]`: smallest secant curvature of G met on the way; inf if no step was needed."""
    error_bound: jax.Array
    """`[]`: residual / strong_convexity, which bounds the error of argmax; inf if not known."""


def conjugate(
    potential: Potential,
    params: Any,
    x: jax.Array,
    solver: Solver | None = None,
    *,
    start: jax.Array | None = None,
) -> Conjugate:
    r"""The convex conjugate of ``potential(params, .)`` at ``x``, with its gradient.

    ``value`` and ``argmax`` can be differentiated in ``params`` and ``x``, in any mode and order
    (the implicit rule); the other fields are a record and have no derivative. The gradient of
    ``value`` in x is ``argmax``. Where ``converged`` is False nothing is exact: look at it.

    A potential may be an object with more than ``__call__``; each of these is used if present:
    ``strong_convexity(params) -> []`` and ``smoothness(params) -> []`` (bounds on the eigenvalues
    of its Hessian), ``start(params, x) -> [d]``, ``newton_start(params, x) -> [d]`` (for methods
    with a line search; need not be differentiable), ``hessian(params, y) -> [d, d]``,
    ``hvp(params, y) -> (v -> [d])``, ``hessian_solve(params, y, b) -> [d]``,
    ``expand(params, y) -> (value, gradient, terms)`` with ``hessian_at(params, terms) -> [d, d]``
    and ``hvp_at(params, terms) -> (v -> [d])`` (the same curvature from work already done),
    ``restrict(params, x) -> (potential, params, x, lift)`` (the same problem in fewer unknowns u,
    with y = lift(u)), and ``piecewise_linear: bool`` (a kinked gradient: no implicit rule).
    It must be hashable and close over no traced array: parameters are an argument.

    Args:
      potential: ``potential(params, y[d]) -> []``, convex in y; twice differentiable for the
        implicit rule and for Newton.
      params: pytree, the first argument of ``potential``.
      x: one point, floating, shape `[d]`; use `jax.vmap` for a batch.
      solver: see :class:`Solver`; None means ``Solver()``.
      start: first iterate, shape `[d]`; a nearby solution saves steps with Newton and L-BFGS.

    Returns:
      Conjugate.

    Raises:
      ValueError: on another shape, a potential that is not scalar, or the implicit rule on a
        piecewise linear activation.
      TypeError: if ``x`` is not floating point, or ``solver`` is not a Solver.

    Example:
      >>> G = lambda scale, y: 0.5 * scale * y @ y
      >>> conjugate(G, 4.0, jnp.array([2.0])).argmax
      Array([0.5], dtype=float32)
    """
    solver = Solver() if solver is None else solver
    if not isinstance(solver, Solver):
        raise TypeError(f"solver must be a monojax.conjugate.Solver, got {type(solver).__name__}.")
    x = _check_point(potential, params, x, start)
    solution = _solve(potential, params, x, solver, start)
    if solver.differentiation == "unrolled":
        argmax = solution.argmax
        value = x @ argmax - potential(params, argmax)
    else:
        argmax = _implicit_argmax(potential, params, x, solution.argmax)
        value = _envelope_value(potential, params, x, solution.argmax)
    record = jax.lax.stop_gradient(solution)
    mu = _offered(potential, "strong_convexity", params)
    mu = solver.strong_convexity if mu is None else mu
    bound = jnp.full_like(record.residual, jnp.inf) if mu is None else record.residual / mu
    return Conjugate(
        value=value,
        argmax=argmax,
        residual=record.residual,
        steps=record.steps,
        converged=record.converged,
        curvature=record.curvature,
        error_bound=jax.lax.stop_gradient(bound),
    )


class Report(NamedTuple):
    """Python numbers over a batch of results: see :func:`report`."""

    examples: int
    """Number of examples."""
    unsolved: int
    """Examples that did not meet the tolerance: step limit, stalled, unbounded, or NaN."""
    not_finite: int
    """Examples whose residual is NaN or infinite."""
    not_convex: int
    """Examples that met a curvature below the promised strong convexity, or <= 0."""
    worst_residual: float
    """Largest finite residual; NaN if there is none."""
    most_steps: int
    """Largest number of steps."""

    @property
    def ok(self) -> bool:
        """Whether every example converged and none refuted strong convexity."""
        return self.unsolved == 0 and self.not_convex == 0


def report(result: Any, strong_convexity: float | None = None) -> Report:
    """Counts what went wrong in a batch of results; for logs and warnings, outside `jit`.

    Args:
      result: anything with concrete ``residual``, ``steps``, ``converged`` and ``curvature`` of
        one shape, such as a vmapped :class:`Conjugate` or ``BLNN.diagnostics``.
      strong_convexity: the constant promised for the potential; None asks for > 0 only.

    Returns:
      Report. Curvature is measured on the steps taken: it refutes convexity, never proves it.
    """
    residual, steps, converged, curvature = (
        np.asarray(getattr(result, name)).ravel()
        for name in ("residual", "steps", "converged", "curvature")
    )
    finite = np.isfinite(residual)
    low = curvature <= 0
    if strong_convexity is not None:
        # Secants of float32 gradients over steps above sqrt(eps) carry about 1% of rounding.
        low = curvature < 0.98 * strong_convexity
    return Report(
        examples=residual.size,
        unsolved=int((~converged).sum()),
        not_finite=int((~finite).sum()),
        not_convex=int(low.sum()),
        worst_residual=float(residual[finite].max()) if finite.any() else float("nan"),
        most_steps=int(steps.max()) if steps.size else 0,
    )


def _check_point(potential: Potential, params: Any, x: Any, start: Any) -> jax.Array:
    """``x`` as an array `[d]`, after the checks of :func:`conjugate`."""
    x = jnp.asarray(x)
    if x.ndim != 1 or x.shape[0] == 0:
        raise ValueError(
            f"x must be one point [d], d >= 1, got {x.shape}; use jax.vmap for a batch."
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"x must be floating point, got {x.dtype}.")
    if start is not None and jnp.shape(start) != x.shape:
        raise ValueError(f"start must have the shape of x, {x.shape}, got {jnp.shape(start)}.")
    out = jax.eval_shape(potential, params, x)
    if getattr(out, "shape", None) != ():
        found = jax.tree.map(lambda leaf: leaf.shape, out)
        raise ValueError(f"potential(params, y) must be a scalar [] for y {x.shape}, got {found}.")
    return x


def _offered(potential: Potential, name: str, *args: Any) -> Any:
    """``potential.name(*args)`` if the potential has such a method, else None."""
    method = getattr(potential, name, None)
    return None if method is None else method(*args)


def _solve(potential: Potential, params: Any, x: jax.Array, solver: Solver, start: Any) -> Solution:
    """Runs the inner loop; for the implicit rule nothing in it is differentiated."""
    kinked = getattr(potential, "piecewise_linear", False)
    if solver.differentiation == "implicit":
        if kinked:
            raise ValueError(
                "the implicit rule is wrong for a piecewise linear activation such as relu: its "
                "second derivative is 0 wherever it exists, but solutions sit on the kinks. Use a "
                "smooth one, or Solver('gradient', differentiation='unrolled', max_steps=500)."
            )
        params, x, start = jax.lax.stop_gradient((params, x, start))
        if start is None and hasattr(potential, "restrict"):
            small, small_params, small_x, lift = potential.restrict(params, x)
            found = _run(small, small_params, small_x, solver, None, scale=x)
            return found._replace(argmax=lift(found.argmax))
    return _run(potential, params, x, solver, start, scale=x)


def _run(potential, params, x, solver, start, scale) -> Solution:
    """One inner problem, with what the potential offers to help; ``scale`` sets the tolerance."""
    if start is None and solver.searches:
        start = _offered(potential, "newton_start", params, x)
    if start is None:
        start = _offered(potential, "start", params, x)
    bounded = solver.method in ("fixed", "nesterov")  # certifying costs singular values
    return minimise(
        lambda y: potential(params, y) - x @ y,
        scale,
        x if start is None else jnp.asarray(start, x.dtype),
        solver,
        strong_convexity=_offered(potential, "strong_convexity", params),
        smoothness=_offered(potential, "smoothness", params) if bounded else None,
        model=_tilted(potential, params, x),
        structured=hasattr(potential, "expand") or hasattr(potential, "hvp"),
    )


def _tilted(potential: Any, params: Any, x: jax.Array) -> Model:
    """G(y) - <x, y> with the curvature of G, as far as the potential brings it."""
    if hasattr(potential, "expand"):

        def expand(y):
            value, gradient, terms = potential.expand(params, y)
            return value - x @ y, gradient - x, terms

        return Model(
            expand,
            lambda terms: potential.hessian_at(params, terms),
            lambda terms: potential.hvp_at(params, terms),
        )
    model = plain_model(lambda y: potential(params, y) - x @ y)
    if hasattr(potential, "hessian"):
        model = model._replace(hessian=lambda y: potential.hessian(params, y))
    if hasattr(potential, "hvp"):
        model = model._replace(hvp=lambda y: potential.hvp(params, y))
    return model


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _implicit_argmax(potential: Potential, params: Any, x: jax.Array, solution: jax.Array):
    """``solution``, known to solve grad G(params, y) = x, with the derivatives of that root."""
    del potential, params, x
    return solution


@_implicit_argmax.defjvp
def _implicit_argmax_jvp(potential, primals, tangents):
    params, x, solution = primals
    params_dot, x_dot, _ = tangents
    # Through the primitive itself, so that this rule can be differentiated again.
    y = _implicit_argmax(potential, params, x, solution)
    gradient = jax.grad(potential, argnums=1)
    _, moved = jax.jvp(lambda p: gradient(p, y), (params,), (params_dot,))

    def hvp(v):
        return jax.jvp(lambda y: gradient(params, y), (y,), (v,))[1]

    y_dot = jax.lax.custom_linear_solve(
        hvp, x_dot - moved, _linear_solver(potential, params, y), symmetric=True
    )
    return y, y_dot


def _linear_solver(potential: Potential, params: Any, y: jax.Array):
    """Solves H u = b: Cholesky where H is small or offered, conjugate gradients elsewhere."""
    params, y = jax.lax.stop_gradient((params, y))
    if hasattr(potential, "hessian_solve"):
        return lambda _, b: potential.hessian_solve(params, y, b)
    if y.shape[0] <= DENSE_LIMIT:
        hessian = getattr(potential, "hessian", jax.hessian(potential, argnums=1))
        return lambda _, b: dense_solve(hessian(params, y), b)
    tolerance = 1e-12 if y.dtype == jnp.float64 else 1e-6
    return lambda matvec, b: conjugate_gradients(matvec, b, tolerance, 4 * y.shape[0])


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _envelope_value(potential: Potential, params: Any, x: jax.Array, solution: jax.Array):
    """<x, y> - G(params, y) at the solution, differentiated by the envelope theorem."""
    return x @ solution - potential(params, solution)


@_envelope_value.defjvp
def _envelope_value_jvp(potential, primals, tangents):
    params, x, solution = primals
    params_dot, x_dot, _ = tangents
    # Not stop_gradient: the maximiser moves in the second derivative.
    y = _implicit_argmax(potential, params, x, solution)
    _, moved = jax.jvp(lambda p: potential(p, y), (params,), (params_dot,))
    return _envelope_value(potential, params, x, solution), x_dot @ y - moved
