"""Tabular sets: contents, splits, both scaling protocols."""

import csv
import functools
import gzip
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from tabular_names import EMBEDDED, EXTERNAL

from monojax.data import load_tabular
from monojax.data import tabular as tabular_module
from monojax.data.blog_feedback import INCREASING, blog_features
from monojax.data.locate import embedded_bytes
from monojax.data.scaling import hold_out, min_max, standardise
from monojax.data.tabular_sets import BY_NAME

FLOAT32 = 1e-6  # absolute: one rounding of values up to about 6 to float32


def shared_data():
    """The folder of the external files, or None."""
    named = os.environ.get("MONOJAX_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "data"
    return folder if (folder / "tabular").is_dir() else None


needs_files = pytest.mark.skipif(
    shared_data() is None, reason="no data folder: set MONOJAX_DATA to the one with tabular/"
)
ALL_SETS = [*EMBEDDED, *(pytest.param(name, marks=needs_files) for name in EXTERNAL)]


@functools.cache
def load(name, **options):
    return load_tabular(name, data_dir=shared_data(), **options)


def read_rows(name):
    """The rows of a set's CSV file as dictionaries, read by the csv module alone."""
    spec = BY_NAME[name]
    if spec.embedded:
        content = (resources.files("monojax.data") / "files" / spec.file).read_bytes()
    else:
        content = (shared_data() / "tabular" / spec.file).read_bytes()
    if spec.file.endswith(".gz"):
        content = gzip.decompress(content)
    return list(csv.DictReader(content.decode().splitlines()))


# What every set has in common


@pytest.mark.parametrize("name", ALL_SETS)
def test_shapes_types_and_names_agree(name):
    data = load(name)
    d = len(data.columns)
    assert len(set(data.columns)) == d and set(data.units) == set(data.columns)
    for part in ("train", "valid", "test"):
        x, y = getattr(data, f"x_{part}"), getattr(data, f"y_{part}")
        assert x.dtype == y.dtype == np.float32
        assert x.shape == (len(y), d) and len(y) > 0
        assert np.isfinite(x).all() and np.isfinite(y).all()
    assert data.directions.shape == data.low.shape == data.high.shape == (d,)
    assert data.feature_low.shape == data.feature_high.shape == (d,)
    assert set(data.directions.tolist()) <= {-1, 0, 1} and data.directions.any()
    assert data.source and data.licence and data.attribution


@pytest.mark.parametrize("name", ALL_SETS)
def test_clean_scaling_is_fitted_on_the_training_rows_alone(name):
    data = load(name)
    np.testing.assert_array_equal(data.low, np.zeros(len(data.columns)))
    np.testing.assert_array_equal(data.high, np.ones(len(data.columns)))
    assert data.x_train.min() == 0 and data.x_train.max() == 1
    varying = data.feature_high > data.feature_low
    assert (data.x_train.min(axis=0)[varying] == 0).all()
    assert (data.x_train.max(axis=0)[varying] == 1).all()
    assert (data.y_train.min(), data.y_train.max()) == (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL_SETS)
def test_seed_moves_validation_rows_and_nothing_else(name):
    first, again, other = load(name), load.__wrapped__(name), load(name, seed=1)
    np.testing.assert_array_equal(first.x_train, again.x_train)
    np.testing.assert_array_equal(first.y_valid, again.y_valid)
    assert first.x_valid.shape == other.x_valid.shape
    assert not np.array_equal(first.raw(first.x_valid), other.raw(other.x_valid))
    if name != "heart_cleveland":  # there the seed picks the test rows too
        # Raw values up to 1e6 come back from float32: relative rounding, of the range.
        gap = (first.raw(first.x_test) - other.raw(other.x_test)) / first.scale
        assert np.abs(gap).max() < 1e-4


@pytest.mark.parametrize("name", ALL_SETS)
def test_validation_is_the_share_asked_for(name):
    data = load(name, validation=0.25)
    total = len(data.y_train) + len(data.y_valid)
    assert abs(len(data.y_valid) - 0.25 * total) <= 1  # rounded, per class
    if data.task == "classification":
        assert set(np.unique(data.y_train)) == {0, 1}
        assert abs(data.y_valid.sum() - 0.25 * (data.y_train.sum() + data.y_valid.sum())) <= 0.5


# Each set against its file


def test_auto_mpg_matches_its_file():
    data, rows = load("auto_mpg"), read_rows("auto_mpg")
    assert data.columns == (
        "cylinders", "displacement", "horsepower", "weight", "acceleration", "model_year", "origin"
    )  # fmt: skip
    assert data.directions.tolist() == [0, -1, -1, -1, 0, 0, 0]
    assert (len(data.y_train) + len(data.y_valid), len(data.y_test)) == (314, 78)
    assert data.dropped_rows == 6
    test = [r for r in rows if r["split"] == "test"]
    want = np.array([[float(r[c]) for c in data.columns] for r in test])
    np.testing.assert_allclose(data.raw(data.x_test), want, rtol=1e-5, atol=1e-4)
    low, high = data.target_scale
    mpg = [float(r["mpg"]) for r in test]
    np.testing.assert_allclose(data.y_test * (high - low) + low, mpg, rtol=1e-6)


def test_auto_mpg_benchmark_is_standardised_with_the_whole_training_part():
    data = load("auto_mpg", protocol="benchmark")
    rows = [r for r in read_rows("auto_mpg") if r["split"] == "train"]
    raw = np.array([[float(r[c]) for c in data.columns] for r in rows])
    want = (raw - raw.mean(axis=0)) / raw.std(axis=0, ddof=1)
    got = np.concatenate([data.x_train, data.x_valid])
    key = lambda x: x[np.lexsort(np.round(x, 4).T)]
    np.testing.assert_allclose(key(np.float64(got)), key(want), atol=FLOAT32)
    np.testing.assert_allclose(data.low, want.min(axis=0), atol=FLOAT32)
    np.testing.assert_allclose(data.high, want.max(axis=0), atol=FLOAT32)
    assert data.target_scale == (0, 1)
    assert data.y_train.min() >= 9 and data.y_train.max() <= 46.6  # mpg, not scaled


def test_heart_cleveland_counts_disease_as_num_above_0():
    data, rows = load("heart_cleveland"), read_rows("heart_cleveland")
    complete = [r for r in rows if "" not in r.values()]
    assert data.dropped_rows == len(rows) - len(complete) == 6
    y = np.concatenate([data.y_train, data.y_valid, data.y_test])
    assert len(y) == len(complete) == 297
    assert y.sum() == sum(int(r["num"]) > 0 for r in complete)
    # Stratified: the shares of positives agree up to half a row per class and part.
    for part in (data.y_train, data.y_valid, data.y_test):
        assert abs(part.mean() - y.mean()) < 1.5 / len(part)
    assert data.directions.tolist() == [int(c in ("trestbps", "chol")) for c in data.columns]


@needs_files
def test_heart_has_the_variant_target_and_the_benchmark_scaling():
    data = load("heart", protocol="benchmark")
    assert (len(data.y_train) + len(data.y_valid), len(data.y_test)) == (242, 61)
    assert (data.y_train.sum() + data.y_valid.sum(), data.y_test.sum()) == (70, 13)
    rows = read_rows("heart")
    raw = {
        part: np.array([[float(r[c]) for c in data.columns] for r in rows if r["split"] == part])
        for part in ("train", "test")
    }
    want = (raw["test"] - raw["train"].mean(axis=0)) / raw["train"].std(axis=0, ddof=1)
    np.testing.assert_allclose(data.x_test, want, atol=FLOAT32)
    assert "num" in data.caution


@needs_files
def test_compas_has_the_benchmark_columns_in_order():
    data = load("compas", protocol="benchmark")
    assert data.columns == (
        "priors_count", "juv_fel_count", "juv_misd_count", "juv_other_count", "age",
        "race=African-American", "race=Hispanic", "race=Asian", "race=Caucasian",
        "race=Native American", "race=Other", "sex=Male", "sex=Female",
    )  # fmt: skip
    assert data.directions.tolist() == [1] * 4 + [0] * 9
    assert (len(data.y_train) + len(data.y_valid), len(data.y_test)) == (4937, 1235)
    rows = read_rows("compas")
    ages = np.array([float(r["age"]) for r in rows])
    test = np.array([float(r["age"]) for r in rows if r["split"] == "test"])
    want = (test - ages.min()) / (ages.max() - ages.min())  # over ALL rows
    np.testing.assert_allclose(data.x_test[:, 4], want, atol=FLOAT32)
    assert (data.x_test[:, 5:11].sum(axis=1) == 1).all()
    assert (data.x_test[:, 11:].sum(axis=1) == 1).all()
    races = [r["race"] for r in rows if r["split"] == "test"]
    assert [data.columns[5 + k][5:] for k in data.x_test[:, 5:11].argmax(axis=1)] == races
    female = [r["sex"] == "Female" for r in rows if r["split"] == "test"]
    np.testing.assert_array_equal(data.x_test[:, 12], female)


@needs_files
def test_blog_feedback_clean_keeps_all_rows_and_drops_constant_columns():
    data = load("blog_feedback")
    assert (len(data.y_train) + len(data.y_valid), len(data.y_test)) == (52_397, 7_624)
    gone = [f.name for f in blog_features() if f.name not in data.columns]
    assert gone == [blog_features()[j].name for j in (12, 32, 37, 277)]
    assert data.directions.sum() == 8 and data.dropped_rows == 0
    assert data.target_scale[0] == 0 and 255 < data.target_scale[1] <= 1424  # no uint8 wrap


@needs_files
def test_blog_feedback_benchmark_gives_the_published_counts():
    data = load("blog_feedback", protocol="benchmark")
    assert len(data.y_train) + len(data.y_valid) == 47_302
    assert len(data.y_test) == 6_968
    assert len(data.columns) == 276
    assert data.directions.tolist() == [1] * 8 + [0] * 268
    assert data.columns[:8] == tuple(blog_features()[j].name for j in INCREASING)
    assert data.target_scale == (0, 8)
    every = np.concatenate([data.x_train, data.x_valid, data.x_test])
    assert (every.min(axis=0) == 0).all() and (every.max(axis=0) == 1).all()


@needs_files
def test_blog_feedback_names_fit_the_numbers():
    """What the names say holds in the file: changes are differences, maxima bound means."""
    with np.load(shared_data() / "tabular" / "blog_feedback.npz") as file:
        x = file["X_test_T"].T
    at = {f.name: x[:, j] for j, f in enumerate(blog_features())}
    assert len(at) == 280
    for thing in ("comments", "links"):
        np.testing.assert_array_equal(
            at[f"{thing}_last_24h_change"],
            at[f"{thing}_last_24h"] - at[f"{thing}_24_to_48h_before"],
        )
        assert (at[f"{thing}_first_24h"] <= at[f"{thing}_total"]).all()
        assert (at[f"source_min_{thing}_total"] <= at[f"source_mean_{thing}_total"]).all()
        assert (at[f"source_mean_{thing}_total"] <= at[f"source_max_{thing}_total"]).all()
    assert at["hours_since_publication"].max() <= 72
    days = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    assert (sum(at[f"published_{day}"] for day in days) == 1).all()


@needs_files
def test_lending_club_encodes_grades_and_splits_by_month():
    data, rows = load("lending_club"), read_rows("lending_club")
    signs = dict(zip(data.columns, data.directions.tolist(), strict=True))
    assert {c: s for c, s in signs.items() if s} == {
        "pub_rec_bankruptcies": 1, "dti": 1, "grade": -1, "emp_length": -1, "annual_inc": -1
    }  # fmt: skip
    never = ("mths_since_last_delinq", "mths_since_last_record")
    complete = [r for r in rows if all(v for c, v in r.items() if c not in never)]
    assert data.dropped_rows == len(rows) - len(complete)
    test = [r for r in complete if r["issue_month"] >= "2011-09"]
    assert len(data.y_test) == len(test)
    assert len(data.y_train) + len(data.y_valid) == len(complete) - len(test)
    np.testing.assert_array_equal(data.y_test, [float(r["default"]) for r in test])
    raw = dict(zip(data.columns, data.raw(data.x_test).T, strict=True))
    grades = ["GFEDCBA".index(r["grade"]) + 1 for r in test]
    np.testing.assert_allclose(raw["grade"], grades, atol=1e-5)
    delinquent = [float(r[never[0]] or 0) or 240.0 for r in test]
    np.testing.assert_allclose(raw[never[0]], delinquent, atol=1e-4)
    # The data agree with the directions where the README says they do.
    assert np.corrcoef(raw["grade"], data.y_test)[0, 1] < -0.1
    assert not {"sub_grade", "addr_state", "issue_month"} & set(data.columns)
    assert "LoanDefaulter" in data.caution


# Errors in the target's unit


def test_errors_in_mpg_equal_errors_of_raw_predictions():
    data = load("auto_mpg")
    low, high = data.target_scale
    guess = float(data.y_train.mean())
    raw = np.float64(data.y_test) * (high - low) + low
    raw_guess = guess * (high - low) + low
    mse = np.mean((np.float64(data.y_test) - guess) ** 2)
    want = np.mean((raw - raw_guess) ** 2)
    assert data.in_units(mse, squared=True) == pytest.approx(want, rel=1e-9)
    assert data.in_units(np.sqrt(mse)) == pytest.approx(np.sqrt(want), rel=1e-9)
    with pytest.raises(ValueError, match="classification"):
        load("heart_cleveland").in_units(0.1)


# Pieces


def test_standardise_uses_the_unbiased_sd_and_spares_constant_columns():
    rows = np.array([[1.0, 5.0], [2.0, 5.0], [6.0, 5.0]])
    got = standardise(rows)(rows)
    np.testing.assert_allclose(got[:, 0], (rows[:, 0] - 3) / np.sqrt(7.0), rtol=1e-14)
    np.testing.assert_array_equal(got[:, 1], 0)
    np.testing.assert_array_equal(min_max(rows)(rows), [[0, 0], [0.2, 0], [1, 0]])


def test_hold_out_is_a_partition_and_refuses_empty_parts():
    rows = np.arange(10, 30)
    kept, held = hold_out(rows, 0.3, np.random.default_rng(0))
    assert len(held) == 6 and sorted([*kept, *held]) == rows.tolist()
    with pytest.raises(ValueError, match="at least one"):
        hold_out(rows[:2], 0.1, np.random.default_rng(0))


def test_the_package_names_licence_and_digest_of_its_files():
    folder = resources.files("monojax.data") / "files"
    notice = (folder / "NOTICE.md").read_text()
    for name in EMBEDDED:
        assert BY_NAME[name].file in notice and BY_NAME[name].sha256 in notice
    assert "CC BY 4.0" in notice
    with pytest.raises(ValueError, match="Reinstall"):  # a damaged installation
        embedded_bytes("auto_mpg.csv", "0" * 64)


def test_importing_the_data_package_costs_numpy_only():
    """The parent package, which needs jax, is replaced by an empty one."""
    root = str(Path(tabular_module.__file__).parents[1])
    code = (
        "import sys, types, numpy.random  # loads Cython's runtime\n"
        f"parent = types.ModuleType('monojax'); parent.__path__ = [{root!r}]\n"
        "sys.modules['monojax'] = parent\n"
        "before = set(sys.modules)\n"
        "import monojax.data\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names) - {'numpy', 'monojax'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
