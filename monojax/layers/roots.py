"""Inverting a strongly monotone Lipschitz map, with the record of every row."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

MAX_STEPS = 2000


class Root(NamedTuple):
    """What a solve gave for every row."""

    x: jax.Array
    """`[..., d]`: the solution."""
    residual: jax.Array
    """`[...]`: ||f(x) - y||."""
    steps: jax.Array
    """`[...]`: evaluations used."""
    converged: jax.Array
    """`[...]`: whether the residual met the tolerance."""


def solve_monotone(
    forward: Callable[[jax.Array], jax.Array],
    y: jax.Array,
    lower: Any,
    upper: Any,
    tolerance: float | None = None,
    max_steps: int = MAX_STEPS,
) -> Root:
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
      tolerance: on ||f(x) - y|| relative to 1 + ||y||; 1e-5 in float32, 1e-10 in float64.
      max_steps: steps per row.

    Returns:
      Root; x is differentiable (implicit rule, d x d solve per row) in y and in what ``forward``
      closes over.
    """
    if tolerance is None:
        tolerance = 1e-10 if y.dtype == jnp.float64 else 1e-5
    step = 2.0 / (jnp.asarray(lower, y.dtype) + jnp.asarray(upper, y.dtype))

    def one(target: jax.Array) -> Root:
        limit = tolerance * (1 + jnp.linalg.norm(target))

        def search(residual_fn: Any, start: jax.Array) -> tuple[jax.Array, Any]:
            def body(state: Any) -> Any:
                x, r, best, count = state
                newton = x - jnp.linalg.solve(jax.jacfwd(residual_fn)(x), r)
                r_newton = residual_fn(newton)
                good = jnp.linalg.norm(r_newton) <= best / 2  # False for NaN
                x = jnp.where(good, newton, x - step * r)
                r = jnp.where(good, r_newton, residual_fn(x))
                return x, r, jnp.minimum(best, jnp.linalg.norm(r)), count + 1

            def unfinished(state: Any) -> jax.Array:
                return (jnp.linalg.norm(state[1]) > limit) & (state[3] < max_steps)

            r = residual_fn(start)
            state = (start, r, jnp.linalg.norm(r), jnp.zeros((), jnp.int32))
            x, r, _, count = jax.lax.while_loop(unfinished, body, state)
            # custom_root cannot differentiate past an integer: steps leave as a float.
            return x, (jnp.linalg.norm(r), count.astype(r.dtype))

        def tangent(linear: Any, b: jax.Array) -> jax.Array:
            return jnp.linalg.solve(jax.jacfwd(linear)(b), b)

        x, (residual, count) = jax.lax.custom_root(
            lambda x: forward(x) - target, target * step, search, tangent, has_aux=True
        )
        return Root(x, residual, count.astype(jnp.int32), residual <= limit)

    flat = jax.vmap(one)(y.reshape(-1, y.shape[-1]))
    shape = y.shape[:-1]
    return Root(flat.x.reshape(y.shape), *(part.reshape(shape) for part in flat[1:]))
