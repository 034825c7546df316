"""DUQ trained on arrays: one scan over steps, so that seeds and constants go through `jax.vmap`."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from monojax import DUQ
from monojax.bilipschitz import unconverged
from monojax.penalties import gradient_norm_penalty
from monojax.uncertainty import DeepEnsemble
from train.uncertainty.networks import Extractor


@dataclasses.dataclass(frozen=True)
class Task:
    """What a compiled training depends on, beside shapes: hashable."""

    extractor: Extractor
    head: DUQ
    epochs: int
    batch_size: int
    optimizer: str
    """"sgd" (momentum 0.9, weight decay 1e-4) or "adam" (its rate falls along a cosine)."""
    lr: float
    penalty: float = 0.0
    """Weight of the two-sided gradient penalty."""
    drops: tuple[int, ...] = ()
    """Epochs from which "sgd" takes a fifth of the rate."""

    def steps(self, rows: int) -> int:
        """Batches per epoch; a smaller last one is dropped."""
        return rows // self.batch_size

    def rule(self, rows: int) -> optax.GradientTransformation:
        """The optimiser."""
        steps = self.steps(rows)
        if self.optimizer == "adam":
            return optax.adam(optax.cosine_decay_schedule(self.lr, self.epochs * steps))
        rate = optax.piecewise_constant_schedule(self.lr, {d * steps: 0.2 for d in self.drops})
        return optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(rate, momentum=0.9))


class State(NamedTuple):
    """Parameters ``{"features", "head"}``, centroids, and what the optimiser remembers."""

    params: Any
    centroids: Any
    rule: Any
    key: jax.Array


def start(task: Task, key: jax.Array, x: jax.Array) -> State:
    """Fresh parameters.

    Args:
      task: networks and optimiser.
      key: PRNG key.
      x: the training inputs, for their shape.

    Returns:
      State.
    """
    first, second, rest = jax.random.split(key, 3)
    features: Any = task.extractor.init(first, x[:1])
    h = jax.eval_shape(task.extractor.apply, features, x[:1])
    head: Any = task.head.init(second, jnp.zeros(h.shape))  # type: ignore[union-attr]
    params = {"features": features["params"], "head": head.get("params", {})}
    return State(params, head["centroids"], task.rule(len(x)).init(params), rest)


def features(task: Task, params: Any, x: jax.Array, alpha: Any, beta: Any) -> jax.Array:
    """Features `[n, p]` of inputs `[n, d]`."""
    apply: Any = task.extractor.apply
    return apply({"params": params["features"]}, x, alpha, beta)


def log_kernels(task: Task, state: State, x: jax.Array, alpha: Any, beta: Any) -> jax.Array:
    """Logarithms of the kernels `[n, c]` of inputs `[n, d]`."""
    return kernels_of(task, state, features(task, state.params, x, alpha, beta))


def features_and_missed(
    task: Task, params: Any, x: jax.Array, alpha: Any, beta: Any
) -> tuple[jax.Array, jax.Array]:
    """Features `[n, p]`, and how many of their inner solves missed their tolerance, `[]` int."""
    if "f" not in task.extractor.kind.split("_"):
        return features(task, params, x, alpha, beta), jnp.zeros((), jnp.int32)
    apply: Any = task.extractor.apply
    variables = {"params": params["features"]}
    h, record = apply(variables, x, alpha, beta, mutable=["diagnostics"])
    return h, unconverged(record)


def kernels_of(task: Task, state: State, h: jax.Array) -> jax.Array:
    """Logarithms of the kernels `[n, c]` of features `[n, p]`."""
    variables = {"params": state.params["head"], "centroids": state.centroids}
    apply: Any = task.head.apply
    return apply(variables, h, method="log_kernels")


def missed(task: Task, state: State, x: jax.Array, alpha: Any, beta: Any) -> jax.Array:
    """How many inner solves of inputs `[n, d]` missed their tolerance, `[]` int."""
    return features_and_missed(task, state.params, x, alpha, beta)[1]


def epoch(
    task: Task, state: State, x: jax.Array, y: jax.Array, number: Any, alpha: Any, beta: Any
) -> tuple[State, jax.Array]:
    """One pass in an order of its own, centroids moved after every step.

    Args:
      task: networks and optimiser.
      state: from :func:`start` or the last epoch.
      x: inputs `[n, d]`.
      y: labels `[n]`.
      number: of the epoch, from 0.
      alpha: of f.
      beta: of f.

    Returns:
      ``(state, loss)``: the mean loss `[]`.
    """
    steps, rule = task.steps(len(x)), task.rule(len(x))
    order = jax.random.permutation(jax.random.fold_in(state.key, number), len(x))
    order = order[: steps * task.batch_size].reshape(steps, task.batch_size)
    duq: Any = task.head.apply

    def loss(params, centroids, x, y):
        h = features(task, params, x, alpha, beta)
        variables = {"params": params["head"], "centroids": centroids}
        value = duq(variables, h, y, method="loss")
        if not task.penalty:
            return value
        now = State(params, centroids, None, state.key)
        total = lambda x: jnp.exp(log_kernels(task, now, x[None], alpha, beta)).sum()
        return value + task.penalty * gradient_norm_penalty(total, x)

    def step(state, rows):
        value, slopes = jax.value_and_grad(loss)(state.params, state.centroids, x[rows], y[rows])
        moves, memory = rule.update(slopes, state.rule, state.params)
        params = optax.apply_updates(state.params, moves)
        h = features(task, params, x[rows], alpha, beta)
        variables = {"params": params["head"], "centroids": state.centroids}
        _, moved = duq(variables, h, y[rows], method="update", mutable=["centroids"])
        return State(params, moved["centroids"], memory, state.key), value

    state, values = jax.lax.scan(step, state, order)
    return state, values.mean()


def train(
    task: Task, key: jax.Array, x: jax.Array, y: jax.Array, alpha: Any, beta: Any
) -> tuple[State, jax.Array]:
    """All epochs in one program.

    Args:
      task: networks and optimiser.
      key: PRNG key.
      x: inputs `[n, d]`.
      y: labels `[n]`.
      alpha: of f, may be traced.
      beta: of f, may be traced.

    Returns:
      ``(state, losses [epochs])``.
    """
    one = lambda state, number: epoch(task, state, x, y, number, alpha, beta)
    return jax.lax.scan(one, start(task, key, x), jnp.arange(task.epochs))


def train_ensemble(
    ensemble: DeepEnsemble,
    key: jax.Array,
    x: jax.Array,
    y: jax.Array,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
) -> Any:
    """A deep ensemble by stochastic gradient descent with momentum.

    Args:
      ensemble: its members.
      key: PRNG key.
      x: inputs `[n, d]`.
      y: labels `[n]`.
      epochs: passes.
      batch_size: rows per step, the same for all members.
      lr: rate.

    Returns:
      Variables of all members.
    """
    steps = len(x) // batch_size
    rule = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(lr, momentum=0.9))
    first, rest = jax.random.split(key)
    variables = ensemble.init(first, x[:1])

    def step(carry, number):
        variables, memory = carry
        turn, at = number // steps, number % steps
        order = jax.random.permutation(jax.random.fold_in(rest, turn), len(x))
        rows = jax.lax.dynamic_slice(order, (at * batch_size,), (batch_size,))
        slopes = jax.grad(ensemble.loss)(variables, x[rows], y[rows])
        moves, memory = rule.update(slopes, memory, variables)
        return (optax.apply_updates(variables, moves), memory), None

    carry = variables, rule.init(variables)
    return jax.lax.scan(step, carry, jnp.arange(epochs * steps))[0][0]
