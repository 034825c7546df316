"""Tables and the picture of the group experiments."""

from pathlib import Path
from typing import Any

import numpy as np

from monojax.training import Table, interval
from train.reporting import figure, provenance, save_figure

# Monteiro et al., UAI 2022, supplement, Table 3: top-1 % of the output layer / the maps.
TABLE3 = {
    ("plain", 0.1): (85.68, 16.35),
    ("plain", 0.3): (92.12, 14.51),
    ("plain", 0.6): (94.51, 10.08),
    ("group", 0.1): (85.77, 82.21),
    ("group", 0.3): (92.42, 88.88),
    ("group", 0.6): (94.86, 93.81),
}
SCORES = {
    "s_ent": "entropy of shares",
    "s_max": "largest share",
    "s_pred": "predicted class's share",
    "agree": "agreement",
    "softmax": "max softmax (baseline)",
    "density": "density of totals, on training data",
    "share_density": "density of shares and their sum, on training data",
}
SETS = {
    "fashion_mnist": "Fashion-MNIST",
    "notmnist": "notMNIST",
    "noise": "noise",
    "inversions": "inversions",
    "blends": "blends",
    "pgd": "PGD attack",
}


def report(results: dict[Any, list[dict[str, Any]]], config: Any, workdir: Path) -> None:
    """Writes accuracy.md, detection.md, detected.md, table3.md (CIFAR-10) and groups.png.

    Args:
      results: (penalty, share) to one result per seed.
      config: the experiment's config.
      workdir: where to.
    """
    tables = {"accuracy": accuracy_table(results, config)}
    if config.unfamiliar:
        tables["auroc"] = detection_table(results, config, "auroc", "AUROC %")
        title = "unfamiliar inputs noticed at equal error, %"
        tables["detected"] = detection_table(results, config, "detected", title)
    if config.data == "cifar10":
        tables["table3"] = published_table(results, config)
    for name, table in tables.items():
        table.write(workdir, name, provenance(config))
        print("\n" + table.markdown(), flush=True)
    plot(results, config, workdir / "groups.png")


def accuracy_table(results: Any, config: Any) -> Table:
    """Output layer and maps, side by side.

    Args:
      results: see :func:`report`.
      config: its penalties and seeds.

    Returns:
      A Table.
    """
    header = ["penalty", "gamma", "mu", "form", "share of data %"]
    columns = {"output layer %": "test_output", "maps alone %": "test_activation"}
    if config.valid:
        columns |= {"output, valid %": "valid_output", "maps, valid %": "valid_activation"}
    title = f"{config.data}: accuracy, {len(config.seeds)} seeds, mean ± 1.96 standard errors"
    table = Table([*header, *columns, "behind, points", "own share %"], title)
    for (name, share), seeds in results.items():
        penalty = config.penalties[name]
        plain = not penalty.gamma
        how = ["", "", ""] if plain else [f"{penalty.gamma:g}", f"{penalty.mu:g}", penalty.form]
        cells = [_percent([r[key] for r in seeds]) for key in columns.values()]
        behind = _percent([r["test_output"] - r["test_activation"] for r in seeds])
        own = _percent([np.nanmean(r["classes"]["own_share"]) for r in seeds])
        table.add(name, *how, f"{100 * share:g}", *cells, behind, own)
    return table


def detection_table(results: Any, config: Any, key: str, title: str) -> Table:
    """One row per penalty and score, one column per set of unfamiliar inputs.

    Args:
      results: see :func:`report`.
      config: unfamiliar, seeds.
      key: "auroc" or "detected".
      title: of the table.

    Returns:
      A Table.
    """
    title = f"{config.data}: {title}, {len(config.seeds)} seeds, mean ± 1.96 standard errors"
    table = Table(["penalty", "score", *(SETS[name] for name in config.unfamiliar)], title)
    for (name, share), seeds in results.items():
        for score, label in SCORES.items():
            # Cells of an earlier version have no densities.
            if any(score not in r[key][s] for r in seeds for s in config.unfamiliar):
                continue
            cells = [_percent([r[key][s][score] for r in seeds]) for s in config.unfamiliar]
            table.add(name if share == 1 else f"{name}, {100 * share:g}%", label, *cells)
    return table


def published_table(results: Any, config: Any) -> Table:
    """Table 3's columns: "output / maps" for every share, ours over the published ones.

    Args:
      results: see :func:`report`.
      config: shares, penalties, model.

    Returns:
      A Table.
    """
    shares = list(config.shares)
    model = config.model
    title = (
        f"Table 3, top-1 % of the output layer / of the maps; ours: WRN-{model.depth}-"
        f"{model.width}, the iterations of {config.epochs:g} full epochs on JPEG copies, "
        f"{len(config.seeds)} seeds; published: their WideResNet, 600 epochs"
    )
    table = Table(["network", *(f"{100 * share:g}%" for share in shares)], title)
    for name in dict.fromkeys(name for name, _ in results):
        cells, penalty = [], config.penalties[name]
        for share in shares:
            seeds = results[name, share]
            both = [_percent([r[f"test_{k}"] for r in seeds]) for k in ("output", "activation")]
            cells.append(" / ".join(both))
        table.add(f"{name}, ours", *cells)
        kind = "group" if penalty.gamma else "plain"
        ours = penalty.form, penalty.gamma, penalty.mu
        if penalty.gamma and (ours != ("gradient", 1, 50) or "at" in penalty):
            continue  # our reading of the paper's penalty is the gradient form, with its weights
        known = [TABLE3.get((kind, share)) for share in shares]
        text = ["not published" if k is None else f"{k[0]} / {k[1]}" for k in known]
        table.add(f"{name}, published", *text)
    return table


def plot(results: Any, config: Any, path: Path) -> None:
    """What the maps say of every class (first seed), and how well unfamiliar inputs are told.

    Args:
      results: see :func:`report`.
      config: unfamiliar, seeds.
      path: the PNG.
    """
    wide = 1 if config.unfamiliar else 0
    ratios = [1] * len(results) + [1.9] * wide
    drawn, rows_of_axes = figure(
        1, len(ratios), (3.1 * sum(ratios) + 0.6, 3.9), width_ratios=ratios
    )
    axes = rows_of_axes[0]
    image: Any = None
    for axis, ((name, share), seeds) in zip(axes, results.items(), strict=False):
        counts = np.asarray(seeds[0]["classes"]["confusion"], float)
        rows = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        image = axis.imshow(rows, vmin=0, vmax=1, cmap="viridis")
        part = "" if share == 1 else f", {100 * share:g}% of the data"
        right = 100 * seeds[0]["test_activation"]
        axis.set_title(f"{name}{part}\nmaps right: {right:.1f}%", fontsize=10)
        axis.set(xlabel="class read off the maps", xticks=range(10), yticks=range(10))
    axes[0].set_ylabel("true class")
    drawn.colorbar(image, ax=axes[len(results) - 1], shrink=0.7, label="share of the class")
    if wide:
        _plot_detection(axes[-1], results, config)
    save_figure(drawn, path)


def _plot_detection(axis: Any, results: Any, config: Any) -> None:
    """AUROC of the entropy score, the baseline and a calibrated score, a mark per seed."""
    colors = ["tab:gray", "tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple"]
    marks = {"s_ent": "o", "softmax": "x", "share_density": "^"}
    places = np.arange(len(config.unfamiliar))
    for i, ((name, share), seeds) in enumerate(results.items()):
        for j, (score, mark) in enumerate(marks.items()):
            if any(score not in r["auroc"][s] for r in seeds for s in config.unfamiliar):
                continue
            values = [[r["auroc"][s][score] for s in config.unfamiliar] for r in seeds]
            width = len(marks) * len(results)
            shift = (len(marks) * i + j - (width - 1) / 2) * 0.8 / width
            part = "" if share == 1 else f" {100 * share:g}%"
            for k, row in enumerate(values):
                label = f"{name}{part}, {SCORES[score]}" if k == 0 else None
                axis.plot(
                    places + shift,
                    row,
                    mark,
                    color=colors[i % len(colors)],
                    label=label,
                    markersize=5,
                )
    axis.axhline(0.5, color="0.7", linewidth=1)
    axis.set_xticks(places, [SETS[name] for name in config.unfamiliar], rotation=20)
    axis.set(ylabel="AUROC", ylim=(0, 1.02), title="telling unfamiliar inputs, a mark per seed")
    axis.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.22))


def _percent(values: Any) -> str:
    mean, half = interval(100 * np.asarray(values, np.float64))
    return f"{mean:.2f} ± {half:.2f}" if len(values) > 1 else f"{mean:.2f}"
