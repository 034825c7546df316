"""The inner loop of a conjugate, for one example and any optax transformation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from monojax.conjugate.linear import varying_like
from monojax.conjugate.newton import Model, NewtonState
from monojax.conjugate.solvers import Solver

ROUNDING = 8.0
"""How many units in the last place the rounding of a gradient is taken for, in secants."""

AIM = 0.1
"""Least share of the tolerance that the loop aims at: rounding has to fit under the rest."""

EASY = 0.5
"""Largest such share, for methods of many steps where rounding is far below the tolerance."""

STALLED = 3
"""Steps without progress after which a residual between those shares is the best to be had."""


class Solution(NamedTuple):
    """Where the loop ended, for one example."""

    argmax: jax.Array
    """`[d]`: the iterate with the smallest residual (the last one when unrolled)."""
    steps: jax.Array
    """`[]` int: steps taken."""
    curvature: jax.Array
    """`[]`: smallest secant curvature met, plus what rounding may have taken from it; inf after no
    step; <= 0 refutes convexity."""


class _Loop(NamedTuple):
    y: jax.Array
    value: jax.Array
    grad: jax.Array
    inner: Any
    step: jax.Array
    best: jax.Array
    best_norm: jax.Array
    waiting: jax.Array
    curvature: jax.Array
    steepest: jax.Array
    done: jax.Array


class _Problem(NamedTuple):
    """What does not change from step to step."""

    method: optax.GradientTransformationExtraArgs
    value_fn: Callable[[jax.Array], jax.Array]
    evaluate: Callable[[jax.Array], tuple[jax.Array, jax.Array]]
    size: jax.Array
    threshold: jax.Array
    solver: Solver


def minimise(
    value_fn: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    start: jax.Array,
    solver: Solver,
    *,
    strong_convexity: Any = None,
    smoothness: Any = None,
    model: Model | None = None,
    structured: bool = False,
) -> Solution:
    r"""Minimises ``value_fn(y) = G(y) - <x, y>`` for one example; see :class:`Solver`.

    Args:
      value_fn: map of `[d]` to `[]`, convex and differentiable.
      x: shape `[d]`; only sets the scale of the tolerance.
      start: first iterate, shape `[d]`.
      solver: the method and its limits.
      strong_convexity: overrides the solver's, may be traced.
      smoothness: overrides the solver's, may be traced.
      model: ``value_fn`` with its curvature, for Newton; None differentiates ``value_fn``.
      structured: whether the model's Hessian-vector products are cheap.

    Returns:
      Solution. With ``differentiation="unrolled"`` it can be differentiated in reverse.
    """
    mu = solver.strong_convexity if strong_convexity is None else strong_convexity
    top = solver.smoothness if smoothness is None else smoothness
    problem = _Problem(
        solver.transformation(start.shape[0], mu, top, structured, model),
        value_fn,
        jax.value_and_grad(value_fn),
        jnp.linalg.norm(x),
        solver.threshold(x),
        solver,
    )
    loop = _begin(problem, start, model)
    if solver.differentiation == "implicit":
        unfinished = lambda s: ~s.done & (s.step < solver.max_steps)
        loop = jax.lax.while_loop(unfinished, lambda s: _advance(problem, s), loop)
        return Solution(loop.best, loop.step, loop.curvature)

    def one(s, _):
        new = _advance(problem, s)
        return jax.tree.map(lambda new, old: jnp.where(s.done, old, new), new, s), None

    loop, _ = jax.lax.scan(one, loop, length=solver.max_steps)
    return Solution(loop.y, loop.step, loop.curvature)


def _begin(problem: _Problem, start: jax.Array, model: Model | None) -> _Loop:
    """The state before the first step."""
    inner = problem.method.init(start)
    if model is not None and isinstance(inner, NewtonState):
        value, grad = inner.value, inner.grad
    else:
        value, grad = problem.evaluate(start)
    norm = jnp.linalg.norm(jax.lax.stop_gradient(grad))
    zero = jnp.zeros_like(norm, dtype=int)
    state = _Loop(
        y=start,
        value=value,
        grad=grad,
        inner=inner,
        step=zero,
        best=jax.lax.stop_gradient(start),
        best_norm=norm,
        waiting=zero,
        curvature=jnp.full_like(norm, jnp.inf),
        steepest=jnp.zeros_like(norm),
        done=_finished(problem, norm, norm, zero, jnp.full_like(norm, jnp.inf)),
    )
    return varying_like(state, norm, problem.threshold)


def _advance(problem: _Problem, s: _Loop) -> _Loop:
    """One step of the method, and its record."""
    updates, inner = problem.method.update(
        s.grad,
        s.inner,
        s.y,
        value=s.value,
        grad=s.grad,
        value_fn=_searched(problem.value_fn),
        active=~s.done,
    )
    y = s.y + updates
    # Methods with a line search leave the value and the gradient at y in their state.
    value, grad = (optax.tree_utils.tree_get(inner, name) for name in ("value", "grad"))
    if value is None or grad is None:
        value, grad = problem.evaluate(y)
    # The record is not differentiated: a norm has no derivative at 0, where unrolling ends.
    y_now, moves, g_now, g_old = jax.lax.stop_gradient((y, updates, grad, s.grad))
    norm, moved = jnp.linalg.norm(g_now), jnp.linalg.norm(moves)
    better = norm < s.best_norm
    best_norm = jnp.where(better, norm, s.best_norm)
    small = jnp.finfo(y.dtype).eps
    scale = 1 + jnp.linalg.norm(y_now)
    # Steps below rounding count as waiting for any method; steps without progress only
    # where a line search should have found some.
    idle = (moved <= 2 * small * scale) | (~better & problem.solver.searches)
    waiting = jnp.where(idle, s.waiting + 1, 0)
    far = moved > jnp.sqrt(small) * scale
    curvature, steepest, hidden = _secant(problem.size, moves, g_now, g_old, scale, s.steepest)
    told = jnp.isfinite(curvature) & far
    return _Loop(
        y=y,
        value=value,
        grad=grad,
        inner=inner,
        step=s.step + 1,
        best=jnp.where(better, y_now, s.best),
        best_norm=best_norm,
        waiting=waiting,
        curvature=jnp.where(told, jnp.minimum(s.curvature, curvature), s.curvature),
        steepest=jnp.where(told, steepest, s.steepest),
        done=_finished(problem, norm, best_norm, waiting, hidden),
    )


def _finished(problem: _Problem, norm, best_norm, waiting, hidden) -> jax.Array:
    """Whether the residual is small, not finite, or below tolerance and at rest.

    The record adds what rounding may hide, so that being below tolerance is not enough. Newton's
    last step pays for the lowest share; other methods go there where rounding could matter.
    """
    threshold = problem.threshold
    # Where a norm overflows, inf <= inf would pass for success.
    known = jnp.isfinite(norm) & jnp.isfinite(threshold)
    share = 1 - ROUNDING * hidden / jnp.where(known, threshold, 1)
    share = AIM if problem.solver.searches else jnp.clip(share, AIM, EASY)
    met = known & (norm <= share * threshold)
    resting = (waiting >= STALLED) & (best_norm <= threshold)
    return ~jnp.isfinite(norm) | met | resting | (waiting >= problem.solver.patience)


def _secant(size, moves, g_now, g_old, scale, steepest):
    """Curvature along a step raised by what rounding may hide, steepest change, rounding's size."""
    moved = jnp.linalg.norm(moves)
    length = jnp.where(moved > 0, moved, 1)
    change = g_now - g_old
    steepest = jnp.maximum(steepest, jnp.linalg.norm(change) / length)
    # A gradient's rounding is that of x, of itself, and of its argument times the curvature.
    terms = size + jnp.linalg.norm(g_now) + jnp.linalg.norm(g_old) + steepest * scale
    hidden = jnp.finfo(moves.dtype).eps * terms
    curvature = moves @ change / jnp.square(length) + 2 * ROUNDING * hidden / length
    return curvature, steepest, 2 * hidden


def _searched(value_fn: Callable[[jax.Array], jax.Array]):
    """optax's line searches refuse extra arguments that their function does not name."""

    def searched(y, active=None):
        del active
        return value_fn(y)

    return searched
