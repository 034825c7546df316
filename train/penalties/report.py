"""Tables and pictures of the penalty experiments."""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.training import Table, interval, write_atomically
from train.penalties.data import Problem
from train.reporting import figure, provenance, save_figure

TITLES = {
    "none": "no penalty",
    "random": "random points",
    "train": "training batch",
    "mixup": "mixup",
    "data_mixup": "data-only mixup",
    "random_train": "random + train",
    "half": "half random, half mixup",
    "random_margin": "random points, margin",
    "mixup_margin": "mixup, margin",
}
COLUMNS = {
    "valid_rmse": "RMSE valid",
    "test_rmse": "RMSE test",
    "rho_random": "rho random %",
    "rho_train": "rho train %",
    "rho_mixup": "rho mixup %",
    "rho_test": "rho test %",
    "best_epoch": "best epoch",
}
# Monteiro et al., UAI 2022, supplement, Tables 1 and 2 (|M|/D: kind: four numbers).
PUBLISHED = {
    "20/100": {
        "none": (0.007, 0.107, 99.90, 99.99),
        "random": (0.008, 0.117, 0.00, 3.49),
        "train": (0.008, 0.115, 1.30, 0.36),
        "mixup": (0.008, 0.114, 0.00, 0.35),
    },
    "40/200": {
        "none": (0.006, 0.082, 97.92, 94.96),
        "random": (0.006, 0.081, 0.00, 4.62),
        "train": (0.006, 0.086, 4.00, 0.58),
        "mixup": (0.007, 0.084, 0.00, 0.44),
    },
    "80/400": {
        "none": (0.007, 0.087, 98.47, 96.56),
        "random": (0.007, 0.093, 0.01, 11.36),
        "train": (0.007, 0.089, 9.67, 0.25),
        "mixup": (0.008, 0.088, 0.00, 0.26),
    },
    "100/500": {
        "none": (0.011, 0.146, 93.98, 90.01),
        "random": (0.012, 0.125, 0.02, 19.90),
        "train": (0.012, 0.134, 9.25, 5.57),
        "mixup": (0.012, 0.134, 0.00, 0.42),
    },
}


def penalty_report(
    problem: Problem, model, params: dict[str, Any], figures: dict, config: Any, workdir: Path
) -> None:
    """Writes a problem's table, its numbers per seed, and its partial-dependence picture.

    Args:
      problem: data and directions.
      model: linen module.
      params: kind to variables with leaves `[seeds, ...]`.
      figures: kind to column to values `[seeds]`.
      config: the experiment's config.
      workdir: where to.
    """
    header = ["penalty on", *COLUMNS.values()]
    table = Table(header, f"{problem.title}; {config.seeds} seeds, mean ± 1.96 standard errors")
    for kind, row in figures.items():
        table.add(TITLES[kind], *(cell(key, row[key]) for key in COLUMNS))
    table.write(workdir, problem.name, provenance(config))
    numbers = jax.tree.map(lambda values: np.asarray(values).tolist(), figures)
    write_atomically(Path(workdir) / f"{problem.name}.json", json.dumps(numbers, indent=1) + "\n")
    plot_dependence(problem, model, params, Path(workdir) / f"{problem.name}_dependence.png")
    sys.stderr.flush()
    print("\n" + table.markdown(), flush=True)


def cell(column: str, values: Any) -> str:
    """A table cell: mean and interval, rates in percent.

    Args:
      column: key of `COLUMNS`.
      values: one per seed.

    Returns:
      Text.
    """
    scale, digits = (100, 2) if column.startswith("rho") else (1, 4)
    digits = 0 if column == "best_epoch" else digits
    mean, half = interval(np.asarray(values) * scale)
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def paper_tables(results: dict[str, Any], config: Any, workdir: Path) -> None:
    """Tables 1 and 2 of the paper, each cell as "ours ± interval (published)".

    Args:
      results: problem to kind to column to values `[seeds]`.
      config: the experiment's config.
      workdir: where to.
    """
    parts = {"table1": ("valid_rmse", "test_rmse"), "table2": ("rho_random", "rho_test")}
    for number, (name, columns) in enumerate(parts.items()):
        sizes = {
            problem: f"{o.num_monotone}/{o.num_inputs}"
            for problem, o in config.problems.items()
            if o.data == "synthetic"
        }
        header = [f"{COLUMNS[c]} {size}" for size in sizes.values() for c in columns]
        title = f"Table {number + 1}: ours over {config.seeds} seeds (published mean)"
        table = Table(["penalty on", *header], title)
        for kind in config.kinds:
            cells = []
            for problem, size in sizes.items():
                for i, column in enumerate(columns):
                    published = PUBLISHED.get(size, {}).get(kind)
                    text = cell(column, results[problem][kind][column])
                    shown = "" if published is None else f" ({published[2 * number + i]:g})"
                    cells.append(text + shown)
            table.add(TITLES[kind], *cells)
        table.write(workdir, name, provenance(config))
        print("\n" + table.markdown(), flush=True)


def plot_dependence(problem: Problem, model, params: dict[str, Any], path: Path) -> None:
    """What the models do along the monotone inputs: one row an input, one column a model.

    Thin lines are single validation rows under the first seed's model (individual conditional
    expectations, Goldstein et al. 2015); thick lines their mean, one per seed (partial
    dependence, Friedman 2001). Red: the wrong way.

    Args:
      problem: data and directions.
      model: linen module.
      params: kind to variables with leaves `[seeds, ...]`.
      path: the PNG.
    """
    columns = problem.monotone[:3]
    grid = np.linspace(0, 1, 41, dtype=np.float32)
    single, mean = _curves(problem, model, columns, grid)
    size = (3 * len(params), 2.6 * len(columns) + 0.6)
    drawn, axes = figure(len(columns), len(params), size, sharey="row", sharex="row")
    for j, (kind, seeds) in enumerate(params.items()):
        thin = np.asarray(single(jax.tree.map(lambda leaf: leaf[0], seeds)))
        thick = np.asarray(jax.lax.map(mean, seeds)).swapaxes(0, 1)
        for i, column in enumerate(columns):
            axis = axes[i][j]
            raw = problem.low[column] + grid * (problem.high[column] - problem.low[column])
            _draw(axis, raw, thin[i], problem.directions[column], "0.6", 0.5)
            _draw(axis, raw, thick[i], problem.directions[column], "tab:blue", 1.5)
            axis.set_xlabel(problem.columns[column])
            if i == 0:
                axis.set_title(TITLES[kind])
            if j == 0:
                axis.set_ylabel(problem.target)
    sense = {1: "increasing", -1: "decreasing"}
    wanted = ", ".join(f"{problem.columns[c]} {sense[int(problem.directions[c])]}" for c in columns)
    drawn.suptitle(
        f"{problem.name}: {wanted}. Blue: mean, a line per seed; grey: single rows, first seed; "
        "red: the wrong way",
        fontsize=9,
    )
    save_figure(drawn, path)


def _curves(problem: Problem, model, columns: list[int], grid: np.ndarray):
    """Two jitted functions of one seed's variables: `[inputs, 40, grid]` and `[inputs, grid]`."""
    x = jnp.asarray(problem.arrays["x_valid"][:256])

    def rows(variables, x):
        def at(column, value):
            return model.apply(variables, x.at[:, column].set(value))

        over_grid = jax.vmap(at, in_axes=(None, 0), out_axes=1)
        values = jax.vmap(over_grid, in_axes=(0, None))(jnp.asarray(columns), jnp.asarray(grid))
        return values * problem.target_scale + problem.target_low

    single = jax.jit(lambda variables: rows(variables, x[:40]))
    return single, jax.jit(lambda variables: rows(variables, x).mean(axis=1))


def _draw(axis, x, curves, direction, color, width) -> None:
    """Curves `[lines, grid]`, with the pieces that go the wrong way in red."""
    wrong = np.diff(curves, axis=1) * direction < 0
    touched = np.pad(wrong, ((0, 0), (0, 1))) | np.pad(wrong, ((0, 0), (1, 0)))
    axis.plot(x, curves.T, color=color, linewidth=width)
    axis.plot(x, np.where(touched, curves, np.nan).T, color="tab:red", linewidth=width * 1.3)
