"""The estimators on small tables: fits, directions, certificates, round trips."""

import json
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the estimators need the extra sklearn")

from estimator_tables import CENTRE, DIRECTIONS, ROUNDING, SCALE, SMALL, sweeps, table
from sklearn.base import clone

import monojax as mj
from monojax.estimators import MonotoneRegressor, training

METHODS = ("lmn", "mlp", "bilipschitz", "penalty")
QUICK = ("lmn", "mlp")
each = pytest.mark.parametrize(
    "method", [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in METHODS]
)
guaranteed = pytest.mark.parametrize(
    "method", ["lmn", "mlp", pytest.param("bilipschitz", marks=pytest.mark.slow)]
)
compiled_again = pytest.mark.parametrize(
    "method", ["lmn", "mlp", pytest.param("bilipschitz", marks=pytest.mark.full)]
)


@pytest.fixture(scope="module")
def fitted():
    """One regressor per method, fitted when it is first asked for."""
    made = {}
    x, y = table()

    def get(method):
        if method not in made:
            made[method] = MonotoneRegressor(DIRECTIONS, method=method, **SMALL).fit(x, y)
        return made[method]

    return get


@each
def test_it_learns(fitted, method):
    x, y = table(seed=1)
    assert fitted(method).score(x, y) > 0.7


@guaranteed
def test_the_whole_composition_keeps_its_directions_in_float32(fitted, method):
    """From the raw table to the prediction, inside the box and outside, up to rounding."""
    model = fitted(method)
    x, y = table()
    for column, grid in enumerate(sweeps(x.min(axis=0), x.max(axis=0))):
        made = model.predict(grid.reshape(-1, 3)).reshape(grid.shape[:2])
        steps = DIRECTIONS[column] * np.diff(made, axis=1)
        assert (steps >= -ROUNDING * y.std()).all()
    assert model.predict(x).std() > 0.5  # a flat function would pass, too


@each
def test_random_parameters_keep_the_directions_too(fitted, method):
    """The form is the guarantee, not what training found; the penalty has none."""
    model = fitted(method)
    rng = np.random.default_rng(3)
    wild = lambda leaf: (leaf + rng.normal(size=leaf.shape)).astype(leaf.dtype)
    other = clone(model)
    other.__dict__.update(model.__dict__)
    other.params_ = jax.tree.map(wild, model.params_)
    x, _ = table()
    worst = 0.0
    for column, grid in enumerate(sweeps(x.min(axis=0), x.max(axis=0))):
        made = other.predict(grid.reshape(-1, 3)).reshape(grid.shape[:2])
        size = np.abs(made).max()
        worst = min(worst, (DIRECTIONS[column] * np.diff(made, axis=1) / size).min())
    assert (worst >= -ROUNDING) == (method != "penalty")


@guaranteed
def test_certificate_by_construction(fitted, method):
    model = fitted(method)
    found = model.certify()
    assert (found.status, found.stage) == ("proved", "construction")
    assert model.certificate_ is found and "certified" in str(found)
    x, _ = table()
    np.testing.assert_allclose(found.low, x.min(axis=0))
    again = mj.Certificate.from_json(found.to_json())
    assert again.verify(model.certified_function())
    assert model.certified_inputs_ == ("x0", "x1", "x2")
    changed = clone(model)
    changed.__dict__.update(model.__dict__)
    changed.params_ = jax.tree.map(lambda leaf: leaf * 1.5, model.params_)
    assert not again.verify(changed.certified_function())


@compiled_again
def test_bounds_of_the_form_hold(fitted, method, x64):
    """Slopes in the table's units, at points far from the data as well."""
    model = fitted(method)
    bounds = model.certify().bounds
    slope = jax.jit(jax.vmap(jax.grad(model.certified_function())))
    points = CENTRE + SCALE * np.random.default_rng(4).normal(size=(300, 3)) * 3
    slopes = np.asarray(slope(jnp.asarray(points)))
    size = 1e-6 * np.abs(slopes).max(axis=0)
    assert (slopes >= bounds[:, 0] - size).all() and (slopes <= bounds[:, 1] + size).all()
    assert (bounds[0, 0] >= 0) and (bounds[1, 1] <= 0) and bounds[2, 0] < 0 < bounds[2, 1]
    assert np.isfinite(bounds[:2]).all()


@compiled_again
def test_the_function_that_is_certified_is_what_predicts(fitted, method):
    model = fitted(method)
    x, _ = table(n=20, seed=5)
    fn = jax.jit(jax.vmap(model.certified_function()))
    np.testing.assert_allclose(fn(x.astype(np.float32)), model.predict(x), rtol=2e-5, atol=2e-5)


@pytest.mark.full  # bounds are compiled for half a minute
def test_the_penalty_is_certified_or_refuted(fitted):
    """An untouched network on the same table is refuted, and the point is where it falls."""
    x, y = table()
    options = dict(SMALL, method="penalty", max_epochs=300)
    plain = MonotoneRegressor((-1, -1, 0), penalty_weight=0.0, **options).fit(x, y)
    found = plain.certify(budget=200)
    assert found.status == "refuted"
    point = jnp.asarray(found.counterexample, jnp.float32)
    slopes = jax.grad(plain.certified_function())(point)
    assert min(-slopes[0], -slopes[1]) < 0
    assert fitted("penalty").certify(budget=200).status in ("proved", "refuted", "unknown")


@pytest.mark.full  # a minute, nearly all of it the compilation of bounds
def test_training_towards_a_certificate():
    """Without rounds it is refuted (the target falls a little), with them it is proved."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (200, 2))
    y = x[:, 0] ** 3 - 0.1 * x[:, 0] + x[:, 1]
    options = dict(method="penalty", hidden=(8,), max_epochs=200, random_state=0)
    before = MonotoneRegressor([1, 0], penalty_weight=0.01, **options).fit(x, y)
    assert before.certify(budget=2000).status == "refuted" and before.certificate_ is not None
    after = MonotoneRegressor(
        [1, 0], penalty_weight=0.01, certify_rounds=8, certify_budget=2000, **options
    ).fit(x, y)
    assert after.certificate_.status == "proved"
    assert after.certificate_.verify(after.certified_function())
    assert after.score(x, y) > 0.9


@pytest.mark.slow
def test_explain(fitted):
    """Values are the mean prediction, and the mean's slopes lie within the proved band."""
    model = fitted("mlp")
    x, _ = table(n=50, seed=6)
    found = model.explain(x, features=["x0", 1])
    assert [d.name for d in found] == ["x0", "x1"] and found[1].direction == -1
    for column, d in enumerate(found):
        assert d.lower.shape == d.upper.shape == (len(d.grid) - 1,)
        mean = lambda v, column=column: model.predict(replaced(x, column, v)).mean()
        at = np.asarray([mean(v) for v in d.grid])
        np.testing.assert_allclose(d.value, at, rtol=1e-5, atol=1e-5)
        secants = np.diff(d.value) / np.diff(d.grid)
        assert (d.lower <= secants).all() and (secants <= d.upper).all()
        ends = (d.lower, d.upper) if d.direction > 0 else (-d.upper, -d.lower)
        assert (ends[0] >= 0).all() and (ends[1] < np.inf).all()


def replaced(x, column, value):
    x = x.copy()
    x[:, column] = value
    return x


@pytest.mark.slow
def test_explain_of_a_solver_has_the_band_of_its_form(fitted):
    x, _ = table(n=30, seed=6)
    (rising, free) = fitted("bilipschitz").explain(x, features=[0, 2])
    assert (rising.lower > 0).all() and np.isfinite(rising.upper).all()
    secants = np.diff(rising.value) / np.diff(rising.grid)
    assert (rising.lower <= secants).all() and (secants <= rising.upper).all()
    assert np.isneginf(free.lower).all()


def test_a_second_fit_of_the_same_shape_compiles_nothing(fitted):
    fitted("mlp")
    x, y = table(n=238, seed=2)  # a fold's rows differ by a few
    before = training.epoch._cache_size(), training.initial._cache_size()
    MonotoneRegressor(DIRECTIONS, method="mlp", learning_rate=0.02, **SMALL).fit(x, y)
    assert (training.epoch._cache_size(), training.initial._cache_size()) == before


def test_the_seed_decides(fitted):
    x, y = table()
    again = MonotoneRegressor(DIRECTIONS, method="mlp", **SMALL).fit(x, y)
    assert (again.predict(x) == fitted("mlp").predict(x)).all()
    other = MonotoneRegressor(DIRECTIONS, method="mlp", **dict(SMALL, random_state=1)).fit(x, y)
    assert (other.predict(x) != again.predict(x)).any()


def test_rows_of_weight_zero_are_as_if_they_were_not_there(fitted):
    x, y = table()
    more = np.concatenate([x, x[:40] + 1e3]), np.concatenate([y, y[:40] - 1e3])
    weights = np.concatenate([np.ones(240), np.zeros(40)])
    model = MonotoneRegressor(DIRECTIONS, method="mlp", **SMALL).fit(*more, sample_weight=weights)
    assert (model.predict(x) == fitted("mlp").predict(x)).all()


def test_weights_pull(fitted):
    """Two rows that contradict each other: the heavier one wins."""
    x, y = table()
    both = np.concatenate([x[:120], x[:120]]), np.concatenate([y[:120], y[:120] + 10])
    weights = np.concatenate([np.ones(120), np.full(120, 99.0)])
    model = MonotoneRegressor(DIRECTIONS, method="mlp", **SMALL).fit(*both, sample_weight=weights)
    assert abs(model.predict(x[:120]).mean() - y[:120].mean() - 9.9) < 0.3


def test_warm_start_goes_on(fitted):
    x, y = table()
    model = MonotoneRegressor(DIRECTIONS, method="mlp", warm_start=True, **SMALL).fit(x, y)
    first, columns = model.score(x, y), model.columns_
    model.fit(x, y)
    assert model.columns_ is columns and model.score(x, y) > first
    # From where it was, not from the start.
    assert model.loss_curve_[0] < 0.5 * fitted("mlp").loss_curve_[0]


def test_early_stopping_keeps_the_best(fitted):
    x, y = table()
    options = dict(SMALL, max_epochs=400)
    model = MonotoneRegressor(DIRECTIONS, method="mlp", patience=5, **options).fit(x, y)
    curve = model.validation_curve_
    assert model.n_iter_ == len(curve) < 400
    assert np.argmin(curve) == len(curve) - 6


@pytest.mark.slow
def test_without_early_stopping_every_row_and_every_epoch_counts():
    x, y = table()
    full = MonotoneRegressor(DIRECTIONS, method="mlp", early_stopping=False, **SMALL).fit(x, y)
    assert full.n_iter_ == 60 and full.validation_curve_ is None


def test_round_trips(fitted):
    model = fitted("lmn")
    x, _ = table(n=30, seed=8)
    assert (pickle.loads(pickle.dumps(model)).predict(x) == model.predict(x)).all()
    copy = clone(model)
    assert copy.get_params() == model.get_params() and not hasattr(copy, "params_")


@pytest.mark.slow
def test_a_fresh_process_predicts_the_same_and_verifies(fitted, tmp_path, checkout):
    import joblib

    model = fitted("lmn")
    x, _ = table(n=30, seed=8)
    joblib.dump((model, x), tmp_path / "model.joblib")
    (tmp_path / "certificate.json").write_text(model.certify().to_json())
    code = (
        "import joblib, json, sys, monojax as mj; model, x = joblib.load('model.joblib'); "
        "c = mj.Certificate.from_json(open('certificate.json').read()); "
        "print(json.dumps([model.predict(x).tolist(), c.verify(model.certified_function())]))"
    )
    env = {"PYTHONPATH": str(checkout), "JAX_PLATFORMS": "cpu", "PATH": ""}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env
    )
    assert out.returncode == 0, out.stderr
    values, verified = json.loads(out.stdout)
    # A unit or two of float32 at the targets' size, also where a prediction is near 0: the other
    # process may compile another way.
    np.testing.assert_allclose(values, model.predict(x), rtol=1e-6, atol=1e-6)
    assert verified


@pytest.mark.slow
def test_members_are_averaged():
    x, y = table()
    model = MonotoneRegressor(DIRECTIONS, method="mlp", **dict(SMALL, members=3)).fit(x, y)
    alone = []
    for i in range(3):
        part = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], model.params_)
        inputs, scaled = model.columns_.inputs(x), model.columns_.scaled
        made = training.predicted(model.net_, part, inputs, scaled)
        alone.append(model.link_.means(made)[:, 0])
    np.testing.assert_allclose(np.mean(alone, axis=0), model.predict(x), rtol=1e-5, atol=1e-5)
    assert model.certify().status == "proved"


@pytest.mark.slow
def test_auto_keeps_the_better_one():
    x, y = table()
    model = MonotoneRegressor(DIRECTIONS, **SMALL).fit(x, y)
    single = {m: MonotoneRegressor(DIRECTIONS, method=m, **SMALL).fit(x, y) for m in ("lmn", "mlp")}
    best = min(single, key=lambda m: min(single[m].validation_curve_))
    assert model.method_ == best
    assert (model.predict(x) == single[best].predict(x)).all()


def test_refused_after_the_fit(fitted):
    model, (x, _) = fitted("mlp"), table()
    with pytest.raises(ValueError, match=r"budget must be an integer >= 1"):
        model.certify(budget=0)
    with pytest.raises(ValueError, match=r"X has 2 features, but"):
        model.predict(x[:, :2])
    with pytest.raises(ValueError, match=r"features must be one of"):
        model.explain(x, features="weight")
    with pytest.raises(ValueError, match=r"features must lie in 0..2"):
        model.explain(x, features=3)
    with pytest.raises(ValueError, match=r"beyond the range of float32"):
        model.predict(np.full((1, 3), 1e300))


@pytest.mark.slow
def test_without_a_direction_there_is_nothing_to_certify():
    x, y = table()
    with pytest.raises(ValueError, match=r"nothing to certify"):
        MonotoneRegressor(method="mlp", **SMALL).fit(x, y).certify()


def test_a_long_table_in_parts_is_what_its_rows_are(fitted, monkeypatch):
    """The parts go to threads; their results come back in order."""
    x, model = table()[0], fitted("lmn")
    once = model.predict(x)
    monkeypatch.setattr(training, "PREDICT_ROWS", 256)
    long = np.concatenate([np.roll(x, -i, axis=0) for i in range(24)])
    assert len(long) > 8 * 256
    expected = np.concatenate([np.roll(once, -i) for i in range(24)])
    # Other numbers of rows, other orders of sums: a few units of float32.
    np.testing.assert_allclose(model.predict(long), expected, rtol=1e-5, atol=1e-5)
    long[-1, 0] = 1e300
    with pytest.raises(ValueError, match="beyond the range"):
        model.predict(long)
