"""Monotone latents: pairs, measures on made-up sweeps, configs, and a run on a small scale."""

import csv

import jax
import numpy as np
import pytest

from monojax.data.shapes3d import factor_values
from train.configs.generation import get_config
from train.generation import experiment
from train.generation.data import grid_places, number, pair_factors
from train.generation.measures import best_cut, hue_of, hue_order, patch_of, value_order


@pytest.mark.slow
def test_pairs_differ_in_the_named_factor_only():
    for values in ("grid", "continuous"):
        draw = jax.jit(pair_factors, static_argnums=(1, 2))
        first, second, changed = map(np.asarray, draw(jax.random.key(0), 400, values))
        differs = first != second
        assert (differs.sum(1) == 1).all() and (differs.argmax(1) == changed).all()
        assert set(changed) == set(range(6))
        if values == "grid":
            for column, grid in zip(
                np.concatenate([first, second]).T, factor_values(), strict=True
            ):
                assert set(column) <= set(grid) and len(set(column)) == len(grid)
            places = grid_places(first)
            np.testing.assert_allclose(
                first.T, [g[p] for g, p in zip(factor_values(), places.T, strict=True)]
            )


def test_hues_of_patches():
    patches = np.array([[1, 0, 0], [0, 0.5, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0.5] * 3])
    degrees, saturation = hue_of(np.tile(patches[:, None, None], (1, 2, 3, 1)))
    np.testing.assert_allclose(degrees[:5], [0, 120, 240, 60, 300])
    np.testing.assert_allclose(saturation, [1, 1, 1, 1, 1, 0], atol=1e-9)
    image = np.zeros((64, 64, 3))
    image[54:, :10] = 1
    assert patch_of(image, "floor hue").shape == (10, 10, 3)
    assert patch_of(image, "floor hue").min() == 1


def test_order_around_the_circle():
    """Through 0, downwards, back by half a degree, not at all, twice around, and mixed."""
    rows = np.array(
        [
            [350, 355, 5, 20],
            [20, 5, 355, 350],
            [10, 9.5, 30, 40],
            [7, 7, 7, 7],
            [0, 170, 340, 150],
            [10, 30, 20, 40],
        ]
    )
    full = np.ones_like(rows)
    exact, loose = hue_order(rows, full, 0.0), hue_order(rows, full, 1.0)
    assert exact.sorted.tolist() == [True, True, False, True, False, False]
    assert loose.sorted.tolist() == [True, True, True, True, False, False]
    np.testing.assert_allclose(exact.span, [30, 30, 30, 0, 510, 30])
    np.testing.assert_allclose(loose.share, [1, 1, 1, 1, 1, 2 / 3])
    grey = full.astype(float)
    grey[5, 2] = 0.01
    assert hue_order(rows, grey, 0.0).sorted[5]
    steps = value_order([[1, 2, 3], [3, 2, 1], [1, 3, 2.95]], 0.1)
    assert steps.sorted.all() and not value_order([[1, 3, 2.95]], 0.01).sorted[0]
    np.testing.assert_allclose(steps.span, [2, 2, 1.95])


def test_a_circle_is_cut_where_it_is_best():
    places = np.arange(40) % 10
    latent = (places - 7) % 10
    rank = lambda values: np.corrcoef(values, latent)[0, 1]
    assert best_cut(rank, places, 10) == pytest.approx(1)
    assert abs(rank(places)) < 0.5


def test_bad_configs_are_named():
    for mode in ("full", "reduced", "quick"):
        experiment.check(get_config(mode))
    with pytest.raises(ValueError, match="unknown mode 'fast'"):
        get_config("fast")
    for key, value, message in (
        ("values", "gird", "did you mean 'grid'"),
        ("source", "tfds", "config.source must be one of 'rendered', 'published'"),
        ("likelihood", "normal", "config.likelihood must be one of"),
        ("run", ("bsae",), "did you mean 'base'"),
        ("steps", 0, "config.steps must be at least 1"),
        ("widths", (4, 4), "must hold four channels"),
    ):
        config = get_config("quick")
        config[key] = value
        with pytest.raises(ValueError, match=message):
            experiment.check(config)
    config = get_config("quick")
    config.models.base.kind, config.models.base.gamma = "single", 1.0
    with pytest.raises(ValueError, match="its factors are not supervised"):
        experiment.check(config)
    config = get_config("quick")
    config.source, config.values = "published", "continuous"
    with pytest.raises(ValueError, match="the grid's values only"):
        experiment.check(config)
    with pytest.raises(ValueError, match=r"factor must be one of floor hue, .* got 'colour'"):
        number("colour")


class Bar:
    """A progress bar that counts."""

    count = 0

    def update(self, units):
        self.count += units

    def set_postfix_str(self, text):
        pass


@pytest.mark.slow  # two trainings, all tables and pictures
def test_quick_run_resumes_without_training(tmp_path):
    config, bar = get_config("quick"), Bar()
    results = experiment.run(config, tmp_path, bar)
    assert bar.count == experiment.total_steps(config)
    with (tmp_path / "generation.csv").open(encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["", "base", "monotone"] and len(rows) == 1 + len(experiment.ROWS)
    pictures = [*tmp_path.glob("*.png"), *tmp_path.glob("*.gif")]
    assert len(pictures) == 7 + 6
    before = {path.name: path.read_bytes() for path in pictures}
    for path in pictures:
        path.unlink()
    assert experiment.run(config, tmp_path, Bar()) == results
    assert {path.name for path in tmp_path.glob("*.gif")} < before.keys()
    for name, content in before.items():
        assert (tmp_path / name).read_bytes() == content, name


@pytest.mark.full  # 40 CPU s each, nearly all compilation
@pytest.mark.parametrize("name", ["path", "margin", "beta_vae"])
def test_the_other_models_train_and_are_measured(name, tmp_path):
    config = get_config("quick")
    config.run = (name,)
    config.likelihood = "gaussian"
    found = experiment.run(config, tmp_path, Bar())[name][0]
    assert np.isfinite(found["squared"]) and len(found["owners"]) == 6
