"""Deep ensembles: the same network trained from several starts, all members in one program."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from monojax.base.checks import check_labels, check_width
from monojax.base.labels import own_column


@dataclasses.dataclass(frozen=True)
class DeepEnsemble:
    """Members of one linen module, by `jax.vmap`; they share nothing but the data.

    Attributes:
      module: of one member, `[..., d]` to logits `[..., c]`, with ``params`` alone.
      members: how many.

    Example:
      >>> both = DeepEnsemble(nn.Dense(3), members=2)
      >>> variables = both.init(jax.random.key(0), jnp.ones((4, 5)))
      >>> both.logits(variables, jnp.ones((4, 5))).shape
      (2, 4, 3)

    Reference:
      Lakshminarayanan et al., NeurIPS 2017, arXiv 1612.01474.
    """

    module: nn.Module
    members: int = 5

    def __post_init__(self):
        """Checks the number of members."""
        check_width(self.members, "members")

    def init(self, key: jax.Array, x: jax.Array) -> Any:
        """Variables of all members, each leaf `[members, ...]`.

        Args:
          key: PRNG key.
          x: an input, for its shape.

        Returns:
          Variables.
        """
        keys = jax.random.split(key, self.members)
        return jax.vmap(lambda k: self.module.init(k, x))(keys)

    def logits(self, variables: Any, x: jax.Array) -> jax.Array:
        """Logits of every member.

        Args:
          variables: from :meth:`init`.
          x: `[..., d]`, the same for all members.

        Returns:
          `[members, ..., c]`.
        """
        one: Any = self.module.apply
        return jax.vmap(one, (0, None))(variables, x)

    def log_probabilities(self, variables: Any, x: jax.Array) -> jax.Array:
        """Logarithm of the members' mean probabilities, for :func:`negative_entropy` and others.

        Args:
          variables: from :meth:`init`.
          x: `[..., d]`.

        Returns:
          `[..., c]`.
        """
        each = jax.nn.log_softmax(self.logits(variables, x), axis=-1)
        return jax.nn.logsumexp(each, axis=0) - jnp.log(jnp.asarray(self.members, each.dtype))

    def loss(self, variables: Any, x: jax.Array, labels: Any) -> jax.Array:
        """Sum over members of the mean cross-entropy: its gradient trains each one on its own.

        Args:
          variables: from :meth:`init`.
          x: `[n, d]`.
          labels: integers `[n]`.

        Returns:
          `[]`; NaN for a traced label that is no class, which cannot be raised.
        """
        logits = self.logits(variables, x)
        labels = check_labels(labels, logits.shape[1], logits.shape[2])
        log_p = jax.nn.log_softmax(logits, axis=-1)
        return -jnp.mean(own_column(log_p, labels), axis=1).sum()
