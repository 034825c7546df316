r"""The inner problems of the bi-Lipschitz networks: the map, its inverse, a loss, their records.

All three networks are :math:`f(x) = \alpha x + y^*(x)` with :math:`y^* = (\nabla G)^{-1}` and
:math:`G = F/s + \|\cdot\|^2/(2\beta)`; they differ in F, and in what F is told of each example.
Whole batches are solved in one compiled program, which is kept for calls outside `jax.jit`.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from monojax.bilipschitz.record import Diagnostics
from monojax.conjugate.legendre import conjugate, solve_dtype
from monojax.conjugate.measure import gradient_rounding, largest_curvature
from monojax.conjugate.potentials import Potential
from monojax.conjugate.solvers import Solver


class Inner(NamedTuple):
    """One network's inner problem; the arrays may be traced."""

    potential: Potential
    """G, hashable; its parameters are ``{"core", "weight", "curvature"}`` and ``each``."""
    solver: Solver
    core: Any
    """Parameters of F."""
    scale: Any = 1.0
    """s, the sharpness by which F is divided."""
    each: dict[str, jax.Array] = {}  # noqa: RUF012 (never changed)
    """Further parameters, one `[..., p]` per example."""

    def dtype(self, x: jax.Array) -> Any:
        """The dtype of the solve."""
        return solve_dtype((self.core, self.each), x)

    def cast(self, dtype: Any) -> "Inner":
        """The same with all that is floating in one dtype, as convolutions ask for."""

        def one(leaf):
            leaf = jnp.asarray(leaf)
            return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

        return self._replace(**jax.tree.map(one, {"core": self.core, "each": self.each}))

    def params(self, weight: Any, curvature: Any, dtype: Any) -> dict[str, Any]:
        """Parameters of ``weight * F / s + curvature ||y||^2 / 2``."""
        return {
            "core": self.core,
            "weight": jnp.asarray(weight, dtype) / jnp.asarray(self.scale, dtype),
            "curvature": jnp.asarray(curvature, dtype),
        }


def over_batch(fn, *trees: Any):
    """``fn`` of one example over all leading dimensions of arrays `[..., d_i]`, in trees."""
    lead = jax.tree.leaves(trees)[-1].shape[:-1]
    flat = jax.tree.map(lambda a: a.reshape(-1, a.shape[-1]), trees)
    out = jax.vmap(fn)(*flat)
    return jax.tree.map(lambda leaf: leaf.reshape(lead + leaf.shape[1:]), out)


def forward(
    inner: Inner, x: jax.Array, alpha: Any, beta: Any, record: bool
) -> tuple[jax.Array, Any]:
    """f(x) `[..., d]` in the dtype of ``x``, and the record of its solve if asked for."""
    return _forward(*inner, x, alpha, beta, record=record)


def inverse(
    inner: Inner, y: jax.Array, alpha: Any, beta: Any, case: tuple[bool, bool], record: bool
) -> tuple[jax.Array, Any]:
    r"""The x `[..., d]` with f(x) = y, and the record of the second problem if asked for.

    :math:`w = \arg\min \frac1{2}\|w\|^2 + \alpha G(w) - \langle y, w\rangle`, and then x is both
    :math:`\nabla G(w)` and :math:`(y - w)/\alpha`. A small error e of w is H e in the first and
    :math:`-e/\alpha` in the second: the second is taken where alpha times the largest curvature of
    G is at least 1. With r what w misses of its equation, the errors are at most
    :math:`\|r\|/\alpha` and :math:`\|r\| / (\alpha(1 + \alpha/\beta))`, by strong convexity, and
    the rounding of either form.

    Args:
      inner: the network's problem.
      y: shape `[..., d]`.
      alpha: `[]`.
      beta: `[]`.
      case: what ``inverse_case`` said.
      record: whether the record is wanted.

    Returns:
      x in the dtype of ``y``, and Diagnostics or None.
    """
    return _inverse(*inner, y, alpha, beta, case=case, record=record)


def fenchel_young(
    inner: Inner, x: jax.Array, targets: jax.Array, alpha: Any, beta: Any, record: bool
) -> tuple[jax.Array, Any]:
    """The Fenchel-Young loss of (x, targets - alpha x) `[...]`, and the record of its solve."""
    return _fenchel_young(*inner, x, targets, alpha, beta, record=record)


def _solve(inner: Inner, x: jax.Array, weight: Any, curvature: Any, record: bool):
    params = inner.params(weight, curvature, x.dtype)

    def one(each, x):
        return conjugate(inner.potential, {**params, **each}, x, inner.solver, record=record)

    return over_batch(one, inner.each, x)


def _diagnostics(result, error_bound=None) -> Diagnostics:
    bound = result.error_bound if error_bound is None else error_bound
    return Diagnostics(
        result.steps,
        result.residual,
        result.converged,
        result.curvature,
        jax.lax.stop_gradient(bound),
        result.jacobian_error,
    )


def _norm(x: jax.Array) -> jax.Array:
    return jnp.linalg.norm(jax.lax.stop_gradient(x), axis=-1)


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames=("record",))
def _forward(potential, solver, core, scale, each, x, alpha, beta, record):
    inner, given = Inner(potential, solver, core, scale, each), x.dtype
    x = x.astype(inner.dtype(x))
    inner = inner.cast(x.dtype)
    alpha, beta = jnp.asarray(alpha, x.dtype), jnp.asarray(beta, x.dtype)
    result = _solve(inner, x, 1.0, 1 / beta, record)
    linear = alpha * x
    out = linear + result.argmax
    if not record:
        return out.astype(given), None
    last = jnp.finfo(given).eps * _norm(out) + jnp.finfo(x.dtype).eps * _norm(linear)
    return out.astype(given), _diagnostics(result, result.error_bound + last)


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames=("record",))
def _fenchel_young(potential, solver, core, scale, each, x, targets, alpha, beta, record):
    inner, given = Inner(potential, solver, core, scale, each), x.dtype
    x = x.astype(inner.dtype(x))
    inner = inner.cast(x.dtype)
    alpha, beta = jnp.asarray(alpha, x.dtype), jnp.asarray(beta, x.dtype)
    y = targets.astype(x.dtype) - alpha * x
    params = inner.params(1.0, 1 / beta, x.dtype)
    at_target = over_batch(lambda each, y: potential({**params, **each}, y), inner.each, y)
    result = _solve(inner, x, 1.0, 1 / beta, record)
    loss = at_target + result.value - jnp.sum(x * y, axis=-1)
    return loss.astype(given), _diagnostics(result) if record else None


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames=("case", "record"))
def _inverse(potential, solver, core, scale, each, y, alpha, beta, case, record):
    inner, given = Inner(potential, solver, core, scale, each), y.dtype
    zero, kinked = case
    y = y.astype(inner.dtype(y))
    inner = inner.cast(y.dtype)
    alpha, beta = jnp.asarray(alpha, y.dtype), jnp.asarray(beta, y.dtype)
    result = None if zero else _solve(inner, y, alpha, 1 + alpha / beta, record)
    w = y if result is None else result.argmax
    params = inner.params(1.0, 1 / beta, y.dtype)
    positive = alpha > 0
    divisor = jnp.where(positive, alpha, 1)

    def gradient(each, w):
        return potential.expand({**params, **each}, w)[1]

    if kinked:
        direct = jnp.ones(y.shape[:-1], bool)
        x = (y - w) / divisor
    else:
        stiffest = over_batch(
            lambda each, w: largest_curvature(potential, {**params, **each}, w), inner.each, w
        )
        direct = positive & (alpha * stiffest >= 1)
        with jax.default_matmul_precision("highest"):
            slope = over_batch(gradient, inner.each, w)
        x = jnp.where(direct[..., None], (y - w) / divisor, slope)
    if not record:
        return x.astype(given), None

    eps = jnp.finfo(y.dtype).eps
    residual = jnp.zeros(y.shape[:-1], y.dtype) if result is None else result.residual
    by_difference = residual / (1 + alpha / beta) / divisor + eps * (_norm(y) + _norm(w)) / divisor
    bound = by_difference
    if not kinked:
        rounding = over_batch(
            lambda each, w: gradient_rounding(potential, {**params, **each}, w), inner.each, w
        )
        bound = jnp.where(direct, by_difference, residual / divisor + rounding)
    bound = bound + (0.0 if given == y.dtype else jnp.finfo(given).eps * _norm(x))
    if result is not None:
        return x.astype(given), _diagnostics(result, bound)
    found = jax.lax.stop_gradient(residual + 0 * _norm(y))  # NaN stays NaN
    return x.astype(given), Diagnostics(
        steps=jnp.zeros_like(found, dtype=int),
        residual=found,
        converged=jnp.isfinite(found),
        curvature=jnp.full_like(found, jnp.inf),
        error_bound=jax.lax.stop_gradient(bound),
        jacobian_error=jnp.zeros_like(found),
    )
