r"""The supervised contrastive loss, exact, on one device or many, in bounded memory.

For embeddings :math:`\hat z_i` of length one, :math:`s_{ij} = \hat z_i\cdot\hat z_j/\tau`, the
other examples :math:`A(i)` of the batch and those of its class, :math:`P(i)`,

.. math:: \ell_i = -\frac1{|P(i)|}\sum_{p\in P(i)}\Bigl(s_{ip} - \log\sum_{a\in A(i)}e^{s_{ia}}
   \Bigr),\qquad \ell_i = 0 \text{ if } P(i) \text{ is empty}.

The gradient is written by hand. With :math:`G_{ij} = \partial\ell_i/\partial s_{ij}` and s
symmetric, the gradient of the sum is :math:`(G + G^\top)\hat z/\tau`: one large product instead of
autodiff's two, and it needs no more of the forward pass than one number per anchor.

Reference:
  Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020 (the loss "out"); MonoCon (Gokhale)
  uses it with one view per example.
"""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import check_number, check_points, known, one_of
from monojax.base.renamed import renamed

WHOLE = 4096
"""Anchors up to which the matrix of similarities is formed whole unless ``batch_size`` is given."""
BLOCK = 1024
"""Anchors at a time beyond."""
_HIGHEST = jax.lax.Precision.HIGHEST


@renamed(reduction="reduce", block="batch_size")
def supcon_loss(
    z: jax.Array,
    labels: Any,
    temperature: float | jax.Array = 0.1,
    *,
    reduce: Literal["mean", "sum"] = "mean",
    axis_name: str | None = None,
    batch_size: int | None = None,
) -> jax.Array:
    """Supervised contrastive loss of a batch; z is normalised inside.

    Anchors that are alone in their class count as 0 and stay in the mean. Reverse mode only
    (a gradient written by hand); differentiable in ``z`` and ``temperature``.

    Args:
      z: embeddings, float `[b, e]`, of any length; computed in float32 at least.
      labels: integers `[b]` of any size. Equal labels are positives of each other; for pairs give
        both members the pair's number. As arguments of your own `jit` or `pmap`, JAX cuts 64-bit
        labels to 32 bits before they come here: renumber them first (``np.unique``).
      temperature: tau > 0.
      reduce: "mean" over all anchors, or "sum".
      axis_name: inside `pmap`, the axis over which the batch is split: anchors are compared with
        the examples of all devices, and the result is that of the whole batch, equal on all of
        them. Gradients averaged over the axis (as `monojax.training.pmap_step` does) are those
        of that loss.
      batch_size: anchors at a time. None forms the matrix whole up to 4,096 anchors and takes
        1,024 at a time beyond; memory is then of the order of ``batch_size * (batch_size + e)``
        on one device and ``batch_size * b`` on several, beside z itself.

    Returns:
      The loss `[]`, float32 or float64.

    Raises:
      ValueError: on other shapes, labels of another length or type, NaN in a concrete z, a
        temperature that is not positive, another reduction, or a batch_size below 1.
      TypeError: if z is not floating point.

    Example:
      >>> z = jnp.eye(4)  # four orthogonal embeddings, two classes: every pair looks the same
      >>> round(float(supcon_loss(z, np.array([0, 0, 1, 1]), 0.1)), 4)
      1.0986
    """
    z, labels = _check(z, labels, temperature, reduce, batch_size)
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    root = jax.lax.rsqrt(jnp.asarray(temperature, z.dtype))
    scaled = _normalised(z) * root
    if batch_size is None and len(z) > WHOLE:
        batch_size = BLOCK
    block = None if batch_size is None else min(batch_size, len(z))
    total = _summed(scaled, labels, axis_name, block)
    if reduce == "sum":
        return total
    devices = 1 if axis_name is None else jax.lax.psum(1, axis_name)
    return total / (len(z) * devices)


def _normalised(z: jax.Array) -> jax.Array:
    """Rows of length one, whatever their length was; a row of zeros stays.

    The largest entry is divided out first, so that no square over- or underflows. The result does
    not depend on that factor, nor does its derivative: it may count as a constant.
    """
    top = jax.lax.stop_gradient(jnp.abs(z).max(axis=1, keepdims=True))
    some = top > 0
    # By a root, twice: the reciprocal of 3e38, which XLA divides by, is flushed to 0.
    root = jax.lax.rsqrt(jnp.where(some, top, 1))
    unit = z * root * root
    squares = jnp.square(unit).sum(axis=1, keepdims=True)
    return unit / jnp.sqrt(jnp.where(some, squares, 1))


class _Side(NamedTuple):
    """Rows or columns of a tile of the matrix of similarities."""

    z: jax.Array
    """`[m, e]`: of length 1 / sqrt(temperature)."""
    label: jax.Array
    place: jax.Array
    """In the whole batch; -1 for rows that only fill up a block."""


class _Stats(NamedTuple):
    """What an anchor's loss is made of, `[m]` each."""

    top: jax.Array
    """Largest similarity to another example; -inf if there is none."""
    mass: jax.Array
    """Sum of exp(s - top) over the other examples."""
    pulled: jax.Array
    """Sum of the similarities to its positives."""
    positives: jax.Array
    """Their number."""

    def merge(self, other: "_Stats") -> "_Stats":
        """Over more examples."""
        top = jnp.maximum(self.top, other.top)
        mass = self.mass * _exp(self.top, top) + other.mass * _exp(other.top, top)
        return _Stats(top, mass, self.pulled + other.pulled, self.positives + other.positives)


class _Anchors(NamedTuple):
    """What the gradient needs to know of every anchor, `[m]` each."""

    lse: jax.Array
    """Log of the sum over A(i), and infinity for anchors without positives: exp(s - lse) is 0."""
    pull: jax.Array
    """1 / |P(i)|, or 0."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _summed(scaled: jax.Array, labels: jax.Array, axis_name: str | None, block: int | None):
    """Sum of all anchors' losses `[]`; ``scaled`` `[b, e]` holds z / sqrt(temperature)."""
    return _loss_and_gradient(scaled, labels, axis_name, block, False)[0]


def _summed_fwd(scaled, labels, axis_name, block):
    return _loss_and_gradient(scaled, labels, axis_name, block, True)


def _summed_bwd(axis_name, block, gradient, cotangent):
    if axis_name is not None:
        # As JAX has it: the derivative of the sum over devices of what each returns.
        cotangent = jax.lax.psum(cotangent, axis_name)
    return cotangent * gradient, None


_summed.defvjp(_summed_fwd, _summed_bwd)


def _loss_and_gradient(scaled, labels, axis_name, block, with_gradient):
    """The sum over the whole batch, and its gradient for this device's part (or None)."""
    if axis_name is None:
        side = _Side(scaled, labels, jnp.arange(len(scaled)))
        if block is None or block == len(scaled):
            return _one_tile(side, with_gradient)
        return _triangle(side, block, with_gradient)
    return _rows(scaled, labels, axis_name, block, with_gradient)


def _one_tile(side: _Side, with_gradient: bool):
    """The whole matrix at once."""
    s, same = _similarities(side, side)
    losses, anchors = _finish(_stats(s, same))
    if not with_gradient:
        return losses.sum(), None
    h = _pull_and_push(s, same, anchors, anchors)
    return losses.sum(), jnp.matmul(h, side.z, precision=_HIGHEST)


def _similarities(rows: _Side, columns: _Side) -> tuple[jax.Array, jax.Array]:
    """``(s, same)``, `[m, n]` each: -inf and False for an example with itself and for filling."""
    s = jnp.matmul(rows.z, columns.z.T, precision=_HIGHEST)
    other = (rows.place[:, None] != columns.place[None, :]) & (columns.place >= 0)[None, :]
    other &= rows.place[:, None] >= 0
    same = (rows.label[:, None] == columns.label[None, :]) & other
    return jnp.where(other, s, -jnp.inf), same


def _stats(s: jax.Array, same: jax.Array, axis: int = 1) -> _Stats:
    top = s.max(axis=axis)
    mass = _exp(s, jnp.expand_dims(top, axis)).sum(axis=axis)
    pulled = jnp.where(same, s, 0).sum(axis=axis)
    return _Stats(top, mass, pulled, same.sum(axis=axis).astype(s.dtype))


def _exp(s: jax.Array, top: jax.Array) -> jax.Array:
    """exp(s - top), and 0 where both are -inf."""
    return jnp.exp(s - jnp.where(jnp.isfinite(top), top, 0))


def _finish(stats: _Stats) -> tuple[jax.Array, _Anchors]:
    """Loss of every anchor `[m]`, and what its gradient needs."""
    alone = stats.positives == 0
    pull = jnp.where(alone, 0, 1 / jnp.maximum(stats.positives, 1))
    lse = jnp.where(alone, 0, stats.top) + jnp.log(jnp.where(alone, 1, stats.mass))
    losses = jnp.where(alone, 0, lse - stats.pulled * pull)
    return losses, _Anchors(jnp.where(alone, jnp.inf, lse), pull)


def _pull_and_push(s, same, rows: _Anchors, columns: _Anchors) -> jax.Array:
    """G + G^T on a tile `[m, n]`, G = softmax - positives / |P|; both use s, which is symmetric."""
    push = jnp.exp(s - rows.lse[:, None]) + jnp.exp(s - columns.lse[None, :])
    return push - jnp.where(same, rows.pull[:, None] + columns.pull[None, :], 0)


def _triangle(side: _Side, block: int, with_gradient: bool):
    """Tiles on and above the diagonal, each of which serves its rows and its columns."""
    num = len(side.z)
    count = -(-num // block)
    side = _blocks(side, count, block)
    pairs = jnp.asarray([(i, j) for i in range(count) for j in range(i, count)])
    take = lambda tree, i: jax.tree.map(lambda leaf: leaf[i], tree)
    put = lambda tree, i, part: jax.tree.map(lambda leaf, new: leaf.at[i].set(new), tree, part)

    def measure(stats, pair):
        i, j = pair
        s, same = _similarities(take(side, i), take(side, j))
        stats = put(stats, i, take(stats, i).merge(_stats(s, same)))
        columns = take(stats, j).merge(_stats(s, same, axis=0))
        # On the diagonal the rows have counted everything.
        keep = lambda new, old: jnp.where(i == j, old, new)
        return put(stats, j, jax.tree.map(keep, columns, take(stats, j))), None

    zero = jnp.zeros((count, block), side.z.dtype)
    start = _Stats(zero - jnp.inf, zero, zero, zero)
    stats, _ = jax.lax.scan(measure, start, pairs)
    losses, anchors = _finish(stats)
    if not with_gradient:
        return losses.sum(), None

    def descend(gradient, pair):
        i, j = pair
        rows, columns = take(side, i), take(side, j)
        h = _pull_and_push(*_similarities(rows, columns), take(anchors, i), take(anchors, j))
        gradient = gradient.at[i].add(jnp.matmul(h, columns.z, precision=_HIGHEST))
        below = jnp.where(i == j, 0, jnp.matmul(h.T, rows.z, precision=_HIGHEST))
        return gradient.at[j].add(below), None

    gradient, _ = jax.lax.scan(descend, jnp.zeros_like(side.z), pairs)
    return losses.sum(), gradient.reshape(count * block, -1)[:num]


def _rows(scaled, labels, axis_name, block, with_gradient):
    """This device's anchors against the examples of all devices; anchors in blocks."""
    device, num = jax.lax.axis_index(axis_name), len(scaled)
    gather = lambda leaf: jax.lax.all_gather(leaf, axis_name, tiled=True)
    z = gather(scaled)
    columns = _Side(z, gather(labels), jnp.arange(len(z)))
    block = num if block is None else block
    count = -(-num // block)
    rows = _blocks(_Side(scaled, labels, device * num + jnp.arange(num)), count, block)
    losses, anchors = jax.lax.map(lambda rows: _finish(_stats(*_similarities(rows, columns))), rows)
    total = jax.lax.psum(losses.sum(), axis_name)
    if not with_gradient:
        return total, None
    everyone = jax.tree.map(lambda leaf: gather(leaf.reshape(-1)[:num]), anchors)

    def descend(part):
        rows, mine = part
        h = _pull_and_push(*_similarities(rows, columns), mine, everyone)
        return jnp.matmul(h, columns.z, precision=_HIGHEST)

    gradient = jax.lax.map(descend, (rows, anchors))
    return total, gradient.reshape(count * block, -1)[:num]


def _blocks(side: _Side, count: int, block: int) -> _Side:
    """Leaves `[count, block, ...]`; rows that fill up have index -1."""
    extra = count * block - len(side.z)

    def split(leaf, fill):
        widths = ((0, extra), *((0, 0) for _ in leaf.shape[1:]))
        leaf = jnp.pad(leaf, widths, constant_values=fill)
        return leaf.reshape(count, block, *leaf.shape[1:])

    return _Side(split(side.z, 0), split(side.label, 0), split(side.place, -1))


def _check(z: Any, labels: Any, temperature: Any, reduce: str, batch_size: int | None):
    z = check_points(z, "z")
    labels = labels if isinstance(labels, jax.Array) else np.asarray(labels)
    if labels.shape != (len(z),) or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels must be one integer per embedding, shape ({len(z)},), "
            f"got {labels.dtype} of shape {labels.shape}."
        )
    check_number(temperature, "temperature", above=0)
    one_of(reduce, ("mean", "sum"), "reduce")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1 anchor, got {batch_size}.")
    values = known(labels)
    if values is not None and not isinstance(labels, jax.Array):
        # Only which are equal counts; jax would cut 64 bits to 32 and make other ones equal.
        _, values = np.unique(values, return_inverse=True)
        labels = values.reshape(-1).astype(np.int32)
    return z, jnp.asarray(labels)
