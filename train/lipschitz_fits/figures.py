"""Pictures of the Lipschitz fits, numbered as in the paper's appendix.

In Figures 9, 17, 21, 25, 28 and 31 "ours" of the paper is the panel "BLNN (ReLU)"; the smooth
networks of the config follow it.
"""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from train.lipschitz_fits.initial import betas
from train.lipschitz_fits.models import build
from train.lipschitz_fits.tables import derived_constant, first_below
from train.lipschitz_fits.training import TARGETS
from train.reporting import figure, save_figure

BLUE, ORANGE, RED, GREY = "tab:blue", "tab:orange", "tab:red", "0.55"
ROW_TITLE = 24
"""Letters in a line of a row's title: a row is 2.2 inches high or more."""
LINES = {"steep": "y = 50x", "identity": "y = x"}


def initial_constants(results: dict, part: Any, workdir: Path) -> None:
    """Figures 1 and 2 (a curve per activation) and 3 to 5 (a histogram per initialisation).

    Args:
      results: of `train.lipschitz_fits.initial.run`.
      part: config.init.
      workdir: where to.
    """
    for number, activation in enumerate(("softplus", "relu"), start=1):
        if activation in part.activations:
            _constants(results["curves"], activation, part, workdir / f"figure{number}.png")
    for number, z_init in enumerate(part.z_inits, start=3):
        _histogram(results["histograms"][z_init], z_init, part, workdir / f"figure{number}.png")


def _constants(curves: dict, activation: str, part: Any, path: Path) -> None:
    drawn, axes = figure(1, len(part.layers), (4.6 * len(part.layers), 3.8), sharey=True)
    gaps, j = betas(part.betas), np.arange(part.betas)
    for axis, layers in zip(axes[0], part.layers, strict=True):
        numbers = curves[activation, layers]
        axis.plot(j, part.alpha + gaps, color=RED, linewidth=1, label=r"bound $\alpha + \beta$")
        axis.plot(j, numbers["upper"], ".", color=BLUE, markersize=4, label="largest gain")
        axis.plot(j, numbers["lower"], ".", color=ORANGE, markersize=4, label="smallest gain")
        axis.axhline(part.alpha, color="k", linewidth=1, linestyle="--", label=r"bound $\alpha$")
        axis.set(title=f"{layers} hidden layers", xlabel=r"$j$, with $\beta$ from 0.05 to 100")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("gain over random pairs")
    axes[0][0].legend(loc="upper left", fontsize=8)
    solver = "Newton" if activation == "softplus" else "gradient descent"
    names = {"softplus": "softplus", "relu": "ReLU"}
    drawn.suptitle(f"Constants at initialisation: {names[activation]}, {solver}", fontsize=11)
    save_figure(drawn, path, dpi=90)


def _histogram(numbers: dict, z_init: str, part: Any, path: Path) -> None:
    drawn, axes = figure(1, 2, (8.4, 3.4))
    top = part.alpha + part.gap
    names = {
        "glorot_uniform": "Glorot uniform, negatives clamped to 0",
        "uniform_0_1": "U[0, 1]",
        "uniform_1_1.1": "U[1.0, 1.1]",
    }
    for axis, key, title in zip(axes[0], ("upper", "lower"), ("largest", "smallest"), strict=True):
        axis.hist(numbers[key], bins=np.linspace(part.alpha, top * 1.0001, 41), color=BLUE)
        for bound in (part.alpha, top):
            axis.axvline(bound, color=RED, linewidth=1, linestyle="--")
        axis.set(title=f"{title} gain", xlabel="gain over random pairs")
        axis.set_xlim(part.alpha - 2, top + 2)
    axes[0][0].set_ylabel(f"networks of {part.nets}")
    drawn.suptitle(
        f"({part.alpha:g}, {part.gap:g})-BLNN, weights between units: {names.get(z_init, z_init)}",
        fontsize=11,
    )
    save_figure(drawn, path, dpi=90)


def jump_fits(results: dict, config: Any, workdir: Path) -> None:
    """Figure 9: the fitted jump at the largest constant, and a zoom.

    Args:
      results: (model, L) to a cell.
      config: see train/configs/lipschitz_fits.py.
      workdir: where to.
    """
    bound = max(config.tightness.constants)
    names = _chosen(config, config.tightness.models, ("sll", "sandwich"))
    if not names:
        return
    drawn, axes = figure(len(names), 2, (8.4, 2.3 * len(names) + 0.5), sharex="col")
    for row, name in zip(axes, names, strict=True):
        _, curves = results[name, bound]
        for axis, x, f in ((row[0], "x", "f"), (row[1], "near_x", "near_f")):
            grid = curves[x]
            target = np.where(grid == 0, np.nan, TARGETS["jump"](grid))
            axis.plot(grid, target, color=GREY, linewidth=3, alpha=0.6, label="target")
            for i, fit in enumerate(curves[f]):
                label = "fits, one per seed" if i == 0 else None
                axis.plot(grid, fit, color=BLUE, linewidth=0.9, label=label)
            axis.grid(alpha=0.3)
        inside = np.abs(curves["data_x"]) < 0.1
        points = curves["data_x"][inside], curves["data_y"][inside]
        row[1].plot(*points, "k.", markersize=5, label="training points, first seed")
        _row_title(row[0], build(name, config).title)
    axes[0][0].legend(fontsize=8, loc="upper left")
    axes[0][1].legend(fontsize=8, loc="upper left")
    axes[0][1].set_title("zoom")
    drawn.suptitle(f"The jump under L = {bound:g}", fontsize=11)
    save_figure(drawn, workdir / "figure9.png", dpi=90)


def line_fits(results: dict, config: Any, workdir: Path) -> None:
    """Figures 13 and 17 (both lines at one constant), and 25 (y = x at the largest).

    Args:
      results: (model, target, L) to a cell.
      config: see train/configs/lipschitz_fits.py.
      workdir: where to.
    """
    part = config.overestimation
    least: dict[str, float] = {}
    for target, bound in part.cases:
        least[target] = min(bound, least.get(target, bound))
    cases = [(target, least[target]) for target in ("steep", "identity") if target in least]
    for number, some in ((13, ("sn", "aol", "orthogonal")), (17, ("sll", "sandwich"))):
        names = _chosen(config, part.models, some, ours=number == 17)
        if not names:
            continue
        drawn, axes = figure(len(names), len(cases), (8.4, 2.2 * len(names) + 0.5), sharex=True)
        for row, name in zip(axes, names, strict=True):
            for axis, (target, bound) in zip(row, cases, strict=True):
                _line(axis, results[name, target, bound][1], target)
            _row_title(row[0], build(name, config).title)
        for axis, (target, bound) in zip(axes[0], cases, strict=True):
            axis.set_title(f"{LINES[target]}, L = {bound:g}")
        axes[0][0].legend(fontsize=8, loc="upper left")
        save_figure(drawn, workdir / f"figure{number}.png", dpi=90)
    wide = [bound for target, bound in part.cases if target == "identity"]
    if not wide:
        return
    names = _chosen(config, part.models, ("aol", "sandwich"))
    if not names:
        return
    drawn, axes = figure((len(names) + 1) // 2, 2, (8.4, 3 * ((len(names) + 1) // 2)))
    for axis, name in _panels(axes, names):
        _line(axis, results[name, "identity", max(wide)][1], "identity")
        axis.set_title(build(name, config).title)
    axes[0][0].legend(fontsize=8, loc="upper left")
    drawn.suptitle(f"y = x under L = {max(wide):g}", fontsize=11)
    save_figure(drawn, workdir / "figure25.png", dpi=90)


def _line(axis: Any, curves: dict, target: str) -> None:
    grid = curves["x"]
    axis.plot(grid, TARGETS[target](grid), color=GREY, linewidth=3, alpha=0.6, label="target")
    axis.plot(grid, curves["f"][0], color=BLUE, linewidth=1, label="fit, first seed")
    axis.grid(alpha=0.3)


def line_losses(results: dict, config: Any, workdir: Path) -> None:
    """Figure 21: loss against epoch on y = x, one curve per constant.

    Args:
      results: (model, target, L) to a cell.
      config: see train/configs/lipschitz_fits.py.
      workdir: where to.
    """
    part = config.overestimation
    bounds = sorted(bound for target, bound in part.cases if target == "identity")
    if not bounds:
        return
    names = _chosen(config, part.models, ("aol", "sandwich"))
    if not names:
        return
    rows = (len(names) + 1) // 2
    drawn, axes = figure(rows, 2, (8.4, 3 * rows + 0.2), sharey=True)
    for axis, name in _panels(axes, names):
        for color, bound in zip((BLUE, ORANGE, RED), bounds, strict=False):
            losses = results[name, "identity", bound][1]["losses"].mean(axis=1)
            steps = len(losses) // config.fit.epochs
            mean = losses.reshape(-1, steps).mean(axis=1)
            axis.semilogy(1 + np.arange(len(mean)), mean, color=color, label=f"L = {bound:g}")
        axis.set(title=build(name, config).title, xlabel="epoch")
        axis.grid(alpha=0.3)
    for row in axes:
        row[0].set_ylabel("training loss")
    axes[0][0].legend(fontsize=8)
    drawn.suptitle("Loss on y = x", fontsize=11)
    save_figure(drawn, workdir / "figure21.png", dpi=90)


def sweep(results: dict, config: Any, workdir: Path) -> None:
    """Figure 28: final loss, and first step below a loss, against the constant.

    Args:
      results: model to a cell.
      config: see train/configs/lipschitz_fits.py.
      workdir: where to.
    """
    part, names = config.sweep, config.sweep.models
    bounds = np.asarray(part.constants)
    drawn, axes = figure(len(names), 2, (8.4, 2.5 * len(names) + 0.3), sharex=True)
    for row, name in zip(axes, names, strict=True):
        numbers, curves = results[name]
        losses = np.asarray(numbers["train_mse"])
        least = 4 / 3 * np.maximum(50 - bounds, 0) ** 2
        row[0].plot(bounds, least, color=GREY, linewidth=3, alpha=0.6, label="least possible")
        row[0].plot(bounds, losses, ".-", color=BLUE, markersize=4, linewidth=0.8, label="fitted")
        _row_title(row[0], build(name, config).title, "final MSE")
        row[0].set_yscale("symlog", linthresh=0.1)
        row[0].set_ylim(bottom=0)
        row[1].plot(bounds, first_below(curves["losses"], part.below), ".", color=BLUE)
        row[1].set_ylabel(f"first step below {part.below:g}")
        row[1].set_ylim(0, len(curves["losses"]))
        found = derived_constant(part.constants, losses.tolist(), part.rise)
        row[0].set_title(f"read off: L = {found:g}", fontsize=9)
        for axis in row:
            axis.axvline(50, color=RED, linewidth=1)
            axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("L")
    drawn.suptitle("y = 50x under a constant L", fontsize=11)
    save_figure(drawn, workdir / "figure28.png", dpi=90)


def annealing(results: dict, config: Any, workdir: Path) -> None:
    """Figure 31: the fit of e^x, and the growing constant with the estimate it follows.

    Args:
      results: model to a cell.
      config: see train/configs/lipschitz_fits.py.
      workdir: where to.
    """
    names = config.annealing.models
    drawn, axes = figure(len(names), 2, (8.4, 2.5 * len(names) + 0.3), sharex="col")
    steps = config.fit.points // config.fit.batch_size
    for row, name in zip(axes, names, strict=True):
        _, curves = results[name]
        _line(row[0], curves, "exp")
        _row_title(row[0], build(name, config).title)
        when = steps * np.arange(len(curves["bounds"]))
        row[1].step(when, curves["bounds"][:, 0], where="post", color=RED, label="bound L")
        row[1].plot(when, curves["estimates"][:, 0], color=BLUE, linewidth=1, label="estimate")
        row[1].axhline(np.exp(5.0), color=GREY, linestyle="--", linewidth=1, label="$e^5$")
        row[1].set_yscale("log")
        row[1].grid(alpha=0.3)
    axes[0][0].legend(fontsize=8, loc="upper left")
    axes[0][1].legend(fontsize=8, loc="lower right")
    axes[-1][1].set_xlabel("optimiser step")
    axes[-1][0].set_xlabel("x")
    drawn.suptitle("$e^x$ with a constant that grows", fontsize=11)
    save_figure(drawn, workdir / "figure31.png", dpi=90)


def _chosen(config: Any, models: Any, some: Any, ours: bool = True) -> list[str]:
    """Those of ``some`` that were run, and then the bi-Lipschitz networks."""
    own = ("blnn", *config.smooth) if ours else ()
    return [name for name in (*some, *own) if name in models]


def _row_title(axis: Any, title: str, quantity: str = "") -> None:
    """Names a row at its left in lines that its height holds: long ones ran into each other."""
    lines = [*textwrap.wrap(title, ROW_TITLE), *([quantity] if quantity else [])]
    axis.set_ylabel("\n".join(lines), fontsize=9)


def _panels(axes: Any, names: list[str]):
    """Pairs of axis and name, row by row; panels too many are hidden."""
    flat = axes.ravel()
    for axis in flat[len(names) :]:
        axis.set_visible(False)
    return zip(flat, names, strict=False)
