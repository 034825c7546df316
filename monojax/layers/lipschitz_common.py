"""What the Lipschitz layers share: activations with known slopes, parameters, dtypes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

Activation = Callable[[jax.Array], jax.Array]

SLOPE_RESTRICTED: dict[str, Activation] = {
    "relu": nn.relu,
    "leaky_relu": nn.leaky_relu,
    "elu": nn.elu,
    "softplus": nn.softplus,
    "tanh": jnp.tanh,
}
"""Elementwise, every slope in [0, 1]: what the proofs of SLL, Sandwich and BiLipNet need."""


def group_sort(x: jax.Array, num_groups: int) -> jax.Array:
    """Sorts consecutive groups of the last axis, ascending; ``num_groups=n // 2`` sorts pairs.

    A permutation at every point, so 1-Lipschitz in every p-norm and, unlike ReLU, norm
    preserving for gradients. Not elementwise: the proofs of SLL, Sandwich and BiLipNet do not
    cover it.

    Args:
      x: float, shape `[..., n]`.
      num_groups: how many groups; must divide n.

    Returns:
      `[..., n]`, same dtype.

    Raises:
      ValueError: if ``num_groups`` does not divide n.

    Reference:
      Anil, Lucas, Grosse, "Sorting out Lipschitz function approximation", ICML 2019.
    """
    width = x.shape[-1]
    if num_groups < 1 or width % num_groups:
        raise ValueError(
            f"group_sort needs a width that is a multiple of num_groups, got width {width} "
            f"and num_groups {num_groups}; use an even width for pairs."
        )
    size = width // num_groups
    grouped = x.reshape(*x.shape[:-1], num_groups, size)
    if size == 2:  # min and max: a general sort is several times slower
        a, b = grouped[..., 0], grouped[..., 1]
        grouped = jnp.stack([jnp.minimum(a, b), jnp.maximum(a, b)], axis=-1)
    else:
        grouped = jnp.sort(grouped, axis=-1)
    return grouped.reshape(x.shape)


def _sort_pairs(x: jax.Array) -> jax.Array:
    return group_sort(x, max(x.shape[-1] // 2, 1))


ONE_LIPSCHITZ: dict[str, Activation] = {**SLOPE_RESTRICTED, "groupsort": _sort_pairs}
"""1-Lipschitz in l2: enough between layers that are 1-Lipschitz themselves."""


def prepare(x: jax.Array, rank: int, dtype: Any, param_dtype: Any) -> tuple[jax.Array, Any]:
    """The input in the dtype of the output, and the dtype in which weights are built.

    Weights are built in at least float32 (factorisations do not exist below it, and the bound
    would be lost to rounding), in float64 when the input is.

    Args:
      x: input, shape `[..., d]` for rank 1, `[..., height, width, channels]` for rank 3.
      rank: axes of one example.
      dtype: the dtype asked for, or None.
      param_dtype: dtype of the parameters.

    Returns:
      ``(x, build_dtype)``.

    Raises:
      ValueError: if ``x`` has fewer than ``rank`` axes.
    """
    x = jnp.asarray(x)
    if x.ndim < rank:
        want = "[..., d]" if rank == 1 else "[..., height, width, channels]"
        raise ValueError(f"x must have shape {want}, got {x.shape}.")
    out = jnp.result_type(x, param_dtype) if dtype is None else jnp.dtype(dtype)
    return x.astype(out), jnp.promote_types(out, jnp.float32)


def weight(
    module: nn.Module, name: str, init: Callable[..., jax.Array], shape: tuple[int, ...], build: Any
) -> jax.Array:
    """A parameter of ``module`` in the dtype ``build``; another stored shape is a ValueError.

    Args:
      module: a compact module with the field ``param_dtype``, being called.
      name: the parameter's name.
      init: ``init(key, shape, dtype)``.
      shape: the shape that the input's width asks for.
      build: dtype to compute in.

    Returns:
      The parameter, shape ``shape``.

    Raises:
      ValueError: if the parameter was initialised for an input of another width.
    """
    if module.has_variable("params", name):
        found = jnp.shape(module.get_variable("params", name))
        if found != shape:
            raise ValueError(
                f"{type(module).__name__} was initialised with {name} of shape {found}, but this "
                f"input needs {shape}: x has another width than at init; initialise a new one."
            )
    param_dtype = module.param_dtype  # type: ignore[attr-defined]
    return module.param(name, init, shape, param_dtype).astype(build)


def along(vector: jax.Array, like: jax.Array) -> jax.Array:
    """``vector`` `[n]` in the dtype and over all leading axes of ``like`` `[..., n]`."""
    return jnp.broadcast_to(vector.astype(like.dtype), like.shape)


def magnitude(matrix: jax.Array, axis: Any = None) -> jax.Array:
    """The power of two below the largest size along ``axis``: dividing by it rounds nothing.

    Squares of what is divided stay in range whatever the matrix is. Constant in derivatives: use
    it where it cancels.

    Args:
      matrix: real or complex.
      axis: to reduce, kept with length 1; None is all.

    Returns:
      Powers of two; 1 where everything is 0 or not finite.
    """
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(matrix), axis=axis, keepdims=True))
    good = (largest >= jnp.finfo(largest.dtype).tiny) & jnp.isfinite(largest)
    exponent = jnp.frexp(jnp.where(good, largest, 1.0))[1]
    return jnp.ldexp(jnp.ones_like(largest), exponent - 1)


def length(matrix: jax.Array) -> jax.Array:
    """The Frobenius norm `[]`, in range whenever the entries are; slopes of 0 at 0."""
    size = magnitude(matrix)
    scaled = matrix / size
    tiny = jnp.finfo(scaled.dtype).tiny
    return jnp.sqrt(jnp.sum(scaled * scaled) + tiny) * size.reshape(())


def frobenius_init(kernel: jax.Array) -> Callable[..., jax.Array]:
    """Initialiser of a learned scale: the Frobenius norm of ``kernel`` as it is then.

    Args:
      kernel: the weights that the scale belongs to.

    Returns:
      ``init(key, (), dtype)``.
    """
    return lambda key, shape, dtype: length(kernel).astype(dtype).reshape(shape)


def rescaled(kernel: jax.Array, scale: jax.Array) -> jax.Array:
    """``scale * kernel / ||kernel||_F``, 0 with a finite gradient for a zero kernel.

    Args:
      kernel: any shape.
      scale: `[]`.

    Returns:
      The same shape.
    """
    kernel = kernel / magnitude(kernel)
    norm = jnp.sqrt(jnp.sum(kernel * kernel) + jnp.finfo(kernel.dtype).tiny)
    return kernel * (scale / norm)
