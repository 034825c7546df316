"""What a fitted function of one variable does: its slopes and its error, measured.

For conjugates the graph is explicit in the dual variable, :math:`x = \\nabla G(y)` and
:math:`f = \\alpha x + y`, so it is drawn without any inner solve: these are the exact network's
slopes, whatever an inner loop would return. Graphs are in float64.
"""

import contextlib
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.compat import enable_x64
from monojax.training import over_seeds

GRID = 20_001
"""Points of a graph."""


class Graph(NamedTuple):
    """A function of one variable on an increasing grid, float64, one row per run."""

    x: np.ndarray
    """`[runs, n]`"""
    f: np.ndarray
    """`[runs, n]`"""
    slope: np.ndarray
    """`[runs, n]`: f' there; NaN for a piecewise linear core, whose solutions sit on kinks."""

    def steepest(self) -> np.ndarray:
        """Largest |f'| seen, by differences of neighbours and by derivatives, `[runs]`."""
        secants = np.abs(np.diff(self.f)) / np.diff(self.x)
        local = np.nan_to_num(np.abs(self.slope), nan=0.0)
        return np.maximum(secants.max(axis=1), local.max(axis=1))

    def steepest_pair(self, low: float, high: float, num: int, seed: int) -> np.ndarray:
        """Largest gain over 3000 random pairs of a grid of ``num`` points, `[runs]`.

        Args:
          low: left end of the grid.
          high: right end.
          num: points.
          seed: of the pairs.
        """
        x = np.linspace(low, high, num)
        f = self.at(x)
        i, j = np.random.default_rng(seed).integers(num, size=(2, 3000))
        i, j = i[i != j], j[i != j]
        return np.max(np.abs(f[:, i] - f[:, j]) / np.abs(x[i] - x[j]), axis=1)

    def error(self, target: Any, low: float, high: float, num: int = 40_000) -> np.ndarray:
        """Mean squared error on [low, high] by the midpoint rule, `[runs]`.

        Args:
          target: map of arrays.
          low: left end.
          high: right end.
          num: cells; the grid's own points would miss what is between them.
        """
        x = low + (np.arange(num) + 0.5) * (high - low) / num
        return np.mean((self.at(x) - target(x)) ** 2, axis=1)

    def at(self, x: np.ndarray) -> np.ndarray:
        """f at points `[m]` by linear interpolation, `[runs, m]`."""
        return np.stack([np.interp(x, *row) for row in zip(self.x, self.f, strict=True)])


def graph(model: Any, params: Any, lower: Any, upper: Any, low: float, high: float, num=GRID):
    """The graph of the fitted function on an interval.

    Args:
      model: from `train.lipschitz_fits.models.build`.
      params: variables, leaves `[runs, ...]`.
      lower: alpha, `[runs]`.
      upper: L, `[runs]`.
      low: left end.
      high: right end.
      num: points.

    Returns:
      Graph. The points of a conjugate are evenly spaced in the dual variable, where it bends.
    """
    with enable_x64():
        as_double = lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64)
        params, lower, upper = jax.tree.map(as_double, (params, lower, upper))
        ends = jnp.asarray([low, high], jnp.float64)
        x, f, slope = _compiled(model, num)(params, lower, upper, ends)
        return Graph(*(np.asarray(part, np.float64) for part in (x, f, slope)))


@functools.lru_cache(maxsize=64)
def _compiled(model: Any, num: int):
    one = _dual_graph if model.dual else _plain_graph
    return _over_runs(functools.partial(one, model, num), model)


def _over_runs(one: Any, model: Any):
    """``one(params, lower, upper, ends)`` over runs, compiled."""
    mapped = over_seeds(lambda run, ends: one(*run, ends), batch_size=model.chunk)
    return jax.jit(lambda params, lower, upper, ends: mapped((params, lower, upper), ends))


def _plain_graph(model, num, params, lower, upper, ends):
    x = jnp.linspace(ends[0], ends[1], num)
    # Rows do not mix, so one forward derivative along ones gives every f'.
    fn = lambda x: model(params, x[:, None], lower, upper)[:, 0]
    f, slope = jax.jvp(fn, (x,), (jnp.ones_like(x),))
    return x, f, slope


def _dual_graph(model, num, params, lower, upper, ends):
    beta = upper - lower

    def gradient(y):
        first, second = model.slopes_of_core(params, y)
        return first + y / beta, second + 1 / beta

    # |F'| <= s puts y in beta (x -+ s); grad G is increasing.
    s = model.core_lipschitz(params)

    def halve(bracket, _):
        left, right = bracket
        middle = (left + right) / 2
        below = gradient(middle)[0] < ends
        return (jnp.where(below, middle, left), jnp.where(below, right, middle)), None

    bracket = (beta * (ends - s), beta * (ends + s))
    (left, right), _ = jax.lax.scan(halve, bracket, None, length=90)
    # The outer sides, so that the interval is covered.
    y = jnp.linspace(left[0], right[1], num)
    x, curvature = gradient(y)
    slope = jnp.full_like(x, jnp.nan) if model.kinked else lower + 1 / curvature
    return x, lower * x + y, slope


def paper_estimate(model: Any, params: Any, lower: Any, upper: Any, low, high, num=2000):
    """The largest gain over 3000 random pairs of a grid, as the paper measures.

    float32; smooth conjugates in float64, up to their tolerance: where a sharp core is curved by
    some hundreds, float32 hides more of the residual than the tolerance allows.

    The whole composed function is probed. (The authors probe SN before its input is scaled and
    multiply by L, on a window L times narrower.)

    Args:
      model: from `train.lipschitz_fits.models.build`.
      params: variables, leaves `[runs, ...]`.
      lower: alpha, `[runs]`.
      upper: L, `[runs]`.
      low: left end.
      high: right end.
      num: points of the grid.

    Returns:
      ``(estimates [runs], share of points whose inner solve did not converge [runs])``.
    """
    wide = model.dual and not model.kinked
    with enable_x64() if wide else contextlib.nullcontext():
        dtype = jnp.float64 if wide else jnp.float32
        cast = lambda leaf: jnp.asarray(np.asarray(leaf), dtype)
        given = jax.tree.map(cast, (params, lower, upper, np.array([low, high])))
        gains, unsolved = _paper(model, num)(*given)
        return np.asarray(gains, np.float64), np.asarray(unsolved, np.float64)


@functools.lru_cache(maxsize=64)
def _paper(model: Any, num: int):
    def one(params, lower, upper, ends):
        x = jnp.linspace(ends[0], ends[1], num)
        if model.dual:
            f, solved = model.judged(params, x[:, None], lower, upper)
        else:
            f, solved = model(params, x[:, None], lower, upper), jnp.ones((num,), bool)
        # As `monojax.metrics.empirical_lipschitz` with a key, but one batched call of the model.
        pairs = jax.random.randint(jax.random.key(3000), (2, 3000), 0, num, "int32")
        rise, run = (part[pairs[0]] - part[pairs[1]] for part in (f[:, 0], x))
        gain = jnp.where(run != 0, jnp.abs(rise) / jnp.where(run != 0, jnp.abs(run), 1), 0)
        return gain.max(), (~solved).mean()

    return _over_runs(one, model)


def best_ramp(x: Any, bound: float) -> float:
    """Fresh error of the ramp of slope L that fits the jump best at given points.

    What a learner without luck can reach: random points leave a gap around the jump, in which the
    ramp may lie anywhere. Of the ramps with the least error at the points, the middle one.

    Args:
      x: training inputs `[n]`.
      bound: L.

    Returns:
      Mean squared error on [-2, 2].
    """
    x, width = np.asarray(x, np.float64), 1 / (bound - 1)
    centres = np.linspace(-0.3, 0.3, 12_001)
    near = x[np.abs(x) < 0.3 + width]  # no ramp errs farther out
    ramps = np.clip((near - centres[:, None]) / width + 0.5, 0, 1)
    errors = np.mean((ramps - (near > 0)) ** 2, axis=1)
    shift = np.mean(centres[errors <= errors.min() + 1e-12]) / width
    # The jump's integral by hand: a cubic while 0 lies on the ramp, then a rectangle more.
    inside = min(abs(shift), 0.5)
    return width * ((1 + 12 * inside**2) / 12 + (abs(shift) - inside)) / 4
