"""Monotone latents on rendered scenes: trainings, tables, pictures."""

import functools
from pathlib import Path
from typing import Any

from monojax.data.shapes3d import FACTORS
from monojax.models.vae import LIKELIHOODS
from monojax.training import Cells, Table, interval
from train.checks import above, at_least, choice
from train.generation import figures, regressor
from train.generation.data import VALUES
from train.generation.evaluate import HUES, TOLERANCES, numbers
from train.generation.training import KINDS, identity, train
from train.reporting import provenance


def check(config: Any) -> None:
    """Finds mistakes in the values of a config before anything is trained or written.

    Args:
      config: see train/configs/generation.py.

    Raises:
      ValueError: naming the first one.
    """
    choice(config, VALUES, "values")
    choice(config, ("rendered", "published"), "source")
    choice(config, LIKELIHOODS, "likelihood")
    choice(config, config.models, "run")
    at_least(config, 1, "seeds", "run", "steps", "pairs", "penalty_points", "head", "hidden")
    at_least(config, 1, "test.images", "test.turned", "regressor.steps", "regressor.images")
    at_least(config, 2, "test.sweep", "test.turns")
    at_least(config, 30, "test.codes")
    above(config, 0, "lr", "regressor.lr")
    at_least(config, 0, "comparator")
    if max(config.test.images, config.test.turned) > config.test.codes:
        raise ValueError(
            f"config.test.codes = {config.test.codes} must not be less than test.images and "
            "test.turned, which are the first of them."
        )
    if config.source == "published" and config.values != "grid":
        raise ValueError(
            "the published images have the grid's values only; set --config.values=grid or "
            "--config.source=rendered."
        )
    for name, options in config.models.items():
        at = f"config.models.{name}"
        choice(options, KINDS, "kind", at=at)
        at_least(options, 0, "gamma", "path", "beta", at=at)
        at_least({"margin": options.get("margin", 0.0)}, 0, "margin", at=at)
        if options.kind == "single" and (options.gamma or options.path):
            raise ValueError(
                f"{at} sees single pictures: its factors are not supervised, so gamma and path "
                "must be 0."
            )
    if len(config.widths) != 4 or len(config.regressor.widths) != 4:
        raise ValueError("config.widths and config.regressor.widths must hold four channels.")


def total_steps(config: Any) -> int:
    """Optimiser steps of all trainings, for the progress bar.

    Args:
      config: see train/configs/generation.py.

    Returns:
      The number.
    """
    return config.regressor.steps + len(config.run) * len(config.seeds) * config.steps


def run(config: Any, workdir: Path, bar: Any) -> dict[str, list[dict[str, Any]]]:
    """Trains what is missing, then measures and draws everything from the checkpoints.

    Args:
      config: see train/configs/generation.py.
      workdir: the directory of the experiment.
      bar: progress bar over :func:`total_steps`.

    Returns:
      Model's name to its numbers, one dictionary per seed.
    """
    workdir = Path(workdir)
    figures.scenes(workdir)
    cells = Cells(workdir)
    read = regressor.train(config, workdir / "reader", bar)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in config.run}
    curves: dict[str, Any] = {}
    shown = []
    for seed in config.seeds:  # seed by seed, so that what is there can always be compared
        for name in config.run:
            options = config.models[name]
            model = train(config, name, seed, workdir / name / str(seed), bar)
            asked = [identity(config, options, seed), config.test.to_dict()]
            asked.append(config.regressor.to_dict())
            compute = functools.partial(numbers, config, model, read)
            found, arrays = cells.get(f"{name}-{seed}", asked, compute)
            results[name].append(found)
            if seed == config.seeds[0]:
                curves[name] = arrays
                shown.append(model)
                figures.traversals(config, model, workdir)
    titles = {name: config.models[name].title for name in config.run}
    figures.floor_sweeps(curves, titles, workdir)
    figures.hue_circles(curves, titles, workdir)
    owners = {name: rows[0]["owners"] for name, rows in results.items()}
    figures.films(config, shown, owners, workdir)
    figures.ranks(results, titles, workdir)
    tables(config, results, regressor.errors(read), workdir)
    return results


ROWS = {
    "squared error per pixel": ("squared", "{:.4f}"),
    "cross-entropy, nats per image": ("nats", "{:.0f}"),
    **{
        f"floor sweep sorted in hue, tolerance {t:g}°": (f"sorted {i}", "{:.3f}")
        for i, t in enumerate(TOLERANCES)
    },
    f"floor sweep, share of steps one way, tolerance {TOLERANCES[-1]:g}°": ("one way", "{:.3f}"),
    "hue span of the floor sweep, degrees": ("hue span", "{:.0f}"),
    "DCI disentanglement": ("disentanglement", "{:.3f}"),
    "DCI completeness": ("completeness", "{:.3f}"),
    "DCI informativeness": ("informativeness", "{:.3f}"),
    "MIG": ("mig", "{:.3f}"),
    "SAP": ("sap", "{:.3f}"),
    **{f"rank correlation, {name}": (f"rank {name}", "{:.3f}") for name in FACTORS},
    **{f"rank correlation at the best cut, {name}": (f"cut {name}", "{:.3f}") for name in HUES},
    **{
        f"decoded {name} in order along its latent": (f"turned {name}", "{:.3f}")
        for name in FACTORS
        if name != "shape"
    },
    "span of the decoded floor hue, degrees": ("span floor hue", "{:.0f}"),
    "span of the decoded wall hue, degrees": ("span wall hue", "{:.0f}"),
    "span of the decoded object hue, degrees": ("span object hue", "{:.0f}"),
    "span of the decoded scale": ("span scale", "{:.2f}"),
    "span of the decoded orientation, degrees": ("span orientation", "{:.0f}"),
    "rank correlation along the sweep, scale": ("along scale", "{:.3f}"),
    "rank correlation along the sweep, orientation": ("along orientation", "{:.3f}"),
    "shapes met along the shape's latent": ("shapes", "{:.2f}"),
}
"""Row of the table to the number's name and its form."""


def tables(
    config: Any, results: dict[str, list[dict[str, Any]]], reader: dict[str, float], workdir: Path
) -> None:
    """Writes the table of means and intervals over seeds, with the reader's errors below.

    Args:
      config: see train/configs/generation.py.
      results: from :func:`run`.
      reader: from `regressor.errors`.
      workdir: where generation.md and generation.csv go.
    """
    header = ["", *(config.models[name].title for name in results)]
    seeds = len(config.seeds)
    table = Table(
        header,
        f"{config.steps} steps of {config.pairs} pairs, {seeds} seed{'s' if seeds > 1 else ''}",
    )
    for title, (key, form) in ROWS.items():
        cells = []
        for rows in results.values():
            mean, half = interval([row[key] for row in rows])
            around = f" ± {form.format(half)}" if seeds > 1 else ""
            cells.append(form.format(mean) + around)
        table.add(title, *cells)
    note = (
        "± is 1.96 standard errors over seeds; a single seed has none. On drawn pictures the "
        "reader errs by "
        f"{reader['scale']:.3f} in scale and {reader['orientation']:.1f} degrees, and names "
        f"{reader['shape']:.1%} of the shapes. {provenance(config)}"
    )
    table.write(workdir, "generation", note)
    print("\n" + table.markdown(), flush=True)
