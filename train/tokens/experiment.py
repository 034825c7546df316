"""Which tokens matter: explanations of two transformers, judged by deleting tokens.

Tokens are deleted (hidden from attention and pooling) by decreasing attribution; the faster the
score falls, the better (area under the curve, most relevant first). The reverse order, least
relevant first, should keep the score. Layer, alpha and stream of every method are chosen on
validation examples by the first area, and reported on other examples.

Reference:
  Abnar, Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, arXiv 2005.00928;
  Ali et al., "XAI for Transformers", ICML 2022, arXiv 2202.07304.
"""

from pathlib import Path
from typing import Any

import numpy as np

from monojax.metrics.intervals import mean_interval
from monojax.training import Cells, Table
from monojax.training.workdir import plain_config
from train.checks import at_least, choice
from train.reporting import provenance
from train.tokens.data import Problem, minilm_problem, vit_problem
from train.tokens.figures import plot_curves, plot_images, plot_sentences
from train.tokens.methods import (
    METHODS,
    Setting,
    area,
    attributions,
    deletion,
    settings,
)

KINDS = ("vit", "minilm")
REFERENCE = "gradient x input, frozen"
"""The strongest method without a split: the limit of SplitCAM (stream both) at alpha = 0.5."""


def check(config: Any) -> None:
    """Finds mistakes in the values of a config before anything is written.

    Args:
      config: the experiment's config.

    Raises:
      ValueError: naming the first one.
    """
    choice(config, KINDS, "problems")
    choice(config, METHODS, "methods")
    if REFERENCE not in config.methods:
        raise ValueError(f"config.methods needs {REFERENCE!r}, which others are compared with.")
    at_least(config, 1, "validation", "test", "steps", "batch_size")


def total_steps(config: Any) -> int:
    """Units of work: training steps, and 100 per method and problem.

    Args:
      config: see train/configs/tokens.py.

    Returns:
      Their number.
    """
    training = config.vit.steps if "vit" in config.problems else 0
    return training + 100 * len(config.problems) * len(config.methods)


def run(config: Any, workdir: Path, bar: Any) -> dict[str, dict[str, np.ndarray]]:
    """Trains, explains, deletes; writes tokens.md, tokens.csv and the pictures.

    Args:
      config: see train/configs/tokens.py.
      workdir: where to; finished methods are kept there and not computed again.
      bar: progress bar over :func:`total_steps`.

    Returns:
      Problem to method to areas, most relevant first, `[test]`.
    """
    header = ["problem", "method", "setting", "most relevant first", "least relevant first"]
    title = f"Token deletion, area under the score: mean [95% over {config.test} examples]"
    table = Table([*header, f"minus {REFERENCE}"], title)
    results: dict[str, dict[str, np.ndarray]] = {}
    notes, curves, cells = [], {}, Cells(workdir)
    for name in config.problems:
        problem = _problem(name, config, workdir, bar)
        found: dict[str, dict[str, Any]] = {}
        for method in config.methods:
            found[method] = measure(problem, method, config, workdir, cells)
            bar.update(100)
        _rows(table, problem, found)
        results[name] = {method: area(one["most"]) for method, one in found.items()}
        curves[problem.title] = {method: one["most"].mean(0) for method, one in found.items()}
        notes.append(problem.note)
        show = plot_images if problem.words is None else plot_sentences
        show(problem, found, config.validation, workdir / f"{name}.png")
    plot_curves(curves, workdir / "curves.png")
    text = f"{'; '.join(notes)}. Settings chosen on {config.validation} other examples."
    table.write(workdir, "tokens", f"{text} {provenance(config)}")
    print("\n" + table.markdown(), flush=True)
    return results


def _problem(name: str, config: Any, workdir: Path, bar: Any) -> Problem:
    num = config.validation + config.test
    if name == "vit":
        return vit_problem(config.vit, num, workdir, bar)
    return minilm_problem(config.minilm, num)


def measure(
    problem: Problem, name: str, config: Any, workdir: Path, cells: Cells
) -> dict[str, Any]:
    """Chooses a method's setting on the validation examples and measures it on the others.

    Args:
      problem: what is explained.
      name: of the method.
      config: see train/configs/tokens.py.
      workdir: where version 0.1.0 kept one file per problem and method.
      cells: finished methods.

    Returns:
      `setting` (text), `screened`, `maps` `[test, t]`, `most` and `least` `[test, steps + 1]`.
    """
    label = f"{problem.name}_{name.replace(' ', '_').replace(',', '')}"
    options = plain_config(config[problem.name])
    inputs = [options, name, config.validation, config.test, config.steps]

    def compute() -> tuple[dict[str, Any], dict[str, Any]]:
        file = workdir / f"{label}.npz"
        if not file.is_file():
            return _measured(problem, name, config)
        with np.load(file) as old:
            curves = {key: old[key] for key in ("maps", "most", "least")}
            return {key: old[key].tolist() for key in ("setting", "screened")}, curves

    numbers, curves = cells.get(label, inputs, compute)
    return {**numbers, **curves}


def _measured(
    problem: Problem, name: str, config: Any
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What :func:`measure` keeps: texts, and arrays."""
    valid = np.arange(min(config.validation, len(problem.x)))
    test = np.arange(len(valid), len(problem.x))
    curve = lambda rows, maps: deletion(problem, rows, maps, config.steps, config.batch_size)
    candidates = settings(METHODS[name], config[problem.name])
    chosen, scores = candidates[0], []
    if len(candidates) > 1:
        for setting in candidates:
            maps = attributions(problem, name, setting, valid, config.batch_size)
            scores.append(float(area(curve(valid, maps)).mean()))
        chosen = candidates[int(np.argmin(scores))]
    maps = attributions(problem, name, chosen, test, config.batch_size)
    if not np.isfinite(maps[problem.tokens[test]]).all():
        raise FloatingPointError(f"{name} on {problem.name} is not finite at {chosen}.")
    screened = [f"{s}: {v:.5f}" for s, v in zip(candidates, scores, strict=False)]
    arrays = {"maps": maps, "most": curve(test, maps), "least": curve(test, -maps)}
    return {"setting": str(chosen), "screened": screened}, arrays


def _rows(table: Table, problem: Problem, found: dict[str, dict[str, Any]]) -> None:
    """One row a method, in the order of the first area."""
    most = {name: area(one["most"]) for name, one in found.items()}
    for name in sorted(found, key=lambda name: most[name].mean()):
        cells = [_interval(most[name]), _interval(area(found[name]["least"]))]
        difference = "-" if name == REFERENCE else _interval(most[name] - most[REFERENCE])
        table.add(problem.name, name, str(found[name]["setting"]), *cells, difference)


def _interval(values: np.ndarray) -> str:
    mean, low, high = mean_interval(values)
    return f"{mean:.4f} [{low:.4f}, {high:.4f}]"


__all__ = ["Setting", "check", "measure", "run", "total_steps"]
