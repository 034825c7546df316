r"""The head of Deterministic Uncertainty Quantification (DUQ) as a linen module.

Class c has a map :math:`W_c` of the features to an embedding, and a centroid :math:`e_c` there, a
moving average of the embeddings of its examples. The certainty is the largest kernel: 1 at a
centroid, 0 far from all. In training, a step of the optimiser on ``"loss"`` is followed by
``"update"``, which moves the centroids:

.. math:: N_c \leftarrow \gamma N_c + (1-\gamma) n_c, \qquad
   m_c \leftarrow \gamma m_c + (1-\gamma) \sum_{i: y_i = c} W_c h(x_i), \qquad e_c = m_c / N_c .
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import (
    check_labels,
    check_number,
    check_positive,
    check_width,
    is_concrete,
    one_of,
)
from monojax.uncertainty.kernels import kernel_loss, log_kernels

COLLECTION = "centroids"
"""Name of the linen collection of moving averages."""

FORGOTTEN = 1e-3
"""Share of ``initial_count`` below which the count of an absent class falls no more: a class that
never comes would reach 0/0."""


class DUQ(nn.Module):
    """Class kernels on features `[..., p]`: a classifier that knows how far an input is.

    Variables: ``params`` (none with head "identity") and the collection ``"centroids"``: ``count``
    `[c]`, ``sum`` `[c, m]`, and ``examples`` `[c]`, how many examples of each class have moved its
    centroid. A class without examples keeps its centroid.

    Attributes:
      num_classes: c.
      embedding: m, the width of the embedding; None with head "identity".
      length_scale: sigma of the kernels, > 0.
      momentum: gamma of the moving averages, in [0, 1).
      head: "linear" learns a map W_c per class; "identity" takes the features themselves, so that
        a lower slope bound of the features holds for the embedding as well.
      initial_count: N_c at the start, > 0.
      centroid_scale: standard deviation of the first centroids' entries.
      kernel_scale: standard deviation of the first W_c's entries; None is 1/sqrt(p).

    Example:
      >>> head = DUQ(3, embedding=4)
      >>> h, y = jnp.ones((6, 5)), jnp.array([0, 1, 2, 0, 1, 2])
      >>> variables = head.init(jax.random.key(0), h)
      >>> loss = head.apply(variables, h, y, method="loss")
      >>> _, moved = head.apply(variables, h, y, method="update", mutable=["centroids"])
      >>> head.apply({**variables, **moved}, h, method="certainty").shape
      (6,)

    Reference:
      van Amersfoort et al., ICML 2020, arXiv 2003.02037.
    """

    num_classes: int
    embedding: int | None = None
    length_scale: float = 0.1
    momentum: float = 0.99
    head: str = "linear"
    initial_count: float = 20.0
    centroid_scale: float = 1.0
    kernel_scale: float | None = None

    @nn.nowrap
    def _check(self) -> None:
        check_width(self.num_classes, "num_classes")
        if one_of(self.head, ("linear", "identity"), "head") == "linear":
            check_width(self.embedding, "embedding")
        elif self.embedding is not None:
            raise ValueError(
                f"embedding must be None with head='identity', whose embedding is the features; "
                f"got {self.embedding}."
            )
        check_positive(self.length_scale, "length_scale")
        check_positive(self.initial_count, "initial_count")
        check_number(self.centroid_scale, "centroid_scale", least=0)
        check_number(self.momentum, "momentum", least=0, most=1)
        if self.momentum == 1:
            raise ValueError("momentum must be < 1, else no centroid ever moves; got 1.")

    @nn.compact
    def _embedded(self, features: Any) -> tuple[jax.Array, nn.Variable, nn.Variable, nn.Variable]:
        """Embeddings `[..., c, m]` (`[..., 1, m]` for the identity), count, sum, examples."""
        self._check()
        h = jnp.asarray(features)
        if h.ndim < 1 or h.shape[-1] < 1 or not jnp.issubdtype(h.dtype, jnp.floating):
            raise ValueError(f"features must be floating [..., p], got {h.dtype} {h.shape}.")
        c, p = self.num_classes, h.shape[-1]
        known = self.variables.get(COLLECTION, {})
        if self.head == "identity" and "sum" in known and known["sum"].shape[-1] != p:
            raise ValueError(f"features have width {p}, the centroids {known['sum'].shape[-1]}.")
        if self.head == "linear":
            assert self.embedding is not None
            m = self.embedding
            scale = p**-0.5 if self.kernel_scale is None else self.kernel_scale
            kernel = self.param("kernel", nn.initializers.normal(scale), (c, m, p))
            h = h.astype(jnp.promote_types(h.dtype, jnp.float32))
            # Full precision on accelerators, too: the certificates count on it.
            h = jnp.einsum("...p,cmp->...cm", h, kernel.astype(h.dtype), precision="highest")
        else:
            m, h = p, h[..., None, :]
        start = jnp.float32(self.initial_count)
        count = self.variable(COLLECTION, "count", lambda: jnp.full(c, start))
        total = self.variable(
            COLLECTION,
            "sum",
            lambda: (
                start
                * self.centroid_scale
                * jax.random.normal(self.make_rng("params"), (c, m), jnp.float32)
            ),
        )
        examples = self.variable(COLLECTION, "examples", lambda: jnp.zeros(c, jnp.int32))
        return h, count, total, examples

    def __call__(self, features: jax.Array) -> jax.Array:
        """The kernels K.

        Args:
          features: `[..., p]`, floating.

        Returns:
          `[..., c]` in [0, 1], in at least float32; the likeliest class has the largest.
        """
        return jnp.exp(self.log_kernels(features))

    def log_kernels(self, features: jax.Array) -> jax.Array:
        """Logarithms of the kernels `[..., c]`, which do not underflow far from all centroids."""
        embedded, count, total, _ = self._embedded(features)
        return log_kernels(embedded, _centroids(count, total), self.length_scale)

    def certainty(self, features: jax.Array) -> jax.Array:
        """The largest kernel.

        Args:
          features: `[..., p]`, floating.

        Returns:
          `[...]` in [0, 1].

        Raises:
          ValueError: if no example has moved a centroid yet (where that can be seen: the variables
            are not traced): the number would say nothing.
        """
        return jnp.exp(self.log_certainty(features))

    def log_certainty(self, features: jax.Array) -> jax.Array:
        """Logarithm of :meth:`certainty` `[...]`, for scores: it keeps the order far away."""
        embedded, count, total, examples = self._embedded(features)
        readable = is_concrete(examples.value) and not self.is_initializing()
        if readable and not np.asarray(examples.value).any():
            raise ValueError(
                "certainty before training: no example has moved a centroid. After each step of "
                "the optimiser call apply(variables, features, labels, method='update', "
                "mutable=['centroids'])."
            )
        return jnp.max(log_kernels(embedded, _centroids(count, total), self.length_scale), axis=-1)

    def loss(self, features: jax.Array, labels: Any, *, weights: Any = None) -> jax.Array:
        """Binary cross-entropy over classes; no gradient flows into the centroids.

        Args:
          features: `[n, p]`, floating.
          labels: integers `[n]` in [0, c).
          weights: of the examples, `[n]`; None counts them equally.

        Returns:
          `[]`; add :func:`monojax.penalties.gradient_norm_penalty` for DUQ's own regulariser.

        Raises:
          ValueError: on labels outside the classes, or other shapes.
        """
        return kernel_loss(self.log_kernels(features), labels, weights=weights)

    def update(self, features: jax.Array, labels: Any, *, weights: Any = None) -> jax.Array:
        """Moves the centroids towards a batch, after the step of the optimiser.

        To be called with ``mutable=["centroids"]``, on features of the network in evaluation mode.

        Args:
          features: `[n, p]`, floating.
          labels: integers `[n]` in [0, c); a traced one that is no class moves no centroid, and
            the counts lack it.
          weights: 0 for rows that only fill a batch, `[n]`; None counts all rows as 1.

        Returns:
          int32 `[c]`: how many examples each class had in this batch.

        Raises:
          ValueError: on labels outside the classes, other shapes, or without ``mutable``.
        """
        embedded, count, total, examples = self._embedded(features)
        if not self.is_mutable_collection(COLLECTION):
            raise ValueError("update moves the centroids: call apply(..., mutable=['centroids']).")
        if embedded.ndim != 3:
            raise ValueError(f"features must have shape [n, p], got {jnp.shape(features)}.")
        labels = check_labels(labels, len(embedded), self.num_classes)
        dtype = total.value.dtype
        own = jax.nn.one_hot(labels, self.num_classes, dtype=dtype)
        if weights is not None:
            weights = jnp.asarray(weights, dtype)
            if weights.shape != labels.shape:
                raise ValueError(f"weights must have shape {labels.shape}, got {weights.shape}.")
            own = own * weights[:, None]
        embedded = jax.lax.stop_gradient(embedded).astype(dtype)
        embedded = jnp.broadcast_to(embedded, (*own.shape, embedded.shape[-1]))
        number = own.sum(axis=0)
        found = jnp.sum(jnp.where(own[..., None] > 0, own[..., None] * embedded, 0), axis=0)
        gamma = jnp.asarray(self.momentum, dtype)
        faded = (number == 0) & (gamma * count.value < FORGOTTEN * self.initial_count)
        keep = jnp.where(faded, jnp.ones_like(gamma), gamma)
        if not self.is_initializing():
            count.value = keep * count.value + (1 - gamma) * number
            total.value = keep[:, None] * total.value + (1 - gamma) * found
            seen = jnp.sum(own > 0, axis=0).astype(jnp.int32)
            examples.value = examples.value + seen
        return jnp.sum(own > 0, axis=0).astype(jnp.int32)

    def centroids(self) -> jax.Array:
        """The centroids e `[c, m]`, of variables that were initialised."""
        known = self.variables.get(COLLECTION)
        if known is None:
            raise ValueError("no centroids: call apply with the variables that init returned.")
        return known["sum"] / known["count"][:, None]


def _centroids(count: nn.Variable, total: nn.Variable) -> jax.Array:
    return jax.lax.stop_gradient(total.value / count.value[:, None])
