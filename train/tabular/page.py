"""What a run on a person's table leaves to look at: a table, pictures, and one page for all."""

import base64
import html
from pathlib import Path
from typing import Any

import numpy as np

from monojax.training import Table as TextTable
from monojax.training import write_atomically
from train.reporting import figure, provenance, save_figure
from train.tabular import judging, learners
from train.tabular.dialect import Sheet
from train.tabular.table import Table

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em;
  color: #1b1b1b; background: #fff; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .86em; }
th, td { padding: .3em .7em; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }
tr.chosen td { background: #eaf3ff; font-weight: 600; }
.answer { background: #f4f6f8; padding: .8em 1.1em; border-left: 4px solid #2b6cb0; }
img { max-width: 100%; height: auto; } code { background: #f4f6f8; padding: .1em .3em; }
.small { color: #555; font-size: .9em; }
"""


def write(
    sheet: Sheet,
    table: Table,
    parts: tuple[np.ndarray, np.ndarray],
    results: dict[str, Any],
    chosen: str,
    config: Any,
    workdir: Path,
) -> None:
    """Writes results.md, results.csv, the pictures and report.html.

    Args:
      sheet: the file's cells.
      table: schema and rows.
      parts: rows of the training and of the test part.
      results: name to (numbers, arrays).
      chosen: the model that was saved.
      config: the experiment's config.
      workdir: where to.
    """
    prices = price_of_each(table, results, config)
    text = results_table(table, results, prices, chosen)
    answer = sentences(table, results, prices, chosen)
    text.write(workdir, "results", "\n\n".join([*answer, provenance(config)]))
    draw_dependences(table, results, chosen, workdir / "dependence.png")
    draw_prices(table, prices, workdir / "price.png")
    body = _page(sheet, table, parts, results, text, answer, chosen, config, workdir)
    write_atomically(workdir / "report.html", body)
    print("\n" + text.markdown() + "\n" + "\n".join(answer), flush=True)
    print(f"\nOpen {workdir / 'report.html'} in a browser.", flush=True)


def price_of_each(table: Table, results: dict[str, Any], config: Any) -> dict[str, Any]:
    """What keeping the directions costs: a model less the same kind without them.

    Args:
      table: its task is used.
      results: name to (numbers, arrays).
      config: bootstrap_draws, seed.

    Returns:
      Name to (difference, low, high) of the main metric on the test part; above 0 is a price.
    """
    made = {}
    for name, other in learners.FREE_OF.items():
        if name in results and other in results:
            mine, free = results[name][1]["losses"], results[other][1]["losses"]
            draws, seed = config.bootstrap_draws, config.seed
            made[name] = judging.difference(table.schema.task, mine, free, draws, seed)
    return made


def results_table(
    table: Table, results: dict[str, Any], prices: dict[str, Any], chosen: str
) -> TextTable:
    """The models, one a row."""
    task = table.schema.task
    metrics = list(next(iter(results.values()))[0]["test"])
    header = ["model", "monotone", f"{metrics[0]}, folds", *(f"{m}, test" for m in metrics)]
    header += ["price of monotonicity", "pairs in violation %"]
    made = TextTable(header, f"{table.schema.target} ({task})")
    for name, (numbers, _) in results.items():
        folds = np.asarray(numbers["folds"])
        made.add(
            learners.TITLES[name] + (" (chosen)" if name == chosen else ""),
            _status(name, numbers),
            f"{folds.mean():.4g} ± {folds.std():.2g}",
            *(f"{value:.4g}" for value in numbers["test"].values()),
            _price(prices.get(name)),
            f"{100 * numbers['violations']:.2f}",
        )
    return made


def _price(found: Any) -> str:
    if found is None:
        return ""
    value, low, high = found
    return f"{value:+.3g} [{low:+.3g}, {high:+.3g}]"


def _status(name: str, numbers: dict[str, Any]) -> str:
    if numbers["status"] == "proved":
        return f"certified ({numbers['stage']})"
    if numbers["status"]:
        share = "" if numbers["status"] == "refuted" else f", {100 * numbers['volume']:.1f}% proved"
        return numbers["status"] + share
    return "by its own constraint" if name.endswith("_constrained") else "not asked"


def sentences(
    table: Table, results: dict[str, Any], prices: dict[str, Any], chosen: str
) -> list[str]:
    """The answer in words, the conclusion first."""
    numbers = results[chosen][0]
    metric = judging.main_metric(table.schema.task)
    proved = numbers["status"] == "proved"
    promise = "with a certificate for every direction" if proved else "WITHOUT a certificate"
    made = [
        f"The {learners.TITLES[chosen]} was chosen by cross-validation and saved, {promise}; "
        f"{metric} on the test part {numbers['test'][metric]:.4g}."
    ]
    if chosen in prices:
        value, low, high = prices[chosen]
        if low > 0:
            word = "Keeping the directions costs accuracy here"
        elif high < 0:
            word = "Keeping the directions makes it more accurate here"
        else:
            word = "No price of keeping the directions is seen on these rows"
        made.append(
            f"{word}: {metric} {value:+.3g} against the same kind of model without them, 95% "
            f"interval {low:+.3g} to {high:+.3g}."
        )
    others = [n for n in results if n not in learners.METHODS]
    best = min(others, key=lambda n: results[n][0]["test"][metric])
    made.append(
        f"The best of the others on the test part is {learners.TITLES[best]}: "
        f"{results[best][0]['test'][metric]:.4g}, with {100 * results[best][0]['violations']:.2f}% "
        "of random pairs in violation."
    )
    return made


def draw_dependences(table: Table, results: dict[str, Any], chosen: str, path: Path) -> None:
    """A panel per column with a direction: the chosen model with its proved band, and the free one.

    Args:
      table: schema.
      results: name to (numbers, arrays).
      chosen: the saved model.
      path: the PNG.
    """
    schema = table.schema
    bound = [i for i, column in enumerate(schema.columns) if column.direction]
    wide = min(3, len(bound))
    tall = -(-len(bound) // wide)
    drawn, axes = figure(tall, wide, (4.3 * wide, 3.3 * tall + 0.5))
    ours, free = results[chosen][1], results["free"][1]
    for axis, i in zip(axes.ravel(), bound, strict=False):
        grid, value = ours[f"grid{i}"], ours[f"value{i}"]
        lower, upper = ours[f"lower{i}"], ours[f"upper{i}"]
        axis.plot(free[f"grid{i}"], free[f"value{i}"], color="0.6", label="unconstrained network")
        axis.plot(grid, value, color="tab:blue", linewidth=2, label=learners.TITLES[chosen])
        low, high = axis.get_ylim()
        edges = [_from_the_left(value[0], bound * np.diff(grid)) for bound in (lower, upper)]
        axis.fill_between(
            grid,
            *(np.clip(edge, low, high) for edge in edges),
            color="tab:blue",
            alpha=0.2,
            linewidth=0,
            label="proved slopes, from the left end",
        )
        axis.set_ylim(low, high)
        axis.locator_params(axis="x", nbins=5)
        word = "must not fall" if schema.columns[i].direction > 0 else "must not rise"
        axis.set_title(f"{_plain(schema.columns[i].name)}: {word}", fontsize=10)
    for axis in axes.ravel()[len(bound) :]:
        axis.set_axis_off()
    what = _plain(schema.target)
    if schema.task == "classification":
        what = f"log-odds of {what}={_plain(schema.classes[1])}"
    axes[0][0].set_ylabel(f"mean {what}")
    axes[0][0].legend(fontsize=8)
    save_figure(drawn, path)


def _from_the_left(start: float, rises: np.ndarray) -> np.ndarray:
    """A curve from its first value and what each cell of the grid adds, `[g]`."""
    return np.concatenate([[start], start + np.cumsum(rises)])


def draw_prices(table: Table, prices: dict[str, Any], path: Path) -> None:
    """The price of monotonicity of each model with its interval."""
    drawn, axes = figure(1, 1, (7.2, 0.42 * len(prices) + 1.1))
    axis = axes[0][0]
    axis.axvline(0, color="0.7", linewidth=1)
    for place, (value, low, high) in enumerate(prices.values()):
        axis.plot([low, high], [place, place], color="tab:blue", linewidth=2)
        axis.plot(value, place, "o", color="tab:blue")
    axis.set_yticks(range(len(prices)), [learners.TITLES[name] for name in prices])
    axis.set_ylim(len(prices) - 0.5, -0.5)
    axis.set_xlabel(
        f"{judging.main_metric(table.schema.task)} less that without directions\n"
        "(right of 0: a price), 95% over test rows"
    )
    save_figure(drawn, path)


def _plain(text: str) -> str:
    """A name as matplotlib shows it, without reading $ as the start of a formula."""
    return text.replace("$", r"\$")


def _page(
    sheet: Sheet,
    table: Table,
    parts: tuple[np.ndarray, np.ndarray],
    results: dict[str, Any],
    text: TextTable,
    answer: list[str],
    chosen: str,
    config: Any,
    workdir: Path,
) -> str:
    schema = table.schema
    name = Path(config.file).name if config.file else "Auto MPG (of the package)"
    what = schema.target
    if schema.classes:
        what = f"the probability that {schema.target} is {schema.classes[1]}"
    rules = [
        f"<li><b>{_safe(c.name)}</b>: {_safe(what)} must not "
        f"{'fall' if c.direction > 0 else 'rise'} as it rises</li>"
        for c in schema.columns
        if c.direction
    ]
    free = ", ".join(_safe(c.name) for c in schema.columns if not c.direction) or "none"
    notes = [f"<li>{_safe(note)}</li>" for note in table.notes] or ["<li>nothing</li>"]
    certificates = [
        f"<li>{_safe(learners.TITLES[n])}: {_safe(_status(n, results[n][0]))}</li>"
        for n in results
        if results[n][0]["status"]
    ]
    score = f"python -m train --config csv:predict --config.model={workdir} --config.file=NEW.csv"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_safe(schema.target)}: {_safe(name)}</title><style>{STYLE}</style></head><body>
<h1>{_safe(schema.target)} from {_safe(name)}</h1>
<p class="answer">{" ".join(map(_safe, answer))}</p>
<h2>What was promised</h2>
<ul>{"".join(rules)}</ul>
<p>Free columns: {free}.</p>
<h2>Models</h2>
<div class="wide">{_table(text, chosen)}</div>
<p class="small">{_safe(legend(table, parts, config))}</p>
<h2>Price of monotonicity</h2>
{_picture(workdir / "price.png", "price of each model with its interval")}
<h2>What the chosen model does</h2>
<p>Blue: the mean prediction over rows as one column moves. The shaded band holds every curve that
starts at the same place and has the slopes that are proved possible: where both of its edges go one
way, the promise is kept between the points of the grid as well. Grey: the network that was promised
nothing.</p>
{_picture(workdir / "dependence.png", "partial dependence on the columns with a direction")}
<h2>Certificates</h2>
<ul>{"".join(certificates)}</ul>
<p class="small">"Certified" speaks of the fitted function in exact arithmetic: of a method by
construction everywhere, otherwise within the ranges of the training rows. The certificate of the
chosen model is certificate.json. Trees keep their own constraint and are not certified here.</p>
<h2>Left out</h2>
<ul>{"".join(notes)}</ul>
<p>Read as {_safe(sheet.encoding)}, split at {_safe(repr(sheet.delimiter))}, decimal sign
{_safe(repr(schema.decimal))}: {len(table.y)} rows, {len(schema.columns)} columns.</p>
<h2>Score new rows</h2>
<p><code>{_safe(score)}</code></p>
<p class="small">{_safe(provenance(config))}</p>
</body></html>
"""


def legend(table: Table, parts: tuple[np.ndarray, np.ndarray], config: Any) -> str:
    """What the columns of the table are."""
    metric = judging.main_metric(table.schema.task)
    return (
        f"{len(parts[0])} training rows, {len(parts[1])} test rows, drawn by seed {config.seed}. "
        f"Folds: {metric} over {config.folds} folds of the training part, mean ± standard "
        "deviation, by which the model was chosen. Price: the model's metric on the test part less "
        "that of the same kind without directions, with its 95% interval by a paired bootstrap "
        "over test rows; it says nothing of other trainings. "
        f"Networks are means of {config.members}, that with a penalty is one. Pairs in violation: "
        "of random pairs of rows that differ in one column with a direction, those in the wrong "
        "order; measured, no proof."
    )


def _table(text: TextTable, chosen: str) -> str:
    title = learners.TITLES[chosen] + " (chosen)"
    head = "".join(f"<th>{_safe(cell)}</th>" for cell in text.header)
    rows = []
    for row in text.rows:
        kind = ' class="chosen"' if row[0] == title else ""
        rows.append(f"<tr{kind}>" + "".join(f"<td>{_safe(cell)}</td>" for cell in row) + "</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _picture(path: Path, about: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{_safe(about)}" src="data:image/png;base64,{data}">'


def _safe(text: Any) -> str:
    return html.escape(str(text))
