"""Tables of the Lipschitz fits, with the published numbers beside ours."""

from pathlib import Path
from typing import Any

import numpy as np

from monojax.training import Table
from train.lipschitz_fits.models import build, count
from train.reporting import provenance

# Kinoshita and Toyoizumi, arXiv 2404.09821, Table 1: % of L reached, L = 2, 5, 10, 50.
PUBLISHED = {
    "sn": ("96.8±1.3", "80.1±5.0", "68.9±5.4", "32.5±5.8"),
    "aol": ("96.2±0.7", "65.9±4.7", "46.5±4.4", "15.4±2.8"),
    "orthogonal": ("98.7±0.4", "75.1±12.0", "48.9±11.7", "14.6±3.7"),
    "sll": ("97.5±0.4", "77.6±6.5", "50.0±8.5", "15.7±6.5"),
    "sandwich": ("97.5±0.7", "84.3±2.0", "60.2±4.1", "16.4±3.6"),
    "lmn": ("100.0±0.0", "100.0±0.0", "98.5±0.3", "26.0±3.6"),
    "bilipnet": ("100.0±0.0", "98.0±0.8", "58.9±3.6", "6.8±0.6"),
    "blnn": ("100.2±0.3", "100.0±0.0", "99.4±1.2", "99.9±0.1"),
}
PUBLISHED_AT = (2.0, 5.0, 10.0, 50.0)


def spread(values: Any, digits: int = 1) -> str:
    """Mean and standard deviation over runs, as the paper gives them.

    Args:
      values: `[runs]`.
      digits: after the point.

    Returns:
      Text.
    """
    values = np.asarray(values, np.float64)
    return f"{values.mean():.{digits}f}±{values.std():.{digits}f}"


def best_mse(bound: float) -> float:
    """The least mean squared error on [-2, 2] of slopes in [1, L] at the jump, 1 / (48 (L - 1))."""
    return 1 / (48 * (bound - 1))


def tightness(results: dict, ramps: dict, config: Any, workdir: Path) -> None:
    """table1: the paper's estimate, published beside; tightness: everything.

    Args:
      results: (model, L) to a cell.
      ramps: L to the errors of the best ramps on each seed's points.
      config: see train/configs/lipschitz_fits.py.
      workdir: where to.
    """
    part, models = config.tightness, {name: build(name, config) for name in config.tightness.models}
    runs = _runs(config)
    header = ["model", "parameters", *(f"L = {bound:g}" for bound in part.constants)]
    title = "% of L reached, largest gain over 3000 random pairs, ours (published)"
    short = Table(header, f"Table 1: {title}; {runs}, mean±sd")
    for name, model in models.items():
        texts = []
        for bound in part.constants:
            numbers, _ = results[name, bound]
            published = ""
            if name in PUBLISHED and bound in PUBLISHED_AT:
                published = f" ({PUBLISHED[name][PUBLISHED_AT.index(bound)]})"
            texts.append(spread(100 * np.asarray(numbers["paper"]) / bound) + published)
        short.add(model.title, count(model), *texts)
    windows = ", ".join(
        f"[{low:g}, {high:g}] at L = {bound:g}"
        for bound, (low, high) in zip(part.constants, part.windows, strict=True)
    )
    note = f"Windows of the estimate: {windows}.\n\n{provenance(config)}"
    _write(short, workdir, "table1", config, note)
    long = Table(LONG, f"The jump: {runs}, mean±sd")
    _add_rows(long, results, models, part.constants, ramps)
    note = (
        "Estimate: over random pairs, as in Table 1. Exact: the largest slope on [-0.5, 0.5], by\n"
        "neighbours on a fine grid and by derivatives, in float64, of the exact network (no inner\n"
        "loop). Fresh: over [-2, 2]. Best possible: of slopes in [1, L]; best ramp there: of the\n"
        "ramps of slope L that fit each seed's points best, the middle one; no bound.\n"
        "Unsolved: share of the inner solves of the estimate that stopped short of their\n"
        f"tolerance. {_settings(config, models)}\n\n{provenance(config)}"
    )
    _write(long, workdir, "tightness", config, note)


LONG = ["L", "model", "estimate %", "exact %", "training MSE", "fresh MSE", "/ best", "unsolved %"]


def _add_rows(table: Table, results: dict, models: dict, constants: Any, ramps: Any = None):
    """One row per constant and model, then the best ramp at the points and the best possible."""
    for bound in constants:
        for name, model in models.items():
            numbers, _ = results[name, bound]
            fresh = np.asarray(numbers["fresh_mse"])
            table.add(
                f"{bound:g}",
                model.title,
                spread(100 * np.asarray(numbers["paper"]) / bound),
                spread(100 * np.asarray(numbers["exact"]) / bound, 2),
                spread(numbers["train_mse"], 5),
                spread(fresh, 5),
                spread(fresh / best_mse(bound), 2),
                f"{abs(100 * np.mean(numbers['unsolved'])):.1f}",
            )
        if ramps:
            ramp = np.asarray(ramps[bound])
            ratio = spread(ramp / best_mse(bound), 2)
            table.add(f"{bound:g}", "best ramp there", "", "100", "", spread(ramp, 5), ratio, "")
        table.add(f"{bound:g}", "best possible", "", "100", "", f"{best_mse(bound):.5f}", "1", "")


def _settings(config: Any, models: dict) -> str:
    """Rates and losses, which differ between rows."""
    texts = [f"Peak rate {config.fit.lr:g}, Adam's b2 0.999, squared error; but"]
    for model in models.values():
        rate = config.fit.lr * model.lr_scale
        loss = getattr(model, "loss", "squared").replace("_", "-")
        if (model.lr_scale, model.b2, loss) != (1.0, 0.999, "squared"):
            texts.append(f"{model.title}: {rate:g}, {model.b2:g}, {loss};")
    return "\n".join(texts).rstrip(";") + "." if len(texts) > 1 else texts[0][:-5] + "."


def evenly(results: dict, config: Any, workdir: Path) -> None:
    """The jump once more, fitted to evenly spaced points.

    Args:
      results: (model, L) to a cell.
      config: see train/configs/lipschitz_fits.py.
      workdir: where to.
    """
    part, models = config.tightness, {name: build(name, config) for name in config.tightness.even}
    table = Table(LONG, f"The jump from evenly spaced points: {_runs(config)}, mean±sd")
    _add_rows(table, results, models, part.constants)
    note = (
        "Columns as in tightness.md. The seeds differ in parameters and order, not in points.\n"
        f"{_settings(config, models)}\n\n{provenance(config)}"
    )
    _write(table, workdir, "tightness_even", config, note)


def overestimation(results: dict, config: Any, workdir: Path) -> None:
    """Errors on straight lines.

    Args:
      results: (model, target, L) to a cell.
      config: see train/configs/lipschitz_fits.py.
      workdir: where to.
    """
    part, lines = config.overestimation, {"steep": "y = 50x", "identity": "y = x"}
    header = [f"{lines.get(target, target)}, L = {bound:g}" for target, bound in part.cases]
    table = Table(["model", *header], f"Fresh MSE on [-2, 2]; {_runs(config, part.runs)}")
    for name in part.models:
        errors = [results[name, target, bound][0]["fresh_mse"] for target, bound in part.cases]
        title = build(name, config).title
        texts = [f"{np.mean(e):.2g}" + (f"±{np.std(e):.1g}" if len(e) > 1 else "") for e in errors]
        table.add(title, *texts)
    _write(table, workdir, "overestimation", config, provenance(config))


def derived_constant(constants: Any, losses: Any, rise: float) -> float:
    """The constant of the target, read off final losses: lower L until the loss rises.

    From the L of the least loss downwards. Starting at the largest L would do for a loss that is
    0 above the target's constant; where a loose constant leaves a loss of its own, it would not.

    Args:
      constants: L, increasing, `[n]`.
      losses: `[n]`.
      rise: a loss has risen if it exceeds the least one by so much.

    Returns:
      The smallest L before the rise.
    """
    index = int(np.argmin(losses))
    least = losses[index]
    while index > 0 and losses[index - 1] <= least + rise:
        index -= 1
    return float(constants[index])


def first_below(losses: np.ndarray, below: float) -> np.ndarray:
    """First step (from 1) whose batch loss is below a value, NaN if none; `[steps, n]` to `[n]`."""
    under = losses < below
    return np.where(under.any(axis=0), 1.0 + under.argmax(axis=0), np.nan)


def sweep(results: dict, config: Any, workdir: Path) -> None:
    """Final losses and speeds for each constant, and the derived constants.

    Args:
      results: model to a cell.
      config: see train/configs/lipschitz_fits.py.
      workdir: where to.
    """
    part = config.sweep
    models = {name: build(name, config) for name in part.models}
    header = ["L"]
    for model in models.values():
        header += [f"{model.title}: final MSE", f"first below {part.below:g}"]
    table = Table([*header, "least possible"], "y = 50x under a constant L, one seed")
    steps = {n: first_below(results[n][1]["losses"], part.below) for n in models}
    for i, bound in enumerate(part.constants):
        texts = []
        for name in models:
            reached = steps[name][i]
            texts += [f"{results[name][0]['train_mse'][i]:.4g}"]
            texts += ["never" if np.isnan(reached) else f"{reached:.0f}"]
        table.add(f"{bound:g}", *texts, f"{4 / 3 * max(50 - bound, 0) ** 2:.4g}")
    found = [
        f"{model.title} {derived_constant(part.constants, results[n][0]['train_mse'], part.rise):g}"
        for n, model in models.items()
    ]
    note = (
        f"Constant of the target (50), read off going down from the least loss until it rises by "
        f"{part.rise:g}: {'; '.join(found)}. First below: optimiser step whose batch loss is below "
        f"{part.below:g}.\n\n{provenance(config)}"
    )
    _write(table, workdir, "sweep", config, note)


def annealing(results: dict, config: Any, workdir: Path) -> None:
    """Where the annealed constants ended.

    Args:
      results: model to a cell.
      config: see train/configs/lipschitz_fits.py.
      workdir: where to.
    """
    header = ["model", "final L", "last estimate", "steepest point", "raised", "MSE on [-5, 5]"]
    table = Table(header, "e^x on [-5, 5], largest slope 148.4; L grows while it is used up")
    for name in config.annealing.models:
        numbers, curves = results[name]
        bounds = np.append(curves["bounds"][:, 0], numbers["upper"][0])
        table.add(
            build(name, config).title,
            f"{bounds[-1]:.4g}",
            f"{curves['estimates'][-1, 0]:.4g}",
            f"{numbers['exact'][0]:.4g}",
            int((np.diff(bounds, prepend=config.annealing.start) > 0).sum()),
            f"{numbers['fresh_mse'][0]:.4g}",
        )
    _write(table, workdir, "annealing", config, provenance(config))


def initialisation(results: dict, config: Any, workdir: Path) -> None:
    """How near the bounds the constants of untrained networks are.

    Args:
      results: of `train.lipschitz_fits.initial.run`.
      config: see train/configs/lipschitz_fits.py.
      workdir: where to.
    """
    from train.lipschitz_fits.initial import betas

    part = config.init
    header = ["networks", "(lower - alpha) / beta", "(upper - alpha) / beta", "outside", "unsolved"]
    table = Table(
        header, f"Constants at initialisation, alpha = {part.alpha:g}: median, least to largest"
    )
    groups = [
        (f"{activation}, {layers} layers", numbers, betas(part.betas))
        for (activation, layers), numbers in results["curves"].items()
    ]
    groups += [
        (f"softplus, {part.histogram_layers} layers, {z}", numbers, np.full(part.nets, part.gap))
        for z, numbers in results["histograms"].items()
    ]
    for name, numbers, gaps in groups:
        shares = [(np.asarray(numbers[key]) - part.alpha) / gaps for key in ("lower", "upper")]
        texts = [f"{np.median(s):.3f}, {s.min():.3f} to {s.max():.3f}" for s in shares]
        outside = int(((shares[0] < -1e-3) | (shares[1] > 1 + 1e-3)).sum())
        table.add(name, *texts, outside, f"{100 * np.mean(numbers['unsolved']):.1f}%")
    note = (
        "0 is the lower bound, 1 the upper. Outside: networks beyond a bound by more than 0.1% of\n"
        "beta (ReLU: the gradient descent stops at a mean residual of 1e-3).\n\n"
        f"{provenance(config)}"
    )
    _write(table, workdir, "init", config, note)


def _runs(config: Any, limit: int | None = None) -> str:
    num = len(config.seeds[:limit])
    return f"{num} seed{'s' if num > 1 else ''}, {config.fit.epochs} epochs"


def _write(table: Table, workdir: Path, name: str, config: Any, note: str) -> None:
    if config.mode == "quick":
        table.title += " (QUICK FORM: a smoke run, its numbers mean nothing)"
    table.write(workdir, name, note)
    print("\n" + table.markdown(), flush=True)
