"""The toy trainer of the Lipschitz fits: runs (seeds or constants) side by side, in one program.

300 points uniform on an interval, batches of 50, mean squared error, Adam, and a learning rate that
is piecewise linear in the epoch. Everything that differs between experiments (target, constant,
epochs, rate) is data of the compiled program, not part of it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from monojax.training import Schedule, fit, over_seeds

TARGETS: dict[str, Callable[[Any], Any]] = {
    "jump": lambda x: x + (x > 0),
    "identity": lambda x: 1.0 * x,
    "steep": lambda x: 50.0 * x,
    "exp": lambda x: np.exp(x) if isinstance(x, np.ndarray) else jnp.exp(x),
}
"""x for x <= 0 and x + 1 above; x; 50 x; e^x."""


class Task(NamedTuple):
    """What is fitted, and how long."""

    points: int
    batch_size: int
    epochs: int
    lr: float
    """The schedule's peak."""
    target: str
    """A key of `TARGETS`."""
    low: float
    high: float

    @property
    def steps(self) -> int:
        """Optimiser steps of one training."""
        return self.epochs * (self.points // self.batch_size)


class Runs(struct.PyTreeNode):
    """Runs in training; every leaf is `[runs, ...]`."""

    params: Any
    opt_state: Any
    key: jax.Array
    lower: jax.Array
    """alpha, of the networks that have it."""
    upper: jax.Array
    """L."""
    epoch: jax.Array
    x: jax.Array
    """`[runs, points]`"""
    y: jax.Array


def learning_rate(epoch: Any, epochs: Any, peak: Any) -> jax.Array:
    """The authors' schedule: piecewise linear through 0, peak (40%), peak / 20 (80%) and 0 (100%).

    Args:
      epoch: fractional epoch t; the step with index s in an epoch of n has t = epoch + (s + 1) / n.
      epochs: length of the training.
      peak: the largest rate.

    Returns:
      `[]`.
    """
    corners = jnp.asarray([0.0, 0.4, 0.8, 1.0]) * epochs
    return jnp.interp(epoch, corners, peak * jnp.asarray([0.0, 1.0, 0.05, 0.0]))


def points(task: Task, seed: Any) -> jax.Array:
    """Training inputs of one seed, uniform on [low, high], float32 `[points]`."""
    key = jax.random.split(jax.random.key(seed), 3)[0]
    return jax.random.uniform(key, (task.points,), minval=task.low, maxval=task.high)


def start(model: Any, task: Task, seeds: Any, uppers: Any, lower: float) -> Runs:
    """Fresh runs: data, parameters and order follow from the seed, whatever the constant is.

    Args:
      model: from `train.lipschitz_fits.models.build`.
      task: target, low, high, points.
      seeds: integers `[runs]`.
      uppers: constants L `[runs]`.
      lower: alpha, of all.

    Returns:
      Runs.
    """

    def one(seed, upper):
        _, key_params, key_order = jax.random.split(jax.random.key(seed), 3)
        x = points(task, seed)
        params = model.init(key_params)
        return Runs(
            params=params,
            opt_state=optax.scale_by_adam().init(params),
            key=key_order,
            lower=jnp.asarray(lower, jnp.float32),
            upper=upper,
            epoch=jnp.zeros((), jnp.int32),
            x=x,
            y=TARGETS[task.target](x).astype(jnp.float32),
        )

    return jax.vmap(one)(jnp.asarray(seeds), jnp.asarray(uppers, jnp.float32))


@functools.lru_cache(maxsize=64)
def program(model: Any, batch: int, chunk: int | None) -> Callable:
    """One compiled epoch of all runs.

    Args:
      model: from `train.lipschitz_fits.models.build`.
      batch: batch size; what is left of an epoch's points over whole batches is dropped.
      chunk: runs computed side by side, as in `monojax.training.over_seeds`.

    Returns:
      ``(runs, epochs, peak) -> (runs, losses [runs, steps])``.
    """
    adam = optax.scale_by_adam(b2=model.b2)

    def epoch(run: Runs, epochs, peak):
        steps = len(run.x) // batch
        order = jax.random.permutation(jax.random.fold_in(run.key, run.epoch), len(run.x))
        order = order[: steps * batch].reshape(steps, batch)

        def loss(params, rows, progress):
            x, y = run.x[rows, None], run.y[rows, None]
            return model.losses(params, x, y, run.lower, run.upper, progress)

        def step(carry, xs):
            params, opt_state = carry
            rows, number = xs
            t = run.epoch + (number + 1) / steps
            (_, value), grads = jax.value_and_grad(loss, has_aux=True)(params, rows, t / epochs)
            updates, opt_state = adam.update(grads, opt_state)
            rate = model.lr_scale * learning_rate(t, epochs, peak)
            params = jax.tree.map(lambda p, u: p - (rate * u).astype(p.dtype), params, updates)
            return (model.project(params), opt_state), value

        carry = run.params, run.opt_state
        (params, opt_state), losses = jax.lax.scan(step, carry, (order, jnp.arange(steps)))
        return run.replace(params=params, opt_state=opt_state, epoch=run.epoch + 1), losses

    return jax.jit(over_seeds(epoch, batch_size=chunk))


def train(
    model: Any,
    task: Task,
    runs: Runs,
    bar: Any = False,
    chunk: int | None = None,
    before_epoch: Callable[[Runs, int], Runs] | None = None,
) -> tuple[Runs, np.ndarray]:
    """Trains all runs to the end.

    Args:
      model: from `train.lipschitz_fits.models.build`.
      task: epochs, batch_size, points, lr.
      runs: from :func:`start`.
      bar: progress bar over steps, or False.
      chunk: runs side by side; None is all. A model may ask for fewer.
      before_epoch: called with the runs and the number of the epoch that begins.

    Returns:
      ``(runs, losses [steps, runs])``, the squared error of every batch before its step.

    Raises:
      FloatingPointError: at a loss that is not finite.
    """
    compiled = program(model, task.batch_size, model.chunk or chunk)
    steps = task.points // task.batch_size
    history: list[jax.Array] = []

    def advance(runs, _):
        if before_epoch is not None:
            runs = before_epoch(runs, len(history))
        runs, losses = compiled(runs, float(task.epochs), float(task.lr))
        history.append(losses.T)
        return runs, {"loss": losses.T}

    done = fit(
        runs,
        advance,
        Schedule(task.steps, steps_per_call=steps, log_every=steps),
        bar=bar,
        name=model.name,
    )
    return done.state, np.concatenate([np.asarray(part) for part in history])
