"""What the benchmark measures of a trained model: metric, violations, certified share, time."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import monojax as mj
from monojax.certify.program import CertifyError
from train.tabular.data import Problem

GRID = 21
"""Places of a monotone column's range at which a row is predicted."""
SWEPT = 500
"""Test rows that are swept."""
TOLERANCE = 1e-5
"""A step the wrong way counts from this share of the predictions' range: float32 rounds."""
THRESHOLDS = np.linspace(0.02, 0.98, 49)
"""Of the probability, among which the literature's protocol chooses on the test part."""

Predict = Callable[[np.ndarray], np.ndarray]


def violations(predict: Predict, problem: Problem) -> float:
    """Share of test rows for which a monotone column ever moves the prediction the wrong way.

    Each monotone column is moved over the training part's range, the others as they are. The same
    for networks and trees, whose steps have no slopes.

    Args:
      predict: `[n, d]` to `[n]`.
      problem: test rows, box and directions.

    Returns:
      In [0, 1].
    """
    rows = problem.x_test[:SWEPT]
    wrong = np.zeros(len(rows), bool)
    for column in np.flatnonzero(problem.directions):
        grid = np.linspace(problem.low[column], problem.high[column], GRID, dtype=np.float32)
        moved = np.repeat(rows[:, None], GRID, axis=1)
        moved[:, :, column] = grid
        found = np.asarray(predict(moved.reshape(-1, rows.shape[1])), np.float64)
        steps = np.diff(found.reshape(len(rows), GRID), axis=1) * problem.directions[column]
        wrong |= (steps < -TOLERANCE * max(np.ptp(found), 1e-12)).any(axis=1)
    return float(wrong.mean())


def certified(fn: Callable[[jax.Array], jax.Array], problem: Problem, budget: int) -> float:
    """Share of the training part's box on which `mj.certify_monotone` proves a network.

    Args:
      fn: of one example.
      problem: box and directions.
      budget: boxes.

    Returns:
      In [0, 1]; NaN where the certifier has no rule for the network.
    """
    try:
        found = mj.certify_monotone(fn, problem.low, problem.high, problem.directions, budget)
    except CertifyError:
        return float("nan")
    return float(found.volume_proved)


def best_on_test(problem: Problem, values: np.ndarray) -> np.ndarray:
    """The literature's number: the best test value over epochs, and over thresholds of classes.

    Args:
      problem: test part.
      values: predictions after every epoch, `[epochs, runs, m]`.

    Returns:
      `[runs]`.
    """
    if problem.task == "regression":
        return problem.score(values, problem.y_test).min(axis=0)
    logits = np.log(THRESHOLDS / (1 - THRESHOLDS))
    scores = np.stack([problem.score(values, problem.y_test, cut) for cut in logits])
    return scores.max(axis=(0, 1))


def microseconds_per_row(predict: Predict, x: np.ndarray, repeats: int = 3) -> float:
    """Time of a prediction, the best of a few after one to warm up.

    Args:
      predict: `[n, d]` to `[n]`, on the host.
      x: rows; tiled to at least 10,000.
      repeats: how often.

    Returns:
      Microseconds per row.
    """
    x = np.ascontiguousarray(np.tile(x, (-(-10_000 // len(x)), 1)))
    predict(x)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        predict(x)
        times.append(time.perf_counter() - began)
    return 1e6 * min(times) / len(x)


def against(problem: Problem, values: Any, other: Any, draws: int) -> tuple[float, float, float]:
    """How much better or worse a row is than another on the same test rows.

    Args:
      problem: test part.
      values: predictions of a row's seeds, `[seeds, m]`.
      other: of the row that it is compared with.
      draws: of the bootstrap over test rows.

    Returns:
      ``(difference, low, high)`` of the metric, the losses being averaged over seeds first.
    """
    mine = problem.losses(values, problem.y_test).mean(axis=0)
    theirs = problem.losses(other, problem.y_test).mean(axis=0)
    shape: Any = np.sqrt if problem.metric == "RMSE" else float
    fn = lambda a, b: shape(a.mean()) - shape(b.mean())
    found = mj.metrics.bootstrap(fn, mine, theirs, key=jax.random.key(0), draws=draws)
    return found.value, found.low, found.high
