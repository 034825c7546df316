"""DUQClassifier: accuracy and certainty on scikit-learn's sets, calibration, promises, errors."""

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the estimators need the extra sklearn")

from sklearn.datasets import make_blobs, make_circles, make_moons
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks

import monojax as mj
from monojax.estimators import DUQClassifier

SMALL = dict(hidden=(4,), max_epochs=4, random_state=0)


CHEAP = (
    "check_estimator_cloneable",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_estimators_unfitted",
    "check_estimator_sparse_array",
    "check_requires_y_none",
)


@pytest.mark.parametrize("name", CHEAP)
def test_checks_that_fit_nothing(name):
    getattr(estimator_checks, name)("DUQClassifier", DUQClassifier(**SMALL))


def sets():
    yield "moons", make_moons(2000, noise=0.1, random_state=0)
    yield "circles", make_circles(2000, noise=0.05, factor=0.5, random_state=0)
    # Three blobs whose centres are 8 standard deviations apart or more: separable.
    centres = [[-6.0, 0.0], [2.0, 5.0], [4.0, -6.0]]
    yield "blobs", make_blobs(2000, centers=centres, random_state=0)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "data"), list(sets()), ids=["moons", "circles", "blobs"])
@pytest.mark.parametrize("kind", ["blnn", pytest.param("mlp", marks=pytest.mark.full)])
def test_defaults_are_accurate_and_certain_near_the_data_alone(kind, name, data):
    x, y = data
    model = DUQClassifier(kind, random_state=0).fit(x[:1000], y[:1000])
    assert model.score(x[1000:], y[1000:]) >= 0.97
    low, high = x.min(axis=0), x.max(axis=0)
    centre, half = (low + high) / 2, (high - low) / 2
    box = np.random.default_rng(0).uniform(centre - 3 * half, centre + 3 * half, (3000, 2))
    gaps = np.linalg.norm((box[:, None] - x[None, :1000]) / x.std(axis=0), axis=-1).min(axis=1)
    far = box[gaps > 0.5]
    inside, outside = model.log_certainty(x[1000:]), model.log_certainty(far)
    assert float(mj.metrics.auroc(inside, outside)) >= 0.95
    # 100 held-out rows: the share is off by 0.022 (one standard deviation), with a factor 3.
    assert model.is_familiar(x[1000:], 0.9).mean() == pytest.approx(0.9, abs=0.066)
    assert model.is_familiar(far, 0.9).mean() < 0.1


X, Y = make_moons(60, noise=0.1, random_state=1)


@pytest.fixture(scope="module", params=["mlp", pytest.param("blnn", marks=pytest.mark.slow)])
def fitted(request):
    return DUQClassifier(request.param, **SMALL).fit(X, np.where(Y, "up", "down"))


def test_classes_certainty_and_calibration(fitted):
    assert fitted.classes_.tolist() == ["down", "up"]
    assert fitted.calibrated_on_ == "held-out rows" and len(fitted.calibration_scores_) == 6
    p = fitted.predict_proba(X)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert (fitted.classes_[p.argmax(axis=1)] == fitted.predict(X)).all()
    certainty = fitted.certainty(X)
    assert ((certainty >= 0) & (certainty <= 1)).all()
    np.testing.assert_allclose(np.log(certainty), fitted.log_certainty(X), rtol=1e-6)
    wide, narrow = fitted.is_familiar(X, 0.99), fitted.is_familiar(X, 0.2)
    assert wide.dtype == bool and (narrow <= wide).all() and narrow.sum() < wide.sum()
    assert not fitted.is_familiar(X + 1e4).any()


def test_it_is_pickled_and_repeats(fitted):
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.certainty(X), fitted.certainty(X))
    same = DUQClassifier(fitted.extractor, **SMALL).fit(X, np.where(Y, "up", "down"))
    np.testing.assert_array_equal(same.certainty(X), fitted.certainty(X))


@pytest.mark.full
def test_few_rows_calibrate_on_the_training_rows():
    few = DUQClassifier(**SMALL).fit(X[:4], [0, 1, 0, 1])
    assert few.calibrated_on_ == "training rows" and len(few.calibration_scores_) == 4


@pytest.mark.full
def test_an_absent_class_is_counted():
    """One row of a class: an epoch has it always, so that nothing is absent."""
    y = np.r_[2, Y[1:]]
    model = DUQClassifier(**SMALL).fit(X, y)
    assert model.absent_.tolist() == [0, 0, 0] and 2 in model.classes_


@pytest.mark.slow
def test_nothing_outside_of_the_radius_is_certain():
    """The promise in the scaled table, for the identity head, at the training rows' best ball."""
    options = dict(head="identity", length_scale=0.5, alpha=0.5)
    model = DUQClassifier(**(SMALL | options)).fit(X, Y)
    radius = model.unfamiliarity_radius(X, 0.5)
    assert np.isfinite(radius).all()
    i = int(radius.argmin())
    u = np.random.default_rng(0).normal(size=(400, 2))
    u = u / np.linalg.norm(u, axis=1, keepdims=True)
    r = radius[i] * np.repeat([1 + 1e-5, 1.1, 1.5, 4], 100)[:, None]
    origin = (X[i] - model.centre_) / model.scale_
    out = (origin + u * r) * model.scale_ + model.centre_
    assert (model.certainty(out) < 0.5).all()
    plain = DUQClassifier("mlp", **SMALL).fit(X, Y)
    assert np.isinf(plain.unfamiliarity_radius(X)).all()


def test_certainty_before_training():
    with pytest.raises(NotFittedError):
        DUQClassifier().certainty(X)
    with pytest.raises(NotFittedError):
        DUQClassifier().is_familiar(X)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"extractor": "cnn"}, "extractor"),
        ({"head": "W"}, "head"),
        ({"alpha": -1.0}, "alpha"),
        ({"beta": 0.0}, "beta"),
        ({"length_scale": 0.0}, "length_scale"),
        ({"max_epochs": 0}, "max_epochs"),
        ({"hidden": ()}, "hidden"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"calibration_fraction": 0.95}, "calibration_fraction"),
    ],
)
def test_wrong_options_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        DUQClassifier(**options).fit(X, Y)


def test_wrong_inputs_are_named(fitted):
    with pytest.raises(ValueError, match="single class"):
        DUQClassifier().fit(X, np.zeros(60))
    for coverage in (0.0, 1.0, 95, np.nan):
        with pytest.raises(ValueError, match=r"coverage must lie in \(0, 1\)"):
            fitted.is_familiar(X, coverage)
    with pytest.raises(ValueError, match="3 features"):
        fitted.certainty(np.ones((2, 3)))
    with pytest.raises(ValueError, match="float32"):
        fitted.certainty(np.full((1, 2), 1e300))
    with pytest.raises(ValueError, match="NaN"):
        fitted.certainty(np.full((1, 2), np.nan))


@pytest.mark.slow
def test_options_that_are_set_after_fit_change_nothing():
    x, y = make_moons(60, noise=0.1, random_state=0)
    model = DUQClassifier(head="identity", **SMALL).fit(x, y)
    before = model.predict_proba(x), model.unfamiliarity_radius(x, 0.5)
    model.set_params(length_scale=0.01, alpha=3.0, extractor="mlp")
    np.testing.assert_array_equal(model.predict_proba(x), before[0])
    np.testing.assert_array_equal(model.unfamiliarity_radius(x, 0.5), before[1])
    far = model.predict_proba(1e18 * np.ones((1, 2)))  # all kernels are 0 there
    np.testing.assert_allclose(far.sum(axis=1), 1)
