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

from monojax.conjugate.linear import varying_like
from monojax.conjugate.loop import AIM, Solution, minimise
from monojax.conjugate.measure import largest_curvature, measure
from monojax.conjugate.newton import Model
from monojax.conjugate.potentials import Potential, as_potential
from monojax.conjugate.solvers import Solver

Fn = Callable[[Any, jax.Array], jax.Array]


class Conjugate(NamedTuple):
    """A conjugate at one example, and what happened on the way.

    The record is that of the solve, in at least float32 and before a cast to the dtype of x.
    """

    value: jax.Array
    """`[]`: the conjugate at x."""
    argmax: jax.Array
    """`[d]`: the maximiser, which is the gradient of the conjugate."""
    residual: jax.Array
    """`[]`: norm of x - grad G(argmax) on the full problem, plus what rounding may hide of it."""
    steps: jax.Array
    """`[]` int: steps of the inner loop."""
    converged: jax.Array
    """`[]` bool: the residual met the tolerance. Derivatives are meaningful only then."""
    curvature: jax.Array
    """`[]`: smallest secant curvature of G met on the way, with an allowance for rounding; inf if
    no step was needed."""
    error_bound: jax.Array
    """`[]`: bounds the error of argmax, by residual / strong_convexity; inf if not known."""
    jacobian_error: jax.Array
    """`[]`: share of 1 / strong_convexity by which rounding may change the Jacobian of argmax; inf
    if not known."""


def conjugate(
    potential: Fn | Potential,
    params: Any,
    x: jax.Array,
    solver: Solver | None = None,
    *,
    start: jax.Array | None = None,
    record: bool = True,
) -> Conjugate:
    r"""The convex conjugate of ``potential(params, .)`` at ``x``, with its gradient.

    ``value`` and ``argmax`` can be differentiated in ``params`` and ``x``, in any mode and order
    (the implicit rule); the other fields are a record and have no derivative. The gradient of
    ``value`` in x is ``argmax``. Where ``converged`` is False nothing is exact: look at it.

    Everything is computed in the widest dtype among ``params``, ``x`` and float32, and cast back.

    Args:
      potential: ``potential(params, y[d]) -> []``, convex in y; twice differentiable for the
        implicit rule and for Newton. It must be hashable and close over no traced array. A
        :class:`Potential` can offer more: constants, a start, its curvature.
      params: pytree, the first argument of ``potential``.
      x: one point, floating, shape `[d]`; use `jax.vmap` for a batch.
      solver: see :class:`Solver`; None means ``Solver()``.
      start: first iterate, shape `[d]`; a nearby solution saves steps with Newton and L-BFGS.
      record: False leaves all fields but ``value`` and ``argmax`` None: less to compile.

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
    potential = as_potential(potential)
    x = _check_point(x, start)
    given = x.dtype
    params, x, start = widened(params, x, start)
    _check_scalar(potential, params, x)
    # Reduced precision of products, as accelerators have by default, ends far above tolerance.
    with jax.default_matmul_precision("highest"):
        solution = _solve(potential, params, x, solver, start)
        if solver.differentiation == "unrolled":
            argmax = solution.argmax
            value = x @ argmax - potential(params, argmax)
        else:
            argmax = _implicit_argmax(potential, params, x, solution.argmax)
            value = _envelope_value(potential, params, x, solution.argmax)
        value, argmax = value.astype(given), argmax.astype(given)
        if not record:
            return Conjugate(value, argmax, *[None] * 6)  # type: ignore[arg-type]
        return _recorded(potential, params, x, solver, solution, value, argmax)


def _check_point(x: Any, start: Any) -> jax.Array:
    """``x`` as an array `[d]`."""
    x = jnp.asarray(x)
    if x.ndim != 1 or x.shape[0] == 0:
        raise ValueError(
            f"x must be one point [d], d >= 1, got {x.shape}; use jax.vmap for a batch."
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"x must be floating point, got {x.dtype}.")
    if start is not None and jnp.shape(start) != x.shape:
        raise ValueError(f"start must have the shape of x, {x.shape}, got {jnp.shape(start)}.")
    return x


def _check_scalar(potential: Potential, params: Any, x: jax.Array) -> None:
    out = jax.eval_shape(potential, params, x)
    if getattr(out, "shape", None) != ():
        found = jax.tree.map(lambda leaf: leaf.shape, out)
        raise ValueError(f"potential(params, y) must be a scalar [] for y {x.shape}, got {found}.")


def solve_dtype(params: Any, x: jax.Array) -> Any:
    """The dtype of a solve: the widest of ``x``, the floating ``params`` and float32."""
    leaves = [leaf for leaf in jax.tree.leaves(params) if hasattr(leaf, "dtype")]
    floating = [leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.result_type(x.dtype, jnp.float32, *floating)


def widened(params: Any, x: jax.Array, start: Any) -> tuple[Any, jax.Array, Any]:
    """All three in the dtype of the solve; integers stay."""
    dtype = solve_dtype(params, x)

    def cast(leaf):
        leaf = jnp.asarray(leaf)
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    start = None if start is None else jnp.asarray(start, dtype)
    return jax.tree.map(cast, params), x.astype(dtype), start


def _recorded(potential, params, x, solver, solution, value, argmax) -> Conjugate:
    """The result with the record of the full problem; what is returned may be cast already."""
    given = argmax.dtype
    found = measure(potential, params, x, solution.argmax)
    threshold = jax.lax.stop_gradient(solver.threshold(x))
    known = jnp.isfinite(found.residual) & jnp.isfinite(threshold)
    mu = potential.strong_convexity(params)
    mu = solver.strong_convexity if mu is None else mu
    bound = lost = jnp.full_like(found.residual, jnp.inf)
    if mu is not None:
        # The cast rounds every entry once more.
        cast = 0.0 if given == x.dtype else jnp.finfo(given).eps * jnp.linalg.norm(solution.argmax)
        bound = found.residual / mu + cast
        lost = _lost_of_jacobian(potential, params, solution.argmax, mu)
    bound, lost = jax.lax.stop_gradient((bound, lost))
    return Conjugate(
        value=value,
        argmax=argmax,
        residual=found.residual,
        steps=jax.lax.stop_gradient(solution.steps),
        converged=known & (found.residual <= threshold),
        curvature=jax.lax.stop_gradient(solution.curvature),
        error_bound=bound,
        jacobian_error=lost,
    )


def _lost_of_jacobian(potential, params, y, mu) -> jax.Array:
    """eps times the condition number, or its root where the solve works on factors."""
    y = jax.lax.stop_gradient(y)
    condition = largest_curvature(potential, params, y) / mu
    condition = jnp.sqrt(condition) if potential.keeps_curvature else condition
    return 4 * jnp.finfo(y.dtype).eps * condition


def _solve(potential: Potential, params: Any, x: jax.Array, solver: Solver, start: Any) -> Solution:
    """Runs the inner loop; for the implicit rule nothing in it is differentiated."""
    if solver.differentiation == "unrolled":
        return _run(potential, params, x, solver, start, scale=x)
    if potential.piecewise_linear:
        raise ValueError(
            "the implicit rule is wrong for a piecewise linear activation such as relu: its "
            "second derivative is 0 wherever it exists, but solutions sit on the kinks. Use a "
            "smooth one, or Solver('gradient', differentiation='unrolled', max_steps=500)."
        )
    params, x, start = jax.lax.stop_gradient((params, x, start))
    smaller = potential.restrict(params, x) if start is None else None
    if smaller is None:
        return _run(potential, params, x, solver, start, scale=x)
    small_params, small_x, lift = smaller
    first = _run(potential, small_params, small_x, solver, None, scale=x)
    y = _polished(potential, params, x, lift(first.argmax), solver)
    return first._replace(argmax=y)


def _polished(potential: Potential, params: Any, x: jax.Array, y: jax.Array, solver: Solver):
    """``y`` after at most three Newton steps, where the basis of the small problem was too rough.

    A solve that failed by far is left as it is.
    """
    threshold = solver.threshold(x)

    def missed(y):
        r = x - potential.expand(params, y)[1]
        return r, jnp.linalg.norm(r)

    def wanted(state):
        _, _, norm, turn = state
        return (norm > AIM * threshold) & (norm < 1e3 * threshold) & (turn < 3)

    def step(state):
        y, r, norm, turn = state
        new = y + potential.solve(params, y, r, potential.strong_convexity(params))
        new_r, new_norm = missed(new)
        better = new_norm < norm
        kept = jax.tree.map(
            lambda a, b: jnp.where(better, a, b), (new, new_r, new_norm), (y, r, norm)
        )
        return *kept, jnp.where(better, turn + 1, 3)

    r, norm = missed(y)
    state = y, r, norm, jnp.zeros_like(norm, dtype=int)
    return jax.lax.while_loop(wanted, step, varying_like(state, norm, threshold))[0]


def _run(potential: Potential, params: Any, x: jax.Array, solver: Solver, start, scale) -> Solution:
    """One inner problem, with what the potential offers to help; ``scale`` sets the tolerance."""
    if start is None:
        start = (potential.newton_start if solver.searches else potential.start)(params, x)
    bounded = solver.method in ("fixed", "nesterov")  # certifying costs singular values
    return minimise(
        lambda y: potential(params, y) - x @ y,
        scale,
        jnp.asarray(start, x.dtype),
        solver,
        strong_convexity=potential.strong_convexity(params),
        smoothness=potential.smoothness(params) if bounded else None,
        model=_tilted(potential, params, x),
        structured=potential.cheap_products,
    )


def _tilted(potential: Potential, params: Any, x: jax.Array) -> Model:
    """G(y) - <x, y> with the curvature of G."""

    def expand(y):
        value, gradient, terms = potential.expand(params, y)
        return value - x @ y, gradient - x, terms

    return Model(
        expand,
        lambda terms: potential.hessian_at(params, terms),
        lambda terms: potential.hvp_at(params, terms),
    )


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
    params, params_dot = varying_like((params, params_dot), y, x_dot)
    gradient = jax.grad(potential, argnums=1)

    def hvp(v):
        return jax.jvp(lambda y: gradient(params, y), (y,), (v,))[1]

    fixed, at = jax.lax.stop_gradient((params, y))
    solve = lambda _, b: potential.solve(fixed, at, b, potential.strong_convexity(fixed))
    with jax.default_matmul_precision("highest"):
        _, moved = jax.jvp(lambda p: gradient(p, y), (params,), (params_dot,))
        y_dot = jax.lax.custom_linear_solve(hvp, x_dot - moved, solve, symmetric=True)
    return y, y_dot


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
    with jax.default_matmul_precision("highest"):
        _, moved = jax.jvp(lambda p: potential(p, y), (params,), (params_dot,))
    return _envelope_value(potential, params, x, solution), x_dot @ y - moved
