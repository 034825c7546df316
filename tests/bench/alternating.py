"""Two trainings raced: rounds of the two alternate, so that a busy machine slows both alike."""

import statistics
import time

import numpy as np


def race(first, second, rounds, steps):
    """Median milliseconds per step of each.

    Args:
      first: takes a number of steps and returns the last loss, as a float.
      second: likewise.
      rounds: how often each runs.
      steps: per round.
    """
    times = [(_per_step(first, steps), _per_step(second, steps)) for _ in range(rounds)]
    return tuple(1e3 * statistics.median(column) for column in zip(*times, strict=True))


def _per_step(run, steps):
    start = time.perf_counter()
    loss = run(steps)
    if not np.isfinite(loss):
        raise RuntimeError(f"the loss became {loss}: the timing means nothing.")
    return (time.perf_counter() - start) / steps
