"""Training of a benchmark's network: folds or seeds side by side, one compiled program."""

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

import monojax as mj
from monojax.training import over_seeds
from train.tabular.data import Problem
from train.tabular.networks import Row, value

AVERAGE = 0.99
"""Decay of the average of the weights, which is what is measured; any average keeps a guarantee."""


class Run(struct.PyTreeNode):
    """One training; leaves are `[runs, ...]`."""

    key: jax.Array
    rows: jax.Array
    """Which rows are trained on."""
    params: Any
    opt_state: Any
    average: Any
    step: jax.Array


class Trained(NamedTuple):
    """What a training leaves."""

    values: np.ndarray
    """Predictions after every epoch, `[epochs, runs, m]`."""
    variables: Any
    """After the epoch that was asked for, `[runs, ...]`."""
    seconds: float
    """Of all runs, without compiling."""
    compiling: float


def train(
    problem: Problem,
    row: Row,
    options: dict[str, float],
    rows: np.ndarray,
    watched: np.ndarray,
    seeds: np.ndarray,
    epochs: int,
    config: Any,
    *,
    keep: int = 0,
) -> Trained:
    """Trains runs that differ in their rows or seeds.

    Args:
      problem: data and directions.
      row: which network.
      options: lr and the network's own, one of its candidates; all candidates share a program.
      rows: what each run trains on, `[runs, n]`.
      watched: inputs that are predicted after every epoch, `[runs, m, d]` or `[m, d]`.
      seeds: integers `[runs]`.
      epochs: how many.
      config: batch_size, points, gamma of this problem.
      keep: the epoch, from 1, whose variables are returned; 0 is the last.

    Returns:
      Trained.
    """
    batch = min(config.batch_size, rows.shape[1])
    begin, epoch = programs(problem, row, batch, config.points, config.gamma)
    given = {name: jnp.float32(number) for name, number in options.items()}
    runs, seen = begin(jnp.asarray(seeds), jnp.asarray(rows), given), jnp.asarray(watched)
    began = time.perf_counter()
    # The first epoch is run twice, since it compiles: its time counts the second time.
    jax.block_until_ready(epoch(runs, seen, given))
    compiling, seconds, history, kept = time.perf_counter() - began, 0.0, [], None
    for number in range(1, epochs + 1):
        began = time.perf_counter()
        runs, found = epoch(runs, seen, given)
        history.append(np.asarray(found))
        if number <= (keep or epochs):  # later epochs are for the literature's column alone
            seconds += time.perf_counter() - began
        if number == (keep or epochs):
            kept = jax.device_get(runs.average)
    return Trained(np.stack(history), kept, seconds, compiling)


@functools.lru_cache(maxsize=2)
def programs(problem: Problem, row: Row, batch: int, points: int, gamma: float) -> tuple:
    """The compiled start and epoch of a network on a data set.

    Args:
      problem: data and directions.
      row: which network.
      batch: rows of a step.
      points: of the penalty.
      gamma: its weight.

    Returns:
      ``begin(seeds [runs], rows [runs, n], options) -> Run`` and
      ``epoch(runs, watched [m, d] or [runs, m, d], options) -> (runs, values [runs, m])``.
    """
    directions = tuple(int(d) for d in problem.directions)
    x_all, y_all = jnp.asarray(problem.x), jnp.asarray(problem.y)
    low, high = jnp.asarray(problem.low), jnp.asarray(problem.high)
    adam = optax.scale_by_adam()
    side_by_side = 1 if row.solves else None

    def loss(params: Any, options: Any, x: jax.Array, y: jax.Array, key: jax.Array) -> jax.Array:
        fn = functools.partial(value, row.make(options, directions), params)
        found = fn(x)
        if problem.task == "classification":
            error = optax.sigmoid_binary_cross_entropy(found, y).mean()
        else:
            error = jnp.mean(jnp.square(found - y))
        if not row.region:
            return error
        where = _points(row.region, key, x, points, low, high)
        return error + gamma * mj.monotonicity_penalty(fn, where, problem.directions)

    def begin(seed: jax.Array, rows: jax.Array, options: Any) -> Run:
        first, second = jax.random.split(jax.random.key(seed))
        params = row.make(options, directions).init(first, x_all[:1])
        zero = jnp.zeros((), jnp.int32)
        return Run(second, rows, params, adam.init(params), params, zero)

    def epoch(run: Run, watched: jax.Array, options: Any) -> tuple[Run, jax.Array]:
        order = jax.random.permutation(jax.random.fold_in(run.key, run.step), run.rows)
        order = order[: len(order) // batch * batch].reshape(-1, batch)

        def step(carry: Any, rows: jax.Array) -> tuple[Any, None]:
            params, opt_state, average, count = carry
            key = jax.random.fold_in(run.key, count + 1_000_000)
            grads = jax.grad(loss)(params, options, x_all[rows], y_all[rows], key)
            updates, opt_state = adam.update(grads, opt_state)
            params = jax.tree.map(lambda p, u: p - options["lr"] * u, params, updates)
            decay = jnp.minimum(AVERAGE, (1.0 + count) / (10.0 + count))
            average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)
            return (params, opt_state, average, count + 1), None

        carry = run.params, run.opt_state, run.average, run.step
        (params, opt_state, average, count), _ = jax.lax.scan(step, carry, order)
        run = run.replace(params=params, opt_state=opt_state, average=average, step=count)
        return run, value(row.make(options, directions), average, watched)

    def epochs(runs: Run, watched: jax.Array, options: Any) -> tuple[Run, jax.Array]:
        if watched.ndim == 2:
            return over_seeds(epoch, batch_size=side_by_side)(runs, watched, options)
        pairs = over_seeds(lambda p, o: epoch(p[0], p[1], o), batch_size=side_by_side)
        return pairs((runs, watched), options)

    return jax.jit(jax.vmap(begin, in_axes=(0, 0, None))), jax.jit(epochs)


def _points(
    region: str, key: jax.Array, x: jax.Array, count: int, low: jax.Array, high: jax.Array
) -> jax.Array:
    """Where the penalty is asked, `[count, d]`."""
    if region == "train":
        return x
    if region == "random":
        return mj.uniform_points(key, count, low, high)
    return mj.mixup_points(key, count, x, low, high)
