"""Figures of the MonoCon experiments: correlations, dimensions over training, recall, t-SNE."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from monojax import metrics
from monojax.training import write_atomically
from train.monocon.data import Problem
from train.monocon.measures import unit
from train.monocon.tables import TITLES
from train.reporting import figure, save_figure

COLORS = {
    "baseline": "tab:gray",
    "standard": "tab:orange",
    "monocon": "tab:blue",
    "monocon2": "tab:red",
}
PARTS = {"x": "encoder output", "y": "head output", "z": "embedding (normalised)"}
POINTS = 1500
"""Test embeddings in the t-SNE picture."""


def draw(results: dict[tuple[str, int], Any], problem: Problem, workdir: Path) -> None:
    """Writes all figures, and the curves behind them as CSV.

    Args:
      results: (kind, seed) to numbers and curves.
      problem: what was embedded.
      workdir: where to.
    """
    workdir = Path(workdir)
    trajectories(results, problem, workdir)
    clustermaps(results, problem, workdir)
    for kind in ("standard", "monocon"):
        over_training(results, problem, kind, workdir)
    if problem.classes:
        recall_curves(results, problem, workdir)
        neighbour_maps(results, problem, workdir)


def trajectories(results: Any, problem: Problem, workdir: Path) -> None:
    """Effective dimension and score over the main phase, a line per seed."""
    kinds = _kinds(results)
    drawn, axes = figure(2, len(kinds), (3.3 * len(kinds), 5.4), sharex=True, sharey="row")
    rows = []
    for j, kind in enumerate(kinds):
        for (k, seed), (numbers, curves) in results.items():
            if k != kind:
                continue
            for part, style in (("x", ":"), ("y", "--"), ("z", "-")):
                if part == "y" and kind == "baseline":
                    continue
                axes[0, j].plot(curves["epoch"], curves[f"d_{part}"], style, color=COLORS[kind])
            axes[1, j].plot(curves["epoch"], curves["score"], color=COLORS[kind])
            best = curves["score"][list(curves["epoch"]).index(numbers["best_epoch"])]
            axes[1, j].plot(numbers["best_epoch"], best, "o", color=COLORS[kind])
            names = ("epoch", "score", "d_x", "d_y", "d_z", "rms_x", "rms_z")
            rows += [[kind, seed, *line] for line in zip(*(curves[n] for n in names), strict=True)]
        axes[0, j].set_title(TITLES[kind], fontsize=10)
        axes[1, j].set_xlabel("epoch of the main phase")
    axes[0, 0].set(ylabel="effective dimension", yscale="log")
    axes[1, 0].set_ylabel("5-NN % (validation)" if problem.classes else "STS-B dev")
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color="k", label=PARTS["x"], linestyle=":"),
        Line2D([], [], color="k", label=PARTS["y"], linestyle="--"),
        Line2D([], [], color="k", label=PARTS["z"], linestyle="-"),
    ]
    drawn.legend(handles=lines, loc="outside lower center", ncols=3, frameon=False)
    num = len(results[next(iter(results))][1]["best_x"])
    drawn.suptitle(f"{problem.title}: d_eff on {num} {_watched(problem)}; dots: best validation")
    save_figure(drawn, workdir / "trajectories.png", dpi=100)
    _csv(
        workdir / "trajectories.csv",
        ["model", "seed", "epoch", "score", "d_x", "d_y", "d_z", "rms_x", "rms_z"],
        [[cell if isinstance(cell, str) else f"{cell:.6g}" for cell in row] for row in rows],
    )


def recall_curves(results: Any, problem: Problem, workdir: Path) -> None:
    """Recall@k over k, the mean over seeds (Figure 6)."""
    drawn, axes = figure(1, 1, (5.2, 3.8))
    axis, rows = axes[0, 0], []
    means = {
        kind: np.mean([n["recall"] for (k, _), (n, _) in results.items() if k == kind], axis=0)
        for kind in _kinds(results)
    }
    for kind, curve in means.items():
        ks = np.arange(1, len(curve) + 1)
        # A collapsed ablation would squeeze the others together; its numbers are in the CSV.
        if 2 * curve[0] >= max(other[0] for other in means.values()):
            axis.plot(ks, curve, "o-", ms=3, color=COLORS[kind], label=TITLES[kind])
        rows += [[kind, k, f"{value:.3f}"] for k, value in zip(ks, curve, strict=True)]
    axis.set(xlabel="k", ylabel="recall@k %, cosine", xticks=(1, 5, 10, 15, 20))
    axis.set_title(f"{problem.title}: recall@k", fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend()
    save_figure(drawn, workdir / "recall.png", dpi=100)
    _csv(workdir / "recall.csv", ["model", "k", "recall_percent"], rows)


def neighbour_maps(results: Any, problem: Problem, workdir: Path) -> None:
    """t-SNE of test embeddings, first seed (Figure 5): perplexity 30, 1,000 iterations."""
    from sklearn.manifold import TSNE

    kinds = _kinds(results)
    drawn, axes = figure(1, len(kinds), (3.3 * len(kinds), 3.7))
    for axis, kind in zip(axes[0], kinds, strict=True):
        _, curves = _first(results, kind)
        z, labels = curves["test_z"][:POINTS].astype(np.float64), curves["test_label"][:POINTS]
        shown = TSNE(perplexity=30, max_iter=1000, random_state=0, init="pca").fit_transform(z)
        many = labels.max() >= 20
        axis.scatter(*shown.T, c=labels, s=4, cmap="gist_rainbow" if many else "tab10", lw=0)
        axis.set(xticks=(), yticks=())
        axis.set_title(TITLES[kind], fontsize=10)
    drawn.suptitle(f"{problem.title}: t-SNE of {POINTS} test embeddings, a colour per class")
    save_figure(drawn, workdir / "tsne.png", dpi=100)


def clustermaps(results: Any, problem: Problem, workdir: Path) -> None:
    """Correlation of features at the best validation, features in the order of their clusters."""
    kinds = _kinds(results)
    parts = {"x": "encoder output", "z": "embedding"}
    drawn, axes = figure(2, len(kinds), (2.7 * len(kinds) + 0.8, 5.9))
    for j, kind in enumerate(kinds):
        _, curves = _first(results, kind)
        values = {"x": curves["best_x"], "z": unit(curves["best_y"].astype(np.float64))}
        for i, part in enumerate(parts):
            shades = _correlation(axes[i, j], values[part])
            if j == 0:
                axes[i, j].set_ylabel(parts[part])
        axes[0, j].set_title(f"{TITLES[kind]}\n{axes[0, j].get_title()}", fontsize=9)
    drawn.colorbar(shades, ax=axes, shrink=0.6, label="correlation")
    drawn.suptitle(f"{problem.title}: correlation of features, {_watched(problem)}")
    save_figure(drawn, workdir / "clustermaps.png", dpi=100)


def over_training(results: Any, problem: Problem, kind: str, workdir: Path) -> None:
    """Correlations of encoder, raw and normalised output at some epochs (Figures 2 to 4)."""
    if kind not in _kinds(results):
        return
    _, curves = _first(results, kind)
    epochs = sorted(int(name[2:]) for name in curves if name[:2] == "x_" and name[2:].isdigit())
    drawn, axes = figure(3, len(epochs), (2.5 * len(epochs) + 1, 8.1))
    for j, epoch in enumerate(epochs):
        x, y = (curves[f"{part}_{epoch}"].astype(np.float64) for part in ("x", "y"))
        for i, values in enumerate((x, y, unit(y))):
            shades = _correlation(axes[i, j], values)
            if j == 0:
                axes[i, j].set_ylabel([*PARTS.values()][i])
        axes[0, j].set_title(f"epoch {epoch}\n{axes[0, j].get_title()}", fontsize=9)
    drawn.colorbar(shades, ax=axes, shrink=0.5, label="correlation")
    drawn.suptitle(f"{problem.title}: {TITLES[kind]}, correlation of features over training")
    save_figure(drawn, workdir / f"dynamics_{kind}.png", dpi=100)


def _correlation(axis: Any, values: np.ndarray) -> Any:
    found = metrics.feature_correlation(values)
    order = metrics.clustermap_order(found)
    shades = axis.imshow(found[order][:, order], cmap="RdBu_r", vmin=-1, vmax=1)
    d_eff = metrics.effective_dimension(values)
    axis.set(xticks=(), yticks=())
    axis.set_title(f"d_eff {d_eff}, rms {metrics.rms_off_diagonal(found):.2f}", fontsize=9)
    return shades


def _kinds(results: Any) -> list[str]:
    return [kind for kind in TITLES if any(k == kind for k, _ in results)]


def _first(results: Any, kind: str) -> Any:
    return next(value for (k, _), value in results.items() if k == kind)


def _watched(problem: Problem) -> str:
    return "held-out inputs" if problem.classes else "training sentences"


def _csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([header, *rows])
    write_atomically(path, out.getvalue())
