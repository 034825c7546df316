"""The models' losses, and their training, which is one for all."""

import functools
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from monojax.data.shapes3d import FACTORS, render
from monojax.models.vae import (
    VAE,
    Comparator,
    Posterior,
    kl_to_prior,
    reconstruction_loss,
    sample,
    share_posteriors,
)
from monojax.penalties import latent_penalty, path_penalty
from monojax.training import Keep, Schedule, create_state, fit, jit_step
from train.generation.data import factors, images_of, pair_factors


class Model(NamedTuple):
    """A trained autoencoder."""

    name: str
    title: str
    seed: int
    module: VAE
    params: Any
    head: Comparator
    seconds: float
    """Of its training; NaN if that was resumed or taken from disk."""

    def codes(self, x: Any) -> jax.Array:
        """Pictures to codes, `[n, latents]`."""
        return _codes(self.module, self.params, jnp.asarray(x))

    def decode(self, z: Any) -> jax.Array:
        """Codes to pictures in [0, 1]."""
        return _decoded(self.module, self.params, jnp.asarray(z))


@functools.partial(jax.jit, static_argnums=0)
def _codes(module, params, x):
    return module.apply(params["vae"], x, method="codes")


@functools.partial(jax.jit, static_argnums=0)
def _decoded(module, params, z):
    return jax.nn.sigmoid(module.apply(params["vae"], z, method="decode"))


def build(config: Any, options: Any) -> tuple[VAE, Comparator]:
    """The networks of one row of the config.

    Args:
      config: widths, hidden, head.
      options: squash.

    Returns:
      Autoencoder and comparator.
    """
    module = VAE(
        latents=len(FACTORS),
        squash=options.squash,
        widths=tuple(config.widths),
        hidden=config.hidden,
    )
    return module, Comparator(len(FACTORS), tuple(config.head))


def identity(config: Any, options: Any, seed: int) -> dict[str, Any]:
    """What decides a training, JSON-able.

    Args:
      config: see train/configs/generation.py.
      options: of one model.
      seed: of parameters and data.

    Returns:
      The options that the result depends on.
    """
    keys: tuple[str, ...] = ("values", "source", "likelihood", "widths", "hidden", "head")
    keys += ("comparator", "penalty_points", "steps", "pairs", "lr")
    shared = {key: config[key] for key in keys}
    own = {key: value for key, value in options.items() if key != "title"}
    return {**shared, "model": own, "seed": seed}


def train(config: Any, name: str, seed: int, place: Path | None, bar: Any) -> Model:
    """Trains a model, or takes what its directory holds.

    Args:
      config: see train/configs/generation.py.
      name: one of its models.
      seed: of parameters and data.
      place: the run's directory; None keeps nothing.
      bar: progress bar.

    Returns:
      Model.
    """
    options = config.models[name]
    module, head = build(config, options)
    state, step = _start(config, options, module, head, seed)
    batches = _Published(config, seed) if config.source == "published" else None
    begin = time.monotonic()
    done = fit(
        state,
        step,
        Schedule(
            config.steps,
            log_every=max(config.steps // 50, 1),
            checkpoint_every=max(config.steps // 5, 1),
        ),
        keep=Keep(place, identity(config, options, seed), tensorboard=False),
        batches=batches,
        bar=bar,
        name=f"{options.title}/{seed}",
    )
    seconds = time.monotonic() - begin if done.resumed_from == 0 else float("nan")
    params = {key: done.state.params[key] for key in ("vae", "head")}
    return Model(name, options.title, seed, module, params, head, seconds)


def _start(config: Any, options: Any, module: VAE, head: Comparator, seed: int) -> tuple[Any, Any]:
    """State at step 0 and the compiled step."""
    keys = jax.random.split(jax.random.key(seed), 3)

    @jax.jit
    def init():
        picture, distances = jnp.zeros((1, 64, 64, 3)), jnp.zeros((1, len(FACTORS)))
        return {"vae": module.init(keys[0], picture), "head": head.init(keys[1], distances)}

    optimizer = optax.adam(optax.cosine_decay_schedule(config.lr, config.steps))
    loss = functools.partial(_LOSSES[options.kind], config, options, module, head)
    return create_state(keys[2], init(), optimizer), jit_step(loss, optimizer)


def step_of(config: Any, name: str) -> tuple[Any, Any]:
    """What a training step is timed with.

    Args:
      config: see train/configs/generation.py.
      name: one of its models.

    Returns:
      ``(state, step)``; ``step(state, None)`` takes one step.
    """
    options = config.models[name]
    return _start(config, options, *build(config, options), 0)


def _pairs_loss(config, options, module, head, params, model_state, batch, key, axis_name):
    """Reconstruction of both pictures, divergence, comparator, and the model's penalty."""
    keys = jax.random.split(key, 4)
    if batch is None:
        first, second, changed = pair_factors(keys[0], config.pairs, config.values)
        x = render(jnp.concatenate([first, second]))
    else:
        x, changed = jnp.concatenate([batch["first"], batch["second"]]), batch["changed"]
    half = len(x) // 2
    posterior = module.apply(params["vae"], x, method="encode")
    first_half, second_half = (
        Posterior(posterior.mean[part], posterior.log_variance[part])
        for part in (slice(half), slice(half, None))
    )
    shared = share_posteriors(first_half, second_half, changed)
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *shared)
    z = module.squashed(sample(keys[1], both))
    decode = lambda z: module.apply(params["vae"], z, method="decode")
    rebuilt = reconstruction_loss(decode(z), x, config.likelihood).mean()
    kl = kl_to_prior(both).sum(-1).mean()
    distances = jnp.abs(z[:half] - z[half:])
    compare = lambda r: head.apply(params["head"], r)
    logits = compare(distances)
    named = optax.softmax_cross_entropy_with_integer_labels(logits, changed).mean()
    loss = rebuilt + options.beta * kl + config.comparator * named
    penalty = jnp.zeros(())
    if options.gamma:
        points = jax.lax.stop_gradient(distances)
        penalty = latent_penalty(
            keys[2], compare, points, num=config.penalty_points, margin=options.get("margin", 0.0)
        )
        loss = loss + config.comparator * options.gamma * penalty
    if options.path:
        at = jax.random.uniform(keys[3], (half,))
        one = lambda z: jax.nn.sigmoid(decode(z[None])[0])
        penalty = path_penalty(one, z[:half], z[half:], x[:half], x[half:], at)
        loss = loss + config.comparator * options.path * penalty
    right = (logits.argmax(-1) == changed).mean()
    metrics = {"rebuilt": rebuilt, "kl": kl, "named": named, "right": right, "penalty": penalty}
    return loss, (model_state, metrics)


def _single_loss(config, options, module, head, params, model_state, batch, key, axis_name):
    """The beta-VAE's."""
    key_data, key_noise = jax.random.split(key)
    if batch is None:
        x = render(factors(key_data, 2 * config.pairs, config.values))
    else:
        x = jnp.concatenate([batch["first"], batch["second"]])
    logits, _, posterior = module.apply(params["vae"], x, key_noise)
    rebuilt = reconstruction_loss(logits, x, config.likelihood).mean()
    kl = kl_to_prior(posterior).sum(-1).mean()
    return rebuilt + options.beta * kl, (model_state, {"rebuilt": rebuilt, "kl": kl})


_LOSSES = {"pairs": _pairs_loss, "single": _single_loss}
KINDS = tuple(_LOSSES)


class _Published:
    """Batches of pairs from the published images; batch n depends on the seed and on n alone."""

    def __init__(self, config: Any, seed: int):
        self._config, self._key, self._next = config, jax.random.key(seed + 1_000), 0
        self._images = images_of(config)

    def __iter__(self):
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        key = jax.random.fold_in(self._key, self._next)
        self._next += 1
        first, second, changed = pair_factors(key, self._config.pairs, "grid")
        return {
            "first": self._images(np.asarray(first)),
            "second": self._images(np.asarray(second)),
            "changed": np.asarray(changed),
        }

    def get_state(self) -> bytes:
        """The number of the next batch."""
        return str(self._next).encode()

    def set_state(self, state: bytes) -> None:
        """Goes on where another left."""
        self._next = int(state)
