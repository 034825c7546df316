"""A classifier that keeps the directions it is given."""

from typing import Any

import numpy as np

from monojax.base.extras import require
from monojax.estimators.base import MonotoneEstimator
from monojax.estimators.tables import directions_of

_sklearn: Any = require("sklearn.base", "sklearn")
_validation: Any = require("sklearn.utils.validation", "sklearn")
_multiclass: Any = require("sklearn.utils.multiclass", "sklearn")
ClassifierMixin: Any = _sklearn.ClassifierMixin


class MonotoneClassifier(ClassifierMixin, MonotoneEstimator):
    """Classes whose probability rises and falls in the columns that it is told.

    Of two classes, the probability of the second (``classes_[1]``) is monotone. Of ordered classes
    (``ordered``), P(y >= k) is, for every k: one score and rising thresholds. Nominal classes can
    have no directions: a softmax divides by the sum over all classes, so that a monotone score of
    one class does not make its probability monotone.

    Methods and options are those of :class:`MonotoneRegressor`.

    Args:
      monotonic_cst: -1, 0 or +1 per column, or a dict of column names to these.
      method: "auto", "lmn", "mlp", "bilipschitz" or "penalty".
      ordered: True if the classes are ordered as they sort, or the classes in their order, lowest
        first, such as ``("low", "middle", "high")``.
      hidden: widths of the hidden layers; even numbers for "lmn".
      max_epochs: passes over the rows at most.
      batch_size: rows per step at most.
      learning_rate: Adam's at the start.
      validation_fraction: share of the rows of each class held out for early stopping.
      early_stopping: whether to hold out rows.
      patience: epochs without improvement before it stops.
      members: networks that are trained side by side and averaged; None is 8 for "lmn" and "mlp",
        else 1.
      penalty_weight: weight of the gradient penalty ("penalty").
      certify_rounds: rounds of training towards a certificate ("penalty").
      certify_budget: boxes of the certificate in each round.
      categorical_features: names or numbers of columns, or a bool each.
      missing: "indicator" or "error".
      warm_start: go on from the last fit.
      random_state: seed.

    After :meth:`fit`: ``classes_`` and what the regressor has.
    """

    def __init__(
        self,
        monotonic_cst: Any = None,
        *,
        method: str = "auto",
        ordered: Any = False,
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
        self.ordered = ordered
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

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "MonotoneClassifier":
        """Trains on a table.

        Args:
          X: pandas frame or array `[n, columns]`.
          y: classes `[n]`.
          sample_weight: weights `[n]`, not negative.

        Returns:
          The estimator.

        Raises:
          ValueError: as the regressor's, on a single class, and on directions for nominal classes.
        """
        self._check_options()
        table = self._table(X, reset=True)
        if y is None:
            raise ValueError("This estimator requires y to be passed, but the target y is None.")
        labels = np.asarray(_validation.column_or_1d(y, warn=True))
        _validation.check_consistent_length(table, labels)
        weights = self._weights(sample_weight, table)
        table, labels, weights = self._counting(table, labels, weights)
        _multiclass.check_classification_targets(labels)
        before = getattr(self, "classes_", None)
        classes = self._classes(labels)
        if self.warm_start and before is not None and hasattr(self, "params_"):
            unknown = [c for c in classes if c not in before]
            if unknown:
                raise ValueError(
                    f"warm_start: the classes {unknown} were not there in the last fit."
                )
            classes = before
        ordered = self.ordered is not False
        if len(classes) > 2 and not ordered:
            self._refuse_directions(len(classes))
        self.classes_ = classes
        index = {label: i for i, label in enumerate(classes.tolist())}
        codes = np.asarray([index[label] for label in labels.tolist()], np.float64)
        kind = "logistic" if len(classes) == 2 else "ordered" if ordered else "softmax"
        self._train(table, codes, weights, kind, len(classes))
        return self

    def _classes(self, labels: np.ndarray) -> np.ndarray:
        found = np.unique(labels)
        if len(found) < 2:
            raise ValueError(f"y holds a single class, {found[0]!r}; 2 are needed.")
        if isinstance(self.ordered, (bool, np.bool_)):
            if self.ordered and labels.dtype.kind not in "iufb":
                raise ValueError(
                    "ordered=True takes the order of numbers, but the classes are "
                    f"{found.tolist()[:10]}; name them in their order, lowest first: "
                    "ordered=('low', 'middle', 'high')."
                )
            return found
        named = list(self.ordered)
        if len(set(named)) < len(named) or set(found.tolist()) - set(named):
            raise ValueError(
                f"ordered must name every class once, lowest first, got {named}; y holds "
                f"{found.tolist()[:10]}."
            )
        return np.asarray([label for label in named if label in set(found.tolist())], found.dtype)

    def _refuse_directions(self, count: int) -> None:
        given = getattr(self, "feature_names_in_", None)
        if directions_of(self.monotonic_cst, given, self.n_features_in_).any():
            raise ValueError(
                f"monotonic_cst with {count} nominal classes: a softmax divides by the sum over "
                "all classes, so monotone scores make no probability monotone. If the classes have "
                "an order, say ordered=True or ordered=(lowest, ..., highest); else fit one "
                "class against the rest."
            )

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes.

        Args:
          X: table as in :meth:`fit`.

        Returns:
          float64 `[n, K]`, in the order of ``classes_``; rows sum to 1.
        """
        outputs = self._outputs(X)
        scores = self.link_.scores(outputs)
        if self.link_.loss == "softmax":
            powers = np.exp(scores - scores.max(axis=1, keepdims=True))
            return np.asarray(powers / powers.sum(axis=1, keepdims=True))
        above = self._above(scores)
        edges = np.concatenate([np.ones((len(above), 1)), above, np.zeros((len(above), 1))], axis=1)
        return np.asarray(edges[:, :-1] - edges[:, 1:])

    def predict_above(self, X: Any) -> np.ndarray:
        """P(y >= k) of ordered (or two) classes, monotone in every column with a direction.

        Args:
          X: table as in :meth:`fit`.

        Returns:
          float64 `[n, K - 1]`: column k is the probability of ``classes_[k + 1]`` or a higher one.

        Raises:
          ValueError: for nominal classes.
        """
        _validation.check_is_fitted(self, "params_")
        self._one_score("predict_above")
        return self._above(self.link_.scores(self._outputs(X)))

    def _above(self, scores: np.ndarray) -> np.ndarray:
        gaps = np.logaddexp(0.0, self._steps()) + 1e-3
        cuts = np.concatenate([np.zeros(1), np.cumsum(gaps)])
        z = scores[:, :1] - cuts[None]
        small = np.exp(-np.abs(z))
        return np.asarray(np.where(z >= 0, 1.0, small) / (1.0 + small))

    def _steps(self) -> np.ndarray:
        """Raw gaps of the thresholds: the mean over members."""
        return np.asarray(self.params_["steps"], np.float64).mean(axis=0)

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class.

        Args:
          X: table as in :meth:`fit`.

        Returns:
          Classes `[n]`.
        """
        likeliest = np.argmax(self.predict_proba(X), axis=1)
        return np.asarray(self.classes_[likeliest])
