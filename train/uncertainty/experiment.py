"""DUQ and its guarantee, after Kinoshita and Toyoizumi (NeurIPS 2024), Tables 2 to 4 and beyond.

Three parts: two moons for every alpha and beta of Table 2, what the lower slope bound guarantees
under attack, and Fashion-MNIST against MNIST and notMNIST.
"""

from pathlib import Path
from typing import Any

from monojax.training import Cells
from train.checks import above, at_least, choice, one_of
from train.uncertainty import certificate, images, moons, report, report_images
from train.uncertainty.data import EXTRA

PARTS = ("moons", "certificate", "images")


def check(config: Any) -> None:
    """Finds mistakes in the values of a config before anything is trained or written.

    Args:
      config: see train/configs/uncertainty.py.

    Raises:
      ValueError: naming the first one.
    """
    choice(config, PARTS, "parts")
    at_least(config, 1, "seeds", "images.seeds", "images.sizes", "images.rows")
    for part in ("moons", "images"):
        at_least(config[part], 1, "epochs", "batch_size", "embedding", "core", at=f"config.{part}")
        above(config[part], 0, "length_scale", "identity_scale", "lr", at=f"config.{part}")
    at_least(config.moons, 2, "train", "test", at="config.moons")
    at_least(config.moons, 0, "noise", "penalty", "lift", "alphas", at="config.moons")
    rows = config.moons.train
    at_least({"batch": rows // config.moons.batch_size}, 1, "batch", at="config.moons.train per")
    for alpha in config.moons.alphas:
        at_least({"alphas": alpha}, 0, "alphas", at="config.moons")
    for beta in config.moons.betas:
        above({"betas": beta}, 0, "betas", at="config.moons")
    for name in config.moons.variants:
        moons.variant(name, config.moons)
    for name, alpha, beta in config.certificate.cases:
        one_of(name.split()[0], ("f", "lifted"), "config.certificate.cases")
        moons.variant(name, config.moons)
        above({"alpha": alpha, "beta": beta}, 0, "alpha", "beta", at="config.certificate.cases")
    at_least(config.certificate, 1, "attacks", "steps", "radii", at="config.certificate")
    above(config.certificate, 0, "threshold", at="config.certificate")
    if not config.certificate.threshold < 1:
        raise ValueError(
            f"config.certificate.threshold must be < 1, got {config.certificate.threshold!r}."
        )
    choice(config, EXTRA, "images.extra")
    for label in config.images.held_out:
        one_of(label, tuple(range(10)), "config.images.held_out")
    if len(config.images.held_out) > 8:
        raise ValueError("config.images.held_out must leave 2 classes or more to train on.")
    for radius in config.images.radii:
        above({"radii": radius}, 0, "radii", at="config.images")
    at_least(config.images, 1, "attacked", "attack_steps", at="config.images")
    for size in config.images.sizes:
        one_of(size, (14, 28), "config.images.sizes")
    for row in config.images.rows:
        images.check_row(row)


def total_steps(config: Any) -> int:
    """Cells of the whole run, for the progress bar.

    Args:
      config: the experiment's config.

    Returns:
      How many parts are stored on their own.
    """
    count = {
        "moons": 3 + len(config.moons.variants) * len(config.moons.alphas),
        "certificate": len(certificate.PLAINS) + len(config.certificate.cases),
        "images": len(config.images.sizes) * len(config.images.rows) * config.images.seeds,
    }
    return sum(count[part] for part in config.parts)


def run(config: Any, workdir: Path, bar: Any) -> dict[str, Any]:
    """Computes what the work directory does not hold; writes tables and pictures.

    Args:
      config: see train/configs/uncertainty.py.
      workdir: the directory of the whole experiment.
      bar: progress bar over :func:`total_steps`.

    Returns:
      Part to its results.
    """
    cells = Cells(workdir, config.reuse)
    results: dict[str, Any] = {}
    for part in config.parts:
        module: Any = {"moons": moons, "certificate": certificate, "images": images}[part]
        results[part] = module.run(config, cells, bar)
        written = report_images if part == "images" else report
        getattr(written, part)(results[part], config, workdir)
    return results
