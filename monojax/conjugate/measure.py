r"""What is known of a solution: its residual on the full problem, and what rounding may hide.

The residual :math:`\|x - \nabla G(y)\|` is computed anew at the point that is returned. Rounding of
the gradient is estimated from its sensitivity: every number that goes in, of ``params``, y and x,
is moved by one unit in the last place up or down at random, a few times, to first order. The root
mean square of what comes out, times ``MARGIN``, covers what sums of many terms add to that. It is
an estimate, not a proof; `tests/attack.py` compares it with float64 and longer types.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from monojax.conjugate.linear import varying_like
from monojax.conjugate.potentials import Potential

DRAWS = 16
"""Random perturbations; in one dimension fewer would sometimes all be small."""

MARGIN = 8.0
"""Ratio of the rounding stated to the root mean square of the perturbations."""


class Measured(NamedTuple):
    """The residual of one example, `[]` each."""

    residual: jax.Array
    """Norm of x - grad G(y), plus ``rounding``."""
    rounding: jax.Array
    """What rounding of the gradient may hide."""


def measure(potential: Potential, params: Any, x: jax.Array, y: jax.Array) -> Measured:
    """The residual at ``y`` with its rounding; costs nothing under `jax.jit` where not used.

    Args:
      potential: G.
      params: its parameters, in the dtype of ``x``.
      x: shape `[d]`.
      y: the solution, shape `[d]`.

    Returns:
      Measured; without derivative.
    """
    params, x, y = jax.lax.stop_gradient((params, x, y))
    norm = jnp.linalg.norm(x - potential.expand(params, y)[1])
    own = gradient_rounding(potential, params, y) + jnp.finfo(x.dtype).eps * jnp.linalg.norm(x)
    return Measured(norm + own, own)


def gradient_rounding(potential: Potential, params: Any, y: jax.Array) -> jax.Array:
    """What rounding may have done to the gradient of G at ``y``, `[]`."""
    leaves, tree = jax.tree.flatten((params, y))
    moving = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]

    def gradient(*values):
        filled = list(leaves)
        for i, value in zip(moving, values, strict=True):
            filled[i] = value
        return jax.grad(potential, 1)(*jax.tree.unflatten(tree, filled))

    values = [leaves[i] for i in moving]

    def one(key):
        keys = jax.random.split(key, len(values))
        signs = [
            v * jax.random.rademacher(k, v.shape, jnp.int8).astype(v.dtype)
            for v, k in zip(values, keys, strict=True)
        ]
        moved = jax.jvp(gradient, values, signs)[1]
        return moved @ moved

    squares = jax.lax.map(one, jax.random.split(jax.random.key(0), DRAWS))
    return MARGIN * jnp.finfo(y.dtype).eps * jnp.sqrt(squares.mean())


def largest_curvature(potential: Potential, params: Any, y: jax.Array, steps: int = 4) -> jax.Array:
    """The largest eigenvalue `[]` of G's Hessian at ``y``, from below, by power iterations."""
    params, y = jax.lax.stop_gradient((params, y))
    product = potential.hvp_at(params, potential.expand(params, y)[2])
    start = jax.random.normal(jax.random.key(1), y.shape, y.dtype)

    def again(v, _):
        norm = jnp.linalg.norm(v)
        return product(v / jnp.where(norm > 0, norm, 1)), None

    last, _ = jax.lax.scan(again, varying_like(start, y, product(start)), length=steps)
    return jnp.linalg.norm(last)
