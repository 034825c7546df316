"""A regressor that keeps the directions it is given."""

from typing import Any

import numpy as np

from monojax.base.checks import check_number, one_of
from monojax.base.extras import require
from monojax.estimators.base import MonotoneEstimator
from monojax.estimators.losses import REGRESSION

_sklearn: Any = require("sklearn.base", "sklearn")
_validation: Any = require("sklearn.utils.validation", "sklearn")
RegressorMixin: Any = _sklearn.RegressorMixin


class MonotoneRegressor(RegressorMixin, MonotoneEstimator):
    r"""Regression by a network that rises and falls in the columns that it is told.

    Methods, and the network of each:

    * "lmn": :class:`monojax.layers.LMN`, its Lipschitz constant trained as well. Guaranteed.
    * "mlp": :class:`monojax.layers.MonotoneMLP`; free columns pass a free layer first. Guaranteed.
    * "bilipschitz": the mean of a pairwise :class:`monojax.PartialBLNN` whose context the free
      columns are, plus a free network of them. Guaranteed, and its slopes in the columns with a
      direction are bounded from both sides.
    * "penalty": a plain network of tanh units, with a gradient penalty on mixed and random points.
      Asked for; :meth:`certify` may prove it or show where it fails.
    * "auto": "lmn" and "mlp" are trained, and the one with the smaller held-out loss is kept
      (``method_``). Guaranteed.

    Without any direction, "bilipschitz" and "penalty" are the plain network. "Guaranteed" holds for
    every value of the parameters and at every input, in exact arithmetic, of the whole way from a
    table's row to the prediction: scaling, network and link rise. The network computes in float32:
    where its slope is near 0, two predictions can be in the wrong order by its rounding, about
    1e-6 of the spread of the targets.

    Args:
      monotonic_cst: -1, 0 or +1 per column, or a dict of column names to these; None is no
        direction. As scikit-learn's.
      method: see above.
      loss: "squared"; "quantile", for the quantile ``quantile``; "poisson" and "gamma", deviances
        with a log link, for counts or costs per unit of exposure, with the exposure as
        ``sample_weight``.
      quantile: between 0 and 1.
      hidden: widths of the hidden layers; even numbers for "lmn".
      max_epochs: passes over the rows at most.
      batch_size: rows per step at most.
      learning_rate: Adam's at the start; it falls along a cosine.
      validation_fraction: share of the rows held out for early stopping; below 5 rows none is.
      early_stopping: whether to hold out rows, stop when they no longer improve, and keep the best
        parameters.
      patience: epochs without improvement before it stops.
      members: networks that are trained side by side from different starts, and averaged; None is
        8 for "lmn" and "mlp", 1 for "bilipschitz", whose solve costs more, and for "penalty", whose
        certificate does.
      penalty_weight: weight of the gradient penalty ("penalty").
      certify_rounds: rounds of training towards a certificate ("penalty"): after each failure
        training goes on with the penalty where it was refuted or open.
      certify_budget: boxes of the certificate in each round.
      categorical_features: names or numbers of columns, or a bool each; pandas columns of the
        dtype "category" are categorical anyway. They have no direction.
      missing: "indicator": a column with missing values gets a flag, and its median in their place;
        the direction holds among rows that have a value, and nothing is promised between a
        missing and a given value. "error": missing values are refused.
      warm_start: go on from the last fit, with its scaling and categories.
      random_state: seed.

    After :meth:`fit`: ``method_``, ``n_iter_``, ``loss_curve_``, ``validation_curve_`` and, after
    :meth:`certify`, ``certificate_``.
    """

    def __init__(
        self,
        monotonic_cst: Any = None,
        *,
        method: str = "auto",
        loss: str = "squared",
        quantile: float = 0.5,
        hidden: Any = (32, 32),
        max_epochs: int = 200,
        batch_size: int = 256,
        learning_rate: float = 1e-2,
        validation_fraction: float = 0.1,
        early_stopping: bool = True,
        patience: int = 30,
        members: int | None = None,
        penalty_weight: float = 10.0,
        certify_rounds: int = 0,
        certify_budget: int = 10_000,
        categorical_features: Any = None,
        missing: str = "indicator",
        warm_start: bool = False,
        random_state: Any = None,
    ) -> None:
        """Keeps the options; they are checked by :meth:`fit`."""
        self.monotonic_cst = monotonic_cst
        self.method = method
        self.loss = loss
        self.quantile = quantile
        self.hidden = hidden
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.validation_fraction = validation_fraction
        self.early_stopping = early_stopping
        self.patience = patience
        self.members = members
        self.penalty_weight = penalty_weight
        self.certify_rounds = certify_rounds
        self.certify_budget = certify_budget
        self.categorical_features = categorical_features
        self.missing = missing
        self.warm_start = warm_start
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "MonotoneRegressor":
        """Trains on a table.

        Args:
          X: pandas frame or array `[n, columns]`.
          y: targets `[n]`, numbers.
          sample_weight: weights `[n]`, not negative; the exposure for "poisson" and "gamma".

        Returns:
          The estimator.

        Raises:
          ValueError: on directions that do not fit, strings that are not declared, missing values
            where they are refused, targets that are constant or not numbers, options out of range.
        """
        self._check_options()
        one_of(self.loss, REGRESSION, "loss")
        check_number(self.quantile, "quantile", above=0, most=1)
        table = self._table(X, reset=True)
        targets = self._targets(y)
        _validation.check_consistent_length(table, targets)
        weights = self._weights(sample_weight, table)
        table, targets, weights = self._counting(table, targets, weights)
        self._check_targets(targets)
        self._train(table, targets, weights, self.loss)
        return self

    def _targets(self, y: Any) -> np.ndarray:
        if y is None:
            raise ValueError("This estimator requires y to be passed, but the target y is None.")
        values = _validation.column_or_1d(y, warn=True)
        try:
            numbers = np.asarray(values).astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"y must be numbers for a regressor ({error}); for classes use MonotoneClassifier."
            ) from error
        if not np.isfinite(numbers).all():
            count = (~np.isfinite(numbers)).sum()
            raise ValueError(f"y contains NaN or infinity in {count} rows; drop them.")
        return numbers

    def _check_targets(self, y: np.ndarray) -> None:
        if len(y) > 1 and y.min() == y.max():
            raise ValueError(f"y is constant ({y[0]:g}): there is nothing to learn.")
        if self.loss == "poisson" and y.min() < 0:
            raise ValueError(f"loss 'poisson' needs y >= 0, got {y.min():g}.")
        if self.loss == "gamma" and y.min() <= 0:
            raise ValueError(
                f"loss 'gamma' needs y > 0, got {y.min():g}; leave out rows without a cost."
            )

    def predict(self, X: Any) -> np.ndarray:
        """Predicted targets.

        Args:
          X: table as in :meth:`fit`.

        Returns:
          float64 `[n]`, in the target's units.
        """
        outputs = self._outputs(X)
        return np.asarray(self.link_.means(outputs)[:, 0])
