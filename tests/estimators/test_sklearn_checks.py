"""scikit-learn's own checks of estimators, for every estimator and every method."""

import jax
import pytest

pytest.importorskip("sklearn", reason="the estimators need the extra sklearn")

from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from monojax.estimators import DUQClassifier, MonotoneClassifier, MonotoneRegressor

OPTIONS = dict(hidden=(8,), max_epochs=12, batch_size=64, random_state=0, early_stopping=False)


def estimators(*methods):
    return [
        estimator(method=method, members=1, **OPTIONS)
        for estimator in (MonotoneRegressor, MonotoneClassifier)
        for method in methods
    ]


WEIGHTS = (
    "rows are cut into batches in random order: a row that is there twice may fall into two of "
    "them, one of weight 2 into one"
)


def expected(estimator):
    """Checks that fail, and why."""
    return {"check_sample_weight_equivalence_on_dense_data": WEIGHTS}


@pytest.fixture(autouse=True)
def _unoptimised():
    """What is compiled runs a few times only."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.slow
@parametrize_with_checks(estimators("mlp"), expected_failed_checks=expected)
def test_all_checks(estimator, check):
    check(estimator)


@pytest.mark.full
@parametrize_with_checks(
    estimators("lmn", "bilipschitz", "penalty", "auto"), expected_failed_checks=expected
)
def test_all_checks_of_the_other_methods(estimator, check):
    check(estimator)


DUQ = dict(hidden=(4,), max_epochs=2, random_state=0)


@pytest.mark.full
@parametrize_with_checks([DUQClassifier(kind, **DUQ) for kind in ("mlp", "blnn")])
def test_all_checks_of_duq(estimator, check):
    check(estimator)


CHEAP = (
    "check_estimator_cloneable",
    "check_estimator_tags_renamed",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_estimators_unfitted",
    "check_complex_data",
    "check_estimator_sparse_array",
    "check_requires_y_none",
    "check_fit2d_1sample",
)


@pytest.mark.parametrize("estimator", [MonotoneRegressor, MonotoneClassifier])
@pytest.mark.parametrize("name", CHEAP)
def test_checks_that_fit_nothing(estimator, name):
    getattr(estimator_checks, name)(estimator.__name__, estimator(**OPTIONS))
