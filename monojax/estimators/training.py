"""Training on a scaled table: one compiled epoch per shape, shared by all estimators."""

import dataclasses
import functools
import os
from collections.abc import Callable
from concurrent import futures
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from monojax.estimators.losses import row_losses
from monojax.estimators.networks import Net
from monojax.penalties.gradient import monotonicity_penalty
from monojax.penalties.regions import mixup_points

POINTS = 256
"""Points of the penalty in every step."""
EXTRA = 512
"""Capacity of the region that a certificate adds."""
PREDICT_ROWS = 32_768
"""Rows that one member predicts in one call (all members: a share of it): so few that what lies
between two layers is taken from memory that the process has, ten times as fast as new pages."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What a compiled epoch depends on, beside shapes: hashable."""

    net: Net
    loss: str
    penalised: bool


class Part(NamedTuple):
    """Rows to train or to judge on, padded with rows of weight 0."""

    x: jax.Array
    """Scaled inputs `[n, d]`."""
    y: jax.Array
    """Scaled targets or class numbers `[n]`."""
    weight: jax.Array
    """Weights `[n]`, of mean 1 over the rows that count."""


class Options(NamedTuple):
    """Numbers that change without a new compilation."""

    rate: jax.Array
    offset: jax.Array
    quantile: jax.Array
    penalty_weight: jax.Array
    margin: jax.Array
    low: jax.Array
    high: jax.Array
    number: jax.Array
    """True for inputs that are numbers, False for members of a group `[d]`."""
    extra: jax.Array
    """Further points of the penalty `[EXTRA, d]`."""
    extra_count: jax.Array
    """How many of them count."""


class State(NamedTuple):
    """Parameters of all members and what training remembers; leading axis: members."""

    params: Any
    rule: Any
    best: Any
    best_loss: jax.Array
    key: jax.Array


def padded(x: np.ndarray, y: np.ndarray, weight: np.ndarray, rows: int) -> Part:
    """Rows with copies of the first one, of weight 0, up to a fixed number."""
    fill = lambda a: np.concatenate([a, np.repeat(a[:1], rows - len(a), axis=0)])
    weight = np.concatenate([weight, np.zeros(rows - len(weight))])
    wide = np.asarray(fill(x), np.float32), np.asarray(fill(y), np.float32)
    return Part(*map(jnp.asarray, (*wide, np.asarray(weight, np.float32))))


def rounded(rows: int, least: int = 16) -> int:
    """A number of rows with at most four sizes per power of two: few shapes, few compilations."""
    size = max(least, rows)
    unit = max(least, 1 << max(0, (size - 1).bit_length() - 3))
    return -(-size // unit) * unit


def batches(rows: int, batch_size: int) -> tuple[int, int]:
    """How many steps an epoch has and how many rows each takes, padding included.

    Small tables are cut into up to eight steps of at least 32 rows.
    """
    size = min(batch_size, max(32, -(-rows // 8)))
    steps = -(-rows // size)
    return steps, min(batch_size, rounded(-(-rows // steps)))


class Start(NamedTuple):
    """The first parameters: ``{"net": ..., "steps": ...}`` per member."""

    params: Any
    rule: Any


# Run once: an optimised program would cost more than it saves.
@functools.partial(
    jax.jit,
    static_argnames=("net", "members"),
    compiler_options={"xla_backend_optimization_level": 0},
)
def initial(net: Net, members: int, key: jax.Array, steps: jax.Array) -> Start:
    """Fresh parameters `[members, ...]` and the optimiser's state."""
    example = jnp.zeros((1, len(net.directions)))

    def one(key):
        params = {"net": net.module().init(key, example), "steps": steps}
        return Start(params, _rule().init(params))

    return jax.vmap(one)(jax.random.split(key, members))


def _rule() -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(10.0), optax.scale_by_adam())


def outputs(net: Net, params: Any, x: jax.Array) -> jax.Array:
    """Mean output of all members: `[..., k]`. The mean of monotone functions is monotone.

    Args:
      net: the network.
      params: ``{"net": ...}``, leading axis: members.
      x: scaled inputs `[..., d]`.

    Returns:
      `[..., k]`.
    """
    if jax.tree.leaves(params)[0].shape[0] == 1:
        return _applied(net, jax.tree.map(lambda leaf: leaf[0], params["net"]), x)
    return jax.vmap(lambda p: _applied(net, p, x))(params["net"]).mean(axis=0)


def _applied(net: Net, params: Any, x: jax.Array) -> jax.Array:
    return net.module().apply(params, x)  # type: ignore[return-value]


@functools.partial(jax.jit, static_argnames=("net",))
def _predicted(net: Net, params: Any, x: jax.Array) -> jax.Array:
    return outputs(net, params, x)


def predicted(
    net: Net, params: Any, x: np.ndarray, scaled: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Outputs of many rows, in chunks of few shapes; the chunks of a long table in threads.

    Args:
      net: the network.
      params: of all members.
      x: inputs `[n, d]`.
      scaled: from inputs to what the network sees, float32; called on parts.

    Returns:
      Float32 `[n, k]`.
    """
    members = jax.tree.leaves(params)[0].shape[0]
    size = max(PREDICT_ROWS // members, 256)

    def part(start: int) -> np.ndarray:
        chunk = scaled(x[start : start + size])
        rows = 1 << max(4, (len(chunk) - 1).bit_length())
        fill = np.concatenate([chunk, np.repeat(chunk[:1], rows - len(chunk), axis=0)])
        return np.asarray(_predicted(net, params, fill))[: len(chunk)]

    starts = range(0, len(x), size)
    if len(starts) < 4:
        return np.concatenate([part(start) for start in starts])
    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.concatenate(list(pool.map(part, starts)))


@functools.partial(jax.jit, static_argnames=("task", "steps"))
def epoch(
    task: Task, steps: int, state: State, train: Part, valid: Part, options: Options
) -> tuple[State, jax.Array]:
    """One pass over the rows in random order, then the loss on the held-out rows.

    Args:
      task: what is trained.
      steps: batches; must divide the rows.
      state: parameters.
      train: rows to train on.
      valid: held-out rows; where all weights are 0, the training loss is the score.
      options: numbers.

    Returns:
      ``(state, losses)``: losses `[2]`, on the training rows and on the held-out rows, the mean
      over members, penalty included.
    """
    key, shuffle, points = jax.random.split(state.key, 3)
    order = jax.random.permutation(shuffle, len(train.x)).reshape(steps, -1)
    keys = jax.random.split(points, steps)

    def step(carry, at):
        params, rule = carry
        rows, key = at
        batch = Part(*(leaf[rows] for leaf in train))
        loss = lambda p: _loss(task, p, batch, options, key)
        values, slopes = jax.vmap(jax.value_and_grad(loss))(params)
        moves, rule = jax.vmap(_rule().update)(slopes, rule)
        params = jax.tree.map(lambda p, m: p - options.rate.astype(p.dtype) * m, params, moves)
        return (params, rule), values

    (params, rule), values = jax.lax.scan(step, (state.params, state.rule), (order, keys))
    found = values.mean(axis=0)
    judged = jax.vmap(lambda p: _loss(task, p, valid, options, keys[0]))(params)
    score = jnp.where(valid.weight.sum() > 0, judged, found)
    better = score < state.best_loss
    keep = lambda new, old: jnp.where(better.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)
    best = jax.tree.map(keep, params, state.best)
    best_loss = jnp.where(better, score, state.best_loss)
    return State(params, rule, best, best_loss, key), jnp.stack([found.mean(), score.mean()])


def _loss(task: Task, params: Any, part: Part, options: Options, key: jax.Array) -> jax.Array:
    """Weighted mean loss of a batch, so that its mean over batches is that over all rows."""
    f = _applied(task.net, params["net"], part.x)
    each = row_losses(task.loss, f, part.y, options.offset, params["steps"], options.quantile)
    total = jnp.where(part.weight > 0, each * part.weight, 0.0).sum() / len(part.x)
    if not task.penalised:
        return total
    points = penalty_points(key, part.x, options)
    fn = lambda x: _applied(task.net, params["net"], x)[0]
    asked = monotonicity_penalty(fn, points, task.net.directions, margin=options.margin)
    return total + options.penalty_weight * asked


def penalty_points(key: jax.Array, rows: jax.Array, options: Options) -> jax.Array:
    """Where the penalty is taken: half of it mixed, half in the box or in the certificate's region.

    Categories are never mixed: they are those of a random row.

    Args:
      key: PRNG key.
      rows: a batch of scaled rows `[n, d]`.
      options: the box and the region.

    Returns:
      `[POINTS, d]`.
    """
    mix, box, pick, extra, choose = jax.random.split(key, 5)
    number = options.number[None]
    donors = rows[jax.random.randint(pick, (POINTS,), 0, len(rows))]
    mixed = mixup_points(mix, POINTS, rows, options.low, options.high)
    spread = options.high - options.low
    uniform = options.low[None] + spread[None] * jax.random.uniform(box, (POINTS, len(spread)))
    half = (jnp.arange(POINTS) < POINTS // 2)[:, None]
    points = jnp.where(number, jnp.where(half, mixed, uniform), donors)
    index = jax.random.randint(extra, (POINTS,), 0, jnp.maximum(options.extra_count, 1))
    wanted = jax.random.bernoulli(choose, 0.5, (POINTS,)) & (options.extra_count > 0)
    return jnp.where(wanted[:, None], options.extra[index], points)


class Fitted(NamedTuple):
    """What training found."""

    params: Any
    history: np.ndarray
    """float `[epochs, 2]`: training and held-out loss."""
    best_loss: float
    """The held-out loss (the training loss without held-out rows), mean over members."""


def train(
    task: Task,
    start: Start,
    train_part: Part,
    valid: Part,
    options: Options,
    *,
    steps: int,
    epochs: int,
    rate: float,
    patience: int | None,
    key: jax.Array,
) -> Fitted:
    """Trains until ``epochs`` have passed or the held-out loss has not improved for a while.

    The rate falls along a cosine to a hundredth of itself.

    Args:
      task: what is trained.
      start: first parameters and optimiser's state.
      train_part: rows to train on.
      valid: held-out rows, all of weight 0 if there are none.
      options: numbers.
      steps: batches per epoch.
      epochs: at most.
      rate: Adam's, at the start.
      patience: epochs without improvement before it stops; None trains all of them and keeps the
        last parameters.
      key: PRNG key.

    Returns:
      Fitted.

    Raises:
      FloatingPointError: if the loss stops being finite.
    """
    count = jax.tree.leaves(start.params)[0].shape[0]
    state = State(start.params, start.rule, start.params, jnp.full(count, jnp.inf), key)
    history: list[np.ndarray] = []
    best, waited = np.inf, 0
    for number in range(epochs):
        fall = 0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * number / epochs))
        options = options._replace(rate=jnp.float32(rate * fall))
        state, losses = epoch(task, steps, state, train_part, valid, options)
        history.append(np.asarray(losses))
        if not np.isfinite(history[-1]).all():
            raise FloatingPointError(
                f"the loss is not finite after epoch {number + 1}; lower learning_rate, or look "
                "for extreme values in X and y."
            )
        if patience is None:
            continue
        waited = 0 if history[-1][1] < best else waited + 1
        best = min(best, history[-1][1])
        if waited >= patience:
            break
    final = state.params if patience is None else state.best
    loss = history[-1][1] if patience is None else float(np.mean(state.best_loss))
    return Fitted(jax.tree.map(np.asarray, final), np.stack(history), float(loss))
