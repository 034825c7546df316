"""MonoCon: a monotone head makes contrastive embeddings compact. Baseline, standard head, monotone.

Every problem is embedded by the encoder alone, with the standard perceptron as head and with the
monotone one (and its two-layer ablation), over several seeds; tables and figures of Gokhale's paper
are written from the best validation of each run.
"""

import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from monojax.training import Cells, write_atomically
from train.checks import above, at_least, choice
from train.monocon import figures, tables
from train.monocon.data import Problem, article_pairs, cifar, cifar10_lite, digit_pairs
from train.monocon.measures import dynamics, final, order_violations, unit, validation
from train.monocon.sentences import cached_sentences, sentences
from train.monocon.training import KINDS, build, embedder, train
from train.renamed import spelled_before

PROBLEMS: dict[str, Callable[..., Problem]] = {
    "articles": article_pairs,
    "cached_sentences": cached_sentences,
    "cifar": cifar,
    "cifar10_lite": cifar10_lite,
    "digits": digit_pairs,
    "sentences": sentences,
}
SHOWN = 2000  # test embeddings that are kept for the t-SNE picture


def check(config: Any) -> None:
    """Finds mistakes in the values of a config before anything is trained or written.

    Args:
      config: see train/configs/monocon_digits.py.

    Raises:
      ValueError: naming the first one.
    """
    choice(config, PROBLEMS, "problem")
    choice(config, KINDS, "kinds", "once")
    at_least(config, 1, "seeds", "embed_batch_size")
    recipe, at = config.recipe, "config.recipe"
    at_least(recipe, 2, "batch_size", at=at)
    at_least(recipe, 1, "epochs", "patience", "validate_every", at=at)
    at_least(recipe, 0, "warmup_epochs", at=at)
    above(recipe, 0, "temperature", "lr_encoder", "lr_head", "warmup_lr", "clip", at=at)


def total_steps(config: Any) -> int:
    """Epochs of all trainings; early stopping takes fewer.

    Args:
      config: see train/configs/monocon_digits.py.

    Returns:
      The number of epochs.
    """
    return sum(_epochs(config, kind) for kind, _ in _cells(config))


def _epochs(config: Any, kind: str) -> int:
    return config.recipe.epochs + (config.recipe.warmup_epochs if KINDS[kind] else 0)


def run(config: Any, workdir: Path, bar: Any) -> dict[tuple[str, int], Any]:
    """Trains and measures every kind of head, and writes tables and figures.

    Args:
      config: see train/configs/monocon_digits.py.
      workdir: where to; finished trainings are in its folder ``cells``.
      bar: progress bar over :func:`total_steps`.

    Returns:
      (kind, seed) to the training's numbers and curves.
    """
    cells = Cells(workdir, config.reuse, spelled_before("batch", "batch_size"))
    results: dict[tuple[str, int], Any] = {}
    problem = PROBLEMS[config.problem](config.data, config.data_dir or None)
    data, recipe = config.data.to_dict(), config.recipe.to_dict()
    inputs = [config.problem, data, recipe, config.cut, config.snapshots]
    for kind, seed in _cells(config):
        compute = functools.partial(_trained, problem, config, kind, seed, Path(workdir), bar)
        skipped = functools.partial(bar.update, _epochs(config, kind))
        results[kind, seed] = cells.get(f"{kind}-{seed}", [*inputs, kind, seed], compute, skipped)
        tables.write(results, problem, config, workdir)  # what is there so far can be read
    figures.draw(results, problem, workdir)
    return results


def _cells(config: Any) -> list[tuple[str, int]]:
    """Trainings in the order of seeds, so that a whole row of kinds is soon there."""
    cells = [(kind, seed) for seed in config.seeds for kind in config.kinds]
    return cells + [(kind, config.seeds[0]) for kind in config.once]


def _trained(problem: Problem, config: Any, kind: str, seed: int, workdir: Path, bar: Any):
    """One training: its numbers, and the curves that the figures draw."""
    model, directory = build(problem, kind), workdir / "runs" / f"{kind}-{seed}"
    (directory / "watch").mkdir(parents=True, exist_ok=True)
    many = embedder(model, config.embed_batch_size)

    def evaluate(params, state, epoch):
        embed = functools.partial(many, params, state)
        x, y = embed(problem.watch)
        if epoch in config.snapshots or epoch == config.recipe.epochs:
            _keep(directory / "watch" / f"{epoch}.npz", x, y)
        return {"epoch": epoch, **validation(problem, embed), **dynamics(x, y)}

    out = train(model, config.recipe, seed, directory, evaluate, bar, config.parallel)
    embed = functools.partial(many, out.params, out.state)
    numbers = {
        **final(problem, embed, config.cut),
        "valid": {line["epoch"]: line["score"] for line in out.history}[out.best_epoch],
        "best_epoch": out.best_epoch,
        "epochs": out.epochs,
        "waiting": out.waiting,
        "violations": None,
    }
    features, raw = embed(problem.watch)
    if model.head is not None:
        numbers["violations"] = order_violations(model.project, out.params, features, seed)
    curves: dict[str, Any] = {
        name: [line[name] for line in out.history]
        for name in ("epoch", "score", "d_x", "d_y", "d_z", "rms_x", "rms_z")
    }
    curves |= {"best_x": features, "best_y": raw}
    if problem.classes:
        curves["test_z"] = unit(embed(problem.test.x[:SHOWN])[1]).astype(np.float16)
        curves["test_label"] = problem.test.label[:SHOWN]
    for file in sorted((directory / "watch").glob("*.npz")):
        with np.load(file) as kept:
            curves |= {f"{name}_{file.stem}": kept[name] for name in ("x", "y")}
    return numbers, curves


def _keep(path: Path, x: np.ndarray, y: np.ndarray) -> None:
    """Features and outputs of the watched inputs at one epoch."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=x, y=y)  # float32: at the start outputs hardly vary
    write_atomically(path, buffer.getvalue())
