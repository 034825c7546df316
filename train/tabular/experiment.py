"""The partially monotone benchmark: networks, boosted trees and mononet under one protocol.

Everything is chosen on the training part: which candidate, and how many epochs (or trees), by
k-fold cross-validation. Then every seed is trained on the whole training part and measured once
on the test part. The literature's protocol, the best test value over epochs, is a second column.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from monojax.data.tabular import TABULAR_SETS
from monojax.training import Cells
from train.checks import at_least, choice
from train.tabular import mononet_row, networks, trees
from train.tabular.data import Problem, folds, load_problem
from train.tabular.measures import best_on_test, certified, microseconds_per_row, violations
from train.tabular.report import write_report
from train.tabular.training import train

ROWS = (*networks.ROWS, "mononet", *trees.ROWS)


def check(config: Any) -> None:
    """Finds mistakes in the values of a config before anything is trained or written.

    Args:
      config: see train/configs/tabular.py.

    Raises:
      ValueError: naming the first one.
    """
    choice(config, ROWS, "rows")
    at_least(config, 1, "rows", "problems", "certify_budget", "bootstrap_draws")
    for name, options in config.problems.items():
        at = f"config.problems.{name}"
        choice({"name": name}, TABULAR_SETS, "name", at="config.problems")
        choice(options, ROWS, "skip", at=at)
        choice(options, ("clean", "benchmark"), "protocol", at=at)
        at_least(options, 1, "seeds", "epochs", "solved_epochs", "batch_size", "points", at=at)
        at_least(options, 0, "gamma", "max_rows", at=at)
        at_least(options, 2, "folds", "trees", at=at)


def total_steps(config: Any) -> int:
    """Units of work, for the progress bar.

    Args:
      config: the experiment's config.

    Returns:
      One per row and data set.
    """
    return sum(len(rows_of(config, name)) for name in config.problems)


def rows_of(config: Any, name: str) -> list[str]:
    """Rows of a data set in the order of computing: trees first, inner solves last.

    Args:
      config: rows, and the set's ``skip``.
      name: of the set.

    Returns:
      Members of `ROWS`.
    """
    rows = [r for r in ROWS if r in config.rows and r not in config.problems[name].skip]
    weight = lambda r: 2 * networks.ROWS[r].solves if r in networks.ROWS else r == "mononet"
    return sorted(rows, key=lambda r: (r not in trees.ROWS, weight(r)))


def run(config: Any, workdir: Path, bar: Any) -> dict[str, Any]:
    """Trains and measures every row on every set; writes a table per set and one of all.

    Args:
      config: see train/configs/tabular.py.
      workdir: the experiment's directory.
      bar: progress bar over :func:`total_steps`.

    Returns:
      ``{set: {row: (numbers, arrays)}}``.
    """
    cells, results = Cells(workdir, config.reuse), {}
    problems = {name: load_problem(name, options) for name, options in config.problems.items()}
    for name, problem in problems.items():
        options, found = config.problems[name], {}
        for row in rows_of(config, name):
            bar.set_postfix_str(f"{name}/{row}")
            if _absent(row):
                bar.write(f"{row}: its package is not installed; the row is left out.")
            else:
                compute = functools.partial(measure, problem, row, options, config)
                found[row] = cells.get(f"{name}-{row}", _inputs(row, name, config), compute)
            bar.update(1)
        results[name] = {row: found[row] for row in ROWS if row in found}
    write_report(problems, results, config, workdir)
    return results


def measure(problem: Problem, row: str, options: Any, config: Any) -> tuple[dict, dict]:
    """One cell: chooses on the training part, trains every seed, measures.

    Args:
      problem: data.
      row: one of `ROWS`.
      options: seeds, folds, epochs, trees, ... of this set.
      config: seed, certify_budget.

    Returns:
      ``(numbers, arrays)`` for `monojax.training.Cells`.
    """
    began = time.process_time()
    fitter = _fitter(problem, row, options, config)
    rows, valid = folds(len(problem.x), options.folds, config.seed)
    stages = fitter.stages
    scores = []
    for candidate in fitter.candidates:
        values = fitter.fit(candidate, rows, problem.x[valid], np.arange(len(rows)), 0).values
        by_fold = [problem.score(values[:, k], problem.y[valid[k]]) for k in range(options.folds)]
        scores.append(np.mean(by_fold, axis=0))
    table = problem.sign * np.where(np.isfinite(scores), scores, -np.inf * problem.sign)
    best, stage = np.unravel_index(np.argmax(table), table.shape)
    everyone = np.tile(np.arange(len(problem.x)), (options.seeds, 1))
    seeds = config.seed + 100 + np.arange(options.seeds)
    done = fitter.fit(fitter.candidates[best], everyone, problem.x_test, seeds, int(stage) + 1)
    chosen = done.values[stage]
    numbers = {
        "candidate": int(best),
        "stage": int(stages[stage]),
        "of": int(stages[-1]),
        "validation": float(np.asarray(scores)[best, stage]),
        "clean": problem.score(chosen, problem.y_test),
        "literature": best_on_test(problem, done.values),
        "violations": [violations(predict, problem) for predict in done.predict],
        "certified": done.certified(),
        "parameters": done.parameters,
        "fit_seconds": done.seconds / options.seeds,
        "compile_seconds": done.compiling,
        "microseconds_per_row": microseconds_per_row(done.predict[0], problem.x_test),
        "cpu_seconds": time.process_time() - began,
    }
    return numbers, {"values": chosen.astype(np.float32)}


@dataclasses.dataclass(frozen=True)
class Fitted:
    """Trained runs."""

    values: np.ndarray
    """`[stages, runs, m]`: epochs or numbers of trees."""
    predict: Sequence[Callable[[np.ndarray], np.ndarray]]
    """Of every run, at the stage that was asked for, on the host."""
    parameters: int
    seconds: float
    """Of all runs up to that stage."""
    certified: Callable[[], float]
    """Share of the box; 1 by construction, NaN where nothing can be said."""
    compiling: float = 0.0


@dataclasses.dataclass(frozen=True)
class Fitter:
    """How a row is fitted."""

    candidates: tuple[dict[str, Any], ...]
    stages: np.ndarray
    fit: Callable[..., Fitted]
    """(candidate, rows [runs, n], watched, seeds [runs], stage from 1 or 0 for the last)"""


def _fitter(problem: Problem, row: str, options: Any, config: Any) -> Fitter:
    if row in networks.ROWS:
        known = networks.ROWS[row]
        epochs = options.solved_epochs if known.solves else options.epochs
        fit = functools.partial(_fit_network, problem, known, options, epochs, config)
        return Fitter(known.candidates, 1 + np.arange(epochs), fit)
    if row == "mononet":
        fit = functools.partial(_fit_mononet, problem, options)
        return Fitter(mononet_row.CANDIDATES, 1 + np.arange(options.peer_epochs), fit)
    stages = np.unique(np.geomspace(5, options.trees, 40).astype(int))
    fit = functools.partial(_fit_trees, problem, trees.ROWS[row], stages)
    return Fitter(trees.CANDIDATES, stages, fit)


def _fit_network(problem, row, options, epochs, config, candidate, rows, watched, seeds, stage):
    done = train(problem, row, candidate, rows, watched, seeds, epochs, options, keep=stage)
    module = row.make(candidate, tuple(int(d) for d in problem.directions))
    program = jax.jit(lambda variables, x: networks.value(module, variables, x))
    runs = [jax.tree.map(lambda leaf, i=i: leaf[i], done.variables) for i in range(len(seeds))]

    def certificate() -> float:
        if row.guaranteed:
            return 1.0
        if row.solves:  # an inner solve is a loop of unknown length
            return float("nan")
        fn = lambda x: networks.value(module, runs[0], x)
        return certified(fn, problem, config.certify_budget)

    return Fitted(
        done.values,
        [functools.partial(_applied, program, variables) for variables in runs],
        sum(leaf.size for leaf in jax.tree.leaves(runs[0])),
        done.seconds,
        certificate,
        done.compiling,
    )


def _fit_trees(problem, row, stages, candidate, rows, watched, seeds, stage):
    values, predict, seconds, count = [], [], 0.0, int(stages[stage - 1])
    for i, seed in enumerate(seeds):
        seen = watched if watched.ndim == 2 else watched[i]
        fit = functools.partial(trees.fit_trees, problem, row, candidate, rows[i])
        found, model, spent = fit(seen, int(seed), int(stages[-1]), stages)
        values.append(found)
        seconds += spent * (count / stages[-1])
        predict.append(functools.partial(_staged, row, problem.task, model, count))
    # Constrained trees hold by their own construction; nothing certifies the others.
    share = 1.0 if row.constrained else float("nan")
    size = trees.size(row, model, count)
    return Fitted(np.stack(values, axis=1), predict, size, seconds, lambda: share)


def _applied(program, variables, x):
    return np.asarray(program(variables, x))


def _staged(row, task, model, count, x):
    return trees.staged(row, task, model, x, np.array([count]))[0]


def _fit_mononet(problem, options, candidate, rows, watched, seeds, stage):
    values, predict, seconds = [], [], 0.0
    for i, seed in enumerate(seeds):
        seen = watched if watched.ndim == 2 else watched[i]
        fit = functools.partial(mononet_row.train, problem, candidate, rows[i])
        found, model, spent = fit(seen, int(seed), options.peer_epochs, options.batch_size, stage)
        values.append(found)
        predict.append(model)
        seconds += spent
    size = predict[0].parameters
    return Fitted(np.stack(values, axis=1), predict, size, seconds, lambda: 1.0)


def _absent(row: str) -> bool:
    if row == "mononet":
        return not mononet_row.installed()
    return row in trees.ROWS and not trees.installed(trees.ROWS[row].kind)


def _inputs(row: str, name: str, config: Any) -> dict[str, Any]:
    """What a cell depends on."""
    options = config.problems[name].to_dict()
    common: dict[str, Any] = {"folds": options.pop("folds"), "seed": config.seed}
    count = options.pop("trees")
    unused = ["title", "data_dir", "skip"]
    if row in networks.ROWS:
        known = networks.ROWS[row]
        unused += ["peer_epochs", "epochs" if known.solves else "solved_epochs"]
        common |= {"candidates": known.candidates, "certify_budget": config.certify_budget}
    else:
        unused += ["epochs", "solved_epochs", "points", "gamma"]
        if row == "mononet":
            common |= {"candidates": mononet_row.CANDIDATES}
        else:
            unused += ["peer_epochs", "batch_size"]
            common |= {"candidates": trees.CANDIDATES, "trees": count}
    kept = {key: value for key, value in options.items() if key not in unused}
    return {"row": row, "set": name, "options": kept, **common}
