"""The protocol for a person's table: a test part held out, k folds of the rest, paired draws."""

from typing import Any

import jax
import numpy as np

import monojax as mj

EPS = 1e-7
"""Probabilities are kept from 0 and 1 by so much, so that one row's log loss stays finite."""


def split(y: np.ndarray, task: str, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the training and the test part; of classes, the same share of each.

    Args:
      y: targets `[n]`.
      task: "regression" or "classification".
      share: of the test part.
      seed: of the draw.

    Returns:
      ``(train, test)``, sorted.
    """
    rng, test = np.random.default_rng(seed), np.zeros(len(y), bool)
    groups = [np.flatnonzero(y == v) for v in (0, 1)] if task == "classification" else []
    for rows in groups or [np.arange(len(y))]:
        test[rng.permutation(rows)[: max(1, round(share * len(rows)))]] = True
    return np.flatnonzero(~test), np.flatnonzero(test)


def fold_of(y: np.ndarray, task: str, folds: int, seed: int) -> np.ndarray:
    """The fold of each row, `[n]`; of classes, the same share of each in every fold."""
    rng, fold = np.random.default_rng(seed), np.zeros(len(y), int)
    groups = [np.flatnonzero(y == v) for v in (0, 1)] if task == "classification" else []
    for rows in groups or [np.arange(len(y))]:
        fold[rng.permutation(rows)] = np.arange(len(rows)) % folds
    return fold


def main_metric(task: str) -> str:
    """What models are chosen and compared by; smaller is better."""
    return "log loss" if task == "classification" else "RMSE"


def losses(task: str, values: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Per row: the squared error, or the log loss, `[n]`."""
    if task == "regression":
        return np.square(values - y)
    p = np.clip(values, EPS, 1 - EPS)
    return -np.where(y > 0.5, np.log(p), np.log1p(-p))


def pooled(task: str, rows: np.ndarray) -> float:
    """The main metric from losses per row."""
    return float(np.sqrt(rows.mean()) if task == "regression" else rows.mean())


def scores(task: str, values: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """All metrics of predictions, the main one first.

    Args:
      task: "regression" or "classification".
      values: predictions, or probabilities of class 1, `[n]`.
      y: truth `[n]`.

    Returns:
      Name to number.
    """
    found = {main_metric(task): pooled(task, losses(task, values, y))}
    if task == "regression":
        spread = np.square(y - y.mean()).mean()
        found["MAE"] = float(np.abs(values - y).mean())
        error = np.square(values - y).mean()
        found["R2"] = float(1 - error / spread) if spread > 0 else float("nan")
        return found
    found["accuracy"] = float(((values > 0.5) == (y > 0.5)).mean())
    both = 0 < y.sum() < len(y)
    normal, other = values[y > 0.5], values[y < 0.5]
    found["AUROC"] = float(mj.metrics.auroc(normal, other)) if both else float("nan")
    return found


def difference(task: str, mine: Any, other: Any, draws: int, seed: int) -> tuple[float, ...]:
    """Main metric of one model less that of another, on the same rows.

    Args:
      task: "regression" or "classification".
      mine: losses per row.
      other: the other model's.
      draws: of the bootstrap.
      seed: of the draws.

    Returns:
      ``(value, low, high)``, the ends of the 95% interval.
    """
    fn = lambda a, b: pooled(task, a) - pooled(task, b)
    found = mj.metrics.bootstrap(fn, mine, other, key=jax.random.key(seed), draws=draws)
    return tuple(float(v) for v in found)
