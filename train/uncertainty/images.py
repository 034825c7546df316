"""Fashion-MNIST against MNIST and notMNIST: DUQ on a perceptron, and on bi-Lipschitz features."""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax import DUQ
from monojax.metrics import (
    auprc,
    aurc,
    auroc,
    coverage_at_risk,
    expected_calibration_error,
    fpr_at_tpr,
)
from monojax.training import Cells
from monojax.uncertainty import Mahalanobis, kernel_loss
from train.checks import above, at_least, one_of
from train.uncertainty.certificate import certified, detection
from train.uncertainty.data import Images, load_images
from train.uncertainty.networks import EXTRACTORS, Extractor
from train.uncertainty.training import Task, epoch, features_and_missed, kernels_of, start

CHUNK = 500
"""Images that are scored in one call."""
CENTRES = 500
"""Training images whose certified radii are asked for."""
THRESHOLD = 0.5
"""Certainty that an image outside of a radius must stay below."""


def check_row(row: Any) -> None:
    """Raises ValueError unless a row is (extractor, head, alpha, beta)."""
    if len(row) != 4:
        raise ValueError(
            f"config.images.rows must be (extractor, head, alpha, beta) each, got {row!r}."
        )
    one_of(row[0], EXTRACTORS, "config.images.rows' extractor")
    one_of(row[1], ("linear", "identity"), "config.images.rows' head")
    at_least({"alpha": row[2]}, 0, "alpha", at="config.images.rows")
    above({"beta": row[3]}, 0, "beta", at="config.images.rows")


def task_of(row: Any, part: Any) -> Task:
    """The task of a row of the config."""
    kind, head, _, _ = row
    plain = kind in ("mlp", "cnn")
    hidden = part.channels if kind == "cnn" else part.hidden
    extractor = Extractor(kind, tuple(part.core), tuple(hidden), part.sharpness)
    linear = head == "linear"
    duq = DUQ(
        10 - len(part.held_out),
        part.embedding if linear else None,
        part.length_scale if linear else part.identity_scale,
        part.momentum,
        head,
        initial_count=12.0,
        kernel_scale=part.kernel_scale,
        centroid_scale=part.kernel_scale,
    )
    penalty = part.duq_penalty if plain else part.penalty
    return Task(extractor, duq, part.epochs, part.batch_size, "adam", part.lr, penalty)


def run(config: Any, cells: Cells, bar: Any) -> dict[str, Any]:
    """Trains what is not on disk, a cell per size, row and seed.

    Args:
      config: see train/configs/uncertainty.py.
      cells: the store.
      bar: progress bar, a step per cell.

    Returns:
      ``{(size, row): [cell per seed]}``, a cell is ``(numbers, scores)``.
    """
    part = config.images
    found: dict[Any, list[Any]] = {}
    shared = part.to_dict()
    for key in ("sizes", "rows", "seeds", "data_dir", "others_dir"):
        shared.pop(key)
    for key in ("extra", "held_out"):  # without them a cell is what it was before there were any
        if not shared[key]:
            shared.pop(key)
    if not part.radii:
        for key in ("radii", "attacked", "attack_steps"):
            shared.pop(key)
    for key, word in (("angles", "rotated"), ("noises", "noisy")):
        if word not in part.extra:
            shared.pop(key)
    for size in part.sizes:
        data = functools.cache(functools.partial(load_images, part, size))
        for row in part.rows:
            for seed in range(config.seed, config.seed + part.seeds):
                inputs = {"size": size, "row": list(row), "seed": seed, **shared}
                label = f"images-{size}-{row[0]}-{row[1]}-{row[2]:g}-{row[3]:g}-{seed}"
                compute = functools.partial(_train, row, part, data, seed)
                cell = cells.get(label, inputs, compute)
                found.setdefault((size, tuple(row)), []).append(cell)
                bar.update(1)
    return found


def _train(row, part, data, seed):
    """One training and its measures."""
    task, images = task_of(row, part), data()
    alpha, beta = jnp.float32(row[2]), jnp.float32(row[3])
    x, y = jnp.asarray(images.x_train), jnp.asarray(images.y_train)
    state = jax.jit(functools.partial(start, task))(jax.random.key(seed), x)
    turn = jax.jit(functools.partial(epoch, task), donate_argnums=0)
    losses, began = [], time.time()
    for number in range(task.epochs):
        state, loss = turn(state, x, y, number, alpha, beta)
        losses.append(float(loss))
        if not np.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss is not finite after epoch {number + 1}.")
    seconds = time.time() - began
    out, scores = measured(task, state, images, alpha, beta)
    out |= {"loss": losses, "seconds": seconds, "rows": len(x)}
    if part.radii:
        out["attacks"] = _attacks(task, state, images, scores["test"], row[2], row[3], part)
    return out, scores


def _attacks(task, state, images, familiar, alpha, beta, part):
    """What is left, and guaranteed, when images of MNIST and notMNIST move; and the far ones."""
    x = images.x_train[:CENTRES]
    radii = certified(task, state, x, alpha, beta, THRESHOLD)
    found = {}
    for name in ("mnist", "notmnist"):
        far = jnp.asarray(images.unfamiliar[name][: part.attacked])
        now = detection(
            task, state, familiar, far, alpha, beta, (0.0, *part.radii), part.attack_steps
        )
        norms = [np.linalg.norm(np.float64(x) - image, axis=1) for image in np.asarray(far)]
        gaps = np.stack(norms)
        apart = np.all(np.any(gaps[:, :, None] > radii[None], axis=1), axis=1)
        now |= {"certified": np.mean(apart), "radius": radii.max(axis=1).min()}
        found[name] = now | {"gap": float(np.median(gaps))}
    return found


def measured(
    task: Task, state: Any, images: Images, alpha: Any, beta: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Accuracy, cross-entropy, detection and calibration of a trained network.

    Args:
      task: networks.
      state: trained.
      images: the sets.
      alpha: of f.
      beta: of f.

    Returns:
      Numbers, and the scores of every set (log-certainties).
    """

    @jax.jit
    def one(state, x):
        h, count = features_and_missed(task, state.params, x, alpha, beta)
        return kernels_of(task, state, h), h, count

    def every(x):
        parts = []
        for i in range(0, len(x), CHUNK):
            chunk = x[i : i + CHUNK]
            fill = np.concatenate([chunk, np.repeat(chunk[:1], CHUNK - len(chunk), axis=0)])
            kernels, h, count = one(state, fill)
            parts.append((np.asarray(kernels)[: len(chunk)], np.asarray(h)[: len(chunk)], count))
        kernels, h = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        return kernels, h, sum(int(part[2]) for part in parts)

    every(images.x_test[:1])  # compiled
    began = time.time()
    test, h_test, failed = every(images.x_test)
    seconds = time.time() - began
    _, h_train, _ = every(images.x_train[:10_000])
    distance = Mahalanobis.fit(h_train, images.y_train[:10_000], task.head.num_classes, ridge=1e-3)
    familiar, right = test.max(axis=1), test.argmax(axis=1) == images.y_test
    out = {
        "accuracy": right.mean(),
        "valid_accuracy": np.mean(every(images.x_valid)[0].argmax(axis=1) == images.y_valid),
        "bce": float(kernel_loss(test, images.y_test)),
        "aurc": float(aurc(familiar, right)),
        "coverage_at_5": float(coverage_at_risk(familiar, right)),
        "ece": float(expected_calibration_error(np.exp(familiar), right)),
        "scoring_seconds": seconds,
        "scored": len(images.x_test),
        "unconverged": failed,
    }
    scores = {"test": familiar}
    near = np.asarray(distance.score(h_test))
    for name, x in images.unfamiliar.items():
        kernels, h, count = every(x)
        scores[name] = kernels.max(axis=1)
        out |= {
            f"{name}_auroc": float(auroc(familiar, scores[name])),
            f"{name}_auprc": float(auprc(familiar, scores[name])),
            f"{name}_fpr95": float(fpr_at_tpr(familiar, scores[name])),
            f"{name}_mahalanobis": float(auroc(near, distance.score(h))),
            f"{name}_unconverged": count,
        }
    return out, {name: np.asarray(found, np.float32) for name, found in scores.items()}
