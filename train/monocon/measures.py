"""What a trained embedding is worth, and how compact it is: the numbers of MonoCon's tables."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax import metrics
from monojax.base.compat import enable_x64
from train.monocon.data import Problem

RECALLS = 20
"""Recall@k is measured for k = 1 to this."""
SIMILARITIES = ("dot", "cosine", "euclidean")
Embed = Callable[[Any], tuple[np.ndarray, np.ndarray]]


def unit(y: np.ndarray) -> np.ndarray:
    """Rows of length one: the embedding z."""
    return y / np.maximum(np.linalg.norm(y, axis=1, keepdims=True), 1e-12)


def validation(problem: Problem, embed: Embed) -> dict[str, float]:
    """The score that chooses the checkpoint, and recall@1 beside it.

    Args:
      problem: data.
      embed: inputs to features and outputs.

    Returns:
      "score" in percent (5-NN accuracy, or 100 times Spearman's correlation); "recall_1" for
      problems with classes.
    """
    valid = problem.valid
    if not problem.classes:
        first, second = (unit(embed(side)[1]) for side in (valid.first, valid.second))
        return {"score": metrics.sts_score(first, second, valid.gold)}
    data = unit(embed(valid.x)[1]), valid.label, unit(embed(problem.gallery)[1])
    return {
        "score": 100 * metrics.knn_accuracy(*data, problem.gallery_label, 5),
        "recall_1": 100 * metrics.recall_at_k(*data, problem.gallery_label, 1),
    }


def dynamics(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Effective dimension and correlation of features, raw and normalised outputs.

    Args:
      x: encoder features `[n, d]`.
      y: head outputs `[n, d]`.

    Returns:
      "d_x", "d_y", "d_z", and "rms_x", "rms_z": the root mean square correlation of two features.
    """
    z = unit(y)
    found: dict[str, Any] = {
        f"d_{name}": metrics.effective_dimension(v) for name, v in (("x", x), ("y", y), ("z", z))
    }
    for name, values in (("x", x), ("z", z)):
        found[f"rms_{name}"] = metrics.rms_off_diagonal(metrics.feature_correlation(values))
    return found


def final(problem: Problem, embed: Embed, dims: Any) -> dict[str, Any]:
    """Every number of the tables, on the test set.

    Args:
      problem: data.
      embed: inputs to features and outputs.
      dims: numbers of principal components to cut to.

    Returns:
      "score", "recall" (list for k = 1 to 20, classes only), "d_eff", "d_eff_num" (its N),
      "rmse_train", "rmse_test", "ratio", and "cut": dims to the same of the cut embedding.
    """
    searched, labels = problem.gallery, problem.gallery_label
    if problem.whole is not None:
        searched, labels = problem.whole.x, problem.whole.label
    train = unit(embed(searched)[1])
    axes = metrics.principal_axes(train)
    d_eff = max(axes.dims(), 1)
    error = metrics.reconstruction_error(train, unit(embed(problem.test_inputs)[1]), d_eff)
    sides = _test_sides(problem, embed)
    found = {
        **_scores(problem, sides, train, labels, ("cosine",)),
        "d_eff": d_eff,
        "d_eff_num": len(train),
        "rmse_train": error.train,
        "rmse_test": error.test,
        "ratio": error.ratio,
    }
    tests = unit(embed(problem.test_inputs)[1])
    cuts = {}
    for k in sorted({*dims, d_eff}):
        cut = [axes.project(side, k) for side in sides]
        cuts[str(k)] = {
            **_scores(problem, cut, axes.project(train, k), labels, SIMILARITIES),
            "rmse_test": axes.error(tests, k),
        }
    return {**found, "cut": cuts}


def _test_sides(problem: Problem, embed: Embed) -> list[np.ndarray]:
    test = problem.test
    inputs = (test.x,) if problem.classes else (test.first, test.second)
    return [unit(embed(side)[1]) for side in inputs]


def _scores(
    problem: Problem, sides: Any, train: np.ndarray, labels: Any, similarities: Any
) -> dict[str, Any]:
    """Score and recalls of embeddings, whole or cut."""
    if not problem.classes:
        return {"score": metrics.sts_score(sides[0], sides[1], problem.test.gold)}
    data = sides[0], problem.test.label, train, labels
    found: dict[str, Any] = {"score": 100 * metrics.knn_accuracy(*data, 5)}
    for similarity in similarities:
        curve = 100 * metrics.recall_at_k(*data, range(1, RECALLS + 1), similarity=similarity)
        name = "recall" if len(similarities) == 1 else f"recall_{similarity}"
        found[name] = curve.tolist()
    return found


def order_violations(
    project: Callable[[Any, Any], jax.Array],
    params: Any,
    features: np.ndarray,
    seed: int = 0,
    num: int = 10_000,
) -> int:
    """Ordered pairs x <= x' of features whose outputs are not ordered, in float64.

    x is a feature vector of the data plus noise, x' adds to each coordinate, or to few of them, a
    non-negative step.

    Args:
      project: ``(params, x) -> y``: the head.
      params: its parameters.
      features: `[n, d]`, where to start from.
      seed: of the pairs.
      num: pairs.

    Returns:
      Pairs of which at least one output decreases.
    """
    rng = np.random.default_rng(seed)
    scale = features.std(axis=0)
    low = features[rng.integers(0, len(features), num)]
    low = low + scale * rng.normal(size=low.shape)
    steps = rng.exponential(size=low.shape) * scale * rng.choice([0.01, 1.0], (num, 1))
    steps *= rng.random(low.shape) < rng.choice([0.02, 0.5, 1.0], (num, 1))
    with enable_x64():
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), params)
        both = [np.asarray(project(wide, jnp.asarray(x))) for x in (low, low + steps)]
    assert both[0].dtype == np.float64
    return int((both[1] < both[0]).any(axis=1).sum())
