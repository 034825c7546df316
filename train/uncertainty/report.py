"""Tables and pictures of the experiment, the published numbers beside ours."""

from pathlib import Path
from typing import Any

import numpy as np

from monojax.training import Table
from train.reporting import figure, provenance, save_figure
from train.uncertainty.data import GRID, PLANE, two_moons

ALPHAS, BETAS = (0.0, 1.0, 2.0, 5.0), (0.1, 1.0, 2.0, 3.0, 4.0, 5.0)
PUBLISHED = {
    0.0: ".716±.111 .874±.006 .904±.045 .990±.002 .972±.043 .957±.048",
    1.0: ".879±.004 .991±.002 .994±.004 .992±.004 .895±.195 .993±.007",
    2.0: ".878±.006 .990±.003 .993±.004 .936±.087 .995±.003 .518±.047",
    5.0: ".503±.006 .500±.000 .541±.080 .503±.004 .501±.002 .503±.004",
}
"""Kinoshita and Toyoizumi, arXiv 2404.09821, Table 2: accuracy at the betas above, 5 seeds."""


def spread(values: Any, digits: int = 3) -> str:
    """Mean and standard deviation over seeds, as the paper does; of one seed no deviation."""
    values = np.asarray(values, np.float64)
    if values.size == 1:
        return f"{values.mean():.{digits}f}"
    return f"{values.mean():.{digits}f}±{values.std():.{digits}f}"


def moons(results: Any, config: Any, workdir: Path) -> None:
    """table2, moons and the pictures of the certainty.

    Args:
      results: from `moons.run`.
      config: see train/configs/uncertainty.py.
      workdir: where to.
    """
    part, note = config.moons, provenance(config)
    header = ["variant", "alpha", *(f"beta = {beta:g}" for beta in part.betas)]
    title = f"accuracy on two moons, mean±sd over {config.seeds} seeds"
    tables = {
        "accuracy": Table(header, f"Table 2: {title}"),
        "auroc": Table(header, "AUROC against points far from the data, in place of the accuracy"),
        "certain_far": Table(header, "Share of far points with a certainty above 0.5"),
    }
    for key, table in tables.items():
        if key == "accuracy":
            for alpha, text in PUBLISHED.items():
                known = dict(zip(BETAS, text.split(), strict=True))
                table.add("published", f"{alpha:g}", *(known.get(b, "") for b in part.betas))
        for (name, alpha), (numbers, _) in results["grid"].items():
            table.add(name, f"{alpha:g}", *map(spread, numbers[key]))
        table.write(workdir, "table2" if key == "accuracy" else f"moons_{key}", note)
    failed = sum(int(np.sum(numbers["unconverged"])) for numbers, _ in results["grid"].values())
    rows = Table(
        ["row", "accuracy", "AUROC", "certain far away"],
        f"Two moons without f, {config.seeds} seeds; of the test points' solves, all cells, "
        f"{failed} missed their tolerance",
    )
    for name, (numbers, _) in results["baselines"].items():
        rows.add(name, *(spread(numbers[key]) for key in ("accuracy", "auroc", "certain_far")))
    rows.write(workdir, "moons", note)
    _pictures(results, config, workdir)


def _pictures(results: Any, config: Any, workdir: Path) -> None:
    """figure36: the four kinds; figure37: beta 4, alpha grows; figure41: (5, 3); all cells."""
    part = config.moons
    base = {name: maps["map"] for name, (_, maps) in results["baselines"].items()}
    betas, alphas = list(part.betas), list(part.alphas)

    def cell(name, alpha, beta):
        i = int(np.argmin(np.abs(np.asarray(betas) - beta)))
        nearest = alphas[int(np.argmin(np.abs(np.asarray(alphas) - alpha)))]
        title = f"{name}\nalpha {nearest:g}, beta {betas[i]:g}"
        return title, results["grid"][name, nearest][1]["map"][i]

    for name in part.variants:
        word = name.replace(" ", "_")
        panels = [*base.items(), cell(name, 1.0, 4.0)]
        _draw(panels, workdir / f"figure36_{word}.png", config)
        panels = [cell(name, alpha, beta) for alpha, beta in ((0, 4), (1, 4), (2, 4), (5, 3))]
        _draw(panels, workdir / f"figure37_41_{word}.png", config)
        panels = [cell(name, alpha, beta) for alpha in alphas for beta in betas]
        _draw(panels, workdir / f"grid_{word}.png", config, columns=len(betas))


def _draw(panels: Any, path: Path, config: Any, columns: int = 4) -> None:
    """Maps of the certainty beside each other, with training points on top."""
    rows = -(-len(panels) // columns)
    x, y = two_moons(200, config.moons.noise, np.random.default_rng(0))
    size = 2.6 if columns == 4 else 1.7
    drawn, axes = figure(rows, columns, (size * columns + 0.8, size * rows + 0.5))
    image = None
    for i, ax in enumerate(axes.ravel()):
        ax.set_axis_off()
        if i >= len(panels):
            continue
        title, values = panels[i]
        picture = np.asarray(values, np.float32).reshape(GRID, GRID)
        image = ax.imshow(
            picture, extent=(*PLANE[0], *PLANE[1]), origin="lower", vmin=0, vmax=1, aspect="auto"
        )
        for label, colour in ((0, "tab:red"), (1, "white")):
            ax.scatter(*x[y == label].T, s=1, color=colour)
        ax.set_title(title, fontsize=7)
    drawn.colorbar(image, ax=axes, label="certainty", shrink=0.8)
    save_figure(drawn, path, dpi=90)


def certificate(results: Any, config: Any, workdir: Path) -> None:
    """certificate: radii, attacks and the AUROC that is left.

    Args:
      results: from `certificate.run`.
      config: see train/configs/uncertainty.py.
      workdir: where to.
    """
    part, note = config.certificate, provenance(config)
    table = Table(
        [
            *("network (alpha, beta)", "accuracy", "radius", "far points certified"),
            *("ascents", "largest", "passed", "failed"),
        ],
        f"Ascents of the certainty from outside of the certified radius; threshold "
        f"{part.threshold:g}. Plain DUQ has no radius and is attacked at the first one's; "
        "'failed' solves ended above their tolerance",
    )
    under = Table(
        ["network (alpha, beta)", "AUROC", *(f"r = {radius:g}" for radius in part.radii)],
        "AUROC against far points that may be moved by r (l2)",
    )
    for name, numbers in results.items():
        found = [numbers.get(key) for key in ("ascents", "largest_outside", "passed")]
        shown = [
            "" if value is None else f"{value:.3g}" if i == 1 else str(value)
            for i, value in enumerate(found)
        ]
        radius, failed = numbers["radius"], numbers.get("ascents_unconverged", "")
        share = f"{numbers['certified']:.3f}"
        table.add(name, f"{numbers['accuracy']:.3f}", f"{radius:.3g}", share, *shown, failed)
        for kind in ("attacked", "guaranteed"):
            if numbers[kind]:
                under.add(name, kind, *(f"{value:.4f}" for value in numbers[kind]))
    broken = sum(numbers["broken"] for numbers in results.values())
    table.write(workdir, "certificate", note)
    under.write(workdir, "certificate_auroc", f"{broken} attacks passed a guarantee. {note}")
