"""Boosted trees, each with and without its own monotone constraints."""

import contextlib
import dataclasses
import importlib.util
import time
from typing import Any

import numpy as np

from train.tabular.data import Problem

PACKAGES = {"xgboost": "xgboost", "lightgbm": "lightgbm", "histgb": "sklearn"}
TITLES = {"xgboost": "XGBoost", "lightgbm": "LightGBM", "histgb": "HistGradientBoosting"}
CANDIDATES: tuple[dict[str, Any], ...] = (
    {"depth": 2, "rate": 0.1, "leaf": 20},
    {"depth": 4, "rate": 0.05, "leaf": 10},
    {"depth": 6, "rate": 0.05, "leaf": 20},
)
"""Depth, learning rate and fewest rows (XGBoost: weight) of a leaf; the number of trees is chosen,
too."""


@dataclasses.dataclass(frozen=True)
class Trees:
    """A row of boosted trees."""

    kind: str
    """A key of `PACKAGES`."""
    constrained: bool

    @property
    def title(self) -> str:
        """In the table."""
        return TITLES[self.kind] + (", constrained" if self.constrained else "")


ROWS = {
    kind + ("_constrained" if constrained else ""): Trees(kind, constrained)
    for kind in PACKAGES
    for constrained in (False, True)
}
"""Name to trees, in the table's order."""


def installed(kind: str) -> bool:
    """Whether the package of that kind of trees is there."""
    return importlib.util.find_spec(PACKAGES[kind]) is not None


def fit_trees(
    problem: Problem,
    row: Trees,
    options: dict[str, Any],
    rows: np.ndarray,
    watched: np.ndarray,
    seed: int,
    count: int,
    stages: np.ndarray,
) -> tuple[np.ndarray, Any, float]:
    """Fits one model and predicts after several numbers of trees.

    Args:
      problem: data and directions.
      row: which trees.
      options: one of `CANDIDATES`.
      rows: what is trained on, `[n]`.
      watched: inputs, `[m, d]`.
      seed: of the rows and columns that each tree sees.
      count: trees.
      stages: numbers of trees, increasing, the last at most ``count``.

    Returns:
      ``(values [stages, m] in training units (logits), model, seconds)``.
    """
    x, y = problem.x[rows], problem.y[rows]
    signs = problem.directions.tolist() if row.constrained else [0] * x.shape[1]
    began = time.perf_counter()
    model = _MAKE[row.kind](problem.task, options, seed, count, signs)
    with _one_thread(row):
        model.fit(x, y)
    seconds = time.perf_counter() - began
    return staged(row, problem.task, model, watched, stages), model, seconds


def staged(row: Trees, task: str, model: Any, x: np.ndarray, stages: np.ndarray) -> np.ndarray:
    """Predictions after several numbers of trees, `[stages, m]`; logits for classes."""
    if row.kind == "histgb":
        classes = task == "classification"
        with _one_thread(row):
            every = model.staged_decision_function(x) if classes else model.staged_predict(x)
            found = np.stack([np.ravel(values) for values in every])
        return found[np.minimum(stages, len(found)) - 1]
    if row.kind == "xgboost":
        return np.stack(
            [model.predict(x, output_margin=True, iteration_range=(0, int(k))) for k in stages]
        )
    return np.stack([model.predict(x, raw_score=True, num_iteration=int(k)) for k in stages])


def size(row: Trees, model: Any, count: int) -> int:
    """Numbers in the first ``count`` trees: two for a split, one for a leaf."""
    if row.kind == "xgboost":
        leaves = [tree.count("leaf=") for tree in model.get_booster().get_dump()[:count]]
    elif row.kind == "lightgbm":
        leaves = [t["num_leaves"] for t in model.booster_.dump_model()["tree_info"][:count]]
    else:
        leaves = [p.get_n_leaf_nodes() for stage in model._predictors[:count] for p in stage]
    return sum(3 * found - 2 for found in leaves)


def _one_thread(row: Trees) -> Any:
    """One thread for scikit-learn's trees, which take no number; the others are given one."""
    if row.kind != "histgb":
        return contextlib.nullcontext()
    import threadpoolctl  # comes with scikit-learn

    return threadpoolctl.threadpool_limits(1)


def _xgboost(task: str, o: dict[str, Any], seed: int, count: int, signs: list[int]) -> Any:
    import xgboost

    make = xgboost.XGBClassifier if task == "classification" else xgboost.XGBRegressor
    return make(
        n_estimators=count,
        max_depth=o["depth"],
        learning_rate=o["rate"],
        min_child_weight=o["leaf"] / 4 if task == "classification" else o["leaf"],
        subsample=0.8,
        colsample_bytree=0.8,
        tree_method="hist",
        monotone_constraints=tuple(signs),
        random_state=seed,
        n_jobs=1,
    )


def _lightgbm(task: str, o: dict[str, Any], seed: int, count: int, signs: list[int]) -> Any:
    import lightgbm

    make = lightgbm.LGBMClassifier if task == "classification" else lightgbm.LGBMRegressor
    return make(
        n_estimators=count,
        max_depth=o["depth"],
        num_leaves=2 ** o["depth"],
        learning_rate=o["rate"],
        min_child_samples=o["leaf"],
        subsample=0.8,
        subsample_freq=1,
        colsample_bytree=0.8,
        monotone_constraints=signs,
        random_state=seed,
        n_jobs=1,
        verbose=-1,
    )


def _histgb(task: str, o: dict[str, Any], seed: int, count: int, signs: list[int]) -> Any:
    from sklearn import ensemble

    classes = task == "classification"
    make = ensemble.HistGradientBoostingClassifier if classes else None
    return (make or ensemble.HistGradientBoostingRegressor)(
        max_iter=count,
        max_depth=o["depth"],
        learning_rate=o["rate"],
        min_samples_leaf=o["leaf"],
        max_features=0.8,
        monotonic_cst=signs,
        early_stopping=False,
        random_state=seed,
    )


_MAKE = {"xgboost": _xgboost, "lightgbm": _lightgbm, "histgb": _histgb}
