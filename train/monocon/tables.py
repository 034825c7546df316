"""Tables of the MonoCon experiments beside the published ones."""

from pathlib import Path
from typing import Any

import numpy as np

from monojax.training import Table, interval
from train.monocon.data import Problem
from train.reporting import provenance

TITLES = {
    "baseline": "baseline (no head)",
    "standard": "standard MLP head",
    "monocon": "MonoCon",
    "monocon2": "MonoCon, 2 hidden layers",
}
# Gokhale, Tables 1 and 2: score, recall@1, recall@5 (percent), d_eff, RMSE (1e-3).
PUBLISHED: dict[str, dict[str, tuple[float | None, ...]]] = {
    "cifar100": {
        "baseline": (77.75, 76.63, 82.71, 125, 6.40),
        "standard": (78.32, 76.04, 83.48, 78, 4.15),
        "monocon": (77.01, 74.05, 83.31, 14, 4.13),
    },
    "cifar10": {
        "baseline": (94.36, 93.80, 96.84, 21, 3.75),
        "monocon": (94.54, 93.19, 97.24, 7, 3.22),
    },
    "snli": {
        "baseline": (81.78, None, None, 292, 9.74),
        "monocon": (81.25, None, None, 86, 6.92),
    },
}
# Gokhale, Table 3 (CIFAR-100): 5-NN, recall@1, recall@5, RMSE (1e-3) at k components.
PUBLISHED_CUT = {
    (128, "baseline"): (77.68, 77.08, 81.75, 6.34),
    (128, "monocon"): (77.01, 74.18, 82.78, 0.02),
    (128, "standard"): (78.34, 75.56, 83.15, 1.69),
    (64, "baseline"): (77.82, 76.31, 82.32, 14.30),
    (64, "monocon"): (77.01, 74.18, 82.78, 0.05),
    (64, "standard"): (78.32, 75.04, 83.33, 6.54),
    (16, "baseline"): (77.15, 47.62, 83.37, 28.81),
    (16, "monocon"): (76.99, 74.24, 82.77, 1.36),
    (16, "standard"): (77.85, 58.60, 83.77, 26.84),
}


def write(
    results: dict[tuple[str, int], Any], problem: Problem, config: Any, workdir: Path
) -> None:
    """Writes table1 and table3 (Markdown and CSV) from the trainings that are done.

    Args:
      results: (kind, seed) to numbers and curves.
      problem: what was embedded.
      config: the experiment's config; ``published`` names the rows to set beside.
      workdir: where to.
    """
    rows = _by_kind(results)
    _main(rows, problem, config).write(workdir, "table1", provenance(config))
    _cut(rows, problem, config).write(workdir, "table3", provenance(config))
    if len(results) == len(config.seeds) * len(config.kinds) + len(config.once):
        print("\n" + _main(rows, problem, config).markdown(), flush=True)


def _by_kind(results: Any) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for (kind, _), (numbers, _) in sorted(results.items(), key=lambda item: item[0][1]):
        rows.setdefault(kind, []).append(numbers)
    return {kind: rows[kind] for kind in TITLES if kind in rows}


def _main(rows: dict[str, Any], problem: Problem, config: Any) -> Table:
    """Scores, dimension and reconstruction error of the whole embedding."""
    recalls = ["R@1 %", "R@5 %"] if problem.classes else []
    header = ["model", "seeds", _score_name(problem), *recalls, "d_eff"]
    header += ["RMSE test 1e-3", "RMSE train 1e-3", "ratio", "best epoch"]
    header += ["pairs out of order of 10,000", "waiting for data %, at most"]
    published = PUBLISHED.get(config.published, {})
    title = f"{problem.title}; mean ± 1.96 standard errors over seeds"
    if published:
        title += f" (published for {config.published})"
    table = Table(header, title)
    for kind, seeds in rows.items():
        column = lambda name, seeds=seeds: np.asarray([run[name] for run in seeds], float)
        recall = [[run["recall"][k - 1] for run in seeds] for k in (1, 5) if problem.classes]
        shown = [(column("score"), 2), *((r, 2) for r in recall), (column("d_eff"), 1)]
        shown += [(1e3 * column("rmse_test"), 2)]
        beside: list[Any] = [v for v in published.get(kind, ()) if v is not None]
        beside = beside or [None] * len(shown)
        cells = [_cell(v, digits, other) for (v, digits), other in zip(shown, beside, strict=True)]
        cells += [_cell(1e3 * column("rmse_train"), 2), _cell(column("ratio"), 2)]
        cells += [" ".join(str(run["best_epoch"]) for run in seeds)]
        broken = [run["violations"] for run in seeds if run["violations"] is not None]
        waiting = f"{100 * max(run['waiting'] for run in seeds):.1f}"
        table.add(TITLES[kind], len(seeds), *cells, " ".join(map(str, broken)) or "-", waiting)
    return table


def _cut(rows: dict[str, Any], problem: Problem, config: Any) -> Table:
    """The embedding cut to principal components; recall by three ways to compare."""
    names = ("dot", "cosine", "euclidean") if problem.classes else ()
    header = ["k", "model", _score_name(problem), *(f"R@1 % {name}" for name in names)]
    header += [*(f"R@5 % {name}" for name in names[:1]), "RMSE test 1e-3"]
    title = f"{problem.title}; cut to k principal components, mean ± 1.96 standard errors"
    table = Table(header, title + (" (published)" if config.published == "cifar100" else ""))
    for k in config.cut:
        for kind, seeds in rows.items():
            cuts = [run["cut"][str(k)] for run in seeds]
            other = PUBLISHED_CUT.get((k, kind)) if config.published == "cifar100" else None
            score, one, five, rmse = other or (None,) * 4
            cells = [_cell([cut["score"] for cut in cuts], 2, score)]
            for name in names:
                values = [cut[f"recall_{name}"][0] for cut in cuts]
                cells.append(_cell(values, 2, one if name == "dot" else None))
            if names:
                cells.append(_cell([cut["recall_dot"][4] for cut in cuts], 2, five))
            cells.append(_cell([1e3 * cut["rmse_test"] for cut in cuts], 2, rmse))
            table.add(k, TITLES[kind], *cells)
    return table


def _score_name(problem: Problem) -> str:
    return "5-NN %" if problem.classes else "STS-B test"


def _cell(values: Any, digits: int, published: Any = None) -> str:
    mean, half = interval(values)
    text = f"{mean:.{digits}f}" + (f" ± {half:.{digits}f}" if len(values) > 1 else "")
    return text + ("" if published is None else f" ({published:g})")
