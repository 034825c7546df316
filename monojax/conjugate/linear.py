"""Symmetric positive definite systems: by Cholesky, by conjugate gradients, by their factors.

A Hessian :math:`B^\\top B + cI` loses its c to rounding once :math:`\\|B\\|^2/c` passes about
1e3 in float32, and with it the largest entries of its inverse. The factors keep it: the stacked
matrix :math:`(B; \\sqrt c\\,I)` has only the square root of that condition number.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Fn = Callable[[jax.Array], jax.Array]

LOST = 5e-4
"""Share of the inverse's largest eigenvalue that rounding may take before a safer form is used."""


def varying_like(tree: Any, *refs: jax.Array) -> Any:
    """The same values, on every device that any of ``refs`` differs on.

    Inside `jax.shard_map` a loop's state must not start as one value for all devices and go on as
    one for each. Outside it changes nothing and costs nothing.
    """
    pred = jnp.zeros((), bool)
    for ref in refs:
        pred = pred | jnp.zeros_like(ref, shape=(), dtype=bool)
    # Integers of params have tangents of a type without values.
    one = lambda leaf: leaf if leaf.dtype == jax.dtypes.float0 else jnp.where(pred, leaf, leaf)
    return jax.tree.map(one, tree)


def where_needed(
    need: jax.Array, value: jax.Array, better: Callable[[Any], jax.Array], inputs: Any
) -> jax.Array:
    """``better(inputs)`` where ``need``, else ``value``; a batch without any need pays nothing.

    A loop of at most one turn: `jax.lax.cond` under `jax.vmap` computes both sides always. What
    does not depend on the loop's state XLA takes out of the loop and computes always, too:
    whatever is costly must come from ``inputs``, which are 0 where there is no need.

    Args:
      need: `[]` bool.
      value: any shape.
      better: map of ``inputs`` to the shape of ``value``; closes over what is cheap alone.
      inputs: pytree of arrays.

    Returns:
      As ``value``.
    """

    def once(state):
        _, wanted = state
        given = jax.tree.map(lambda a: jnp.where(wanted, a, jnp.zeros_like(a)), inputs)
        return better(given), jnp.zeros_like(wanted)

    start = varying_like((value, need), value, need)
    return jax.lax.while_loop(lambda state: state[1], once, start)[0]


def dense_solve(matrix: jax.Array, b: jax.Array, active: jax.Array | bool = True) -> jax.Array:
    """Solves for a symmetric positive definite matrix, adding to its diagonal until it is one.

    Args:
      matrix: symmetric, shape `[d, d]`.
      b: right-hand side, shape `[d]`.
      active: `[]` bool; False tries no shift.

    Returns:
      `[d]`; NaN where even eight shifts gave no Cholesky factor.
    """
    eye = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    scale = jnp.abs(jnp.diagonal(matrix)).max() + jnp.finfo(matrix.dtype).tiny

    def factor(shift):
        return jnp.linalg.cholesky(matrix + shift * eye, symmetrize_input=False)

    def failed(state):
        chol, _, tries = state
        return ~jnp.isfinite(jnp.diagonal(chol)).all() & (tries < 8) & active

    def retry(state):
        _, shift, tries = state
        return factor(shift), 10 * shift, tries + 1

    first = 10 * jnp.finfo(matrix.dtype).eps * scale
    start = factor(jnp.zeros_like(scale)), first, jnp.zeros_like(scale, dtype=int)
    chol, _, _ = jax.lax.while_loop(failed, retry, start)
    return jax.scipy.linalg.cho_solve((chol, True), b)


def floored_solve(matrix: jax.Array, b: jax.Array, floor: Any) -> jax.Array:
    """Solves for a symmetric matrix whose eigenvalues are known to be at least ``floor``.

    Where rounding of the matrix can hide ``floor``, by eigenvalues, those below it raised to it:
    the inverse then has no eigenvalue above 1 / ``floor``, whatever was lost.

    Args:
      matrix: symmetric, shape `[d, d]`.
      b: shape `[d]`.
      floor: `[]`, > 0.

    Returns:
      `[d]`.
    """

    def by_eigenvalues(matrix):
        values, vectors = jnp.linalg.eigh(matrix)
        return vectors @ ((b @ vectors) / jnp.maximum(values, floor))

    lost = jnp.finfo(matrix.dtype).eps * jnp.trace(matrix) > LOST * floor
    return where_needed(lost, dense_solve(matrix, b), by_eigenvalues, matrix)


def factored_solve(
    gram: jax.Array, factor: Callable[[Any], jax.Array], terms: Any, floor: jax.Array, b: jax.Array
) -> jax.Array:
    """Solves ``(B'B + floor I) u = b``, by QR of the factors where that matters.

    Args:
      gram: B'B, shape `[d, d]`.
      factor: map of ``terms`` to B, shape `[n, d]`; used where ``gram`` is too rough.
      terms: pytree of arrays.
      floor: `[]`, > 0.
      b: shape `[d]`.

    Returns:
      `[d]`.
    """
    eye = jnp.eye(gram.shape[0], dtype=gram.dtype)

    def by_factors(terms):
        r = jnp.linalg.qr(jnp.concatenate([factor(terms), jnp.sqrt(floor) * eye]), mode="r")
        return jax.scipy.linalg.cho_solve((r, False), b)

    lost = jnp.finfo(gram.dtype).eps * jnp.trace(gram) > LOST * floor
    return where_needed(lost, dense_solve(gram + floor * eye, b), by_factors, terms)


def factored_gradients(
    forward: Fn, backward: Fn, floor: jax.Array, b: jax.Array, tolerance: float, max_steps: int
) -> jax.Array:
    """Solves ``(B'B + floor I) u = b`` by conjugate gradients on the factors (CGLS).

    Args:
      forward: map of `[d]` to `[n]`, B.
      backward: map of `[n]` to `[d]`, B'.
      floor: `[]`, > 0.
      b: shape `[d]`.
      tolerance: of the residual, relative to the norm of ``b``; more where rounding needs it.
      max_steps: most products with B and B' each.

    Returns:
      `[d]`.
    """
    root = jnp.sqrt(floor)
    bound = jnp.square(tolerance) * (b @ b)
    resolved = jnp.square(4 * jnp.finfo(b.dtype).eps)

    def unfinished(state):
        _, upper, lower, _, gamma, size, step = state
        limit = jnp.maximum(bound, resolved * size * (upper @ upper + lower @ lower))
        return (gamma > limit) & (step < max_steps)

    def body(state):
        u, upper, lower, p, gamma, size, step = state
        q = forward(p)
        curvature = q @ q + floor * (p @ p)
        rate = gamma / curvature
        upper, lower = upper - rate * q, lower - rate * root * p
        s = backward(upper) + root * lower
        new = s @ s
        size = jnp.maximum(size, curvature / (p @ p))
        return u + rate * p, upper, lower, s + (new / gamma) * p, new, size, step + 1

    zero = jnp.zeros_like(b @ b)
    empty = jnp.zeros_like(forward(b))
    start = jnp.zeros_like(b), empty, b / root, b, b @ b, zero, jnp.zeros_like(zero, dtype=int)
    return jax.lax.while_loop(unfinished, body, varying_like(start, b, empty, floor))[0]


def conjugate_gradients(
    matvec: Fn,
    b: jax.Array,
    tolerance: jax.Array | float,
    max_steps: int,
    active: jax.Array | bool = True,
) -> jax.Array:
    """Conjugate gradients from 0, stopped at ``tolerance * ||b||`` or at non-positive curvature.

    Args:
      matvec: symmetric linear map of `[d]`.
      b: shape `[d]`.
      tolerance: relative to the norm of ``b``.
      max_steps: most calls of ``matvec``.
      active: `[]` bool; False returns 0 at once.

    Returns:
      `[d]`: the solution, or the last iterate (a descent direction); ``b`` itself if the very
      first direction has no positive curvature.
    """
    return counted_gradients(matvec, b, tolerance, max_steps, active)[0]


def counted_gradients(
    matvec: Fn,
    b: jax.Array,
    tolerance: jax.Array | float,
    max_steps: int,
    active: jax.Array | bool = True,
) -> tuple[jax.Array, jax.Array]:
    """:func:`conjugate_gradients` `[d]` and how many products it took, `[]` int."""
    bound = jnp.square(tolerance) * (b @ b)

    def unfinished(state):
        _, _, _, rr, step, positive = state
        return (rr > bound) & (step < max_steps) & positive & active

    def body(state):
        x, r, p, rr, step, _ = state
        hp = matvec(p)
        curvature = p @ hp
        positive = curvature > 0
        rate = jnp.where(positive, rr / jnp.where(positive, curvature, 1), 0)
        x = jnp.where(positive, x + rate * p, jnp.where(step == 0, b, x))
        r = r - rate * hp
        new = r @ r
        return x, r, r + (new / jnp.where(rr > 0, rr, 1)) * p, new, step + 1, positive

    count = jnp.zeros_like(b, shape=(), dtype=int)
    start = jnp.zeros_like(b), b, b, b @ b, count, jnp.ones_like(count, dtype=bool)
    end = jax.lax.while_loop(unfinished, body, varying_like(start, b, matvec(b)))
    return end[0], end[4]
