r"""A Gaussian process on features, by random Fourier features and a Laplace approximation.

With :math:`\phi(h) = \sqrt{2/D} \cos(Wh/\ell + b)`, W and b random and fixed, logits are linear in
:math:`\phi`, and their posterior variance at h is :math:`\phi(h)^\top \Sigma \phi(h)` with

.. math:: \Sigma^{-1} = \tau I + \sum_i p_i (1 - p_i)\, \phi(h_i) \phi(h_i)^\top ,

:math:`p_i` the largest probability: large where no example was near.

Reference:
  Liu et al., SNGP, NeurIPS 2020, arXiv 2006.10108.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import check_positive, check_width, is_concrete

COLLECTION = "precision"
"""Name of the linen collection of the inverse covariance."""


class RandomFeatureGP(nn.Module):
    """A head with logits and their variance: `[..., p]` to `[..., c]`.

    Variables: ``params``, the fixed ``"features"`` (W, b), and ``"precision"``: ``matrix``
    `[D, D]` and ``examples`` `[]`. After training, one pass of ``"update"`` over the training set,
    from the variables that :meth:`reset` gives, fills the precision.

    Attributes:
      num_classes: c.
      num_features: D, the random features.
      length_scale: l of the kernel, in units of the features.
      ridge: tau > 0, the prior precision.

    Example:
      >>> head = RandomFeatureGP(3, num_features=8)
      >>> h = jnp.ones((6, 5))
      >>> variables = head.init(jax.random.key(0), h)
      >>> _, found = head.apply(variables, h, method="update", mutable=["precision"])
      >>> head.apply({**variables, **found}, h, method="variance").shape
      (6,)
    """

    num_classes: int
    num_features: int = 256
    length_scale: float = 1.0
    ridge: float = 1.0

    def setup(self):
        """Checks the options and makes the output layer."""
        check_width(self.num_classes, "num_classes")
        check_width(self.num_features, "num_features")
        check_positive(self.length_scale, "length_scale")
        check_positive(self.ridge, "ridge")
        self.output = nn.Dense(self.num_classes)
        size = self.num_features
        self.matrix = self.variable(
            COLLECTION, "matrix", lambda: self.ridge * jnp.eye(size, dtype=jnp.float32)
        )
        self.examples = self.variable(COLLECTION, "examples", lambda: jnp.zeros((), jnp.int32))

    @nn.nowrap
    def reset(self, variables: Any) -> dict[str, Any]:
        """The variables with an empty precision, to be filled by ``"update"``.

        Args:
          variables: of this module.

        Returns:
          A new dict; ``variables`` is not changed.
        """
        before = variables[COLLECTION]
        eye = self.ridge * jnp.eye(self.num_features, dtype=before["matrix"].dtype)
        return {**variables, COLLECTION: {"matrix": eye, "examples": jnp.zeros((), jnp.int32)}}

    @nn.compact
    def random_features(self, features: Any) -> jax.Array:
        """phi `[..., D]` of features `[..., p]`."""
        h = jnp.asarray(features)
        if h.ndim < 1 or not jnp.issubdtype(h.dtype, jnp.floating):
            raise ValueError(f"features must be floating [..., p], got {h.dtype} {h.shape}.")
        h = h.astype(jnp.promote_types(h.dtype, jnp.float32))
        size, p = self.num_features, h.shape[-1]
        draw = lambda: jax.random.normal(self.make_rng("params"), (p, size), jnp.float32)
        turn = lambda: jax.random.uniform(self.make_rng("params"), (size,), maxval=2 * np.pi)
        frequencies = self.variable("features", "frequencies", draw).value
        phases = self.variable("features", "phases", turn).value
        angles = (h / self.length_scale) @ frequencies.astype(h.dtype)
        phases = phases.reshape((1,) * (h.ndim - 1) + (size,)).astype(h.dtype)
        return jnp.sqrt(2 / size).astype(h.dtype) * jnp.cos(angles + phases)

    def __call__(self, features: jax.Array) -> jax.Array:
        """Logits `[..., c]` of features `[..., p]`, without their variance: for training."""
        return self.output(self.random_features(features))

    def update(self, features: jax.Array) -> jax.Array:
        """Adds a batch `[n, p]` to the precision, with ``mutable=["precision"]``.

        Args:
          features: `[n, p]`, floating.

        Returns:
          int32 `[]`: how many examples the precision holds now.

        Raises:
          ValueError: without ``mutable``.
        """
        phi = self.random_features(features)
        if not self.is_mutable_collection(COLLECTION):
            raise ValueError("update adds to the precision: call apply(mutable=['precision']).")
        p = jnp.max(jax.nn.softmax(self.output(phi), axis=-1), axis=-1)
        weighted = phi * (p * (1 - p))[:, None]
        if not self.is_initializing():
            self.matrix.value = self.matrix.value + weighted.T @ phi
            self.examples.value = self.examples.value + len(phi)
        return self.examples.value

    def variance(self, features: jax.Array) -> jax.Array:
        """Posterior variance of the logits `[...]` in (0, 2 / tau]; large far from the examples.

        Args:
          features: `[..., p]`, floating.

        Returns:
          `[...]`.

        Raises:
          ValueError: if the precision holds no example (where that can be seen).
        """
        return self._variance(self.random_features(features))

    def mean_field(self, features: jax.Array) -> jax.Array:
        """Logits `[..., c]` shrunk by their variance: ``logits / sqrt(1 + pi/8 variance)``."""
        phi = self.random_features(features)
        spread = jnp.sqrt(1 + np.pi / 8 * self._variance(phi))
        return self.output(phi) / spread[..., None]

    def _variance(self, phi: jax.Array) -> jax.Array:
        seen = self.examples.value
        if not self.is_initializing() and is_concrete(seen) and int(np.asarray(seen)) == 0:
            raise ValueError(
                "variance before training: the precision holds no example; run "
                "apply(variables, features, method='update', mutable=['precision']) over them."
            )
        flat = phi.reshape(-1, self.num_features)
        factor = jnp.linalg.cholesky(self.matrix.value.astype(flat.dtype))
        solved = jax.scipy.linalg.solve_triangular(factor, flat.T, lower=True)
        return jnp.sum(jnp.square(solved), axis=0).reshape(phi.shape[:-1])
