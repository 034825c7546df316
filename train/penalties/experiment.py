"""What each penalty's region buys: four models, several seeds, one compiled program each.

Monteiro et al. (UAI 2022), appendix B: no penalty, and the gradient penalty on random points, on
the training batch, and on mixtures of both; errors and the share of points that violate
monotonicity, on random points, on the data and on the (shifted) test set.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

import monojax as mj
from monojax.data.tabular import TABULAR_SETS
from monojax.models import TwoBranch
from monojax.training import Keep, Schedule, fit, over_seeds
from train.checks import at_least, choice, one_of
from train.penalties.data import Problem, load_problem
from train.penalties.report import paper_tables, penalty_report

MARGIN = "_margin"
"""Ends the name of a row that asks for `config.penalty.row_margin` where the others ask for
`config.penalty.margin`."""
KINDS = (
    *("none", "random", "train", "mixup", "data_mixup", "random_train", "half"),
    *("random" + MARGIN, "mixup" + MARGIN),
)
NUM_CHECK = 10_000  # points behind every violation rate, at most


class SeedState(struct.PyTreeNode):
    """One seed's training, with its best epoch so far."""

    epoch: jax.Array
    params: Any
    opt_state: Any
    key: jax.Array
    best_params: Any
    best_valid: jax.Array
    best_epoch: jax.Array


def run(config: Any, workdir: Path, bar: Any) -> dict[str, Any]:
    """Trains and measures every kind of penalty on every problem; writes tables and pictures.

    Args:
      config: see train/configs/main.py.
      workdir: the directory of the whole experiment.
      bar: progress bar over :func:`total_steps`.

    Returns:
      ``{problem: {kind: {column: values [seeds]}}}``.
    """
    results: dict[str, Any] = {}
    for name, options in config.problems.items():
        problem = load_problem(name, options)
        model = _model(problem, options)
        measure = jax.jit(over_seeds(functools.partial(figures, problem, model), batch_size=1))
        start = initial_states(problem, model, config, options)
        params, results[name] = {}, {}
        for kind in config.kinds:
            state = train_seeds(problem, model, kind, config, options, start, workdir, bar)
            params[kind] = state.best_params
            measured = jax.device_get(measure(state.best_params))
            results[name][kind] = {**measured, "best_epoch": np.asarray(state.best_epoch)}
        penalty_report(problem, model, params, results[name], config, workdir)
    if all(options.data == "synthetic" for options in config.problems.values()):
        paper_tables(results, config, workdir)
    return results


def check(config: Any) -> None:
    """Finds mistakes in the values of a config before anything is trained or written.

    Args:
      config: the experiment's config.

    Raises:
      ValueError: naming the first one.
    """
    choice(config, KINDS, "kinds")
    choice(config, ("mean", "max"), "penalty.reduce")
    at_least(config, 1, "seeds", "seeds_at_once", "kinds")
    at_least(config, 0, "penalty.gamma", "penalty.margin", "penalty.row_margin", "penalty.radius")
    at_least(config, 2, "penalty.points")
    for name, options in config.problems.items():
        at = f"config.problems.{name}"
        choice(options, ("synthetic", *TABULAR_SETS), "data", at=at)
        if options.data == "synthetic":
            choice(options, ("code", "paper"), "shift", at=at)
        at_least(options, 1, "epochs", "batch_size", "steps_per_epoch", "hidden", at=at)


def total_steps(config: Any) -> int:
    """Steps of all runs, for the progress bar.

    Args:
      config: the experiment's config.

    Returns:
      The number of optimiser steps, counting the seeds that run side by side once.
    """
    return sum(len(config.kinds) * o.epochs * _steps_per_epoch(o) for o in config.problems.values())


def train_seeds(
    problem: Problem,
    model: TwoBranch,
    kind: str,
    config: Any,
    options: Any,
    start: SeedState,
    workdir: Path | None = None,
    bar: Any = False,
) -> SeedState:
    """Trains all seeds of one kind in one compiled program.

    Args:
      problem: data and directions.
      model: linen module, `[..., d]` to `[...]`.
      kind: one of `KINDS`.
      config: seeds, penalty, seeds_at_once, checkpoint_every_epochs.
      options: epochs, batch_size, lr of this problem.
      start: from :func:`initial_states`; not changed.
      workdir: checkpoints go to its folder ``problem/kind``; None keeps nothing.
      bar: progress bar, or False.

    Returns:
      SeedState with leaves `[seeds, ...]`.

    Raises:
      ValueError: on an unknown kind.
    """
    one_of(kind, KINDS, "kind of penalty")
    optimizer = optax.adam(options.lr)
    steps = _steps_per_epoch(options)
    data = {key: jnp.asarray(value) for key, value in problem.arrays.items() if "test" not in key}
    if len(data["x_train"]) < steps * options.batch_size:
        raise ValueError(
            f"{problem.name}: {len(data['x_train'])} training rows, fewer than "
            f"{steps} batches of {options.batch_size}."
        )
    loss_fn = functools.partial(loss_and_penalty, model, problem.directions, kind, config.penalty)
    epoch = functools.partial(_epoch, model, loss_fn, optimizer, steps, options.batch_size)
    program = jax.jit(over_seeds(epoch, batch_size=config.seeds_at_once), donate_argnums=0)

    def advance(state, _):
        state, metrics = program(state, data)
        return state, {key: value.T for key, value in metrics.items()}  # [steps, seeds]

    directory = None if workdir is None else Path(workdir) / problem.name / kind
    return fit(
        jax.tree.map(jnp.copy, start),  # its memory is donated to the first epoch
        advance,
        Schedule(
            options.epochs * steps,
            steps_per_call=steps,
            log_every=steps,
            checkpoint_every=config.checkpoint_every_epochs * steps,
        ),
        keep=Keep(directory, {"kind": kind, "problem": options.to_dict(), **_shared(config, kind)}),
        bar=bar,
        name=f"{problem.name}/{kind}",
    ).state


def loss_and_penalty(model, directions, kind, penalty, params, x, y, key):
    """Mean squared error plus the weighted penalty of one kind of region.

    Args:
      model: linen module, `[..., d]` to `[...]`.
      directions: integers `[d]`.
      kind: one of `KINDS`.
      penalty: gamma, reduce, margin, row_margin, points (n), radius.
      params: its variables.
      x: batch, `[b, d]`, scaled to [0, 1].
      y: targets, `[b]`.
      key: PRNG key of the step.

    Returns:
      ``(loss, (error, penalty))``, all `[]`.
    """
    fn = functools.partial(model.apply, params)
    kind, margin = _margin(kind, penalty)
    options = {"reduce": penalty.reduce, "margin": margin}
    if kind == "none":
        error = jnp.mean(jnp.square(fn(x) - y))
        return error, (error, jnp.zeros(()))
    if kind == "train":
        # The batch's own points: loss and penalty share the forward pass.
        values, omega = mj.value_and_penalty(fn, x, directions, **options)
    else:
        values = fn(x)
        points = _points(kind, key, penalty, x)
        omega = mj.monotonicity_penalty(fn, points, directions, **options)
    error = jnp.mean(jnp.square(values - y))
    return error + penalty.gamma * omega, (error, omega)


def figures(problem: Problem, model: TwoBranch, params: Any) -> dict[str, jax.Array]:
    """Errors and violation rates of one seed's parameters.

    Args:
      problem: data and directions.
      model: linen module.
      params: its variables, of the best validation epoch.

    Returns:
      Column name to `[]`: valid_rmse, test_rmse (raw units), rho_random, rho_train, rho_mixup,
      rho_test in [0, 1].
    """
    arrays = {key: jnp.asarray(value) for key, value in problem.arrays.items()}
    key_random, key_mixup = jax.random.split(jax.random.key(2022))
    low, high = jnp.zeros(len(problem.directions)), jnp.ones(len(problem.directions))
    points = {
        "rho_random": mj.uniform_points(key_random, NUM_CHECK, low, high),
        "rho_train": arrays["x_train"][:NUM_CHECK],
        "rho_mixup": mj.data_mixup_points(key_mixup, NUM_CHECK, arrays["x_train"]),
        "rho_test": arrays["x_test"][:NUM_CHECK],
    }

    fn: Any = functools.partial(model.apply, params)
    rmse = {
        f"{part}_rmse": problem.target_scale * _rmse(fn, arrays[f"x_{part}"], arrays[f"y_{part}"])
        for part in ("valid", "test")
    }
    # One sweep over all sets: four calls of violation_rate would be compiled four times.
    every = jnp.concatenate(list(points.values()))
    wrong = mj.metrics.violations(fn, every, problem.directions, batch_size=NUM_CHECK)
    ends = np.cumsum([len(where) for where in points.values()])
    parts = jnp.split(wrong, ends[:-1])
    return rmse | {name: part.mean() for name, part in zip(points, parts, strict=True)}


def initial_states(problem: Problem, model: TwoBranch, config: Any, options: Any) -> SeedState:
    """Fresh states of all seeds; the same for every kind of penalty.

    Args:
      problem: its width is used.
      model: linen module.
      config: seed, seeds.
      options: lr.

    Returns:
      SeedState with leaves `[seeds, ...]`.
    """
    example = jnp.zeros((1, len(problem.directions)))

    def one(key):
        key_params, key_run = jax.random.split(key)
        params = model.init(key_params, example)
        zero = jnp.zeros((), jnp.int32)
        optimum = (params, jnp.full((), jnp.inf), zero)
        return SeedState(zero, params, optax.adam(options.lr).init(params), key_run, *optimum)

    # Not jitted: sixteen small random draws take longer to compile than to run.
    return jax.vmap(one)(jax.random.split(jax.random.key(config.seed), config.seeds))


def _epoch(model, loss_fn, optimizer, steps, batch_size, state: SeedState, data):
    """One epoch of one seed and the validation after it; metrics are `[steps]`."""
    key = jax.random.fold_in(state.key, state.epoch)
    key_order, key_points = jax.random.split(key)
    order = jax.random.permutation(key_order, len(data["x_train"]))
    order = order[: steps * batch_size].reshape(steps, batch_size)
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)

    def step(carry, xs):
        params, opt_state = carry
        rows, number = xs
        x, y = data["x_train"][rows], data["y_train"][rows]
        step_key = jax.random.fold_in(key_points, number)
        (loss, (error, omega)), grads = value_and_grad(params, x, y, step_key)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        metrics = {"loss": loss, "mse": error, "penalty": omega}
        return (optax.apply_updates(params, updates), opt_state), metrics

    carry = state.params, state.opt_state
    (params, opt_state), metrics = jax.lax.scan(step, carry, (order, jnp.arange(steps)))
    fn = functools.partial(model.apply, params)
    valid = _rmse(fn, data["x_valid"], data["y_valid"])
    better = valid < state.best_valid
    state = state.replace(
        epoch=state.epoch + 1,
        params=params,
        opt_state=opt_state,
        best_params=jax.tree.map(
            lambda new, old: jnp.where(better, new, old), params, state.best_params
        ),
        best_valid=jnp.where(better, valid, state.best_valid),
        best_epoch=jnp.where(better, state.epoch + 1, state.best_epoch),
    )
    return state, metrics | {"valid_rmse": jnp.full((steps,), valid)}


def _points(kind: str, key: jax.Array, penalty: Any, x: jax.Array) -> jax.Array:
    """Points of a region, in the box [0, 1]."""
    num, radius = penalty.points, penalty.radius
    low, high = jnp.zeros(x.shape[1]), jnp.ones(x.shape[1])
    if kind == "random":
        return mj.uniform_points(key, num, low, high)
    if kind == "mixup":
        return mj.mixup_points(key, num, x, low, high, radius=radius)
    if kind == "data_mixup":
        return mj.data_mixup_points(key, num, x, radius=radius)
    if kind == "random_train":
        return mj.random_train_points(key, num, x, low, high)
    return mj.half_points(key, num, x, low, high, radius=radius)


def _rmse(fn, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(fn(x) - y)))


def _model(problem: Problem, options: Any) -> TwoBranch:
    return TwoBranch(
        tuple(problem.monotone), hidden=options.hidden, bottleneck=options.bottleneck or None
    )


def _steps_per_epoch(options: Any) -> int:
    return options.steps_per_epoch


def _margin(kind: str, penalty: Any) -> tuple[str, float]:
    """The region of a kind, and the slope that is asked for there."""
    region = kind.removesuffix(MARGIN)
    return region, penalty.margin if region == kind else penalty.row_margin


def _shared(config: Any, kind: str) -> dict[str, Any]:
    """The part of the config that decides a run's result, whatever the other runs are."""
    penalty = config.penalty.to_dict()
    del penalty["row_margin"]  # of other rows
    penalty["margin"] = _margin(kind, config.penalty)[1]
    return {"seed": config.seed, "seeds": config.seeds, "penalty": penalty}
