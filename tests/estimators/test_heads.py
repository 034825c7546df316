"""Classes, ordered classes and losses with a link."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the estimators need the extra sklearn")


from estimator_tables import DIRECTIONS, ROUNDING, SMALL, sweeps, table

from monojax.estimators import MonotoneClassifier, MonotoneRegressor
from monojax.estimators.losses import Link, row_losses


@pytest.fixture(scope="module")
def classified():
    x, y = table()
    return MonotoneClassifier(DIRECTIONS, method="mlp", **SMALL).fit(
        x, np.where(y > 3, "yes", "no")
    )


@pytest.mark.slow
def test_two_classes(classified):
    x, y = table(seed=1)
    proba = classified.predict_proba(x)
    assert classified.classes_.tolist() == ["no", "yes"]
    assert classified.score(x, np.where(y > 3, "yes", "no")) > 0.9
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    assert (classified.predict(x) == classified.classes_[proba.argmax(axis=1)]).all()
    np.testing.assert_allclose(classified.predict_above(x)[:, 0], proba[:, 1])
    low, high = x.min(axis=0), x.max(axis=0)
    for column, grid in enumerate(sweeps(low, high, count=50)):
        made = classified.predict_proba(grid.reshape(-1, 3))[:, 1].reshape(grid.shape[:2])
        assert (DIRECTIONS[column] * np.diff(made, axis=1) >= -ROUNDING).all()
    assert classified.certify().status == "proved"
    fn = jax.vmap(classified.certified_function())(x[:5].astype(np.float32))
    np.testing.assert_allclose(1 / (1 + np.exp(-np.asarray(fn))), proba[:5, 1], atol=1e-5)


@pytest.mark.slow
def test_ordered_classes():
    x, y = table()
    names = ("low", "middle", "high")
    labels = np.asarray(names)[np.digitize(y, (2, 4))]
    model = MonotoneClassifier(DIRECTIONS, method="mlp", ordered=names, **SMALL).fit(x, labels)
    assert model.classes_.tolist() == list(names)
    assert model.score(x, labels) > 0.75
    proba, above = model.predict_proba(x), model.predict_above(x)
    assert (proba >= 0).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    np.testing.assert_allclose(above[:, 1], proba[:, 2])
    np.testing.assert_allclose(above[:, 0], proba[:, 1:].sum(axis=1))
    low, high = x.min(axis=0), x.max(axis=0)
    for column, grid in enumerate(sweeps(low, high, count=50)):
        made = model.predict_above(grid.reshape(-1, 3)).reshape(*grid.shape[:2], 2)
        assert (DIRECTIONS[column] * np.diff(made, axis=1) >= -ROUNDING).all()
    assert model.certify().status == "proved"


@pytest.mark.slow
def test_nominal_classes_without_directions():
    x, y = table()
    labels = np.digitize(y, (2, 4))
    model = MonotoneClassifier(method="mlp", **SMALL).fit(x, labels)
    assert model.predict_proba(x).shape == (240, 3) and model.score(x, labels) > 0.75
    for call in (
        model.certified_function,
        lambda: model.explain(x),
        lambda: model.predict_above(x),
    ):
        with pytest.raises(ValueError, match=r"nominal classes"):
            call()


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["poisson", "gamma"])
def test_log_links_with_exposure(loss):
    """Rates per exposure: predictions near the true ones, positive, monotone, on balance."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (3000, 2))
    rate = np.exp(1.5 * x[:, 0] - 1)
    exposure = rng.uniform(0.2, 5.0, 3000)
    draw = {
        "poisson": lambda: rng.poisson(rate * exposure) / exposure,
        "gamma": lambda: rng.gamma(4 * exposure, rate / (4 * exposure)),
    }
    y = draw[loss]()
    model = MonotoneRegressor(
        [1, 0], method="mlp", loss=loss, hidden=(8, 8), random_state=0, members=2
    )
    made = model.fit(x, y, sample_weight=exposure).predict(x)
    assert made.min() > 0 and np.corrcoef(np.log(made), np.log(rate))[0, 1] > 0.95
    assert abs((made * exposure).sum() / (y * exposure).sum() - 1) < 0.05
    slopes = model.certify().bounds
    assert slopes[0, 0] == 0 and model.certificate_.status == "proved"


@pytest.mark.slow
def test_quantiles():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (3000, 2))
    y = x[:, 0] + rng.normal(size=3000) * (0.2 + 0.3 * x[:, 1])
    for quantile in (0.1, 0.9):
        model = MonotoneRegressor(
            [1, 0], method="mlp", loss="quantile", quantile=quantile, hidden=(8, 8), random_state=0
        ).fit(x, y)
        assert abs((y <= model.predict(x)).mean() - quantile) < 0.03


def test_ordered_loss_is_the_likelihood():
    """Against P(y = k) as differences of logistic functions in float64."""
    rng = np.random.default_rng(0)
    f, y = rng.normal(size=(50, 1)) * 2, rng.integers(0, 4, 50).astype(float)
    steps = rng.normal(size=2)
    cuts = np.cumsum(np.concatenate([[0.0], np.log1p(np.exp(steps)) + 1e-3]))
    above = 1 / (1 + np.exp(-(f + 0.3 - cuts[None])))
    edges = np.concatenate([np.ones((50, 1)), above, np.zeros((50, 1))], axis=1)
    want = -np.log((edges[:, :-1] - edges[:, 1:])[np.arange(50), y.astype(int)])
    args = (f, y, np.asarray([0.3]), steps, np.float32(0.5))
    got = row_losses("ordered", *(jnp.asarray(a, jnp.float32) for a in args))
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)
    link = Link.fitted("ordered", y, np.ones(50), 4)  # f = 0 gives the shares of the classes
    args = (f * 0, y, link.offset, link.start, np.float32(0.5))
    flat = row_losses("ordered", *(jnp.asarray(a, jnp.float32) for a in args))
    shares = np.bincount(y.astype(int)) / 50
    np.testing.assert_allclose(flat, -np.log(shares[y.astype(int)]), rtol=1e-3)
