"""Tables and figures of the explanation study: means, bootstrap intervals, who wins where."""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monojax import attribution
from monojax.metrics.intervals import mean_interval
from monojax.splitting.shift import BALANCED
from monojax.training import Table
from train.explain.judge import CONTROLS, SPLIT, TITLES, Setting, shown
from train.reporting import provenance

MEASURES = {
    "pointing": ("Pointing ↑", 1, 3),
    "localisation": ("Localisation ↑", 1, 3),
    "selectivity": ("Selectivity ↓", -1, 3),
    "flipping": ("Pixel flipping ↓", -1, 3),
    "sensitivity": ("Max-sensitivity ↓", -1, 3),
}
"""Measure: heading, 1 if higher is better, digits."""
SCREENED = {"pointing": -1, "localisation": -1, "flipping": 1, "sensitivity": 1}
"""Measures that choose a setting, and the sign that makes lower better."""
_DATA = {"coco128": "COCO128", "shapes3d": "scenes"}
_PATCHES = {"shapes3d": 64}
OURS = ("split_grad", "split_cam", "split_lrp")


def study(found: dict[str, Any], config: Any, workdir: Path) -> Table:
    """The table of one network and data set: a row per method.

    Args:
      found: from `train.explain.experiment.judged`.
      config: see train/configs/explain.py.
      workdir: where to.

    Returns:
      The table that was written.
    """
    keys = [k for k in MEASURES if k in found["values"][config.methods[0]]]
    right = int(np.sum(found["right"]))
    table = Table(
        ["Method", "Setting", "screened", *(MEASURES[k][0] for k in keys)],
        f"{found['title']} on {found['data']}: {len(found['which'])} images "
        f"(the explained class is the network's first choice on {right}); mean [95% interval]",
    )
    name = f"{found['data']}_{found['study'].network}"
    earlier = stored_rows(config.settings_from, name)
    found["earlier"] = _earlier_means(earlier, keys, config.methods)
    for method in TITLES:
        if method in config.methods:
            table.add(TITLES[method], *_row(found, method, keys))
        elif method in earlier:
            table.add(*earlier[method].values())
    name = f"{found['data']}_{found['study'].network}"
    _write(table, config, workdir, name, winners(found, keys))
    return table


def _row(found: dict[str, Any], method: str, keys: list[str]) -> list[Any]:
    row = [found["settings"][method], found["screened"][method]]
    for key in keys:
        mean, low, high = mean_interval(found["values"][method][key])
        row.append("{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(mean, low, high, d=MEASURES[key][2]))
    return row


def stored_rows(folder: str, name: str) -> dict[str, dict[str, str]]:
    """Rows of a table of an earlier run, of the methods without an alpha.

    Args:
      folder: of the tables; "" for none.
      name: of the table.

    Returns:
      Method to column to text.
    """
    names = {title: method for method, title in TITLES.items() if method not in SPLIT}
    file = Path(folder) / f"{name}.csv"
    if not folder or not file.is_file():
        return {}
    with file.open() as stream:
        rows = list(csv.DictReader(stream))
    return {names[row["Method"]]: row for row in rows if row["Method"] in names}


def stored_settings(folder: str, data: str, network: str) -> dict[str, Setting]:
    """The settings in a table of an earlier run, of the methods without an alpha.

    Args:
      folder: of the tables; "" for none.
      data: name of the data set that chose them.
      network: its name.

    Returns:
      Method to setting.
    """
    found = {}
    for method, row in stored_rows(folder, f"{data}_{network}").items():
        layer, *rest = row["Setting"].split(", ")
        found[method] = Setting(None if layer == "input" else layer, None, rest == ["abs"])
    return found


def _earlier_means(
    rows: dict[str, dict[str, str]], keys: list[str], methods: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Means of an earlier run, of methods that are not in this one."""
    return {
        method: {key: float(row[MEASURES[key][0]].split()[0]) for key in keys}
        for method, row in rows.items()
        if method not in methods
    }


def _means(found: dict[str, Any], key: str) -> dict[str, float]:
    """Of every method but the controls; higher is better."""
    sign = MEASURES[key][1]
    means = {m: sign * float(np.nanmean(rows[key])) for m, rows in found["values"].items()}
    means |= {m: sign * row[key] for m, row in found.get("earlier", {}).items()}
    return {m: mean for m, mean in means.items() if m not in CONTROLS}


def winners(found: dict[str, Any], keys: list[str]) -> str:
    """For each measure: the best split method against the best baseline, image by image.

    Args:
      found: from `train.explain.experiment.judged`.
      keys: measures.

    Returns:
      One line per measure, in plain words.
    """
    lines = []
    for key in keys:
        heading, sign, digits = MEASURES[key]
        means = _means(found, key)
        mine = {m: mean for m, mean in means.items() if m in OURS}
        others = {m: mean for m, mean in means.items() if m not in OURS}
        if not mine or not others:
            return ""
        ours, theirs = max(mine, key=mine.__getitem__), max(others, key=others.__getitem__)
        start = f"- {heading[:-2]}: {TITLES[ours]} against {TITLES[theirs]}, better by "
        if not {ours, theirs} <= found["values"].keys():  # no numbers image by image
            gap = means[ours] - means[theirs]
            lines.append(f"{start}{gap:.{digits}f}: means alone, one side is of an earlier run.")
            continue
        values = [np.asarray(found["values"][m][key]) for m in (ours, theirs)]
        middle, low, high = mean_interval(sign * (values[0] - values[1]))
        verdict = (
            "the split wins" if low > 0 else "the split loses" if high < 0 else "no difference"
        )
        interval = f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
        lines.append(f"{start}{interval}: {verdict}.")
    lines.append(
        "\nBoth sides of a comparison were picked as the best of their kind on these same images, "
        "so the intervals are too narrow, and there is one comparison per measure."
    )
    return "\n".join(lines)


def overview(results: list[dict[str, Any]], config: Any, workdir: Path) -> None:
    """Mean rank of each method over the measures, per study.

    Args:
      results: from `train.explain.experiment.judged`, one per study.
      config: see train/configs/explain.py.
      workdir: where to.
    """
    table = Table(
        ["Method", *(f"{r['title']}, {r['data']}" for r in results)],
        "Mean rank over the measures (1 is best; controls are not ranked)",
    )
    columns = []
    for found in results:
        keys = [k for k in MEASURES if k in found["values"][config.methods[0]]]
        by_key = [_means(found, key) for key in keys]
        methods = [m for m in TITLES if m in by_key[0]]
        means = np.array([[row[m] for m in methods] for row in by_key])
        columns.append((means[:, None, :] > means[:, :, None]).sum(2).mean(0) + 1)
    for i, method in enumerate(methods):
        table.add(TITLES[method], *(f"{column[i]:.1f}" for column in columns))
    _write(table, config, workdir, "mean_ranks", "")


def sweep(
    curves: dict[str, Any], config: Any, title: str, images: int, workdir: Path,
    data: str = "coco128", name: str = "alpha_sweep",
) -> None:  # fmt: skip
    """The figure and table of measures against alpha.

    Args:
      curves: ``"method at layer"`` to one dict of measures per alpha.
      config: see train/configs/explain.py.
      title: of the network.
      images: their number.
      workdir: where to.
      data: what the images are.
      name: of the files.
    """
    from matplotlib import pyplot

    keys = ("pointing", "localisation", "sensitivity", "flipping")
    table = Table(
        ["Method", "alpha", *(MEASURES[k][0] for k in keys)],
        f"Against alpha: {title}, {images} images of {_DATA.get(data, data)}, "
        f"{config.sweep.samples} sensitivity samples",
    )
    figure, axes = pyplot.subplots(1, len(keys), figsize=(13, 3.3), layout="constrained")
    numbers = [i for i, alpha in enumerate(config.sweep.alphas) if alpha != BALANCED]
    alphas = [config.sweep.alphas[i] for i in numbers]
    for at, (curve, rows) in enumerate(curves.items()):
        method, _, place = curve.partition(" at ")
        label = f"{TITLES[method]}, {place}"
        for axis, key in zip(axes, keys, strict=True):
            mean, low, high = np.array([mean_interval(rows[i][key]) for i in numbers]).T
            axis.plot(alphas, mean, "o-", color=f"C{at}", label=label)
            axis.fill_between(alphas, low, high, color=f"C{at}", alpha=0.2)
            for i in set(range(len(rows))) - set(numbers):
                level = np.nanmean(rows[i][key])
                axis.axhline(level, color=f"C{at}", ls="--", label=f"{label}, balanced")
        for alpha, row in zip(config.sweep.alphas, rows, strict=True):
            cells = [f"{np.nanmean(row[k]):.{MEASURES[k][2]}f}" for k in keys]
            table.add(label, shown(alpha).removeprefix("alpha "), *cells)
    for axis, key in zip(axes, keys, strict=True):
        axis.set(title=MEASURES[key][0], xlabel="alpha")
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.suptitle(f"{title}: 0 is the raw stream gradient, 0.5 half the gradient", fontsize=9)
    figure.savefig(Path(workdir) / f"{name}.png", dpi=120)
    pyplot.close(figure)
    _write(table, config, workdir, name, "")


def grid(
    pixels: np.ndarray, rows: list[list[np.ndarray]], methods: list[str], found: dict[str, Any],
    workdir: Path,
) -> None:  # fmt: skip
    """The grid of maps over their images.

    Args:
      pixels: images `[n, h, w, 3]`.
      rows: maps per image.
      methods: of the columns.
      found: from `train.explain.experiment.judged`.
      workdir: where to.
    """
    from matplotlib import pyplot

    titles = [f"{TITLES[m]}\n{found['settings'][m]}" for m in methods]
    figure = attribution.grid(list(pixels), rows, titles)
    name = f"maps_{found['data']}_{found['study'].network}.png"
    figure.savefig(Path(workdir) / name, dpi=90)
    pyplot.close(figure)


def _write(table: Table, config: Any, workdir: Path, name: str, note: str) -> None:
    if config.mode == "quick":
        table.title += " (QUICK FORM: a smoke run, its numbers mean nothing)"
    foot = "\n\n".join(part for part in (note, describe(config), provenance(config)) if part)
    table.write(workdir, name, foot)
    print("\n" + table.markdown() + ("\n" + note + "\n" if note else ""), flush=True)


def studies(config: Any) -> list[Any]:
    """The config's studies in their order."""
    return [config.study[name] for name in config.studies]


def describe(config: Any) -> str:
    """The counts of a run, for the tables' feet.

    Args:
      config: see train/configs/explain.py.

    Returns:
      Text.
    """
    counts = "; ".join(
        f"{s.network} on {s.data}: at most {s.images} images, {s.samples} sensitivity samples, "
        f"{math.ceil(_PATCHES.get(s.data, 784) / s.patches_in_step)} steps of "
        f"{s.patches_in_step} patches of 8 x 8, "
        f"{s.pixel_steps} steps of {s.pixels_in_step} pixels"
        + (f", removal on {s.removed}" if "removed" in s else "")
        + (f", noise on {s.sensitive}" if "sensitive" in s else "")
        for s in studies(config)
    )
    return (
        f"Settings chosen on at most {config.validation} validation images with "
        f"{config.screen_samples} sensitivity samples and {config.screen_steps} steps of pixel "
        f"flipping (mean rank over "
        f'{", ".join(SCREENED)}), alphas {json.dumps(list(config.alphas))}; "screened" says how '
        "many settings each method had. Max-sensitivity is of maps scaled to a largest size of 1, "
        "relative to the map's norm; integrated gradients have 10 steps; LRP epsilon is gradient x "
        f"input where the network has no biases that matter. {counts}."
    )
