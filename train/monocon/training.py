"""Training of an encoder with a contrastive head: warm-up of the head, then both, then the best.

The recipe of MonoCon (Gokhale), section 4 and the published code: AdamW with decay on all
parameters, one clip over all trained gradients, cosine over epochs and constant within each; in the
warm-up the encoder's parameters are fixed and its batch statistics move; the main phase starts with
fresh moments.
"""

import dataclasses
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from monojax.compact.contrastive import supcon_loss
from monojax.layers import MonotoneHead
from monojax.training import (
    ArrayBatches,
    Checkpoints,
    Clock,
    Keep,
    Schedule,
    TrainState,
    create_state,
    fit,
    jit_step,
    pmap_step,
    read_metrics,
    replicate,
    shard_batch,
    unreplicate,
)
from monojax.training.loop import Metrics
from train.monocon.data import Problem
from train.renamed import translated

KINDS = {"baseline": None, "standard": (False, 1), "monocon": (True, 1), "monocon2": (True, 2)}
"""Head: monotone, and its hidden layers; the baseline embeds with the encoder itself."""


@dataclasses.dataclass(frozen=True)
class Model:
    """A problem's encoder with one kind of head."""

    problem: Problem
    head: nn.Module | None

    def init(self, key: jax.Array) -> tuple[Any, Any]:
        """Fresh parameters ``{"encoder", "head"}`` and the encoder's other collections."""
        key_encoder, key_head, key_new = jax.random.split(key, 3)
        example = jax.tree.map(lambda leaf: leaf[:1], self.problem.watch)
        inputs = self.problem.eval_inputs(jax.tree.map(jnp.asarray, example))
        variables = dict(self.problem.encoder.init(key_encoder, inputs))
        if self.problem.pretrained is not None:
            # Copies: a step takes the memory of its state, and the next model starts here, too.
            variables = jax.tree.map(jnp.array, self.problem.pretrained(key_new, variables))
        params = {"encoder": variables.pop("params", {})}
        if self.head is not None:
            width = jnp.zeros((1, self.problem.dim))
            params["head"] = self.head.init(key_head, width)["params"]
        return params, variables

    def encode(self, params: Any, state: Any, inputs: Any) -> tuple[jax.Array, jax.Array]:
        """Features x and the head's output y, `[b, d]` each, in inference mode."""
        x: Any = self.problem.encoder.apply({"params": params["encoder"], **state}, inputs)
        return x, self.project(params, x)

    def project(self, params: Any, x: jax.Array) -> jax.Array:
        """The head's output for features."""
        if self.head is None:
            return x
        y: Any = self.head.apply({"params": params["head"]}, x)
        return y

    def loss_fn(self, temperature: float, frozen: bool) -> Callable[..., Any]:
        """The contrastive loss, as `monojax.training.train_step` wants it.

        Args:
          temperature: tau.
          frozen: True for the warm-up: no gradient for the encoder, statistics move all the same.

        Returns:
          A LossFn.
        """

        def loss(params, state, batch, key, axis_name):
            inputs, labels = self.problem.views(batch, axis_name)
            if axis_name is not None:
                key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
            key_inputs, key_dropout = jax.random.split(key)
            encoder = params["encoder"]
            encoder = jax.lax.stop_gradient(encoder) if frozen else encoder
            x, moved = self.problem.encoder.apply(
                {"params": encoder, **state},
                self.problem.train_inputs(key_inputs, inputs),
                train=True,
                mutable=list(state),
                rngs={"dropout": key_dropout},
            )
            z = self.project(params, x)
            return supcon_loss(z, labels, temperature, axis_name=axis_name), (moved, {})

        return loss


def build(problem: Problem, kind: str) -> Model:
    """A model.

    Args:
      problem: data and encoder.
      kind: a key of `KINDS`.

    Returns:
      Model.
    """
    options = KINDS[kind]
    if options is None:
        return Model(problem, None)
    monotone, layers = options
    return Model(problem, MonotoneHead(problem.dim, monotone=monotone, num_layers=layers))


def cosine(peak: float, epochs: int, steps: int) -> optax.Schedule:
    """The rate of every step: cosine over epochs without a floor, constant within an epoch.

    Args:
      peak: rate of epoch 0.
      epochs: T; epoch T would have rate 0 and does not happen.
      steps: per epoch.

    Returns:
      Step to rate.
    """
    return lambda count: peak * (1 + jnp.cos(jnp.pi * (count // steps) / epochs)) / 2


def optimizers(recipe: Any, steps: int) -> tuple[Any, Any]:
    """Of the warm-up (head alone) and of the main phase (two rates, one clip).

    Args:
      recipe: ``config.recipe``.
      steps: per epoch.

    Returns:
      Two optax transformations for ``{"encoder", "head"}``.
    """
    adamw = lambda peak, epochs: optax.adamw(
        cosine(peak, epochs, steps), weight_decay=recipe.weight_decay
    )
    groups = lambda params: {name: name for name in params}
    warm_up = optax.multi_transform(
        {
            "encoder": optax.set_to_zero(),
            "head": optax.chain(
                optax.clip_by_global_norm(recipe.clip),
                adamw(recipe.warmup_lr, recipe.warmup_epochs),
            ),
        },
        groups,
    )
    main = optax.chain(
        optax.clip_by_global_norm(recipe.clip),
        optax.multi_transform(
            {
                "encoder": adamw(recipe.lr_encoder, recipe.epochs),
                "head": adamw(recipe.lr_head, recipe.epochs),
            },
            groups,
        ),
    )
    return warm_up, main


class Collated:
    """Batches of the loop, each put together by a function of the problem."""

    def __init__(self, batches: ArrayBatches, collate: Callable[[Any], Any]):
        """Wraps ``batches``; ``collate`` is applied to each."""
        self.batches, self.collate = batches, collate
        self.get_state, self.set_state = batches.get_state, batches.set_state

    def __next__(self) -> Any:
        """The next batch."""
        return self.collate(next(self.batches))


class Epochs:
    """A progress bar over epochs for a loop that counts steps."""

    def __init__(self, bar: Any, steps: int):
        """``steps`` make an epoch."""
        self.bar, self.steps, self.done = bar, steps, 0
        self.set_postfix_str = bar.set_postfix_str

    def update(self, steps: int) -> None:
        """Advances by so many steps."""
        self.done += steps
        if whole := self.done // self.steps:
            self.bar.update(whole)
            self.done -= whole * self.steps


@dataclasses.dataclass(frozen=True)
class Trained:
    """What one training left."""

    params: Any
    """Of the best validation."""
    state: Any
    best_epoch: int
    epochs: int
    waiting: float
    """Share of the main phase's time in which the step waited for data; NaN if not measured."""
    history: list[dict[str, Any]]
    """What `evaluate` gave, before the main phase and at every validation."""


def train(
    model: Model,
    recipe: Any,
    seed: int,
    directory: Path,
    evaluate: Callable[[Any, Any, int], Metrics],
    bar: Any = False,
    parallel: bool = False,
) -> Trained:
    """Warm-up, main phase and the best checkpoint; resumes from its directory.

    Args:
      model: from :func:`build`.
      recipe: ``config.recipe``: batch_size, temperature, rates, epochs, patience, ...
      seed: of parameters, order and noise.
      directory: for checkpoints and metrics of both phases.
      evaluate: ``(params, state, epoch) -> metrics`` with "score", larger is better.
      bar: progress bar over epochs, or False.
      parallel: True splits batches over all local devices.

    Returns:
      Trained.
    """
    key_params, key_warm, key_main = jax.random.split(jax.random.key(seed), 3)
    params, state = model.init(key_params)
    if not jax.tree.leaves(params):  # frozen features without a head
        found = jax.device_get(dict(evaluate(params, state, 0)))
        return Trained(params, state, 0, 0, 0.0, [found])
    phases = _Phases(model, recipe, seed, directory, bar, parallel)
    if model.head is not None and recipe.warmup_epochs:
        params, state = phases.warm_up(key_warm, params, state)
    before = jax.device_get(dict(evaluate(params, state, 0)))
    end = phases.main(key_main, params, state, evaluate)
    best = _best(directory / "main", end, parallel)
    lines = read_metrics(directory / "main")
    return Trained(
        best.params,
        best.model_state,
        int(best.step) // phases.steps,
        int(end.step) // phases.steps,
        _waiting(lines),
        [before, *(line for line in lines if "score" in line)],
    )


class _Phases:
    """Warm-up and main phase of one training: what they share is given once."""

    def __init__(self, model, recipe, seed, directory, bar, parallel):
        self.model, self.recipe, self.seed = model, recipe, seed
        self.directory, self.parallel = directory, parallel
        self.steps = self._batches(0).batches.batches_per_epoch
        self.optimizers = optimizers(recipe, self.steps)
        self.bar = bar and Epochs(bar, self.steps)
        identity = {"recipe": dict(recipe), "seed": seed, "head": repr(model.head)}
        self.config = translated("monocon", identity)

    def warm_up(self, key: jax.Array, params: Any, state: Any) -> tuple[Any, Any]:
        """Trains the head under a fixed encoder, whose statistics move; other batches."""
        optimizer, steps = self.optimizers[0], self.steps
        run = _fit(
            create_state(key, params, optimizer, state),
            _advance(self._loss(frozen=True), optimizer, self.parallel),
            self.parallel,
            schedule=Schedule(steps * self.recipe.warmup_epochs, log_every=steps),
            keep=Keep(self.directory / "warmup", self.config, tensorboard=False),
            batches=self._batches(1_000_003),
            bar=self.bar,
            name=f"{self.directory.name} warm-up",
        )
        return run.params, run.model_state

    def main(self, key: jax.Array, params: Any, state: Any, evaluate: Any) -> TrainState:
        """Trains encoder and head until the score has not risen for ``patience`` epochs."""
        optimizer, steps, recipe = self.optimizers[1], self.steps, self.recipe

        def measure(now: TrainState) -> Metrics:
            now = unreplicate(now) if self.parallel else now
            return evaluate(now.params, now.model_state, int(now.step) // steps)

        every = steps * recipe.validate_every
        return _fit(
            create_state(key, params, optimizer, state),
            _advance(self._loss(frozen=False), optimizer, self.parallel),
            self.parallel,
            schedule=Schedule(
                steps * recipe.epochs,
                log_every=steps,
                eval_every=every,
                checkpoint_every=every,
                patience=steps * recipe.patience,
            ),
            keep=Keep(self.directory / "main", self.config, ("score", "max"), tensorboard=False),
            batches=self._batches(0),
            evaluate=measure,
            bar=self.bar,
            name=self.directory.name,
            clock=Clock(recipe.batch_size),
        )

    def _batches(self, salt: int) -> Collated:
        problem, recipe = self.model.problem, self.recipe
        order = {"seed": self.seed + salt, "keep_last": recipe.keep_last}
        return Collated(ArrayBatches(problem.train, recipe.batch_size, **order), problem.collate)

    def _loss(self, frozen: bool) -> Callable[..., Any]:
        return self.model.loss_fn(self.recipe.temperature, frozen=frozen)


def _waiting(lines: list[dict[str, Any]]) -> float:
    """Share of the time spent waiting for data, over all lines of the log that measured it."""
    timed = [(line["wait_share"], line["step_seconds"]) for line in lines if "wait_share" in line]
    if not timed:
        return float("nan")
    shares, seconds = np.asarray(timed).T
    return float((shares * seconds).sum() / seconds.sum())


def _advance(loss_fn: Any, optimizer: Any, parallel: bool) -> Callable[..., Any]:
    """The step for the loop: on one device, or on all of them with replicated states."""
    if not parallel:
        return jit_step(loss_fn, optimizer)
    step = pmap_step(loss_fn, optimizer)

    def advance(state, batch):
        state, metrics = step(state, shard_batch(batch))
        return state, unreplicate(metrics)

    return advance


def _fit(state: TrainState, advance: Any, parallel: bool, **options: Any) -> TrainState:
    """The state after a phase, on one device again."""
    run = fit(replicate(state) if parallel else state, advance, **options)
    return unreplicate(run.state) if parallel else run.state


def _best(workdir: Path, like: TrainState, parallel: bool) -> TrainState:
    """The state of the best validation."""
    kept = Checkpoints(workdir / "best", keep=None)
    try:
        found = kept.restore(replicate(like) if parallel else like)
    finally:
        kept.close()
    if found is None:
        raise ValueError(f"{workdir} holds no best checkpoint: every score was NaN.")
    return unreplicate(found[1]) if parallel else found[1]


def embedder(model: Model, batch_size: int = 1000) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Inference in batches of one shape.

    Args:
      model: from :func:`build`.
      batch_size: examples at a time; the last batch is filled up.

    Returns:
      ``(params, state, inputs) -> (x, y)``, float32 `[n, d]` each.
    """

    @jax.jit
    def one(params, state, inputs):
        return model.encode(params, state, model.problem.eval_inputs(inputs))

    def many(params, state, inputs):
        num = len(jax.tree.leaves(inputs)[0])
        size, parts = min(batch_size, num), []
        for start in range(0, num, size):
            rows = np.arange(start, start + size) % num
            taken = model.problem.collate(jax.tree.map(operator.itemgetter(rows), inputs))
            parts.append(jax.device_get(one(params, state, taken)))
        x, y = (np.concatenate(side)[:num] for side in zip(*parts, strict=True))
        return x, y

    return many
