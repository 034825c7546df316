"""What both estimators share: reading the table, training, certificates, explanations."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import check_number, check_width, check_widths, one_of
from monojax.base.extras import require
from monojax.certify import Certificate
from monojax.estimators import training
from monojax.estimators.certificates import certificate_of, original_function
from monojax.estimators.columns import Columns, fit_columns
from monojax.estimators.dependence import Dependence, dependences
from monojax.estimators.losses import Link
from monojax.estimators.networks import METHODS, Net
from monojax.estimators.tables import categories_of, directions_of, is_frame
from monojax.estimators.towards import toward_certificate

_sklearn: Any = require("sklearn.base", "sklearn")
_validation: Any = require("sklearn.utils.validation", "sklearn")
_utils: Any = require("sklearn.utils", "sklearn")
BaseEstimator: Any = _sklearn.BaseEstimator

MEMBERS = {"lmn": 8, "mlp": 8, "bilipschitz": 1, "penalty": 1}
"""Networks that are averaged, unless said otherwise: a solve, and a certificate, cost more."""
FEWEST_HELD_OUT = 5
"""Fewer held-out rows than this say nothing: then no row is held out."""


class MonotoneEstimator(BaseEstimator):
    """Fits, certifies and explains; the heads are in the subclasses."""

    # Set by the subclasses' __init__, as scikit-learn asks.
    monotonic_cst: Any
    method: str
    hidden: Any
    max_epochs: int
    batch_size: int
    learning_rate: float
    validation_fraction: float
    early_stopping: bool
    patience: int
    members: int | None
    penalty_weight: float
    certify_rounds: int
    certify_budget: int
    categorical_features: Any
    missing: str
    warm_start: bool
    random_state: Any
    # Set by fit.
    columns_: Columns
    link_: Link
    net_: Net
    params_: Any
    certificate_: Certificate | None
    method_: str

    def __sklearn_tags__(self) -> Any:
        """Missing values are allowed by the policy "indicator"."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing == "indicator"
        tags.non_deterministic = False
        return tags

    def _check_options(self) -> None:
        check_widths(self.hidden, "hidden")
        one_of(self.method, METHODS, "method")
        for name in ("max_epochs", "batch_size", "patience", "certify_budget"):
            check_width(getattr(self, name), name)
        if self.members is not None:
            check_width(self.members, "members")
        if self.certify_rounds:
            check_width(self.certify_rounds, "certify_rounds")
            if self.method != "penalty":
                raise ValueError(
                    f"certify_rounds is for method='penalty': {self.method!r} is monotone by its "
                    "form and needs no rounds."
                )
        check_number(self.learning_rate, "learning_rate", above=0)
        check_number(self.penalty_weight, "penalty_weight", least=0)
        check_number(self.validation_fraction, "validation_fraction", least=0, most=0.9)

    def _table(self, X: Any, reset: bool) -> Any:
        """The checked table, a frame or an array, not converted yet."""
        if not is_frame(X):
            return _validation.validate_data(
                self, X, reset=reset, dtype=None, ensure_all_finite="allow-nan"
            )
        _validation.validate_data(self, X, reset=reset, skip_check_array=True)
        if not len(X) or not X.shape[1]:
            raise ValueError(
                f"Found array with {len(X)} sample(s) and {X.shape[1]} feature(s) (shape="
                f"{X.shape}) while a minimum of 1 of each is required."
            )
        return X

    def _names(self) -> tuple[str, ...]:
        given = getattr(self, "feature_names_in_", None)
        return tuple(given if given is not None else (f"x{i}" for i in range(self.n_features_in_)))

    def _weights(self, sample_weight: Any, table: Any) -> np.ndarray:
        weights = _validation._check_sample_weight(sample_weight, table, dtype=np.float64)
        if (weights < 0).any():
            raise ValueError("sample_weight must not be negative.")
        if not (weights > 0).any():
            raise ValueError("sample_weight is 0 for every row: there is nothing to learn from.")
        return weights

    def _counting(self, table: Any, y: np.ndarray, weights: np.ndarray) -> tuple:
        """Rows with a weight: those of weight 0 are as if they were not there."""
        keep = weights > 0
        if keep.sum() < 2:
            raise ValueError(f"n_samples={keep.sum()}: at least 2 rows with a weight are needed.")
        if keep.all():
            return table, y, weights
        kept = table.iloc[np.flatnonzero(keep)] if is_frame(table) else table[keep]
        return kept, y[keep], weights[keep]

    def _fit_columns(self, table: Any, weights: np.ndarray) -> Columns:
        given = getattr(self, "feature_names_in_", None)
        width = self.n_features_in_
        directions = directions_of(self.monotonic_cst, given, width)
        categorical = categories_of(self.categorical_features, table, given, width)
        return fit_columns(
            table, self._names(), weights, directions.tolist(), categorical, self.missing
        )

    def _train(
        self, table: Any, y: np.ndarray, weights: np.ndarray, loss: str, classes: int = 0
    ) -> None:
        """Fits the network: y are targets, or class numbers.

        Args:
          table: rows of weight > 0.
          y: float64 `[n]`.
          weights: float64 `[n]`, > 0.
          loss: of `losses.row_losses`.
          classes: number of classes, 0 for regression.
        """
        warm = self.warm_start and hasattr(self, "params_")
        if not warm:
            self.columns_ = self._fit_columns(table, weights)
            self.link_ = Link.fitted(loss, y, weights, classes)
        seed = _utils.check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        rows = self.columns_.scaled(self.columns_.inputs(table))
        targets = self.link_.scaled(y)
        fit_rows, held = self._split(y, classes, np.random.default_rng(seed))
        train, valid, steps = self._parts(rows, targets, weights, fit_rows, held)
        outputs = classes if loss == "softmax" else 1
        names = ("lmn", "mlp") if self.method == "auto" else (self.method,)
        if warm:
            names = (self.method_,)
        free = not any(self.columns_.directions)
        tried = []
        for name in names:
            # One plain network, and one compilation, where "bilipschitz" has nothing to hold.
            kind = "penalty" if free and name == "bilipschitz" else name
            net = Net(kind, tuple(int(w) for w in self.hidden), self.columns_.directions, outputs)
            tried.append((self._one(net, loss, seed, train, valid, steps, len(held), warm), net))
        fitted, self.net_ = min(tried, key=lambda pair: pair[0].best_loss)
        self.method_ = self.net_.method if self.method == "auto" else self.method
        self.params_ = fitted.params
        self.loss_curve_ = fitted.history[:, 0].tolist()
        self.validation_curve_ = fitted.history[:, 1].tolist() if len(held) else None
        self.n_iter_ = len(fitted.history)
        self.certificate_ = self.__dict__.pop("_found", None)

    def _one(self, net, loss, seed, train, valid, steps, held, warm) -> training.Fitted:
        """One network, trained."""
        task = training.Task(net, loss, not net.guaranteed)
        start_key, key = jax.random.split(jax.random.key(seed))
        members = self.members or MEMBERS[net.method]
        start = training.initial(net, int(members), start_key, jnp.float32(self.link_.start))
        if warm:
            params = jax.tree.map(jnp.asarray, self.params_)
            start = training.Start(params, start.rule)
        scale = lambda x: (x - self.columns_.centre) / self.columns_.scale
        options = training.Options(
            rate=jnp.float32(self.learning_rate),
            offset=jnp.asarray(self.link_.trained_offset(), jnp.float32),
            quantile=jnp.float32(getattr(self, "quantile", 0.5)),
            penalty_weight=jnp.float32(self.penalty_weight),
            margin=jnp.float32(0.0),
            low=jnp.asarray(scale(self.columns_.low), jnp.float32),
            high=jnp.asarray(scale(self.columns_.high), jnp.float32),
            number=jnp.asarray(self.columns_.number),
            extra=jnp.zeros((training.EXTRA, len(net.directions))),
            extra_count=jnp.int32(0),
        )
        run = functools.partial(
            training.train,
            task,
            train_part=train,
            valid=valid,
            steps=steps,
            patience=int(self.patience) if held else None,
        )
        epochs, rate = int(self.max_epochs), float(self.learning_rate)
        fitted = run(start, options=options, epochs=epochs, rate=rate, key=key)
        if not task.penalised or not self.certify_rounds:
            return fitted

        def again(params: Any, region: np.ndarray, margin: float, factor: float) -> training.Fitted:
            extra = np.zeros(options.extra.shape, np.float32)
            extra[: len(region)] = region
            asked = options._replace(
                extra=jnp.asarray(extra),
                extra_count=jnp.int32(len(region)),
                margin=jnp.float32(margin),
                penalty_weight=jnp.float32(factor * max(self.penalty_weight, 1.0)),
            )
            fresh = training.Start(jax.tree.map(jnp.asarray, params), start.rule)
            more = max(epochs // 4, 1)
            return run(fresh, options=asked, epochs=more, rate=rate / 3, key=key)

        fitted, self._found = toward_certificate(
            fitted,
            again,
            net,
            self.columns_,
            self.link_,
            rounds=int(self.certify_rounds),
            budget=int(self.certify_budget),
            rng=np.random.default_rng(seed),
        )
        return fitted

    def _split(
        self, y: np.ndarray, classes: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers (to fit on, held out); of classes, each keeps a row to fit on."""
        count = round(self.validation_fraction * len(y)) if self.early_stopping else 0
        if count < FEWEST_HELD_OUT:
            return np.arange(len(y)), np.zeros(0, int)
        order = rng.permutation(len(y))
        if not classes:
            return np.sort(order[count:]), np.sort(order[:count])
        held: list[int] = []
        for label in range(classes):
            mine = order[y[order] == label]
            held += mine[: min(round(self.validation_fraction * len(mine)), len(mine) - 1)].tolist()
        rest = np.setdiff1d(np.arange(len(y)), held)
        return rest, np.sort(np.asarray(held, int))

    def _parts(self, rows, targets, weights, fit_rows, held):
        """Padded parts to train and to judge on, and the number of batches."""
        steps, size = training.batches(len(fit_rows), int(self.batch_size))

        def part(index, room):
            weight = weights[index] / weights[index].mean() * room / len(index)
            return training.padded(rows[index], targets[index], weight, room)

        train = part(fit_rows, steps * size)
        if len(held):
            return train, part(held, training.rounded(len(held))), steps
        empty = training.padded(rows[:1], targets[:1], np.zeros(1), training.rounded(1))
        return train, empty, steps

    def certify(self, budget: int = 10_000) -> Certificate:
        """Proves that the fitted function keeps ``monotonic_cst``, or shows where it does not.

        The box is that of the rows that were fitted, in the table's own units, categories and flags
        of missing values at their corners: its inputs are ``certified_inputs_``. A method with a
        guarantee is proved by its form, at every point, in exact arithmetic (stage "construction",
        or "bound" for "mlp"); "penalty" is searched.

        Args:
          budget: how many boxes may be bounded.

        Returns:
          Certificate, kept as ``certificate_``.

        Raises:
          ValueError: if no column has a direction, or on a budget below 1.
        """
        _validation.check_is_fitted(self, "params_")
        self.certificate_ = certificate_of(
            self.net_, self.params_, self.columns_, self.link_, budget
        )
        return self.certificate_

    def certified_function(self) -> Callable[[jax.Array], jax.Array]:
        """The function that :meth:`certify` speaks of, for ``certificate.verify(...)``.

        Returns:
          Map of ONE example: the inputs named by ``certified_inputs_``, in the table's units, to
          the predicted target `[]` of a regressor, or the score (log-odds) of a classifier.

        Raises:
          ValueError: if there are several scores: nominal classes.
        """
        _validation.check_is_fitted(self, "params_")
        self._one_score("certified_function")
        return original_function(self.net_, self.params_, self.columns_, self.link_)

    @property
    def certified_inputs_(self) -> tuple[str, ...]:
        """Names of the inputs of :meth:`certified_function`, categories and flags one by one."""
        _validation.check_is_fitted(self, "params_")
        return self.columns_.names

    def explain(self, X: Any, features: Any = None) -> list[Dependence]:
        """Partial dependence of the prediction on columns, with proved bounds on its slopes.

        Args:
          X: rows over which the mean is taken; 100 of them, evenly spread, if there are more.
          features: names or numbers of columns, one or several; None is all of them.

        Returns:
          One :class:`Dependence` per column.

        Raises:
          ValueError: on an unknown column, or for nominal classes.
        """
        _validation.check_is_fitted(self, "params_")
        self._one_score("explain")
        inputs = self.columns_.inputs(self._table(X, reset=False))
        chosen = self._numbers(features)
        return dependences(self.net_, self.params_, self.columns_, self.link_, inputs, chosen)

    def _numbers(self, features: Any) -> list[int]:
        names = list(self._names())
        if features is None:
            return list(range(len(names)))
        several = features if isinstance(features, (list, tuple, np.ndarray)) else [features]
        found = []
        for feature in several:
            if isinstance(feature, (int, np.integer)) and not isinstance(feature, bool):
                if not -len(names) <= feature < len(names):
                    raise ValueError(f"features must lie in 0..{len(names) - 1}, got {feature}.")
                found.append(int(feature) % len(names))
            else:
                found.append(names.index(one_of(feature, names, "features")))
        return found

    def _one_score(self, what: str) -> None:
        if self.net_.outputs > 1:
            raise ValueError(
                f"{what}: {self.net_.outputs} nominal classes have as many scores, not one; use "
                "ordered classes, or one class against the rest."
            )

    def _outputs(self, X: Any) -> np.ndarray:
        """The network's outputs, float64 `[n, k]`."""
        _validation.check_is_fitted(self, "params_")
        table = self._table(X, reset=False)
        rows = self.columns_.inputs(table)
        scaled = self.columns_.scaled
        return training.predicted(self.net_, self.params_, rows, scaled).astype(np.float64)
