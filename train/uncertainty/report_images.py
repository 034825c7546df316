"""Tables and pictures of the image sets, the published numbers beside ours."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from monojax.metrics import auroc, bootstrap
from monojax.training import Table
from train.reporting import figure, provenance, save_figure
from train.uncertainty.data import SCALE
from train.uncertainty.report import spread

IMAGES = {
    (14, "DUQ"): (".8564±.0066", ".078±.004", ".870±.040", ".852±.010"),
    (14, "DUQ+BLNN"): (".8595±.0032", ".078±.004", ".876±.008", ".960±.009"),
    (28, "DUQ"): (".8893±.0037", ".064±.005", ".862±.035", ".900±.024"),
    (28, "DUQ+BLNN"): (".8985±.0040", ".060±.000", ".896±.008", ".964±.005"),
}
"""Tables 3 and 4: accuracy, cross-entropy, AUROC against MNIST and notMNIST."""
CONVOLUTIONAL = ("92.4%", ".955")
"""Van Amersfoort et al., ICML 2020: accuracy, and AUROC against MNIST, of a convolutional DUQ."""
BY_DEGREES = {"rotated": "degrees turned", "noisy": "deviation of the noise, grey levels"}
"""Sets of growing severity."""


def images(results: Any, config: Any, workdir: Path) -> None:
    """images, detection and calibration; for each size histograms, ROC curves, severity, attacks.

    Args:
      results: from `images.run`.
      config: see train/configs/uncertainty.py.
      workdir: where to.
    """
    note = provenance(config)
    count = config.images.seeds
    seeds = f"mean±sd over {count} seeds" if count > 1 else "one seed"
    extra = [name for name in config.images.extra if name not in BY_DEGREES]
    extra += ["held_out"] if config.images.held_out else []
    blank = [""] * (1 + len(extra))
    table = Table(
        [
            *("size", "row", "accuracy", "BCE", "AUROC MNIST", "AUROC notMNIST", "95% interval"),
            *(f"AUROC {name}" for name in extra),
        ],
        f"Fashion-MNIST against MNIST and notMNIST, {config.images.seeds} seed(s); the interval "
        "is the first seed's bootstrap over images, against notMNIST",
    )
    more = Table(
        [
            "size",
            "row",
            "set",
            "AUROC",
            "AUPRC",
            "FPR at 95%",
            "AUROC Mahalanobis",
            "mean certainty",
        ],
        f"Detection by the certainty, and by Mahalanobis on the features; {seeds}",
    )
    calm = Table(
        ["size", "row", "AURC", "coverage at 5% risk", "ECE", "training s", "scoring s", "failed"],
        f"Selective prediction and calibration, {seeds}; solves that missed their tolerance",
    )
    for (size, name), published in IMAGES.items():
        if size in config.images.sizes:
            table.add(size, f"{name} (published)", *published, *blank)
    if any(row[0] == "cnn" for row in config.images.rows):
        known = CONVOLUTIONAL[0], "", CONVOLUTIONAL[1], ""
        table.add(28, "convolutional DUQ (published)", *known, *blank)
    for (size, row), cells in results.items():
        name = row_name(row)
        scores = cells[0][1]

        def over(key, cells=cells):
            return spread([numbers[key] for numbers, _ in cells], 4)

        def certain(other, cells=cells):
            return spread([np.exp(scores[other]).mean() for _, scores in cells], 4)

        values = map(over, ("accuracy", "bce", "mnist_auroc", "notmnist_auroc"))
        interval = _interval(scores["test"], scores["notmnist"])
        table.add(size, name, *values, interval, *(over(f"{other}_auroc") for other in extra))
        more.add(size, name, "Fashion-MNIST, test", "", "", "", "", certain("test"))
        for other in (other for other in scores if other != "test"):
            keys = ("auroc", "auprc", "fpr95", "mahalanobis")
            more.add(size, name, other, *(over(f"{other}_{key}") for key in keys), certain(other))
        failed = sum(v for found, _ in cells for k, v in found.items() if k.endswith("unconverged"))
        times = [np.median([found[f"{k}seconds"] for found, _ in cells]) for k in ("", "scoring_")]
        found = map(over, ("aurc", "coverage_at_5", "ece"))
        calm.add(size, name, *found, f"{times[0]:.0f}", f"{times[1]:.1f}", failed)
    for name, made in (("images", table), ("images_detection", more), ("images_calibration", calm)):
        made.write(workdir, name, note)
    for size in config.images.sizes:
        rows = {k[1]: v for k, v in results.items() if k[0] == size}
        _curves(rows, workdir / f"images_{size}.png")
        if set(BY_DEGREES) & set(config.images.extra):
            severity(rows, config, workdir, size)
        if config.images.radii:
            _attacked(rows, config, workdir, size)


def row_name(row: Any) -> str:
    """A row of the config for tables: extractor, head, and the constants of f."""
    constants = "" if row[0] in ("mlp", "cnn") else f" ({row[2]:g}, {row[3]:g})"
    return f"{row[0]} {row[1]}{constants}"


def severity(rows: Any, config: Any, workdir: Path, size: int) -> None:
    """severity_SIZE: certainty and AUROC as test images are turned, or noised, more and more.

    Args:
      rows: row to its cells, one per seed.
      config: see train/configs/uncertainty.py.
      workdir: where to.
      size: 14 or 28.
    """
    kinds = {
        "rotated": [0.0, *config.images.angles],
        "noisy": [0.0, *config.images.noises],
    }
    kinds = {kind: levels for kind, levels in kinds.items() if kind in config.images.extra}
    table = Table(
        ["row", "set", "mean certainty", "AUROC"],
        f"Test images changed by degrees, {size}x{size}, mean±sd, {config.images.seeds} seed(s)",
    )
    drawn, axes = figure(2, len(kinds), (4.2 * len(kinds), 6))
    for row, cells in rows.items():
        for (kind, levels), (top, below) in zip(kinds.items(), axes.T, strict=True):
            sure, told = [], []
            for level in levels:
                name = f"{kind} {level:g}" if level else "test"
                certain = [np.exp(scores[name]).mean() for _, scores in cells]
                found = [numbers[f"{name}_auroc"] if level else 0.5 for numbers, _ in cells]
                sure.append((np.mean(certain), np.std(certain)))
                told.append((np.mean(found), np.std(found)))
                if level or kind == next(iter(kinds)):
                    table.add(row_name(row), name, spread(certain), spread(found) if level else "")
            for axis, pairs in ((top, sure), (below, told)):
                mean, sd = np.transpose(pairs)
                axis.errorbar(levels, mean, sd, marker="o", markersize=4, label=row_name(row))
            top.set(title=kind, ylabel="mean certainty", ylim=(0, 1))
            below.set(xlabel=BY_DEGREES[kind], ylabel="AUROC against unchanged images")
    axes[0, 0].legend(fontsize=8)
    save_figure(drawn, workdir / f"severity_{size}.png")
    table.write(workdir, f"severity_{size}", provenance(config))


def _attacked(rows: Any, config: Any, workdir: Path, size: int) -> None:
    """images_attacked_SIZE: AUROC when unfamiliar images may be moved; images_certified_SIZE."""
    part = config.images
    table = Table(
        ["row", "accuracy", "set", "AUROC", *(f"r = {r:g}" for r in (0, *part.radii))],
        f"AUROC against {part.attacked} images of each set that may be moved by r (l2, in the "
        f"network's units: {1 / SCALE:.2f} for a whole grey range of one pixel), first seed",
    )
    apart = Table(
        ["row", "smallest radius", "set", "certified", "median gap to training images"],
        "Images that must have a certainty below 0.5: outside of the certified radius",
    )
    broken = 0
    for row, cells in rows.items():
        numbers, _ = cells[0]
        for name, found in numbers["attacks"].items():
            broken += found["broken"]
            for kind in ("attacked", "guaranteed"):
                if found[kind]:
                    values = (f"{value:.4f}" for value in found[kind])
                    table.add(row_name(row), f"{numbers['accuracy']:.4f}", name, kind, *values)
            radius = found["radius"]
            shown = f"{radius:.3g}" if np.isfinite(radius) else "none"
            apart.add(
                row_name(row), shown, name, f"{found['certified']:.3f}", f"{found['gap']:.3g}"
            )
    note = f"{broken} attacks passed a guarantee. {provenance(config)}"
    table.write(workdir, f"images_attacked_{size}", note)
    apart.write(workdir, f"images_certified_{size}", provenance(config))


def _interval(normal: Any, strange: Any) -> str:
    """The bootstrap interval of the AUROC, of at most 2000 scores each to be quick."""
    fn = jax.jit(auroc)
    arrays = (np.asarray(normal)[:2000], np.asarray(strange)[:2000])
    _, low, high = bootstrap(fn, *arrays, key=jax.random.key(0), draws=200, paired=False)
    return f"{low:.4f} to {high:.4f}"


def _curves(results: Any, path: Path) -> None:
    """A row per network: the scores' histograms, and ROC curves."""
    drawn, axes = figure(len(results), 2, (8, 2.6 * len(results)))
    for (row, cells), (left, right) in zip(results.items(), axes, strict=True):
        scores = cells[0][1]
        low = min(np.quantile(scores[name], 0.02) for name in ("test", "mnist", "notmnist"))
        for name, values in scores.items():
            if name.split()[0] in ("rotated", "noisy"):
                continue  # by degrees: see the table
            label = "Fashion-MNIST" if name == "test" else name
            left.hist(np.maximum(values, low), 60, density=True, alpha=0.5, label=label)
            if name != "test":
                cuts = np.sort(np.concatenate([values, scores["test"]]))[::-1]
                accepted = [
                    np.searchsorted(np.sort(-part), -cuts, side="right") / len(part)
                    for part in (values, scores["test"])
                ]
                right.plot(*accepted, label=name)
        left.set_title(f"{row[0]}, {row[1]}", fontsize=8)
        left.set_xlabel("logarithm of the certainty", fontsize=8)
        left.set_ylabel("density", fontsize=8)
        right.set_xlabel("share of unfamiliar images accepted", fontsize=8)
        right.set_ylabel("of Fashion-MNIST", fontsize=8)
        left.legend(fontsize=6)
        right.legend(fontsize=6)
    save_figure(drawn, path)
