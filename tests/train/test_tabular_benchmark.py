"""The partially monotone benchmark: what is chosen where, what is measured, one whole smoke run."""

import functools
import json

import jax
import numpy as np
import pytest

pytest.importorskip("ml_collections", reason="the experiments need the extra train")
pytest.importorskip("matplotlib", reason="the experiments need the extra train")

from train.configs.tabular import get_config
from train.tabular import experiment, networks, trees
from train.tabular.data import Problem, folds, load_problem
from train.tabular.measures import against, best_on_test, certified, violations
from train.tabular.report import bars, set_table


def problem(task="regression", metric="MSE", **changes):
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    y = np.array([0.0, 1, 1, 0] * 10, np.float32)
    made = dict(
        name="auto_mpg",
        title="t",
        task=task,
        x=x,
        y=y,
        x_test=x[:8],
        y_test=y[:8],
        directions=np.array([1, 0, -1]),
        columns=("a", "b", "c"),
        metric=metric,
        unit=2.0,
    )
    return Problem(**(made | changes))


@pytest.mark.parametrize("count, parts", [(40, 5), (43, 5), (7, 2)])
def test_folds_have_one_size_and_share_no_row(count, parts):
    train, valid = folds(count, parts, 0)
    assert len(np.unique(valid)) == valid.size == count // parts * parts
    for rows, held in zip(train, valid, strict=True):
        assert sorted([*rows, *held]) == list(range(count))


def test_auto_mpg_is_scaled_by_its_training_part():
    data = load_problem("auto_mpg", get_config("quick").problems.auto_mpg)
    assert data.x.shape == (314, 7) and data.x_test.shape == (78, 7)
    np.testing.assert_allclose(data.x.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(data.x.std(axis=0), 1, atol=1e-5)
    # Always the mean: the error is the variance, in mpg^2, whatever the scaling is.
    assert data.score(np.zeros(314), data.y) == pytest.approx(data.unit**2, rel=1e-5)
    assert 7 < data.unit < 8.5 and data.directions.tolist() == [0, -1, -1, -1, 0, 0, 0]


def test_scores_against_closed_forms():
    values = np.array([[0.5, 1, 1, 0] * 2, [-1.0, 3, -2, -4] * 2])
    data = problem()
    np.testing.assert_allclose(
        data.score(values, data.y_test), [4 * 0.0625, 4 * (1 + 4 + 9 + 16) / 4]
    )
    rooted = problem(metric="RMSE").score(values, data.y_test)
    np.testing.assert_allclose(rooted, [0.5, 30**0.5])
    classes = problem("classification", "accuracy %")
    np.testing.assert_allclose(classes.score(values, data.y_test), [75, 75])
    assert classes.sign == 1 and data.sign == -1


def test_the_literatures_number_is_the_best_on_the_test_part():
    values = np.stack([[[1.0] * 8, [0.0] * 8], [[0.0, 1, 1, 0] * 2, [1.0] * 8]])
    np.testing.assert_allclose(best_on_test(problem(), values), [0, 2])
    classes = problem("classification", "accuracy %")
    shifted = np.where(classes.y_test > 0, 3.0, 2.0)[None, None]  # right behind a threshold alone
    assert classes.score(shifted, classes.y_test)[0, 0] == 50
    assert best_on_test(classes, shifted) == 100


def test_violations_are_counted_by_row():
    data = problem()
    assert violations(lambda x: x[:, 0] - x[:, 2] + np.sin(9 * x[:, 1]), data) == 0
    assert violations(lambda x: x[:, 2], data) == 1
    wrong = violations(lambda x: np.where(x[:, 1] > 0, x[:, 2], -x[:, 2]), data)
    assert wrong == (data.x_test[:, 1] > 0).mean()
    assert violations(lambda x: np.ones(len(x)), data) == 0


def test_certified_share():
    assert certified(lambda x: x[0] - 2 * x[2] + x[1] ** 2, problem(), 10) == 1
    assert certified(lambda x: x[0] + x[2], problem(), 10) == 0


def test_a_row_is_compared_on_the_same_test_rows():
    data = problem()
    truth, off = np.stack([data.y_test] * 2), np.stack([data.y_test + 1] * 3)
    assert against(data, truth, truth, 20) == (0, 0, 0)
    assert against(data, off, truth, 20) == (4, 4, 4)


GUARANTEED = [
    pytest.param(name, marks=[pytest.mark.slow] if row.solves else [])
    for name, row in networks.ROWS.items()
    if row.guaranteed
]


@pytest.mark.parametrize("name", GUARANTEED)
def test_guaranteed_rows_keep_their_signs(name):
    """Of random parameters, spread by 3, at random points, in float32."""
    row = networks.ROWS[name]
    module = row.make(row.candidates[0], (1, 0, -1))
    x = np.random.default_rng(1).normal(size=(64, 3)).astype(np.float32)

    @jax.jit
    def slopes(key):
        params = jax.tree.map(lambda p: 3 * p, module.init(key, x[:1]))
        fn = functools.partial(networks.value, module, params)
        return jax.vmap(jax.grad(fn))(x), fn(x)

    found, values = slopes(jax.random.key(0))
    assert values.shape == (64,)
    scale = 1e-5 * np.abs(found).max()  # rounding of the solve and of sums
    assert (np.asarray(found)[:, 0] >= -scale).all() and (np.asarray(found)[:, 2] <= scale).all()


@pytest.mark.parametrize("name", trees.ROWS)
def test_trees_grow_stage_by_stage_and_keep_constraints(name):
    row = trees.ROWS[name]
    if not trees.installed(row.kind):
        pytest.skip(f"needs {row.kind}")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)).astype(np.float32)
    y = (x[:, 0] - x[:, 2] + rng.normal(size=200)).astype(np.float32)
    data, options = problem(x=x, y=y, x_test=x[:20], y_test=y[:20]), trees.CANDIDATES[0]
    stages = np.array([1, 5, 9])
    values, model, _ = trees.fit_trees(data, row, options, np.arange(200), x[:20], 0, 9, stages)
    again = trees.staged(row, "regression", model, x[:20], np.array([5]))
    assert values.shape == (3, 20)
    np.testing.assert_allclose(again[0], values[1])
    errors = np.square(values - y[:20]).mean(axis=1)
    assert errors[2] < errors[0] and trees.size(row, model, 5) < trees.size(row, model, 9)
    if row.constrained:
        last = lambda rows: trees.staged(row, "regression", model, rows, stages[-1:])[0]
        assert violations(last, data) == 0


def test_the_bars_are_told_with_their_gaps():
    data, truth = problem(), problem().y_test
    cell = lambda error, valid: (
        {"clean": [error], "validation": valid, "certified": 1.0},
        {"values": np.stack([truth + 1])},
    )
    found = {"lmn": cell(11.0, 2.0), "smnn": cell(9.0, 3.0)}
    text = bars({"auto_mpg": data}, {"auto_mpg": found}, {"auto_mpg": {"lmn": (1.0, 0.5, 1.5)}})
    assert "chooses LMN" in text and "worse than constrained XGBoost" in text
    assert "bar 9.52 missed by 1.48" in text


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"rows": ("lnm",)}, "did you mean 'lmn'"),
        ({"certify_budget": 0}, "config.certify_budget must be at least 1"),
        ({"problems.auto_mpg.folds": 1}, "config.problems.auto_mpg.folds must be at least 2"),
        ({"problems.auto_mpg.protocol": "dirty"}, "protocol must be one of"),
    ],
)
def test_mistakes_in_the_config(changes, match):
    c = get_config("quick")
    c.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=match):
        experiment.check(c)


@pytest.mark.slow
def test_a_smoke_run_writes_its_tables_and_resumes(tmp_path):
    """Two epochs on Auto MPG: selection, seeds, certificate, tables; the second run reads cells."""
    from train.__main__ import main

    argv = ["--config=tabular:quick", f"--workdir={tmp_path / 'run'}"]
    argv += ["--config.rows=('mlp','lmn','histgb_constrained')"]
    assert main(argv) == 0
    text = (tmp_path / "run" / "auto_mpg.md").read_text()
    assert "LMN" in text and "form" in text and "published" in text
    numbers = json.loads((tmp_path / "run" / "numbers.json").read_text())["auto_mpg"]
    assert numbers["lmn"]["violations"] == [0, 0] and numbers["mlp"]["stage"] <= 2
    made = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "cells").iterdir()}
    assert main(argv) == 0
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "cells").iterdir()} == made
    assert (tmp_path / "run" / "auto_mpg.md").read_text() == text


def test_the_table_has_every_row():
    data = problem()
    numbers = {
        "clean": [1.0, 2.0],
        "literature": [1.0, 1.0],
        "violations": [0.0],
        "certified": 1.0,
        "parameters": 5,
        "fit_seconds": 0.1,
        "microseconds_per_row": 0.2,
    }
    found = {"lmn": (numbers, {"values": np.stack([data.y_test] * 2)})}
    table = set_table(data, found, {"lmn": (0.5, 0.1, 0.9)}, get_config("quick").problems.auto_mpg)
    assert len(table.header) == len(table.rows[0]) == 11
    assert table.rows[0][:4] == ["LMN", "1.50 ± 0.69", "0.50 [0.10, 0.90]", "0.00"]
