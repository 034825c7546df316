"""A small table with directions, for tests of the estimators."""

import numpy as np

DIRECTIONS = (1, -1, 0)
CENTRE, SCALE = np.asarray([0.0, 5.0, 50.0]), np.asarray([1.0, 10.0, 100.0])
SMALL = dict(hidden=(8, 8), max_epochs=60, random_state=0, members=1)
ROUNDING = 4e-6
"""Of float32 sums of some dozens of terms, in units of the target's spread."""


def table(n=240, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 3))
    y = 3 + 2 * np.tanh(2 * z[:, 0]) - z[:, 1] + np.sin(2 * z[:, 2])
    return z * SCALE + CENTRE, y + 0.05 * rng.normal(size=n)


def sweeps(low, high, count=200, seed=0):
    """Rows in which one column rises by wide, narrow and tiniest steps: `[column, row, step]`."""
    rng = np.random.default_rng(seed)
    rows = low + (high - low) * rng.uniform(-0.5, 1.5, (count, 3))
    made = []
    for column in range(3):
        begin = rows[:, column]
        wide = begin[:, None] + (high - low)[column] * np.linspace(0, 1, 30)[None]
        tiny = begin[:, None] + np.abs(begin[:, None]) * 2e-7 * np.arange(30)[None]
        both = np.concatenate([wide, tiny])
        grid = np.repeat(np.concatenate([rows, rows])[:, None], 30, axis=1)
        grid[:, :, column] = both
        made.append(grid)
    return made
