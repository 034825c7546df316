"""Lipschitz networks fitted to functions of one variable: tightness, freedom, and steering.

The experiments of Kinoshita and Toyoizumi (NeurIPS 2024, arXiv 2404.09821), appendix: constants at
initialisation (`train.lipschitz_fits.initial`), the jump, straight lines under too large a
constant, the constant as the thing to find, and one that grows during training.
"""

import functools
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from monojax.training import Cells
from train.checks import above, at_least, choice, one_of
from train.lipschitz_fits import figures
from train.lipschitz_fits import initial as lipschitz_init
from train.lipschitz_fits import tables as lipschitz_tables
from train.lipschitz_fits.measures import Graph, best_ramp, graph, paper_estimate
from train.lipschitz_fits.models import build, options
from train.lipschitz_fits.training import TARGETS, Runs, Task, points, start, train

DOMAIN = (-2.0, 2.0)
EXP_DOMAIN = (-5.0, 5.0)
CURVE = 801  # points of a stored curve


def check(config: Any) -> None:
    """Finds mistakes in the values of a config before anything is trained or written.

    Args:
      config: see train/configs/lipschitz_fits.py.

    Raises:
      ValueError: naming the first one.
    """
    choice(config, PARTS, "parts")
    for part in ("tightness", "overestimation", "sweep", "annealing"):
        for name in (*config[part].models, *config[part].get("even", ())):
            build(name, config)
    for target, _ in config.overestimation.cases:
        one_of(target, TARGETS, "config.overestimation.cases")
    constants = {
        "tightness.constants": config.tightness.constants,
        "overestimation.cases": [bound for _, bound in config.overestimation.cases],
        "sweep.constants": config.sweep.constants,
    }
    for key, values in constants.items():
        for value in values:
            if not value > config.alpha:
                raise ValueError(
                    f"config.{key} must exceed alpha = {config.alpha:g}, got {value!r}."
                )
    if len(config.tightness.windows) != len(config.tightness.constants):
        raise ValueError("config.tightness.windows needs one window per constant.")
    at_least(config, 1, "seeds", "seeds_at_once", "descent_steps", "judge_steps")
    at_least(config, 0, "alpha")
    at_least(config, 1, "fit.batch_size", "fit.epochs")
    at_least(config, config.fit.batch_size, "fit.points")
    at_least(config, 1, "overestimation.runs")
    at_least(config.annealing, 1, "epochs", "runs", "every", "factor", at="config.annealing")
    at_least(config, 2, "annealing.grid")
    above(config, 0, "fit.lr", "annealing.start")
    lipschitz_init.check(config.init)


def total_steps(config: Any) -> int:
    """Steps of all trainings (runs side by side count once), plus one per study of the first part.

    Args:
      config: see train/configs/lipschitz_fits.py.

    Returns:
      The number.
    """
    steps = _task(config, "jump").steps
    count = {
        "init": lipschitz_init.total_steps(config.init),
        "tightness": steps
        * (len(config.tightness.models) + len(config.tightness.even))
        * len(config.tightness.constants),
        "overestimation": steps
        * len(config.overestimation.models)
        * len(config.overestimation.cases),
        "sweep": steps * len(config.sweep.models),
        "annealing": _anneal_task(config).steps * len(config.annealing.models),
    }
    return sum(count[part] for part in config.parts)


def run(config: Any, workdir: Path, bar: Any) -> dict[Any, Any]:
    """Runs the parts of the config, and writes their tables and figures.

    Args:
      config: see train/configs/lipschitz_fits.py.
      workdir: where to; finished cells are in its folder ``cells``.
      bar: progress bar over :func:`total_steps`.

    Returns:
      Part to results.
    """
    cells = Cells(workdir, config.reuse)
    return {part: PARTS[part](config, cells, Path(workdir), bar) for part in config.parts}


def initialisation(config: Any, cells: Cells, workdir: Path, bar: Any) -> dict[Any, Any]:
    """Figures 1 to 5: the constants of networks that are not trained."""
    results = lipschitz_init.run(config.init, cells, bar)
    figures.initial_constants(results, config.init, workdir)
    lipschitz_tables.initialisation(results, config, workdir)
    return results


def tightness(config: Any, cells: Cells, workdir: Path, bar: Any) -> dict[Any, Any]:
    """Table 1 and Figure 9: the jump, for every model and constant."""
    part = config.tightness
    results: dict[Any, Any] = {}
    for name in part.models:
        for bound, window in zip(part.constants, part.windows, strict=True):
            cell = fitted(config, cells, "jump", name, bound, bar, window)
            results[name, bound] = cell
    even = {
        (name, bound): fitted(config, cells, "jump", name, bound, bar, window, even=True)
        for name in part.even
        for bound, window in zip(part.constants, part.windows, strict=True)
    }
    task = _task(config, "jump")
    ramps = {
        bound: [best_ramp(points(task, seed), bound) for seed in config.seeds]
        for bound in part.constants
    }
    lipschitz_tables.tightness(results, ramps, config, workdir)
    lipschitz_tables.evenly(even, config, workdir)
    figures.jump_fits(results, config, workdir)
    return results


def overestimation(config: Any, cells: Cells, workdir: Path, bar: Any) -> dict[Any, Any]:
    """Figures 13, 17, 21 and 25: straight lines, the constant too large."""
    part = config.overestimation
    results: dict[Any, Any] = {}
    for name in part.models:
        for target, bound in part.cases:
            cell = fitted(config, cells, target, name, bound, bar, runs=part.runs)
            results[name, target, bound] = cell
    lipschitz_tables.overestimation(results, config, workdir)
    figures.line_fits(results, config, workdir)
    figures.line_losses(results, config, workdir)
    return results


def fitted(
    config: Any,
    cells: Cells,
    target: str,
    name: str,
    bound: float,
    bar: Any,
    window: tuple[float, float] = (-0.5, 0.5),
    runs: int | None = None,
    even: bool = False,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """One cell: all seeds of one model at one constant.

    Args:
      config: see train/configs/lipschitz_fits.py.
      cells: where it is kept.
      target: a key of `TARGETS`.
      name: of the model.
      bound: L.
      bar: progress bar.
      window: of the paper's estimate.
      runs: the first so many seeds; None is all.
      even: evenly spaced points instead of random ones.

    Returns:
      ``(numbers, curves)`` of :func:`measured`.
    """
    task, seeds = _task(config, target), config.seeds[:runs]

    def compute():
        model = build(name, config)
        fresh = start(model, task, seeds, [bound] * len(seeds), config.alpha)
        if even:
            x = jnp.broadcast_to(jnp.linspace(task.low, task.high, task.points), fresh.x.shape)
            fresh = fresh.replace(x=x, y=TARGETS[target](x).astype(jnp.float32))
        trained, losses = train(model, task, fresh, bar, config.seeds_at_once)
        return measured(model, task, trained, losses, window)

    inputs = [task, seeds, bound, window, config.alpha, options(name, config)]
    if even:
        inputs.append("even")
    skipped = lambda: bar.update(task.steps)
    return cells.get(
        f"{target}-{name}-{bound:g}{'-even' if even else ''}", inputs, compute, skipped
    )


def measured(
    model: Any, task: Any, runs: Runs, losses: np.ndarray, window: tuple[float, float]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Numbers and curves of trained runs.

    Args:
      model: from `train.lipschitz_fits.models.build`.
      task: target and domain.
      runs: trained.
      losses: `[steps, runs]`.
      window: of the paper's estimate.

    Returns:
      Numbers, `[runs]` each: upper (L), paper (its estimate, on the window), exact (largest slope
      on [-0.5, 0.5], or on the domain for the straight lines), train_mse, fresh_mse (over the
      domain), unsolved (share of inner solves). Curves: losses, x, f on the domain; near_x, near_f
      around 0; data_x, data_y of the first run.
    """
    constants = (runs.lower, runs.upper)
    whole = graph(model, runs.params, *constants, task.low, task.high)
    near_zero = (-0.5, 0.5) if task.target == "jump" else (task.low, task.high)
    close = graph(model, runs.params, *constants, *near_zero)
    paper, unsolved = paper_estimate(model, runs.params, *constants, *window)
    x, near_x = np.linspace(task.low, task.high, CURVE), np.linspace(-0.1, 0.1, CURVE)
    numbers = {
        "upper": np.asarray(runs.upper, np.float64),
        "paper": paper,
        "exact": close.steepest(),
        "train_mse": _error_at_data(whole, runs),
        "fresh_mse": whole.error(TARGETS[task.target], task.low, task.high),
        "unsolved": unsolved,
    }
    curves = {
        "losses": losses.astype(np.float32),
        "x": x,
        "f": whole.at(x),
        "near_x": near_x,
        "near_f": whole.at(near_x),
        "data_x": runs.x[0],
        "data_y": runs.y[0],
    }
    return numbers, curves


def _error_at_data(whole: Graph, runs: Runs) -> np.ndarray:
    """Mean squared error over the training points, `[runs]`."""
    rows = zip(whole.x, whole.f, np.asarray(runs.x), np.asarray(runs.y), strict=True)
    return np.asarray([np.mean((np.interp(dx, x, f) - dy) ** 2) for x, f, dx, dy in rows])


def sweep(config: Any, cells: Cells, workdir: Path, bar: Any) -> dict[Any, Any]:
    """Figure 28: y = 50 x under constants around 50, and the constant read off the losses."""
    part, task, results = config.sweep, _task(config, "steep"), {}
    for name in part.models:

        def compute(name=name):
            model = build(name, config)
            seeds = [config.seeds[0]] * len(part.constants)
            runs = start(model, task, seeds, part.constants, config.alpha)
            runs, losses = train(model, task, runs, bar, config.seeds_at_once)
            return measured(model, task, runs, losses, (task.low, task.high))

        inputs = [task, config.seeds[0], part.constants, config.alpha, options(name, config)]
        skipped = lambda: bar.update(task.steps)
        results[name] = cells.get(f"sweep-{name}", inputs, compute, skipped)
    lipschitz_tables.sweep(results, config, workdir)
    figures.sweep(results, config, workdir)
    return results


def annealing(config: Any, cells: Cells, workdir: Path, bar: Any) -> dict[Any, Any]:
    """Figure 31: e^x, with a constant that grows whenever the network uses all of it."""
    part, task, results = config.annealing, _anneal_task(config), {}
    for name in part.models:
        compute = functools.partial(_anneal, name, config, task, bar)
        rule = [part.start, part.factor, part.slack, part.every, part.grid, "pairs"]
        inputs = [task, config.seeds[: part.runs], rule, options(name, config)]
        skipped = lambda: bar.update(task.steps)
        results[name] = cells.get(f"annealing-{name}", inputs, compute, skipped)
    lipschitz_tables.annealing(results, config, workdir)
    figures.annealing(results, config, workdir)
    return results


def _anneal(name: str, config: Any, task: Any, bar: Any):
    """One model's annealed training: numbers and curves, bounds and estimates `[epochs]`."""
    part, model, bounds, estimates = config.annealing, build(name, config), [], []

    def before_epoch(runs: Runs, epoch: int) -> Runs:
        ends = task.low, task.high
        drawn = graph(model, runs.params, runs.lower, runs.upper, *ends, part.grid)
        # As the paper estimates: the steepest point would say "used up" of any kink.
        seen = drawn.steepest_pair(*ends, 2000, epoch)
        bound = np.asarray(runs.upper, np.float64)
        if epoch % part.every == 0:
            bound = np.where(np.abs(seen - bound) <= part.slack, part.factor * bound, bound)
        bounds.append(bound)
        estimates.append(seen)
        return runs.replace(upper=jnp.asarray(bound, jnp.float32))

    seeds = config.seeds[: part.runs]
    runs = start(model, task, seeds, [part.start] * len(seeds), 0.0)
    runs, losses = train(model, task, runs, bar, config.seeds_at_once, before_epoch)
    numbers, curves = measured(model, task, runs, losses, (task.low, task.high))
    return numbers, curves | {"bounds": np.stack(bounds), "estimates": np.stack(estimates)}


def _task(config: Any, target: str) -> Task:
    low, high = DOMAIN
    return Task(**config.fit, target=target, low=low, high=high)


def _anneal_task(config: Any) -> Task:
    low, high = EXP_DOMAIN
    fit = {**config.fit, "epochs": config.annealing.epochs}
    return Task(**fit, target="exp", low=low, high=high)


PARTS = {
    "init": initialisation,
    "tightness": tightness,
    "overestimation": overestimation,
    "sweep": sweep,
    "annealing": annealing,
}
