"""What is tried on a person's table: the estimators' methods, a free network, boosted trees."""

import dataclasses
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from train.tabular.table import Schema, filled, seen

METHODS = ("lmn", "mlp", "bilipschitz", "penalty")
TITLES = {
    "lmn": "LMN network",
    "mlp": "monotone MLP",
    "bilipschitz": "bi-Lipschitz network",
    "penalty": "network with a penalty",
    "free": "network, unconstrained",
    "xgboost_constrained": "XGBoost, constrained",
    "xgboost": "XGBoost",
    "histgb_constrained": "HistGradientBoosting, constrained",
    "histgb": "HistGradientBoosting",
}
PACKAGES = {"xgboost": "xgboost", "histgb": "sklearn"}
FREE_OF = {
    **dict.fromkeys(METHODS, "free"),
    "xgboost_constrained": "xgboost",
    "histgb_constrained": "histgb",
}
"""A model that keeps directions to the same kind of model that does not."""

TREES = 500
"""At most; a held-out part stops before, as it stops the networks."""


def names(config: Any) -> list[str]:
    """What a config tries; trees where their package is installed.

    Args:
      config: methods, peers.

    Returns:
      Keys of `TITLES`.
    """
    found = [*config.methods, "free"]
    for kind, package in PACKAGES.items() if config.peers else ():
        if importlib.util.find_spec(package) is not None:
            found += [kind + "_constrained", kind]
    return found


def is_network(name: str) -> bool:
    """Whether it is an estimator of monojax."""
    return name in METHODS or name == "free"


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A fitted model in one shape."""

    predict: Callable[[np.ndarray], np.ndarray]
    """Rows `[n, columns]` of objects to the target, or to the probability of class 1, `[n]`."""
    model: Any


def fit(name: str, schema: Schema, x: np.ndarray, y: np.ndarray, config: Any, seed: int) -> Fitted:
    """Fits one model.

    Args:
      name: a key of `TITLES`.
      schema: of the table.
      x: rows of objects, `[n, columns]`.
      y: targets, `[n]`.
      config: hidden, max_epochs, members.
      seed: of weights, order and held-out rows.

    Returns:
      Fitted.
    """
    if is_network(name):
        model = _estimator(name, schema, config, seed).fit(x, y)
        learnt = seen(schema, x)
        return Fitted(_predictor(model, schema.task, lambda r: filled(learnt, x, r)), model)
    import threadpoolctl  # comes with scikit-learn

    encoded = lambda rows: encode(schema, rows)
    make = _TREES[name.removesuffix("_constrained")]
    # Small tables: threads would wait for each other.
    with threadpoolctl.threadpool_limits(1):
        model = make(schema, encoded(x), y, name.endswith("_constrained"), seed)
    predict = _predictor(model, schema.task, encoded)

    def alone(rows: np.ndarray) -> np.ndarray:
        with threadpoolctl.threadpool_limits(1):
            return predict(rows)

    return Fitted(alone, model)


def _predictor(model: Any, task: str, encoded: Callable[[np.ndarray], Any]) -> Callable:
    if task == "classification":
        return lambda rows: np.asarray(model.predict_proba(encoded(rows)))[:, 1].astype(float)
    return lambda rows: np.asarray(model.predict(encoded(rows)), np.float64)


def _estimator(name: str, schema: Schema, config: Any, seed: int) -> Any:
    from monojax.estimators import MonotoneClassifier, MonotoneRegressor

    make = MonotoneClassifier if schema.task == "classification" else MonotoneRegressor
    options = {
        "method": "penalty" if name == "free" else name,
        "monotonic_cst": None if name == "free" else schema.directions,
        "hidden": tuple(config.hidden),
        "max_epochs": config.max_epochs,
        # A certificate is of one network: a mean of several would be that much harder to bound.
        "members": 1 if name == "penalty" else config.members,
        "categorical_features": schema.categorical or None,
        "random_state": seed,
    }
    return make(**options)


def encode(schema: Schema, x: np.ndarray) -> np.ndarray:
    """Rows for trees: numbers as they are, a category as one column of 0 and 1 per level.

    Args:
      schema: of the table.
      x: rows of objects, `[n, columns]`.

    Returns:
      float64 `[n, d]`.
    """
    parts = []
    for i, column in enumerate(schema.columns):
        if column.levels is None:
            parts.append(x[:, i].astype(np.float64)[:, None])
        else:
            levels = np.asarray([*column.levels], object)
            parts.append((x[:, i][:, None] == levels[None]).astype(np.float64))
    return np.concatenate(parts, axis=1)


def encoded_directions(schema: Schema) -> list[int]:
    """A direction per column of :func:`encode`."""
    return [
        column.direction
        for column in schema.columns
        for _ in range(1 if column.levels is None else len(column.levels))
    ]


def _xgboost(schema: Schema, x: np.ndarray, y: np.ndarray, constrained: bool, seed: int) -> Any:
    import xgboost

    make = xgboost.XGBClassifier if schema.task == "classification" else xgboost.XGBRegressor
    signs = encoded_directions(schema) if constrained else [0] * x.shape[1]
    held = _held_out(y, schema.task, seed)
    model = make(
        n_estimators=TREES,
        max_depth=4,
        learning_rate=0.05,
        subsample=0.8,
        colsample_bytree=0.8,
        early_stopping_rounds=30,
        monotone_constraints=tuple(signs),
        random_state=seed,
        n_jobs=1,
    )
    return model.fit(x[~held], y[~held], eval_set=[(x[held], y[held])], verbose=False)


def _histgb(schema: Schema, x: np.ndarray, y: np.ndarray, constrained: bool, seed: int) -> Any:
    from sklearn import ensemble

    classes = schema.task == "classification"
    make = ensemble.HistGradientBoostingClassifier if classes else None
    return (make or ensemble.HistGradientBoostingRegressor)(
        max_iter=TREES,
        max_depth=4,
        learning_rate=0.05,
        early_stopping=True,
        n_iter_no_change=30,
        monotonic_cst=encoded_directions(schema) if constrained else None,
        random_state=seed,
    ).fit(x, y)


_TREES = {"xgboost": _xgboost, "histgb": _histgb}


def _held_out(y: np.ndarray, task: str, seed: int, share: float = 0.1) -> np.ndarray:
    """A tenth of the rows, of each class alike, as a mask."""
    rng, held = np.random.default_rng(seed), np.zeros(len(y), bool)
    groups = [np.flatnonzero(y == v) for v in (0, 1)] if task == "classification" else []
    for rows in groups or [np.arange(len(y))]:
        held[rng.permutation(rows)[: max(1, round(share * len(rows)))]] = True
    return held
