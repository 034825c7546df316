"""Inverting a strongly monotone Lipschitz map, with the record of every row."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

MAX_STEPS = 2000
PATIENCE = 100
"""Steps without a gain of a tenth after which a row gives up: rounding is in the way."""
ROUNDINGS = 16.0
"""Units of rounding, relative to the size of what is added up, that a residual may hide."""


class InverseDiagnostics(NamedTuple):
    """How well an inverse was found, for every row; measured at the x that is returned."""

    residual: jax.Array
    """`[...]`: ||f(x) - y||, with what rounding may hide."""
    steps: jax.Array
    """`[...]`: steps of the solver."""
    converged: jax.Array
    """`[...]`: whether the residual met the tolerance."""
    error_bound: jax.Array
    """`[...]`: ||x - f^-1(y)|| is at most this: residual / smallest slope."""


def default_tolerance(dtype: Any) -> float:
    """That of :class:`monojax.conjugate.Solver`: 1e-4, and 1e-9 in float64."""
    return 1e-9 if dtype == jnp.float64 else 1e-4


def diagnose(
    forward: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    y: jax.Array,
    steps: jax.Array,
    lower: Any,
    upper: Any,
    tolerance: float | None = None,
) -> InverseDiagnostics:
    """Measures an inverse on the whole map.

    Args:
      forward: f, maps `[..., d]` to `[..., d]`.
      x: what was returned, `[..., d]`.
      y: what was asked for, `[..., d]`, in the dtype to measure in.
      steps: `[...]`, passed on.
      lower: smallest slope of f, > 0.
      upper: largest slope.
      tolerance: converged is a residual of at most tolerance (1 + ||y||); see
        :func:`default_tolerance`.

    Returns:
      InverseDiagnostics of shape `[...]`.
    """
    if tolerance is None:
        tolerance = default_tolerance(y.dtype)
    x = x.astype(y.dtype)
    norm = lambda v: jnp.linalg.norm(v, axis=-1)
    size = upper * norm(x) + norm(y) + norm(forward(jnp.zeros_like(x)))
    rounding = ROUNDINGS * jnp.finfo(y.dtype).eps * size
    residual = norm(forward(x) - y) + rounding
    return InverseDiagnostics(
        residual, steps, residual <= tolerance * (1 + norm(y)), residual / lower
    )


def explicit_error(x: jax.Array, y: jax.Array, lower: Any, upper: Any) -> jax.Array:
    """What rounding may have done to an inverse that is a formula, `[...]`.

    Args:
      x: the inverse, `[..., d]`.
      y: what was asked for, `[..., d]`.
      lower: smallest slope of the map, > 0.
      upper: largest slope.
    """
    eps = jnp.finfo(x.dtype).eps
    size = upper * jnp.linalg.norm(x, axis=-1) + jnp.linalg.norm(y, axis=-1)
    return ROUNDINGS * eps * size / lower


def solve_monotone(
    forward: Callable[[jax.Array], jax.Array],
    y: jax.Array,
    lower: Any,
    upper: Any,
    tolerance: float | None = None,
    max_steps: int = MAX_STEPS,
) -> tuple[jax.Array, jax.Array]:
    r"""The x with f(x) = y for f with :math:`\|J - \frac{\mu+\nu}2 I\| \le \frac{\nu-\mu}2`.

    A Newton step is taken whenever it halves the best residual so far, and otherwise the step
    :math:`x - \frac{2}{\mu+\nu}(f(x) - y)`, which contracts the error by
    :math:`\frac{\nu-\mu}{\nu+\mu}` whatever the kinks of f. A run of such steps drives the
    residual to 0, so the whole converges from every start.

    Args:
      forward: f, maps `[d]` to `[d]`.
      y: float, shape `[..., d]`.
      lower: mu > 0.
      upper: nu > mu.
      tolerance: a row stops at ||f(x) - y|| <= tolerance (1 + ||y||) / 10; see
        :func:`default_tolerance`.
      max_steps: steps per row.

    Returns:
      ``(x, steps)``, `[..., d]` and `[...]`: the last iterate, differentiable (implicit rule, a
      solve of size d per row) in y and in what ``forward`` closes over; :func:`diagnose` says
      how good it is.
    """
    if tolerance is None:
        tolerance = default_tolerance(y.dtype)
    step = 2.0 / (jnp.asarray(lower, y.dtype) + jnp.asarray(upper, y.dtype))

    def one(target: jax.Array) -> tuple[jax.Array, jax.Array]:
        limit = 0.1 * tolerance * (1 + jnp.linalg.norm(target))

        def search(residual_fn: Any, start: jax.Array) -> tuple[jax.Array, Any]:
            def body(state: Any) -> Any:
                x, r, best, count, mark, since = state
                newton = x - jnp.linalg.solve(jax.jacfwd(residual_fn)(x), r)
                r_newton = residual_fn(newton)
                good = jnp.linalg.norm(r_newton) <= best / 2  # False for NaN
                x = jnp.where(good, newton, x - step * r)
                r = jnp.where(good, r_newton, residual_fn(x))
                best = jnp.minimum(best, jnp.linalg.norm(r))
                gained = best < 0.9 * mark
                mark, since = jnp.where(gained, best, mark), jnp.where(gained, 0, since + 1)
                return x, r, best, count + 1, mark, since

            def unfinished(state: Any) -> jax.Array:
                _, r, _, count, _, since = state
                more = (count < max_steps) & (since < PATIENCE)
                return (jnp.linalg.norm(r) > limit) & more

            r = residual_fn(start)
            zero, norm = jnp.zeros((), jnp.int32), jnp.linalg.norm(r)
            state = jax.lax.while_loop(unfinished, body, (start, r, norm, zero, norm, zero))
            # custom_root cannot differentiate past an integer: steps leave as a float.
            return state[0], state[3].astype(r.dtype)

        def tangent(linear: Any, b: jax.Array) -> jax.Array:
            return jnp.linalg.solve(jax.jacfwd(linear)(b), b)

        x, count = jax.lax.custom_root(
            lambda x: forward(x) - target, target * step, search, tangent, has_aux=True
        )
        return x, count.astype(jnp.int32)

    x, steps = jax.vmap(one)(y.reshape(-1, y.shape[-1]))
    return x.reshape(y.shape), steps.reshape(y.shape[:-1])
