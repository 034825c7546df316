"""Constants of bi-Lipschitz networks that are not trained: Figures 1 to 5.

Random networks in two dimensions, and the smallest and largest gain over random pairs of points,
beside the bounds alpha and alpha + beta.

Reference:
  Kinoshita and Toyoizumi, NeurIPS 2024, arXiv 2404.09821, appendix on constants at initialisation.
"""

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.compat import enable_x64
from monojax.conjugate.activations import softplus
from monojax.conjugate.legendre import conjugate
from monojax.conjugate.potentials import ScaledICNN
from monojax.conjugate.solvers import Solver
from monojax.layers.convex import ICNN, INITIALISERS
from monojax.training import Cells
from train.checks import at_least, choice

DIM = 2
TOLERANCE = 1e-3  # of the paper's gradient descent, on the mean residual of all points
ACTIVATIONS = ("softplus", "relu")


def check(part: Any) -> None:
    """Finds mistakes in the values of ``config.init``.

    Args:
      part: see train/configs/lipschitz_fits.py.

    Raises:
      ValueError: naming the first one.
    """
    at = "config.init"
    choice(part, ACTIVATIONS, "activations", at=at)
    choice(part, INITIALISERS, "z_inits", at=at)
    at_least(part, 2, "betas", "points", at=at)
    counts = ("features", "pairs", "descent_steps", "nets", "histogram_layers")
    at_least(part, 1, *counts, at=at)
    if not (part.alpha >= 0 and part.gap > 0 and part.low < part.high):
        raise ValueError(
            "config.init needs alpha >= 0, gap > 0 and low < high, got "
            f"{part.alpha!r}, {part.gap!r}, {part.low!r} and {part.high!r}."
        )


def total_steps(part: Any) -> int:
    """Units of work: one per curve and per histogram.

    Args:
      part: see train/configs/lipschitz_fits.py.

    Returns:
      Their number.
    """
    return len(part.activations) * len(part.layers) + len(part.z_inits)


def betas(num: int) -> np.ndarray:
    """0.05 + 99.95 j / (num - 1), `[num]`."""
    return 0.05 + 99.95 * np.arange(num) / (num - 1)


def run(part: Any, cells: Cells, bar: Any) -> dict[str, Any]:
    """Measures all networks.

    Args:
      part: see train/configs/lipschitz_fits.py.
      cells: where finished ones are.
      bar: progress bar over :func:`total_steps`.

    Returns:
      ``curves``: (activation, layers) to lower and upper, `[betas]`; ``histograms``: z_init to
      lower and upper, `[nets]`; ``unsolved``, the share of points whose solve did not converge,
      beside both.
    """
    results: dict[str, Any] = {"curves": {}, "histograms": {}}
    gaps, inputs = betas(part.betas), part.to_dict()
    for activation in part.activations:
        for layers in part.layers:
            compute = functools.partial(
                measure, part, activation, layers, "glorot_uniform", gaps, part.seed
            )
            results["curves"][activation, layers], _ = cells.get(
                f"init-{activation}-{layers}", inputs, compute
            )
            bar.update(1)
    for z_init in part.z_inits:
        gaps = np.full(part.nets, part.gap)
        compute = functools.partial(
            measure, part, "softplus", part.histogram_layers, z_init, gaps, part.seed + 1
        )
        results["histograms"][z_init], _ = cells.get(f"histogram-{z_init}", inputs, compute)
        bar.update(1)
    return results


def measure(
    part: Any, activation: str, layers: int, z_init: str, gaps: np.ndarray, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Gain extremes of one random network per gap.

    Softplus networks are solved by Newton in float64; ReLU ones by the paper's gradient descent
    in float32.

    Args:
      part: see train/configs/lipschitz_fits.py.
      activation: "softplus" (sharpness 1, as published) or "relu".
      layers: hidden layers k.
      z_init: of the non-negative weights.
      gaps: beta of every network, `[nets]`.
      seed: of networks, points and pairs.

    Returns:
      ``(numbers, {})``: lower, upper and unsolved, `[nets]` each, and no curves.
    """
    draws = (part.points, part.pairs, part.low, part.high, part.descent_steps)
    core = _core((part.features,) * layers, activation, z_init)
    fixed = _core(core.features, activation)

    def all_nets():
        keys = jax.vmap(lambda k: jax.random.split(k, 3))(
            jax.random.split(jax.random.key(seed), len(gaps))
        )
        # The draw stays outside the program, which then serves every initialisation.
        params = jax.vmap(lambda k: core.init(k, jnp.ones((DIM,)))["params"])(keys[:, 0])
        return _program(fixed, draws)(params, keys[:, 1:], float(part.alpha), jnp.asarray(gaps))

    with enable_x64() if activation == "softplus" else contextlib.nullcontext():
        found = all_nets()
    names = ("lower", "upper", "unsolved")
    return dict(zip(names, map(np.asarray, found), strict=True)), {}


@functools.cache
def _core(widths: tuple[int, ...], activation: str, z_init: str = "glorot_uniform") -> ICNN:
    return ICNN(widths, "relu" if activation == "relu" else softplus(1.0), z_init=z_init)


@functools.cache
def _program(core: ICNN, draws: tuple):
    """``(params, keys [nets, 2], alpha, gaps [nets]) -> (lower, upper, unsolved)``, compiled."""
    points, pairs, low, high, descent_steps = draws

    def one(args, alpha):
        params, (key_points, key_pairs), gap = args
        x = jax.random.uniform(key_points, (points, DIM), minval=low, maxval=high)
        if core.maths.activation.piecewise_linear:
            y, unsolved = _descended(core, params, x, gap, descent_steps)
        else:
            y, unsolved = _solved(core, params, x, gap)
        f, ends = alpha * x + y, jax.random.randint(key_pairs, (2, pairs), 0, points)
        rise, run = (jnp.linalg.norm(rows[ends[0]] - rows[ends[1]], axis=1) for rows in (f, x))
        gain = rise / jnp.where(run > 0, run, 1)
        least = jnp.where(run > 0, gain, jnp.inf).min()
        return least, jnp.where(run > 0, gain, 0).max(), unsolved

    return jax.jit(
        lambda params, keys, alpha, gaps: jax.lax.map(
            lambda args: one(args, alpha), (params, keys, gaps)
        )
    )


def _solved(core, params, x, gap):
    """Maximisers `[n, 2]` by Newton, and the share that did not converge."""
    full = {"core": params, "weight": jnp.ones((), x.dtype), "curvature": 1 / gap}
    found = jax.vmap(lambda x: conjugate(ScaledICNN(core.maths), full, x, Solver("newton")))(x)
    return found.argmax, (~found.converged).mean()


def _descended(core, params, x, gap, steps):
    """Maximisers `[n, 2]` by the paper's loop: one stop for all, on their mean residual."""
    slope = jax.vmap(jax.grad(lambda y: core.maths.value(params, y)))
    residual = lambda y: x - slope(y) - y / gap

    def going_on(state):
        step, _, norm = state
        return (step < steps) & (norm >= TOLERANCE)

    def descend(state):
        step, y, _ = state
        r = residual(y)
        return step + 1, y + 2 * gap / (step + 1) * r, jnp.linalg.norm(r, axis=1).mean()

    start = (jnp.asarray(0), jnp.ones_like(x), jnp.asarray(jnp.inf, x.dtype))
    _, y, _ = jax.lax.while_loop(going_on, descend, start)
    return y, (jnp.linalg.norm(residual(y), axis=1) > TOLERANCE).mean()
