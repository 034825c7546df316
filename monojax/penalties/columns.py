"""A function of some of its inputs, for gradients that need not pay for the others.

Only the monotone inputs' slopes are needed, but the gradient with respect to a part of a vector
costs as much as the whole: XLA does not cut a matrix product down to the columns that are used.
Here the first layer is cut. Where ``fn`` multiplies its input by a matrix, the perturbation ``e``
of the chosen inputs is multiplied by the matrix's chosen rows, ``x @ W + e @ W[columns]``; at e = 0
the value is the same, and the gradient in ``e`` never touches the other rows. Any other use of
the input sees ``x.at[columns].add(e)``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base import compat
from monojax.base.jaxprs import Call, evaluate, structure_of


class _Perturbed(NamedTuple):
    """The input `[d]` and a perturbation `[m]` of its columns, not yet added."""

    x: jax.Array
    e: jax.Array
    columns: np.ndarray

    def added(self) -> jax.Array:
        """The plain array `[d]`."""
        return self.x.at[self.columns].add(self.e)


def perturbed(
    fn: Callable[[jax.Array], jax.Array], example: Any, columns: np.ndarray
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """``fn(x.at[columns].add(e))`` as a function of ``(x, e)``, with a cheap gradient in ``e``.

    Args:
      fn: map of ONE example `[d]`; traced once, here.
      example: an array or shape of one example `[d]`.
      columns: the inputs to perturb, distinct, int `[m]`.

    Returns:
      Function of ``x [d]`` and ``e [m]``. Exact for every ``e`` as well as its derivatives.
    """
    closed = jax.make_jaxpr(fn)(example)

    def call(x, e):
        (out,) = evaluate(closed, [_Perturbed(x, e, columns)], _apply)
        return _plain(out)

    return call


def _apply(eqn: Any, args: list[Any]) -> Any:
    """One equation; keeps the perturbation apart where that saves work."""
    name = eqn.primitive.name
    if any(isinstance(arg, _Perturbed) for arg in args):
        if name == "dot_general" and (out := _dot(eqn, args)) is not None:
            return out
        if name == "convert_element_type":
            (arg,) = args
            dtype = eqn.params["new_dtype"]
            return _Perturbed(arg.x.astype(dtype), arg.e.astype(dtype), arg.columns)
        called = structure_of(eqn)
        if isinstance(called, Call):  # others, with rules of their own, get the plain sum
            return evaluate(called.body, args, _apply)
    return compat.bind(eqn, *map(_plain, args))


def _dot(eqn: Any, args: list[Any]) -> jax.Array | None:
    """``(x + e) . W`` as ``x . W + e . W[columns]``; None if it is no such product."""
    sides = [isinstance(arg, _Perturbed) for arg in args]
    (contract, batch) = eqn.params["dimension_numbers"]
    one = sides.index(True)
    if all(sides) or tuple(contract[one]) != (0,) or any(batch):
        return None
    (axis,) = contract[1 - one]
    vector, matrix = args[one], args[1 - one]
    rows = _take(matrix, vector.columns, axis)
    multiply = lambda v, m: eqn.primitive.bind(*((v, m) if one == 0 else (m, v)), **eqn.params)
    return multiply(vector.x, matrix) + multiply(vector.e, rows)


def _take(matrix: jax.Array, columns: np.ndarray, axis: int) -> jax.Array:
    """Rows along an axis; a slice where the indices are consecutive, which needs no gather."""
    first, last = int(columns[0]), int(columns[-1])
    if np.array_equal(columns, np.arange(first, last + 1)):
        return jax.lax.slice_in_dim(matrix, first, last + 1, axis=axis)
    return jnp.take(matrix, columns, axis=axis)


def _plain(value: Any) -> Any:
    return value.added() if isinstance(value, _Perturbed) else value
