"""The table and the picture of compressed embeddings, and what to take."""

from pathlib import Path
from typing import Any

import numpy as np

from monojax.training import Table
from train.reporting import figure, provenance, save_figure

TITLES = {
    "full": "full embedding",
    "pca": "PCA",
    "standard": "standard head",
    "monocon": "MonoCon head",
}
MEANING = {
    "labels": "a row of the same class is among the k nearest",
    "pairs": "the row's partner is among the k nearest of all rows",
    "neighbours": "share of the k nearest by the full embedding that are found",
}


def tables(found: dict[str, Any], kind: str, config: Any, workdir: Path, names: Any) -> None:
    """Writes both tables and says which index to take.

    Args:
      found: model to what `train.monocon.embeddings.measures.measured` gave.
      kind: "labels", "pairs" or "neighbours".
      config: see train/configs/compress_embeddings.py.
      workdir: where to.
      names: model to the names of its files.
    """
    quick = " (QUICK FORM: a smoke run, its numbers mean nothing)" if config.mode == "quick" else ""
    ks = list(config.recall)
    header = ["Model", "Dimensions", f"Bytes a row, {config.storage}"]
    header += [f"Recall@{k} %" for k in ks] + (["5-NN %"] if kind == "labels" else [])
    header += ["RMSE held out", "/ fitted"]
    queries = next(iter(found.values()))["queries"]
    table = Table(
        header, f"{queries} held-out queries; recall@k: {MEANING[kind]}; mean [95% interval]{quick}"
    )
    for name, row in found.items():
        width = np.dtype("float32" if name == "full" else config.storage).itemsize
        cells: list[Any] = [TITLES[name], row["dims"], width * row["dims"]]
        cells += [_percent(row[f"recall_{k}"]) for k in ks]
        cells += [_percent(row["knn"])] if kind == "labels" else []
        cells += [_number(row.get("rmse")), _number(row.get("ratio"), 2)]
        table.add(*cells)
    note = advice(found, kind, config, names)
    table.write(workdir, "compressed", f"{note}\n\n{provenance(config)}")
    print(f"\n{table.markdown()}\n{note}\n", flush=True)
    storage = Table(
        ["Model", "Storage", "Bytes a row", f"Recall@{ks[0]} %", "Lost, points"],
        f"What smaller numbers lose{quick}",
    )
    for name, row in found.items():
        for kept, (size, recall) in row.get("storage", {}).items():
            lost = 100 * (row["storage"]["float32"][1] - recall)
            storage.add(TITLES[name], kept, int(size), f"{100 * recall:.2f}", f"{lost:.2f}")
    storage.write(workdir, "storage", provenance(config))
    print(storage.markdown(), flush=True)


def advice(found: dict[str, Any], kind: str, config: Any, names: Any) -> str:
    """Which index to take: the smallest whose recall is within a point of the best.

    Args:
      found: of every model.
      kind: what belongs together.
      config: its ``recall``.
      names: model to the names of its files.

    Returns:
      Sentences.
    """
    key = f"recall_{config.recall[0]}"
    cut = {name: row for name, row in found.items() if name != "full"}
    best = max(row[key][0] for row in cut.values())
    near = [name for name, row in cut.items() if row[key][0] >= best - 0.01]
    take = min(near, key=lambda name: (cut[name]["dims"], -cut[name][key][0]))
    text = (
        f"Take {names[take]} ({TITLES[take]}): {cut[take]['dims']} of {cut[take]['full']} "
        f"dimensions, and its recall@{config.recall[0]} is the best or within a point of it "
        f"({100 * cut[take][key][0]:.1f}%; the full embedding has "
        f"{100 * found['full'][key][0]:.1f}%)."
    )
    if kind == "neighbours":
        gaps = {
            name: _at_most(row, cut["pca"]["dims"]) - _at_most(cut["pca"], cut["pca"]["dims"])
            for name, row in cut.items()
            if name != "pca"
        }
        told = ", ".join(f"{TITLES[n]} {100 * gap:+.1f} points" for n, gap in gaps.items())
        text += (
            " Nothing says here what belongs together: the heads learned from the full "
            "embedding's neighbours, which PCA keeps without learning. At up to "
            f"{cut['pca']['dims']} dimensions, beside PCA: {told or 'no head was trained'}."
        )
    return text


def _at_most(row: dict[str, Any], dims: int) -> float:
    """Best recall in float32 with at most so many dimensions."""
    return max((recall for k, _, recall, *_ in row["curve"] if k <= dims), default=0.0)


def curves(found: dict[str, Any], config: Any, kind: str, path: Path) -> None:
    """Recall against dimensions and against bytes.

    Args:
      found: of every model.
      config: its ``recall``.
      kind: what belongs together.
      path: the PNG.
    """
    drawn, axes = figure(1, 2, (10, 4.2), sharey=True)
    for colour, (name, row) in enumerate(found.items()):
        if name == "full":
            for axis in axes[0]:
                level = 100 * row[f"recall_{config.recall[0]}"][0]
                axis.axhline(level, color="0.5", ls=":", label=TITLES[name])
            continue
        dims, size, recall, small, coarse = np.asarray(row["curve"]).T
        line = {"color": f"C{colour - 1}", "marker": "o", "markersize": 3}
        axes[0][0].plot(dims, 100 * recall, label=TITLES[name], **line)
        axes[0][1].plot(size, 100 * recall, label=f"{TITLES[name]}, float32", **line)
        axes[0][1].plot(small, 100 * coarse, ls="--", label=f"{TITLES[name]}, int8", **line)
        chosen = dims == row["dims"]
        axes[0][0].plot(dims[chosen], 100 * recall[chosen], "s", color=f"C{colour - 1}", ms=8)
    for axis, text in zip(axes[0], ("dimensions", "bytes a row"), strict=True):
        axis.set(xlabel=text, xscale="log")
        axis.set_xscale("log", base=2)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    axes[0][0].set_ylabel(f"recall@{config.recall[0]} %")
    drawn.suptitle(f"{MEANING[kind]}; squares: {config.variance:.0%} of the variance", fontsize=9)
    save_figure(drawn, path)


def _percent(triple: Any) -> str:
    mean, low, high = (100 * value for value in triple)
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def _number(value: Any, digits: int = 4) -> str:
    return "" if value is None else f"{value:.{digits}f}"
