"""One model of a person's table: folds, test part, certificate, violations, dependence."""

import io
from pathlib import Path
from typing import Any

import jax
import numpy as np

import monojax as mj
from monojax.training import write_atomically
from train.tabular import judging, learners
from train.tabular.table import Schema, Table

PAIRS = 5_000
"""Random pairs of the audit."""
GRID = 25
"""Points of a dependence where the model does not give its own."""
ROWS = 100
"""Rows over which a dependence is averaged, at most."""


def measure(
    name: str,
    table: Table,
    train: np.ndarray,
    test: np.ndarray,
    config: Any,
    workdir: Path,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Judges a model by k folds, fits it on the training part, measures and saves it.

    Args:
      name: a key of `learners.TITLES`.
      table: schema, rows, targets.
      train: rows of the training part.
      test: rows of the test part.
      config: folds, seed, certify_budget, and the learners' own.
      workdir: a network goes to its folder ``models``.

    Returns:
      ``(numbers, arrays)`` for `monojax.training.Cells`: folds, the test part's metrics, losses
      per test row, certificate, share of violating pairs, dependence of every column with a
      direction.
    """
    schema, x, y = table.schema, table.x, table.y
    fold = judging.fold_of(y[train], schema.task, config.folds, config.seed + 1)
    folds = []
    for k in range(config.folds):
        rows, held = train[fold != k], train[fold == k]
        fitted = learners.fit(name, schema, x[rows], y[rows], config, config.seed + k)
        lost = judging.losses(schema.task, fitted.predict(x[held]), y[held])
        folds.append(judging.pooled(schema.task, lost))
    fitted = learners.fit(name, schema, x[train], y[train], config, config.seed)
    values = fitted.predict(x[test])
    numbers: dict[str, Any] = {
        "folds": folds,
        "test": judging.scores(schema.task, values, y[test]),
        "status": "",
        "stage": "",
        "certificate": "",
        "volume": float("nan"),
        **_audit(fitted, schema, x, config.seed),
    }
    if learners.is_network(name):
        _save(fitted.model, name, workdir)
    if name in learners.METHODS:
        found = fitted.model.certify(budget=config.certify_budget)
        numbers |= {
            "status": found.status,
            "stage": found.stage,
            "certificate": found.to_json(),
            "volume": found.volume_proved,
        }
    arrays = {"losses": judging.losses(schema.task, values, y[test])}
    arrays |= _dependences(name, fitted, schema, x[train])
    return numbers, arrays


def _audit(fitted: Any, schema: Schema, x: np.ndarray, seed: int) -> dict[str, Any]:
    """Share of pairs that break the promise, and the largest drop."""
    codes = coded(schema, x)
    back = lambda rows: fitted.predict(decoded(schema, rows))
    key = jax.random.key(seed)
    found = mj.audit_monotone(back, codes, schema.directions, key=key, pairs=PAIRS)
    worst = float(found.drop[0]) if len(found.drop) else 0.0
    return {"violations": found.rate, "worst_drop": worst}


def coded(schema: Schema, x: np.ndarray) -> np.ndarray:
    """Rows as numbers, categories as their place among the levels, float64 `[n, columns]`."""
    made = np.full(x.shape, np.nan)
    for i, column in enumerate(schema.columns):
        if column.levels is None:
            made[:, i] = x[:, i].astype(float)
        else:
            place = {level: k for k, level in enumerate(column.levels)}
            made[:, i] = [place.get(value, np.nan) for value in x[:, i]]
    return made


def decoded(schema: Schema, codes: np.ndarray) -> np.ndarray:
    """The inverse of :func:`coded`."""
    made = np.asarray(codes).astype(object)
    for i, column in enumerate(schema.columns):
        if column.levels is not None:
            made[:, i] = [None if k != k else column.levels[int(k)] for k in codes[:, i]]
    return made


def _save(model: Any, name: str, workdir: Path) -> None:
    import joblib  # comes with scikit-learn

    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    (workdir / "models").mkdir(exist_ok=True)
    write_atomically(workdir / "models" / f"{name}.joblib", buffer.getvalue())


def _dependences(name: str, fitted: Any, schema: Schema, x: np.ndarray) -> dict[str, np.ndarray]:
    """Grid, value and, of our methods, proved bounds on the slope, per column with a direction."""
    bound = [i for i, column in enumerate(schema.columns) if column.direction]
    made: dict[str, np.ndarray] = {}
    if name in learners.METHODS:
        for i, one in zip(bound, fitted.model.explain(x, bound), strict=True):
            made |= {f"grid{i}": one.grid, f"value{i}": one.value}
            made |= {f"lower{i}": one.lower, f"upper{i}": one.upper}
        return made
    rows = x[np.linspace(0, len(x) - 1, min(ROWS, len(x))).astype(int)]
    for i in bound:
        grid = np.linspace(schema.columns[i].low, schema.columns[i].high, GRID)
        moved = np.repeat(rows[None], GRID, axis=0)
        moved[:, :, i] = grid[:, None]
        values = fitted.predict(moved.reshape(-1, x.shape[1])).reshape(GRID, -1)
        if schema.task == "classification":  # log-odds, as the estimators' own
            p = np.clip(values, judging.EPS, 1 - judging.EPS)
            values = np.log(p) - np.log1p(-p)
        made |= {f"grid{i}": grid, f"value{i}": values.mean(axis=1)}
    return made
