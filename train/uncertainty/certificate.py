"""What the slope bounds guarantee on two moons, and what attacks reach: BLNN and plain DUQ."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.metrics import auroc
from monojax.training import Cells
from monojax.uncertainty import largest_certainty, unfamiliarity_radius
from train.uncertainty.moons import draw, variant
from train.uncertainty.training import State, Task, features, log_kernels, missed, train

SHELLS = (1.0, 1.5, 3.0)
"""The ascents start at these multiples of the certified radius, a third of them at each."""
PLAIN = "mlp linear sgd"
PLAINS = ("DUQ", "DUQ without penalty")
"""Rows of plain DUQ, which are attacked beside the others."""


def run(config: Any, cells: Cells, bar: Any) -> dict[str, Any]:
    """Trains and attacks what is not on disk.

    Args:
      config: see train/configs/uncertainty.py.
      cells: the store.
      bar: progress bar, a step per network.

    Returns:
      Name of the network to its numbers.
    """
    part = config.certificate
    shared = {key: value for key, value in part.to_dict().items() if key != "cases"}
    moons = config.moons.to_dict()
    for key in ("variants", "alphas", "betas"):
        moons.pop(key)
    found: dict[str, Any] = {}
    reach = 0.0
    for name, alpha, beta in (*part.cases, *((plain, 0.0, 0.0) for plain in PLAINS)):
        inputs = {"case": [name, alpha, beta], "seed": config.seed, "moons": moons, **shared}
        title = name if name in PLAINS else f"{name} ({alpha:g}, {beta:g})"
        if name in PLAINS:  # attacked where the first network's certificate speaks
            inputs["reach"] = reach
        compute = functools.partial(_case, name, alpha, beta, reach, config)
        label = f"certificate-{name.replace(' ', '_')}-{alpha:g}-{beta:g}"
        found[title] = cells.get(label, inputs, compute)[0]
        reach = reach or found[title]["radius"]
        bar.update(1)
    return found


def _case(name, alpha, beta, reach, config):
    part = config.certificate
    moons = config.moons.copy_and_resolve_references()
    moons.identity_scale = part.identity_scale
    task, data = variant(PLAIN if name in PLAINS else name, moons), draw(moons, config.seed)
    if name == "DUQ":
        task = dataclasses.replace(task, penalty=config.moons.penalty)
    key = jax.random.key(config.seed)
    state, _ = jax.jit(functools.partial(train, task))(key, data["x"], data["y"], alpha, beta)
    test = jax.jit(functools.partial(log_kernels, task))(state, data["x_test"], alpha, beta)
    out = {"accuracy": np.mean(np.argmax(test, axis=1) == data["y_test"])}
    familiar = np.asarray(test).max(axis=1)
    far = data["far"][: part.attacks]
    out |= detection(task, state, familiar, far, alpha, beta, part.radii, part.steps)
    radii = certified(task, state, data["x"], alpha, beta, part.threshold)
    best = int(np.argmin(radii.max(axis=1)))
    radius, centre = float(radii[best].max()), data["x"][best]
    out["radius"] = radius
    # Certified where, for every class, one training point is further away than its radius.
    gaps = np.linalg.norm(far[:, None].astype(np.float64) - data["x"][None], axis=-1)
    out["certified"] = np.mean((gaps[:, :, None] > radii[None]).any(axis=1).all(axis=1))
    if np.isfinite(radius) or name in PLAINS:
        reach = radius if np.isfinite(radius) else reach
        out |= _ascents(task, state, centre, reach, alpha, beta, part, config.seed)
    return out, {}


def error_bounds(x: Any, alpha: float, beta: float) -> tuple[np.ndarray, float]:
    """What the solver's tolerance and rounding may do to features, before any x is known.

    It holds wherever the solve has converged, at Solver's tolerance of 1e-4 in float32.

    Args:
      x: inputs `[n, d]`.
      alpha: of f.
      beta: of f.

    Returns:
      ``(error [n], slope)``: at x, and the growth per unit of distance from it.
    """
    units = 256 * np.finfo(np.float32).eps
    slope = float(1e-4 * beta + units * (1 + alpha + beta))
    return slope * (1 + np.linalg.norm(np.asarray(x), axis=1)), slope


def certified(
    task: Task, state: State, x: Any, alpha: float, beta: float, threshold: float
) -> np.ndarray:
    """Certified balls around training points, outside of which a class's kernel must be below.

    Args:
      task: with the extractor "f", lifted or not; others have no bound.
      state: trained.
      x: training points `[n, d]`.
      alpha: lower bound.
      beta: gap.
      threshold: certainty to stay below.

    Returns:
      float64 `[n, c]`; infinite where nothing is guaranteed.
    """
    if task.extractor.kind != "f" or not alpha:
        return np.full((len(x), task.head.num_classes), np.inf)
    h = jax.jit(functools.partial(features, task))(state.params, x, alpha, beta)
    error, slope = error_bounds(x, alpha, beta)
    return np.asarray(
        unfamiliarity_radius(
            alpha * (1 - 1e-5),  # the lift's matrix keeps distances up to its rounding
            h,
            state.centroids["sum"] / state.centroids["count"][:, None],
            task.head.length_scale,
            threshold,
            weight=state.params["head"].get("kernel"),
            error=error,
            error_slope=slope,
            per_class=True,
        ),
        np.float64,
    )


def ascend(task, state, x, alpha, beta, steps, project, size):
    """Projected ascents of the log-certainty: the best points `[n, d]` and their scores `[n]`."""
    score = lambda x: jnp.max(log_kernels(task, state, x, alpha, beta), axis=1)

    def step(carry, size):
        x, best, value = carry
        slope = jax.grad(lambda x: score(x).sum())(x)
        unit = slope / (jnp.linalg.norm(slope, axis=1, keepdims=True) + 1e-20)
        x = project(x + size * unit)
        now = score(x)
        better = now > value
        best = jnp.where(better[:, None], x, best)
        return (x, best, jnp.maximum(now, value)), None

    x = project(x)
    sizes = size * jnp.geomspace(1.0, 1e-2, steps)
    (_, best, value), _ = jax.lax.scan(step, (x, x, score(x)), sizes)
    return best, value


def _ascents(task, state, centre, radius, alpha, beta, part, seed):
    """Ascents outside of the ball: the largest certainty found, and how many pass the threshold."""
    rng = np.random.default_rng((seed, 43))
    turn = rng.normal(size=(part.attacks, len(centre)))
    turn = turn / np.linalg.norm(turn, axis=1, keepdims=True)
    shells = np.resize(SHELLS, part.attacks)[:, None]
    x = (centre + radius * shells * turn).astype(np.float32)
    middle = jnp.asarray(centre, jnp.float32)[None]

    def project(x):
        gap = x - middle
        length = jnp.linalg.norm(gap, axis=1, keepdims=True)
        return jnp.where(length > radius, x, middle + gap / length * radius * (1 + 1e-5))

    @jax.jit
    def attack(state, x):
        best, value = ascend(task, state, x, alpha, beta, part.steps, project, radius / 2)
        return best, value, missed(task, state, best, alpha, beta)

    best, value, failed = map(np.asarray, attack(state, x))
    away = np.linalg.norm(best.astype(np.float64) - centre, axis=1)
    assert (away > radius).all()  # our own promise of what was attacked
    return {
        "largest_outside": np.exp(value.max()),
        "passed": int((value >= np.log(part.threshold)).sum()),
        "ascents": part.attacks,
        "ascents_unconverged": int(failed),
    }


def detection(
    task: Task, state: State, familiar: Any, far: Any, alpha: float, beta: float, radii: Any,
    steps: int,
) -> dict[str, Any]:  # fmt: skip
    """AUROC against far points that may be moved within balls: attacked, and guaranteed.

    Args:
      task: networks; "f" alone has a guarantee.
      state: trained.
      familiar: log-certainties of familiar inputs `[m]`.
      far: unfamiliar inputs `[n, d]`.
      alpha: of f.
      beta: of f.
      radii: of the balls.
      steps: of each ascent.

    Returns:
      radii, attacked, guaranteed (AUROC of each radius), broken (attacks that passed a guarantee).
    """
    radii = np.asarray(radii, np.float32)
    guaranteed = task.extractor.kind == "f"
    h = jax.jit(functools.partial(features, task))(state.params, far, alpha, beta)
    error, slope = error_bounds(far, alpha, beta)

    @jax.jit
    def attack(state, x, radius):
        def project(moved):
            gap = moved - x
            length = jnp.linalg.norm(gap, axis=1, keepdims=True)
            return x + gap * jnp.minimum(1, radius / jnp.maximum(length, 1e-20))

        return ascend(task, state, x, alpha, beta, steps, project, radius / 4)[1]

    out: dict[str, Any] = {"radii": radii.tolist(), "attacked": [], "guaranteed": [], "broken": 0}
    for radius in radii:
        reached = attack(state, far, radius)
        out["attacked"].append(float(auroc(familiar, reached)))
        if not guaranteed:
            continue
        bound = largest_certainty(
            (alpha + beta) * (1 + 1e-5),
            h,
            state.centroids["sum"] / state.centroids["count"][:, None],
            task.head.length_scale,
            radius,
            weight=state.params["head"].get("kernel"),
            error=error + slope * float(radius),
        )
        out["broken"] += int((np.asarray(reached) > np.asarray(bound) + 1e-6).sum())
        out["guaranteed"].append(float(auroc(familiar, bound)))
    return out
