"""Variational autoencoders of 64 x 64 pictures, and the head that names what a pair differs in.

Encoder and decoder are those of Burgess et al. (2018) and Locatello et al. (2019): four
convolutions of 4 x 4 and stride 2, a dense layer, and the same backwards. The weakly supervised
model of the monotone latents squashes its codes to (0, 1) and has one latent per known factor.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import check_places, check_width, check_widths, one_of
from monojax.base.labels import known_labels, wide_enough
from monojax.layers.strided import DoublingConv, HalvingConv

LIKELIHOODS = ("bernoulli", "gaussian")


class Posterior(NamedTuple):
    """A Gaussian with independent coordinates, each field `[..., latents]`."""

    mean: jax.Array
    log_variance: jax.Array


class VAE(nn.Module):
    """Encoder, Gaussian posterior, decoder.

    Methods ``encode`` and ``decode`` are its halves; ``model.apply(variables, x, key)`` samples
    in between, without a key it takes the posterior's mean.

    Args:
      latents: number of codes.
      squash: codes are the logistic function of the Gaussian variable, in (0, 1); the prior is
        standard normal before that.
      widths: channels of the convolutions, each of which halves the picture.
      hidden: width of the dense layers.
      size: height and width of pictures.
      channels: colours.
      dtype: of the computation; None follows the input and parameters.
    """

    latents: int = 6
    squash: bool = True
    widths: Sequence[int] = (32, 32, 64, 64)
    hidden: int = 256
    size: int = 64
    channels: int = 3
    dtype: Any = None

    def setup(self):
        """Names the parts: down_0, ..., code and pixels, ..., up_0."""
        widths = check_widths(self.widths, "widths")
        check_width(self.latents, "latents")
        if self.size % 2 ** len(widths):
            raise ValueError(
                f"size must be a multiple of {2 ** len(widths)} for {len(widths)} halvings, "
                f"got {self.size}."
            )
        self.down = [HalvingConv(width, dtype=self.dtype) for width in widths]
        self.code_hidden = nn.Dense(self.hidden, dtype=self.dtype)
        self.code = nn.Dense(2 * self.latents, dtype=self.dtype)
        side = self.size >> len(widths)
        self.pixel_hidden = nn.Dense(self.hidden, dtype=self.dtype)
        self.pixels = nn.Dense(side * side * widths[-1], dtype=self.dtype)
        outs = (*reversed(widths[:-1]), self.channels)
        self.up = [DoublingConv(width, dtype=self.dtype) for width in outs]

    def encode(self, x: jax.Array) -> Posterior:
        """Pictures `[..., size, size, channels]` in [0, 1] to the posterior before squashing."""
        shape = (self.size, self.size, self.channels)
        if x.shape[-3:] != shape:
            raise ValueError(
                f"pictures must have shape [..., {self.size}, {self.size}, {self.channels}], "
                f"got {x.shape}."
            )
        y = x.reshape(-1, *shape)
        for conv in self.down:
            y = nn.relu(conv(y))
        y = self.code(nn.relu(self.code_hidden(y.reshape(len(y), -1))))
        mean, log_variance = jnp.split(y.reshape(*x.shape[:-3], -1), 2, axis=-1)
        # A posterior narrower or wider than this is none that trains.
        return Posterior(mean, jnp.clip(log_variance, -12, 6))

    def decode(self, z: jax.Array) -> jax.Array:
        """Codes `[..., latents]`, in (0, 1) if squashed, to logits of the pictures."""
        if z.shape[-1] != self.latents:
            raise ValueError(f"codes must have shape [..., {self.latents}], got {z.shape}.")
        # Around 0 and of the size of what initialisers expect.
        y = 4 * z - 2 if self.squash else z
        y = nn.relu(self.pixel_hidden(y.reshape(-1, self.latents)))
        y = nn.relu(self.pixels(y))
        side = self.size >> len(self.widths)
        y = y.reshape(len(y), side, side, -1)
        for i, conv in enumerate(self.up):
            y = conv(y)
            if i + 1 < len(self.up):
                y = nn.relu(y)
        return y.reshape(*z.shape[:-1], *y.shape[1:])

    def codes(self, x: jax.Array) -> jax.Array:
        """Pictures to the code of the posterior's mean, `[..., latents]`."""
        return self.squashed(self.encode(x).mean)

    @nn.nowrap
    def squashed(self, u: jax.Array) -> jax.Array:
        """The code of a Gaussian variable."""
        return nn.sigmoid(u) if self.squash else u

    def __call__(
        self, x: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, Posterior]:
        """Pictures to ``(logits of the pictures, codes, posterior)``."""
        posterior = self.encode(x)
        u = posterior.mean if key is None else sample(key, posterior)
        z = self.squashed(u)
        return self.decode(z), z, posterior


class Comparator(nn.Module):
    """Names the factor that a pair differs in, from the distance of its codes.

    Args:
      factors: number of factors, which is that of the codes.
      hidden: widths of the hidden layers; their units are smooth, for a penalty differentiates
        the head twice.
    """

    factors: int = 6
    hidden: Sequence[int] = (64, 64)

    @nn.compact
    def __call__(self, r: jax.Array) -> jax.Array:
        """Distances |z - z'| `[..., factors]` to logits `[..., factors]`."""
        if r.shape[-1] != self.factors:
            raise ValueError(f"distances must have shape [..., {self.factors}], got {r.shape}.")
        y = r
        for width in check_widths(self.hidden, "hidden"):
            y = nn.softplus(nn.Dense(width)(y))
        return nn.Dense(self.factors)(y)


def sample(key: jax.Array, posterior: Posterior) -> jax.Array:
    """A draw from the posterior, differentiable in it.

    Args:
      key: PRNG key.
      posterior: `[..., latents]`.

    Returns:
      `[..., latents]`.
    """
    noise = jax.random.normal(key, posterior.mean.shape, posterior.mean.dtype)
    return posterior.mean + jnp.exp(posterior.log_variance / 2) * noise


def kl_to_prior(posterior: Posterior) -> jax.Array:
    """Kullback-Leibler divergence of the posterior from a standard normal.

    Args:
      posterior: `[..., latents]`.

    Returns:
      In nats, `[..., latents]`: the sum over latents is the divergence.
    """
    log_variance = posterior.log_variance
    # exp(v) - 1 - v cancels near 0: its series there, whose next term is below rounding.
    near = jnp.abs(log_variance) < 0.25
    small = jnp.where(near, log_variance, 0)
    tail = jnp.ones_like(small)
    for n in range(12, 2, -1):
        tail = 1 + small / n * tail
    far = jnp.where(near, 0, log_variance)
    excess = jnp.where(near, small**2 / 2 * tail, jnp.expm1(far) - far)
    return (posterior.mean**2 + excess) / 2


def reconstruction_loss(
    logits: jax.Array, x: jax.Array, likelihood: str = "bernoulli", *, variance: float = 0.01
) -> jax.Array:
    """Negative log-likelihood of pictures, up to a constant for "gaussian".

    Args:
      logits: from `VAE.decode`, `[..., h, w, c]`.
      x: pictures in [0, 1].
      likelihood: "bernoulli", or "gaussian" around the logistic function of the logits.
      variance: of the Gaussian.

    Returns:
      In nats, summed over a picture, `[...]`.

    Raises:
      ValueError: on another likelihood, or different shapes.
    """
    one_of(likelihood, LIKELIHOODS, "likelihood")
    if logits.shape != x.shape:
        raise ValueError(f"pictures and logits differ in shape: {x.shape} and {logits.shape}.")
    if likelihood == "bernoulli":
        each = nn.softplus(logits) - x * logits
    else:
        each = (nn.sigmoid(logits) - x) ** 2 / (2 * variance)
    return each.sum((-3, -2, -1))


def share_posteriors(a: Posterior, b: Posterior, changed: jax.Array) -> tuple[Posterior, Posterior]:
    """Pair consistency: both get the mean of their posteriors but where the factor changed.

    Args:
      a: of the first pictures, `[..., latents]`.
      b: of the second.
      changed: integers `[...]`, or one for all: the latent of the factor that a pair differs in.

    Returns:
      The two posteriors to decode; means and variances are averaged. NaN where a traced
      ``changed`` is no latent.

    Raises:
      ValueError: if a concrete ``changed`` is no latent, or not one of a pair.
    """
    latents = a.mean.shape[-1]
    changed = changed if isinstance(changed, jax.Array) else np.asarray(changed)
    if not changed.shape:  # one latent for all pairs
        changed = jnp.broadcast_to(changed, a.mean.shape[:-1])
    if changed.shape != a.mean.shape[:-1] or not jnp.issubdtype(changed.dtype, jnp.integer):
        raise ValueError(
            f"changed must name one latent of every pair, integers of shape {a.mean.shape[:-1]}, "
            f"got {changed.dtype} of shape {changed.shape}."
        )
    check_places(changed, latents, "changed must be latents from")
    changed = wide_enough(jnp.asarray(changed))[..., None]
    own = changed == jnp.arange(latents).reshape((1,) * (changed.ndim - 1) + (-1,))
    mean = jnp.where(known_labels(changed, latents), (a.mean + b.mean) / 2, jnp.nan)
    log_variance = jnp.logaddexp(a.log_variance, b.log_variance) - jnp.log(2.0).astype(mean.dtype)
    first, second = (
        Posterior(jnp.where(own, p.mean, mean), jnp.where(own, p.log_variance, log_variance))
        for p in (a, b)
    )
    return first, second


def traverse(z: jax.Array, index: int, values: jax.Array) -> jax.Array:
    """Codes with one latent set to each of the values: one knob turned.

    Args:
      z: `[..., latents]`.
      index: of the latent.
      values: `[n]`.

    Returns:
      `[..., n, latents]`.

    Raises:
      ValueError: on a latent that does not exist.
    """
    latents = z.shape[-1]
    if isinstance(index, bool) or not 0 <= int(index) < latents or int(index) != index:
        raise ValueError(f"index must be a latent from 0 to {latents - 1}, got {index!r}.")
    values = jnp.asarray(values, z.dtype)
    if values.ndim != 1:
        raise ValueError(f"values must have shape [n], got {values.shape}.")
    many = jnp.broadcast_to(z[..., None, :], (*z.shape[:-1], len(values), latents))
    return many.at[..., index].set(jnp.broadcast_to(values, many.shape[:-1]))
