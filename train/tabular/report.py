"""Tables and a picture of the benchmark."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from monojax.training import Table, interval, write_atomically
from train.reporting import figure, provenance, save_figure
from train.tabular import mononet_row, networks, trees
from train.tabular.data import Problem
from train.tabular.measures import SWEPT, against

PEER = "xgboost_constrained"
PUBLISHED = {
    "compas": {"pblnn": "69.4", "lmn": "69.3", "smnn": "69.3", "mononet": "69.2"},
    "blog_feedback": {"pblnn": ".157", "lmn": ".160", "smnn": ".150", "mononet": ".154"},
    "heart": {"pblnn": "90.2", "lmn": "89.6", "smnn": "88.0", "mononet": "89.0"},
    "auto_mpg": {"pblnn": "7.13", "lmn": "7.58", "smnn": "7.44", "mononet": "8.37"},
}
"""Kinoshita and Toyoizumi (2024), Table 5, which quotes the others from their papers."""

REMARK = (
    "'PBLNN as published' bounds slopes of the map, not of its mean in single columns: it does not "
    "guarantee monotonicity (see its violations). Published numbers are the best test value over "
    "epochs, for classes over thresholds, too."
)


def title(row: str) -> str:
    """A row's name in the table."""
    if row in networks.ROWS:
        return networks.ROWS[row].title
    return mononet_row.TITLE if row == "mononet" else trees.ROWS[row].title


def write_report(
    problems: dict[str, Problem], results: dict[str, Any], config: Any, workdir: Path
) -> None:
    """Writes a table per set, the table of all sets, the numbers, and the picture.

    Args:
      problems: name to data.
      results: name to row to (numbers, arrays).
      config: the experiment's config.
      workdir: where to.
    """
    differences = {
        name: {row: _against(problems[name], found, row, config) for row in found}
        for name, found in results.items()
    }
    for name, found in results.items():
        table = set_table(problems[name], found, differences[name], config.problems[name])
        note = [legend(problems[name], config, config.problems[name]), REMARK, provenance(config)]
        table.write(workdir, name, "\n\n".join(note))
        print("\n" + table.markdown(), flush=True)
    whole = all_table(problems, results)
    whole.write(
        workdir, "table5", f"{bars(problems, results, differences)}\n\n{provenance(config)}"
    )
    print("\n" + whole.markdown(), flush=True)
    numbers = {
        name: {row: numbers for row, (numbers, _) in found.items()}
        for name, found in results.items()
    }
    write_atomically(Path(workdir) / "numbers.json", json.dumps(numbers, indent=1) + "\n")
    draw(problems, results, differences, Path(workdir) / "table5.png")


def set_table(problem: Problem, found: Any, differences: Any, options: Any) -> Table:
    """All columns of one set.

    Args:
      problem: data.
      found: row to (numbers, arrays).
      differences: row to (difference, low, high), or None without the peer.
      options: its config.

    Returns:
      Table.
    """
    header = [
        "model",
        f"test {problem.metric}",
        f"minus {title(PEER)}",
        "all seeds averaged",
        "best over epochs",
        "published",
        "violations %",
        "certified %",
        "numbers",
        "fit s",
        "predict us/row",
    ]
    better = "higher" if problem.sign > 0 else "lower"
    table = Table(header, f"{problem.title}; {options.seeds} seeds; {better} is better")
    for row, (numbers, arrays) in found.items():
        together = float(problem.score(arrays["values"].mean(axis=0), problem.y_test))
        table.add(
            title(row),
            _mean(problem, numbers["clean"]),
            _difference(problem, differences[row]),
            _number(problem, together),
            _mean(problem, numbers["literature"]),
            PUBLISHED.get(problem.name, {}).get(row, ""),
            f"{100 * np.mean(numbers['violations']):.1f}",
            _share(row, numbers["certified"]),
            numbers["parameters"],
            f"{numbers['fit_seconds']:.2f}",
            f"{numbers['microseconds_per_row']:.2f}",
        )
    return table


def legend(problem: Problem, config: Any, options: Any) -> str:
    """What the columns of a set's table are."""
    text = (
        f"{len(problem.x)} training rows, {len(problem.x_test)} test rows, {problem.x.shape[1]} "
        f"columns, {np.count_nonzero(problem.directions)} of them monotone. Test: candidate and "
        f"number of epochs (or trees) chosen by {options.folds}-fold cross-validation on the "
        "training part; mean ± 1.96 standard errors over seeds. Minus: difference and 95% interval "
        "by a paired bootstrap over test rows. All seeds averaged: of their predictions, which "
        "keeps a guarantee. Best over epochs: the literature's protocol, chosen "
        f"on the test part. Violations: share of {min(SWEPT, len(problem.x_test))} test rows for "
        "which moving a monotone column over its range ever moves the prediction the wrong way. "
        f"Certified: 'form' is by construction; a number is the share of the box proved within "
        f"{config.certify_budget} boxes (first seed). Fit: one seed of those trained side by side, "
        "without compiling and without choosing."
    )
    return text + (f" {problem.caution}" if problem.caution else "")


def all_table(problems: dict[str, Problem], results: dict[str, Any]) -> Table:
    """Models by sets: the clean column, published numbers behind it."""
    header = ["model", *(f"{n} ({p.metric})" for n, p in problems.items())]
    table = Table(
        header, "Test metric, chosen on the training part alone (published, chosen on test)"
    )
    for row in dict.fromkeys(row for found in results.values() for row in found):
        cells = []
        for name, found in results.items():
            text = _mean(problems[name], found[row][0]["clean"]) if row in found else "-"
            published = PUBLISHED.get(name, {}).get(row)
            cells.append(text + (f" ({published})" if published else ""))
        table.add(title(row), *cells)
    return table


def bars(problems: dict[str, Problem], results: dict[str, Any], differences: Any) -> str:
    """What was aimed at, and by how much it was met or missed."""
    lines = []
    ours = [row for row in networks.ROWS if networks.ROWS[row].guaranteed]
    for name, problem in problems.items():
        found = {
            row: np.mean(results[name][row][0]["clean"]) for row in ours if row in results[name]
        }
        if not found:
            continue
        # By cross-validation, so that the choice does not look at the test part.
        best = max(found, key=lambda r: problem.sign * results[name][r][0]["validation"])
        line = (
            f"{name}: of our guaranteed rows cross-validation chooses {title(best)}, "
            f"{problem.metric} {_number(problem, found[best])}"
        )
        if differences[name].get(best) is not None:
            value, low, high = differences[name][best]
            bad = high < 0 if problem.sign > 0 else low > 0
            word = "worse than" if bad else "at least level with"
            line += (
                f"; {word} constrained XGBoost within the interval "
                f"({_difference(problem, (value, low, high))})"
            )
        if name == "auto_mpg":
            gap = found[best] - 9.52
            line += f"; bar 9.52 {'met' if gap < 0 else 'missed'} by {abs(gap):.2f}"
        lines.append(f"- {line}.")
    return "\n".join(lines)


def draw(problems: dict[str, Problem], results: Any, differences: Any, path: Path) -> None:
    """Differences from constrained XGBoost with their intervals, a panel per set."""
    shown = {name: d for name, d in differences.items() if any(d.values())}
    if not shown:
        return
    rows = list(dict.fromkeys(row for d in shown.values() for row in d if row != PEER))
    size = (2.9 * len(shown) + 2.2, 0.27 * len(rows) + 1.2)
    drawn, axes = figure(1, len(shown), size, sharey=True)
    for axis, (name, found) in zip(axes[0], shown.items(), strict=True):
        axis.axvline(0, color="0.7", linewidth=1)
        for place, row in enumerate(rows):
            if found.get(row) is None:
                continue
            value, low, high = found[row]
            holds = results[name][row][0]["certified"] == 1
            color = "tab:blue" if holds else "tab:red"
            axis.plot([low, high], [place, place], color=color, linewidth=1.4)
            axis.plot(value, place, "o", color=color, markersize=4)
        better = "right" if problems[name].sign > 0 else "left"
        axis.set_title(f"{name}\n{problems[name].metric}, better: {better}", fontsize=9)
        axis.tick_params(labelsize=8)
    axes[0][0].set_yticks(range(len(rows)), [title(row) for row in rows])
    axes[0][0].invert_yaxis()
    drawn.suptitle(
        "Test metric minus that of constrained XGBoost, 95% over test rows.\n"
        "Blue: monotone by form",
        fontsize=9,
    )
    save_figure(drawn, path)


def _against(problem: Problem, found: Any, row: str, config: Any) -> Any:
    if row == PEER or PEER not in found:
        return None
    mine, other = found[row][1]["values"], found[PEER][1]["values"]
    return against(problem, mine, other, config.bootstrap_draws)


def _number(problem: Problem, value: float) -> str:
    return f"{value:.{4 if problem.metric == 'RMSE' else 2}f}"


def _mean(problem: Problem, values: Any) -> str:
    mean, half = interval(values)
    return f"{_number(problem, mean)} ± {_number(problem, half)}"


def _difference(problem: Problem, found: Any) -> str:
    if found is None:
        return ""
    value, low, high = (_number(problem, number) for number in found)
    return f"{value} [{low}, {high}]"


def _share(row: str, share: float) -> str:
    form = row in networks.ROWS and networks.ROWS[row].guaranteed
    if form or row == "mononet" or (row in trees.ROWS and trees.ROWS[row].constrained):
        return "form"
    return "-" if share is None or np.isnan(share) else f"{100 * share:.1f}"
