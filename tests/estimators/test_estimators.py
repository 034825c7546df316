"""The estimators on small tables: fits, directions, certificates, round trips, wrong input."""

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the estimators need the extra sklearn")

from monojax.estimators import MonotoneRegressor

METHODS = ("lmn", "mlp", "bilipschitz", "penalty")
DIRECTIONS = (1, -1, 0)
SMALL = dict(hidden=(8, 8), max_epochs=60, random_state=0)


def table(n=240, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)) * (1.0, 10.0, 100.0) + (0.0, 5.0, 50.0)
    z = (x - (0.0, 5.0, 50.0)) / (1.0, 10.0, 100.0)
    y = 3 + 2 * np.tanh(2 * z[:, 0]) - z[:, 1] + np.sin(2 * z[:, 2])
    return x, y + 0.05 * rng.normal(size=n)


@pytest.fixture(scope="module")
def fitted():
    x, y = table()
    return {m: MonotoneRegressor(DIRECTIONS, method=m, **SMALL).fit(x, y) for m in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_regressor_learns(fitted, method):
    x, y = table(seed=1)
    assert fitted[method].score(x, y) > 0.7
