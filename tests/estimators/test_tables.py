"""Tables as people have them, and wrong input: what is read, what is refused, in which words."""

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the estimators need the extra sklearn")

from monojax.estimators import MonotoneClassifier, MonotoneRegressor
from monojax.estimators.columns import fit_columns
from monojax.estimators.tables import categories_of, directions_of

SMALL = dict(hidden=(8, 8), max_epochs=60, random_state=0, method="mlp", members=1)
X = np.random.default_rng(0).normal(size=(60, 3))
Y = X[:, 0] - X[:, 1]


def columns(table, directions=None, categorical=None, missing="indicator", names=None):
    width = table.shape[1]
    names = names or [f"x{i}" for i in range(width)]
    categorical = np.zeros(width, bool) if categorical is None else np.asarray(categorical)
    ones = np.ones(len(table))
    return fit_columns(table, names, ones, directions or [0] * width, categorical, missing)


def test_scaling_rises_and_is_standard():
    table = X * (1.0, 1e6, 1e-6) + (0.0, 1e9, 3.0)
    found = columns(table)
    scaled = found.scaled(found.inputs(table))
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(axis=0), 1, atol=1e-4)
    order = np.argsort(table[:, 1])
    assert (np.diff(scaled[order, 1]) >= 0).all()


def test_missing_values_get_a_flag_and_the_median():
    table = X.copy()
    table[::7, 1] = np.nan
    found = columns(table, directions=[0, 1, 0])
    assert found.names == ("x0", "x1", "x1 is given", "x1 is missing", "x2")
    assert found.directions == (0, 1, 0, 0, 0) and found.groups == ((2, 3),)
    inputs = found.inputs(table)
    middle = np.sort(X[np.arange(60) % 7 != 0, 1])
    assert (inputs[::7, 1] == middle[(len(middle) - 1) // 2]).all()
    assert found.low[1] <= inputs[0, 1] <= found.high[1]
    np.testing.assert_array_equal(inputs[:, 3], np.arange(60) % 7 == 0)
    with pytest.raises(ValueError, match=r"x0.*missing values.*had none"):
        found.inputs(np.full((1, 3), np.nan))


def test_categories():
    table = np.asarray([["a", 1.0], ["b", 2.0], [None, 3.0], ["a", 4.0]], dtype=object)
    found = columns(table, categorical=[True, False])
    assert found.names == ("x0=a", "x0=b", "x0=missing", "x1")
    assert found.groups == ((0, 1, 2),)
    np.testing.assert_array_equal(
        found.inputs(table)[:, :3], [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]
    )
    with pytest.raises(ValueError, match=r"x0.*not there when.*fitted: 'c'; it knows 'a', 'b'"):
        found.inputs(np.asarray([["c", 1.0]], dtype=object))


def test_directions_are_scikit_learns():
    assert directions_of(None, None, 2).tolist() == [0, 0]
    assert directions_of([1, -1], None, 2).tolist() == [1, -1]
    assert directions_of({"b": -1}, ["a", "b"], 2).tolist() == [0, -1]


@pytest.mark.parametrize(
    "given, names, match",
    [
        ([1, 0], None, "shape \\(2,\\) but the input data X has 3 features"),
        ([1, 0, 2], None, "array-like of -1, 0 or 1"),
        (["up", "down", "up"], None, "array-like of -1, 0 or 1"),
        ({"a": 1}, None, "X has none"),
        ({"wieght": 1}, ["weight", "b", "c"], "did you mean 'weight'"),
        ({"weight": 3}, ["weight", "b", "c"], "array-like of -1, 0 or 1"),
    ],
)
def test_wrong_directions(given, names, match):
    with pytest.raises(ValueError, match=match):
        directions_of(given, names, 3)


@pytest.mark.parametrize(
    "given, match",
    [
        ("a", "list of names"),
        (["aa"], "did you mean|must be one of"),
        ([3], "0..2"),
        ([True, False], "2 bools"),
    ],
)
def test_wrong_categories(given, match):
    with pytest.raises(ValueError, match=match):
        categories_of(given, X, ["a", "b", "c"], 3)


def text_in(table):
    table = table.astype(object)
    table[0, 1] = "red"
    return table


def nan_in(table):
    table = table.copy()
    table[3, 1] = np.nan
    return table


@pytest.mark.parametrize(
    "options, x, y, match",
    [
        (dict(monotonic_cst=[1, 0]), X, Y, "X has 3 features"),
        (dict(monotonic_cst={"a": 1}), X, Y, "dict of feature names"),
        ({}, text_in(X), Y, "x1.*strings such as 'red'.*categorical_features"),
        (dict(missing="error"), nan_in(X), Y, "x1.*missing values \\(NaN\\) in 1 of 60 rows"),
        (dict(missing="drop"), X, Y, "missing must be one of 'indicator', 'error'"),
        ({}, X * np.inf, Y, "infinit|NaN"),
        ({}, X, np.ones(60), "y is constant \\(1\\)"),
        ({}, X, np.asarray(["a"] * 60), "y must be numbers"),
        ({}, X, np.where(Y > 0, np.nan, Y), "y contains NaN"),
        ({}, X, None, "requires y"),
        ({}, X[:1], Y[:1], "n_samples=1"),
        ({}, X, Y[:-1], "inconsistent numbers of samples"),
        (dict(method="lnm"), X, Y, "did you mean 'lmn'"),
        (dict(loss="mse"), X, Y, "loss must be one of"),
        (dict(loss="poisson"), X, Y, "needs y >= 0"),
        (dict(loss="gamma"), X, np.abs(Y) * (np.arange(60) > 0), "needs y > 0"),
        (dict(hidden=()), X, Y, "hidden"),
        (dict(max_epochs=0), X, Y, "max_epochs"),
        (dict(learning_rate=0), X, Y, "learning_rate"),
        (dict(quantile=2.0), X, Y, "quantile"),
        (dict(certify_rounds=2), X, Y, "certify_rounds is for method='penalty'"),
        (dict(categorical_features=[0], monotonic_cst=[1, 0, 0]), X, Y, "categories have no order"),
    ],
)
def test_what_a_regressor_refuses(options, x, y, match):
    with pytest.raises(ValueError, match=match):
        MonotoneRegressor(**{**SMALL, **options}).fit(x, y)


@pytest.mark.parametrize(
    "options, y, match",
    [
        (dict(monotonic_cst=[1, 0, 0]), np.arange(60) % 3, "nominal classes: a softmax divides"),
        ({}, np.zeros(60), "single class"),
        (dict(ordered=True), np.asarray(["a", "b", "c"] * 20), "name them in their order"),
        (dict(ordered=("a", "b")), np.asarray(["a", "b", "c"] * 20), "must name every class once"),
        ({}, Y, "Unknown label type"),
        ({}, None, "requires y"),
    ],
)
def test_what_a_classifier_refuses(options, y, match):
    with pytest.raises(ValueError, match=match):
        MonotoneClassifier(**{**SMALL, **options}).fit(X, y)


@pytest.mark.parametrize(
    "weights, match", [(-np.ones(60), "egative"), (np.zeros(60), "is 0 for every row|zero")]
)
def test_wrong_weights(weights, match):
    with pytest.raises(ValueError, match=match):
        MonotoneRegressor(**SMALL).fit(X, Y, sample_weight=weights)


def test_not_fitted():
    from sklearn.exceptions import NotFittedError

    for call in ("predict", "explain"):
        with pytest.raises(NotFittedError):
            getattr(MonotoneRegressor(), call)(X)
    with pytest.raises(NotFittedError):
        MonotoneClassifier().certify()


@pytest.fixture(scope="module")
def frame():
    pd = pytest.importorskip("pandas", reason="frames are pandas'")
    rng = np.random.default_rng(0)
    made = pd.DataFrame(
        {
            "age": rng.integers(18, 80, 300),
            "income": rng.lognormal(10, 0.5, 300),
            "town": pd.Categorical(rng.choice(["A", "B", "C"], 300)),
            "owner": rng.random(300) < 0.5,
        }
    )
    made.loc[::11, "income"] = np.nan
    target = made["income"].fillna(3e4) / 1e4 - made["age"] / 20 + (made["town"] == "B")
    return made, target


@pytest.mark.slow
def test_a_pandas_frame(frame):
    table, y = frame
    model = MonotoneRegressor({"income": 1, "age": -1}, **SMALL).fit(table, y)
    assert model.feature_names_in_.tolist() == list(table.columns)
    assert model.certified_inputs_ == (
        "age",
        "income",
        "income is given",
        "income is missing",
        "town=A",
        "town=B",
        "town=C",
        "owner",
    )
    assert model.score(table, y) > 0.5
    found = model.certify()
    assert found.status == "proved" and found.onehot == ((2, 3), (4, 5, 6))
    assert found.directions.tolist() == [-1, 1, 0, 0, 0, 0, 0, 0]
    richer = table.assign(income=table["income"] * 1.3)
    given = table["income"].notna()
    rise = model.predict(richer) - model.predict(table)
    assert (rise[given] >= -1e-5).all() and (rise[~given] == 0).all()
    with pytest.raises(ValueError, match=r"'town'.*'D'"):
        model.predict(table.head(2).assign(town=["A", "D"]))
    with pytest.raises(ValueError, match=r"feature names should match|missing"):
        model.predict(table.drop(columns="age"))
    (town,) = model.explain(table, features="town")
    assert town.grid.tolist() == ["A", "B", "C"] and town.lower.size == 0
    (income,) = model.explain(table, features="income")
    assert (income.lower >= 0).all() and np.isfinite(income.value).all()


def test_what_a_frame_is_refused_for(frame):
    table, y = frame
    text = table.assign(town=table["town"].astype(str))
    with pytest.raises(ValueError, match=r"'town' holds strings such as"):
        MonotoneRegressor(**SMALL).fit(text, y)
    with pytest.raises(ValueError, match=r"'town' is categorical and has the direction"):
        MonotoneRegressor({"town": 1}, **SMALL).fit(table, y)
    with pytest.raises(ValueError, match=r"did you mean 'income'"):
        MonotoneRegressor({"incomes": 1}, **SMALL).fit(table, y)
    with pytest.raises(ValueError, match=r"a minimum of 1"):
        MonotoneRegressor(**SMALL).fit(table.head(0), y.head(0))
    import pandas as pd

    dates = table.assign(age=pd.Timestamp("2020-01-01"))
    with pytest.raises(ValueError, match=r"'age' holds dates"):
        MonotoneRegressor(**SMALL).fit(dates, y)


@pytest.mark.slow
def test_declared_strings_and_nullable_columns_give_the_same(frame):
    table, y = frame
    want = MonotoneRegressor({"income": 1}, **SMALL).fit(table, y).predict(table)
    other = table.assign(town=table["town"].astype(str), age=table["age"].astype("Int64"))
    model = MonotoneRegressor({"income": 1}, categorical_features=["town"], **SMALL).fit(other, y)
    np.testing.assert_array_equal(model.predict(other), want)


@pytest.mark.slow
def test_a_pipeline_with_a_column_transformer(frame):
    import pickle

    from sklearn.compose import ColumnTransformer
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder, StandardScaler

    table, y = frame
    numbers = ["age", "income", "owner"]
    before = ColumnTransformer(
        [("n", StandardScaler(), numbers), ("t", OrdinalEncoder(), ["town"])]
    )
    before.set_output(transform="pandas")
    model = MonotoneRegressor({"n__income": 1, "n__age": -1}, categorical_features=["t__town"])
    pipeline = make_pipeline(before, model.set_params(**SMALL)).fit(table, y)
    last = pipeline[-1]
    assert last.certified_inputs_[-3:] == ("t__town=0.0", "t__town=1.0", "t__town=2.0")
    assert last.certify().status == "proved"
    copy = pickle.loads(pickle.dumps(pipeline))
    np.testing.assert_array_equal(copy.predict(table), pipeline.predict(table))
    assert cross_val_score(pipeline, table, y, cv=3).mean() > 0.4


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    import importlib
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    monkeypatch.delitem(sys.modules, "monojax.estimators.base")
    with pytest.raises(ImportError, match=r"monojax\[sklearn\]"):
        importlib.import_module("monojax.estimators.base")
