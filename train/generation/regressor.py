"""A small network that reads scale, orientation and shape off a picture; trained on renders."""

import functools
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from monojax.data.shapes3d import random_factors, render
from monojax.layers.strided import HalvingConv
from monojax.training import Keep, Schedule, create_state, fit, jit_step


class Reader(nn.Module):
    """Picture to scale, orientation (both scaled to [-1, 1]) and four logits of the shape."""

    widths: tuple[int, ...]
    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[n, 64, 64, 3]` to `[n, 6]`."""
        for width in self.widths:
            x = nn.relu(HalvingConv(width)(x))
        x = nn.relu(nn.Dense(self.hidden)(x.reshape(len(x), -1)))
        return nn.Dense(6)(x)


def train(config: Any, place: Path | None, bar: Any) -> Any:
    """Trains the reader on pictures of random scenes, or takes what its directory holds.

    Args:
      config: see train/configs/generation.py; its ``regressor``.
      place: the run's directory; None keeps nothing.
      bar: progress bar.

    Returns:
      ``read(images) -> {"scale": [n], "orientation": [n] in degrees, "shape": [n]}``.
    """
    options = config.regressor
    reader = Reader(tuple(options.widths), options.hidden)
    init = jax.jit(reader.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    optimizer = optax.adam(optax.cosine_decay_schedule(options.lr, options.steps))
    step = jit_step(functools.partial(_loss, reader, options.images), optimizer)
    every = max(options.steps // 5, 1)
    done = fit(
        create_state(jax.random.key(1), init, optimizer),
        step,
        Schedule(options.steps, log_every=every, checkpoint_every=every),
        keep=Keep(place, options.to_dict(), tensorboard=False),
        bar=bar,
        name="reader",
    )
    params = done.state.params
    run = jax.jit(lambda x: reader.apply(params, x))

    def read(images):
        out = np.asarray(run(jnp.asarray(images)))
        return {
            "scale": 1 + out[:, 0] / 4,
            "orientation": 30 * out[:, 1],
            "shape": out[:, 2:].argmax(1),
        }

    return read


def _loss(reader, num, params, model_state, batch, key, axis_name):
    rows = random_factors(key, num)
    out = reader.apply(params, render(rows))
    scale, turn = 4 * (rows[:, 3] - 1), rows[:, 5] / 30
    numbers = ((out[:, 0] - scale) ** 2).mean() + ((out[:, 1] - turn) ** 2).mean()
    labels = rows[:, 4].astype(jnp.int32)
    named = optax.softmax_cross_entropy_with_integer_labels(out[:, 2:], labels).mean()
    return 10 * numbers + named, (model_state, {"numbers": numbers, "named": named})


def errors(read: Any, num: int = 256) -> dict[str, float]:
    """How well the reader reads pictures that were drawn, not decoded.

    Args:
      read: from :func:`train`.
      num: of new scenes.

    Returns:
      Mean absolute error of scale and of orientation in degrees, accuracy of the shape.
    """
    drawn = random_factors(jax.random.key(77), num)
    found, rows = read(render(drawn)), np.asarray(drawn)
    return {
        "scale": float(np.abs(found["scale"] - rows[:, 3]).mean()),
        "orientation": float(np.abs(found["orientation"] - rows[:, 5]).mean()),
        "shape": float((found["shape"] == rows[:, 4]).mean()),
    }
