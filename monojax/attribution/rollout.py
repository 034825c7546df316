r"""Attention rollout: how attention passes the input's tokens on, through all layers.

With :math:`A_l` the attention of layer l, averaged over heads, and the residual connection as an
identity, :math:`\hat A_l = (1 - r) A_l + r I` with rows normalised, the rollout is
:math:`\hat A_L \cdots \hat A_1`: row q holds the shares of the tokens in what token q ends as. It
knows no class and no values, only weights.

The weights are found in any function, whatever library it is written with: exponentials that
multiply another value by a matrix product are attention. Whether they are divided by their sum
before the product or behind it, they are recorded as shares of the keys: rows sum to 1.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import is_concrete, one_of
from monojax.base.labels import own_column
from monojax.splitting.modes import Mode
from monojax.splitting.pair import Frozen, Pair, SplitError
from monojax.splitting.transform import trace
from monojax.splitting.walk import Walk

HEADS = ("mean", "max", "min")


class _Attention(Mode):
    """Keeps each matrix of attention weights, by the number of the contraction that uses it."""

    def __init__(self):
        super().__init__(("softmax",))

    def mix(self, walk: Any, eqn: Any, weights: Frozen, left: bool) -> None:
        """Records exponential weights as shares of the keys, `[heads, queries, keys]`."""
        if weights.kind != "softmax":
            return
        side = 1 if left else 0  # of the weights among the operands
        contracting, batch = eqn.params["dimension_numbers"][:2]
        keys, heads = contracting[side], batch[side]
        queries = [i for i in range(weights.value.ndim) if i not in (*keys, *heads)]
        array = weights.value.transpose(*heads, *queries, *keys)
        size = lambda axes: math.prod(weights.value.shape[i] for i in axes)
        walk.records[walk.sites[-1].index] = _shares(array.reshape(-1, size(queries), size(keys)))


def _shares(weights: jax.Array) -> jax.Array:
    """Rows divided by their sums, which changes nothing where that was done already."""
    total = weights.sum(axis=-1, keepdims=True, dtype=jnp.promote_types(weights.dtype, jnp.float32))
    return (weights / jnp.where(total == 0, 1, total)).astype(weights.dtype)


def attention_weights(
    fn: Callable[..., Any], x: Any, *, args: tuple[Any, ...] = ()
) -> list[jax.Array]:
    """The attention weights that ``fn`` computes at ``x``, layer by layer.

    Args:
      fn: maps ONE example (and args) to anything.
      x: one example, a floating array or pytree (embeddings of tokens, an image).
      args: further arguments of fn.

    Returns:
      One array `[heads, queries, keys]` per layer, in the order of computation; rows sum to 1,
      also where fn divides behind the product (a row whose weights are all 0 stays 0). Layers in a
      scan come one by one.

    Raises:
      ValueError: on NaN in x; SplitError on a loop whose length is not known.
      TypeError: if x is not floating point.
    """
    traced = trace(fn, x, args)
    walk = Walk(_Attention())
    traced.run(walk, [Pair(leaf) for leaf in traced.leaves])
    layers: list[jax.Array] = []
    for index, array in sorted(walk.records.items()):
        steps = walk.sites[index].steps
        layers += [array] if not steps else list(array.reshape(-1, *array.shape[len(steps) :]))
    return layers


def attention_rollout(
    fn: Callable[..., Any],
    x: Any,
    target: Any = None,
    *,
    args: tuple[Any, ...] = (),
    query: int | str | None = None,
    residual: float = 0.5,
    heads: str = "mean",
) -> jax.Array:
    """Attention rollout, from the weights of all layers in one forward pass.

    Args:
      fn: maps ONE example (and args) to anything.
      x: one example: embeddings of tokens `[t, d]`, an image.
      target: taken for the sake of one signature; rollout is the same for all classes.
      args: further arguments of fn.
      query: the row to return: a token's number (0 for a class token), "mean" for the mean over all
        tokens (mean pooling; where some are masked take the matrix), None for the matrix.
      residual: share r of the identity, in [0, 1].
      heads: "mean" as published, "max" or "min" over heads.

    Returns:
      `[t]`, or `[t, t]` for query None; rows of the matrix sum to 1. NaN for a traced query that is
      no token.

    Raises:
      ValueError: if fn has no attention over one set of tokens, or on a wrong option.

    Reference:
      Abnar, Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, arXiv 2005.00928.
    """
    one_of(heads, HEADS, "heads")
    if is_concrete(residual) and not 0 <= np.asarray(residual) <= 1:
        raise ValueError(f"residual must lie in [0, 1], got {residual}.")
    layers = attention_weights(fn, x, args=args)
    shapes = [layer.shape[1:] for layer in layers]
    if not layers or any(shape != (shapes[0][0],) * 2 for shape in shapes):
        raise SplitError(
            "attention rollout needs attention of tokens to themselves in every layer, the same "
            f"number in all; found weights [queries, keys] {shapes or 'nowhere'}. Attention is "
            "found where exponentials, divided, multiply a value by a matrix product."
        )
    num = shapes[0][0]
    query = _checked(query, num)
    rollout = jnp.eye(num, dtype=layers[0].dtype)
    for layer in layers:
        mixed = (1 - residual) * getattr(layer, heads)(axis=0) + residual * jnp.eye(num)
        rollout = (mixed / mixed.sum(axis=1, keepdims=True)) @ rollout
    if query is None:
        return rollout
    if isinstance(query, str):
        return rollout.mean(axis=0)
    # A traced one that is no token cannot be refused, and must not be taken for another.
    return own_column(rollout.T, jnp.broadcast_to(jnp.asarray(query), (num,)))


def _checked(query: Any, num: int) -> Any:
    """``query`` as None, "mean" or a token's number."""
    if query is None or (isinstance(query, str) and query == "mean"):
        return query
    number = not isinstance(query, bool | str) and np.shape(query) == () and _integral(query)
    if not number or (is_concrete(query) and not 0 <= np.asarray(query) < num):
        raise ValueError(f"query must be in 0 to {num - 1}, 'mean' or None, got {query!r}.")
    return query


def _integral(value: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(value), jnp.integer)
