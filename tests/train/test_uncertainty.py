"""The experiment on unfamiliar inputs: data, configs, a stored run that resumes, bad input."""

import json

import flax.linen as nn
import jax
import numpy as np
import pytest

pytest.importorskip("ml_collections", reason="the experiments need the extra train")
pytest.importorskip("matplotlib", reason="the experiments need the extra train")

from monojax.data import ImageSplits
from monojax.data.locate import MissingDataError
from train.__main__ import main
from train.configs.uncertainty import MODES, get_config
from train.uncertainty import data, experiment, networks
from train.uncertainty.networks import isometry
from train.uncertainty.report import PUBLISHED


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_passes_its_own_check(mode):
    config = get_config(mode)
    experiment.check(config)
    assert experiment.total_steps(config) > 0


def test_the_paper_s_grid_is_in_the_config():
    part = get_config().moons
    assert tuple(part.alphas) == tuple(PUBLISHED) and len(part.betas) == 6
    assert all(len(text.split()) == 6 for text in PUBLISHED.values())


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("parts", ("moon",), "moons"),
        ("moons.variants", ("f linear",), "extractor head optimiser"),
        ("moons.variants", ("g linear sgd",), "extractor"),
        ("moons.variants", ("f linear lbfgs",), "optimiser"),
        ("moons.betas", (0.0,), "betas must be > 0"),
        ("moons.alphas", (-1.0,), "alphas must be at least 0"),
        ("moons.train", 32, "config.moons.train per"),
        ("certificate.threshold", 1.0, "threshold must be < 1"),
        ("certificate.cases", (("f_mlp linear sgd", 1.0, 3.0),), "certificate.cases"),
        ("certificate.cases", (("lifted linear sgd", 0.0, 3.0),), "alpha must be > 0"),
        ("images.sizes", (32,), "images.sizes"),
        ("images.rows", (("mlp", "linear"),), "extractor, head, alpha, beta"),
        ("images.rows", (("vit", "linear", 0.0, 1.0),), "extractor"),
        ("images.seeds", 0, "images.seeds"),
        ("images.extra", ("svhn",), "images.extra"),
        ("images.radii", (-0.1,), "radii must be > 0"),
        ("images.held_out", (10,), "images.held_out"),
        ("images.held_out", tuple(range(9)), "leave 2 classes"),
    ],
)
def test_wrong_values_are_named(key, value, match):
    config = get_config()
    config.unlock()
    *groups, last = key.split(".")
    place = config
    for group in groups:
        place = place[group]
    with place.ignore_type():
        place[last] = value
    with pytest.raises(ValueError, match=match):
        experiment.check(config)


def test_moons_are_two_half_circles():
    x, y = data.two_moons(200, 0.0, np.random.default_rng(0))
    upper, lower = x[y == 0], x[y == 1]
    np.testing.assert_allclose(np.linalg.norm(upper, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(lower - [1, 0.5], axis=1), 1, atol=1e-6)
    assert (upper[:, 1] >= -1e-6).all() and (lower[:, 1] <= 0.5 + 1e-6).all()
    far = data.far_points(x, 50, np.random.default_rng(1))
    gaps = np.linalg.norm(far[:, None] - x[None], axis=-1).min(axis=1)
    assert len(far) == 50 and gaps.min() > data.AWAY and np.abs(far).max() < 5
    grid = data.plane()
    assert grid.shape == (data.GRID**2, 2) and grid[0].tolist() == [-2.5, -3.0]


def test_images_are_pooled_and_prepared():
    images = np.zeros((2, 28, 28), np.uint8)
    images[0, 3, 5] = 255
    small = data.prepared(images, 14).reshape(2, 14, 14)
    low, high = (0 - data.MEAN) / data.SCALE, (1 - data.MEAN) / data.SCALE
    assert small[0, 1, 2] == pytest.approx(high)
    assert (small == small[1, 0, 0]).sum() == 2 * 196 - 1
    assert small[1, 0, 0] == pytest.approx(low)
    assert data.prepared(images, 28).shape == (2, 784)


def test_images_are_turned_and_noised_by_degrees():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 28, 28)).astype(np.uint8)
    np.testing.assert_array_equal(data.rotated(images, 0.0), images)
    np.testing.assert_array_equal(data.rotated(images, 90.0), np.rot90(images, 1, (1, 2)))
    np.testing.assert_array_equal(data.rotated(images, 180.0), images[:, ::-1, ::-1])
    corner = data.rotated(np.full((1, 28, 28), 255, np.uint8), 45.0)
    assert corner[0, 0, 0] == 0 and corner[0, 14, 14] == 255
    flat = np.full((4, 28, 28), 128, np.uint8)
    assert data.noisy(flat, 20.0).std() == pytest.approx(20, rel=0.1)
    colour = np.zeros((1, 32, 32, 3), np.uint8)
    colour[0, 2, 2] = (255, 0, 0)
    found = data.grey(colour)
    assert found.shape == (1, 28, 28) and found[0, 0, 0] == 76 and found.sum() == 76


@pytest.mark.parametrize(
    ("images", "size", "match"),
    [
        (np.zeros((2, 32, 32), np.uint8), 14, r"\[n, 28, 28\]"),
        (np.zeros((2, 784), np.uint8), 14, r"\[n, 28, 28\]"),
        (np.zeros((2, 28, 28), np.float32), 14, "uint8"),
        (np.zeros((2, 28, 28), np.uint8), 20, "14 or 28"),
    ],
)
def test_other_images_are_refused(images, size, match):
    with pytest.raises(ValueError, match=match):
        data.prepared(images, size)


def test_missing_files_are_named(tmp_path):
    config = get_config("quick").images
    config.data_dir = str(tmp_path)
    with pytest.raises(MissingDataError, match="fashion_mnist"):
        data.load_images(config, 14)


def test_the_lift_keeps_distances():
    matrix = np.asarray(isometry(2, 8), np.float64)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(2), atol=1e-6)


def test_written_out_convolutions_are_convolutions():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 7, 6, 3)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 3, 4)).astype(np.float32)
    order = ("NHWC", "HWIO", "NHWC")
    want = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=order)
    found = networks.patches(x) @ kernel.reshape(27, 4)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(networks.halved(x), nn.max_pool(x, (2, 2), (2, 2)))


def fake(data_dir=None, *, source="files"):
    """80 + 40 images, every class with a tile of its own."""
    rng = np.random.default_rng(0)
    y = np.arange(120, dtype=np.int32) % 10
    tiles = 200 * rng.integers(0, 2, (10, 4, 4))
    x = (np.tile(tiles[y], (1, 7, 7)) + rng.integers(0, 40, (120, 28, 28))).astype(np.uint8)
    return ImageSplits(x[:80], y[:80], x[80:], y[80:])


@pytest.mark.full
def test_the_moons_and_the_certificate_from_end_to_end(tmp_path):
    """One variant: tables, pictures, stored cells; no bound is broken, no ascent passes."""
    command = ["--config", "train/configs/uncertainty.py:quick", "--workdir", str(tmp_path)]
    command += ["--config.parts=('moons','certificate')"]
    command += ["--config.moons.variants=('lifted identity adam',)"]
    assert main(command) == 0
    for name in ("table2.md", "moons.md", "certificate.md", "certificate_auroc.md"):
        assert (tmp_path / name).is_file(), name
    assert len(list(tmp_path.glob("*.png"))) == 3
    assert "published" in (tmp_path / "table2.md").read_text()
    (cell,) = (tmp_path / "cells").glob("certificate-lifted*.json")
    numbers = json.loads(cell.read_text())
    assert numbers["passed"] == numbers["broken"] == 0 and 0 < numbers["radius"] < np.inf
    for attacked, sure in zip(numbers["attacked"], numbers["guaranteed"], strict=True):
        assert sure <= attacked + 1e-6
    stamps = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cells").iterdir()}
    assert main(command) == 0  # nothing is computed twice
    assert stamps == {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cells").iterdir()}


@pytest.mark.slow
def test_the_images_from_end_to_end(tmp_path, monkeypatch):
    for name in ("fashion_mnist", "mnist"):
        monkeypatch.setattr(data, name, fake)
    noise = np.random.default_rng(1).integers(0, 256, (30, 28, 28)).astype(np.uint8)
    monkeypatch.setattr(data, "notmnist", lambda folder: (noise, None))
    command = ["--config", "train/configs/uncertainty.py:quick", "--workdir", str(tmp_path)]
    command += ["--config.parts=('images',)", "--config.images.valid=16"]
    command += ["--config.images.batch_size=16", "--config.images.epochs=3"]
    command += ["--config.images.rows=(('f','linear',0.2,0.4),)"]
    command += ["--config.images.extra=('rotated','noisy')", "--config.images.held_out=(2,7)"]
    command += ["--config.images.angles=(90.,)", "--config.images.noises=(50.,)"]
    command += ["--config.images.radii=(0.05,0.5)", "--config.images.attack_steps=3"]
    command += ["--config.images.attacked=20"]
    assert main(command) == 0
    (cell,) = (tmp_path / "cells").glob("images-*.json")
    numbers = json.loads(cell.read_text())
    assert 40 < numbers["rows"] < 64 and numbers["unconverged"] == 0
    assert {"held_out_auroc", "rotated 90_auroc", "noisy 50_auroc"} <= set(numbers)
    assert numbers["loss"][-1] < numbers["loss"][0]
    for name in ("images_14.png", "images.md", "severity_14.png", "images_certified_14.md"):
        assert (tmp_path / name).is_file(), name
    for found in numbers["attacks"].values():
        clean, near, far = found["guaranteed"]
        assert clean >= near >= far < clean and found["broken"] == 0  # f's upper slope is known
        assert min(np.subtract(found["attacked"], found["guaranteed"])) > -1e-6
        assert found["radius"] > 0 and found["attacked"][0] >= found["attacked"][2]
