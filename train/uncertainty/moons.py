"""Two moons: the deep ensemble, DUQ, and DUQ on bi-Lipschitz features for all constants at once."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax import DUQ
from monojax.metrics import auroc
from monojax.models import MLP
from monojax.training import Cells
from monojax.uncertainty import DeepEnsemble, negative_entropy
from train.checks import one_of
from train.uncertainty.data import far_points, plane, two_moons
from train.uncertainty.networks import EXTRACTORS, Extractor
from train.uncertainty.training import Task, log_kernels, missed, train, train_ensemble

FAR = 2000
"""Points of the box that certainties are told apart from."""


def variant(name: str, part: Any) -> Task:
    """The task of a row such as "f_mlp linear adam" or "lifted identity sgd".

    Args:
      name: extractor ("lifted" is f after a lift), head and optimiser.
      part: the config's moons.

    Returns:
      Task.

    Raises:
      ValueError: on another name.
    """
    words = name.split()
    if len(words) != 3:
        raise ValueError(f"a variant is 'extractor head optimiser', got {name!r}.")
    kind, head, optimizer = words
    one_of(kind, (*EXTRACTORS, "lifted"), "extractor")
    one_of(optimizer, ("sgd", "adam"), "optimiser")
    lifted = kind == "lifted"
    extractor = Extractor(
        "f" if lifted else kind,
        tuple(part.core),
        tuple(part.hidden),
        part.sharpness,
        part.lift if lifted else 0,
    )
    linear = one_of(head, ("linear", "identity"), "head") == "linear"
    duq = DUQ(
        2,
        part.embedding if linear else None,
        part.length_scale if linear else part.identity_scale,
        part.momentum,
        head,
        initial_count=20.0,
        kernel_scale=1.0,
    )
    rate = part.lr if optimizer == "sgd" else part.adam_lr
    return Task(extractor, duq, part.epochs, part.batch_size, optimizer, rate)


def draw(part: Any, seed: int) -> dict[str, np.ndarray]:
    """Training, test and far points of a seed."""
    rng = np.random.default_rng((seed, 41))
    x, y = two_moons(part.train, part.noise, rng)
    x_test, y_test = two_moons(part.test, part.noise, rng)
    return {"x": x, "y": y, "x_test": x_test, "y_test": y_test, "far": far_points(x, FAR, rng)}


def judged(task: Task, key: jax.Array, data: Any, alpha: Any, beta: Any) -> dict[str, jax.Array]:
    """One training, and what is measured of it."""
    state, losses = train(task, key, data["x"], data["y"], alpha, beta)
    every = jnp.concatenate([data["x_test"], data["far"], jnp.asarray(plane())])
    found = log_kernels(task, state, every, alpha, beta)
    test, far, grid = jnp.split(found, [len(data["x_test"]), len(data["x_test"]) + FAR])
    return {
        "accuracy": jnp.mean(jnp.argmax(test, axis=1) == data["y_test"]),
        "auroc": auroc(test.max(axis=1), far.max(axis=1)),
        "loss": losses[-1],
        "certain_far": jnp.mean(far.max(axis=1) > jnp.log(0.5)),
        "unconverged": missed(task, state, data["x_test"], alpha, beta),
        "map": jnp.exp(grid.max(axis=1)),
    }


def run(config: Any, cells: Cells, bar: Any) -> dict[str, Any]:
    """Trains what is not on disk.

    Args:
      config: see train/configs/uncertainty.py.
      cells: the store.
      bar: progress bar, a step per cell.

    Returns:
      ``{"baselines": {name: cell}, "grid": {(variant, alpha): cell}}``; a cell is ``(numbers,
      maps)``, of the grid with numbers `[betas, seeds]` and maps `[betas, GRID * GRID]` of the
      first seed.
    """
    part = config.moons
    shared = part.to_dict()
    for key in ("variants", "alphas", "betas"):
        shared.pop(key)
    inputs = {"seed": config.seed, "seeds": config.seeds, **shared}
    data = jax.tree.map(
        lambda *leaves: jnp.asarray(np.stack(leaves)),
        *(draw(part, config.seed + s) for s in range(config.seeds)),
    )
    keys = jax.random.split(jax.random.key(config.seed), config.seeds)
    done = lambda: bar.update(1)
    found: dict[str, Any] = {"baselines": {}, "grid": {}}
    for name in ("ensemble", "DUQ without penalty", "DUQ"):
        compute = functools.partial(_baseline, name, part, keys, data)
        cell = cells.get(f"moons-{name.replace(' ', '_')}", {"row": name, **inputs}, compute)
        found["baselines"][name] = cell
        done()
    for name in part.variants:
        program = None
        for alpha in part.alphas:
            if program is None:  # one program for all rows
                program = jax.jit(_grid(variant(name, part)))
            betas = jnp.asarray(part.betas, jnp.float32)
            compute = functools.partial(_row, program, keys, data, alpha, betas)
            about = {"variant": name, "alpha": alpha, "betas": part.betas, **inputs}
            label = f"moons-{name.replace(' ', '_')}-{alpha:g}"
            found["grid"][name, alpha] = cells.get(label, about, compute)
            done()
    return found


def _grid(task: Task):
    """A row of the grid in one program, a training after the other: their small solves end when
    their own batch is done, and their products stay in the caches.
    """

    def row(keys, data, alpha, betas):
        def one(at):
            beta, seed = at
            here = jax.tree.map(lambda leaf: leaf[seed], data)
            return judged(task, keys[seed], here, alpha, beta)

        places = jnp.meshgrid(betas, jnp.arange(len(keys)), indexing="ij")
        found = jax.lax.map(one, tuple(place.ravel() for place in places))
        return jax.tree.map(lambda leaf: leaf.reshape(*places[0].shape, *leaf.shape[1:]), found)

    return row


def _row(program, keys, data, alpha, betas):
    return _cell(program(keys, data, jnp.float32(alpha), betas))


def _baseline(name, part, keys, data):
    if name == "ensemble":
        return _cell(jax.jit(jax.vmap(functools.partial(_ensemble, part)))(keys, data))
    task = variant("mlp linear sgd", part)
    if name == "DUQ":
        task = dataclasses.replace(task, penalty=part.penalty)
    one = lambda key, data: judged(task, key, data, 0.0, 0.0)
    return _cell(jax.jit(jax.vmap(one))(keys, data))


def _ensemble(part, key, data):
    ensemble = DeepEnsemble(MLP(tuple(part.hidden), 2), part.members)
    rows = part.ensemble_train
    variables = train_ensemble(
        ensemble,
        key,
        data["x"][:rows],
        data["y"][:rows],
        epochs=part.ensemble_epochs,
        batch_size=part.batch_size,
        lr=part.lr,
    )
    score = lambda x: ensemble.log_probabilities(variables, x)
    test, far = score(data["x_test"]), negative_entropy(score(data["far"]))
    return {
        "accuracy": jnp.mean(jnp.argmax(test, axis=1) == data["y_test"]),
        "auroc": auroc(negative_entropy(test), far),
        "loss": ensemble.loss(variables, data["x"][:rows], data["y"][:rows]) / part.members,
        "certain_far": jnp.mean(far > -np.log(2) / 2),
        "unconverged": jnp.zeros((), jnp.int32),
        "map": 1 + negative_entropy(score(jnp.asarray(plane()))) / np.log(2),
    }


def _cell(out):
    """Numbers of all seeds, maps of the first."""
    out = jax.device_get(out)
    maps = np.asarray(out.pop("map"))
    return out, {"map": maps[..., 0, :].astype(np.float16)}
