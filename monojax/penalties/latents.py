r"""The penalty for latent codes that move one factor each, monotonically.

The sources of Monteiro et al. (UAI 2022) name the idea and the pictures; they do not say which
network carried the penalty, nor its weight. Both forms here are our reading of it.

- :func:`latent_penalty`: a head names the factor in which two pictures differ, from the
  distances r = |z - z'| of their codes. Its output k is asked to rise in r_k, so that the own
  latent, and nothing else, argues for its factor.
- :func:`path_penalty`: the decoder itself. Along the segment between the codes of a pair, the
  picture is asked to leave the first and to approach the second. Not the default: hue is a
  circle, where distance from an end does not rise all the way.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from monojax.base.checks import check_points
from monojax.penalties.gradient import monotonicity_penalty
from monojax.penalties.regions import mixup_points

Fn = Callable[[jax.Array], jax.Array]


def latent_penalty(
    key: jax.Array, head: Fn, distances: jax.Array, *, num: int = 256, margin: float = 0.0
) -> jax.Array:
    r"""Mean over points of :math:`\sum_k \max(0, m - \partial c_k/\partial r_k)^2`.

    Args:
      key: PRNG key.
      head: c, distances `[k]` of ONE pair to logits `[k]`.
      distances: |z - z'| of the batch, `[n, k]`, in [0, 1].
      num: number of points: mixtures of the batch's distances with uniform ones.
      margin: slopes below it count as violations.

    Returns:
      The penalty, `[]`; differentiable in what ``head`` closes over, not in the distances.

    Raises:
      ValueError: on other shapes, or if the head's outputs are not as many as the latents.
    """
    distances = check_points(distances, "distances")
    points = mixup_points(key, num, distances, 0.0, 1.0)
    own = jnp.eye(distances.shape[1], dtype=int)
    return monotonicity_penalty(head, points, own, outputs="paired", margin=margin)


def path_penalty(
    decode: Fn, z: jax.Array, other: jax.Array, x: jax.Array, target: jax.Array, at: jax.Array
) -> jax.Array:
    r"""How much a decoded path from one picture to another turns back.

    With :math:`q(t)` and :math:`q'(t)` the mean squared distances of the picture at z + t(z' - z)
    from the pair's pictures: the mean over pairs of
    :math:`\max(0, -dq/dt)^2 + \max(0, dq'/dt)^2`.

    Args:
      decode: ONE code `[k]` to a picture.
      z: codes of the first pictures, `[n, k]`.
      other: of the second.
      x: the first pictures, `[n, ...]`.
      target: the second.
      at: t in [0, 1], `[n]`.

    Returns:
      The penalty, `[]`.

    Raises:
      ValueError: if the arguments are not equally many.
    """
    counts = [len(a) for a in (z, other, x, target, at)]
    if len(set(counts)) > 1:
        raise ValueError(f"codes, pictures and times must be equally many, got {counts}.")

    def one(z, other, x, target, t):
        def distances(t):
            picture = decode(z + t * (other - z))
            return jnp.stack([((picture - end) ** 2).mean() for end in (x, target)])

        # In reverse mode: the decoder's convolutions have no other.
        away, left = jax.jacrev(distances)(t)
        return jnp.maximum(0, -away) ** 2 + jnp.maximum(0, left) ** 2

    return jax.vmap(one)(z, other, x, target, at).mean()
