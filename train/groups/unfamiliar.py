"""Inputs that a classifier should notice: other data, noise, inversions, blends, attacks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from monojax.data import fashion_mnist, notmnist
from train.groups.data import Problem

UNFAMILIAR = ("fashion_mnist", "notmnist", "noise", "inversions", "blends", "pgd")
EPSILON = {"mnist": 0.3, "cifar10": 8 / 255}  # of the attack, for pixels in [0, 1]
ATTACKED = 1000  # test images that are attacked, at most


def unfamiliar_inputs(problem: Problem, config: Any, seed: int) -> dict[str, np.ndarray]:
    """The sets a config names, attacks apart.

    Args:
      problem: its test images are inverted and blended.
      config: unfamiliar (names), data_dir, test_limit.
      seed: of noise and blends.

    Returns:
      Name to images, uint8 and shaped as the test images: "noise" is uniform in every pixel,
      "inversions" are 255 minus test images, "blends" means of two of different classes.
    """
    x, last = problem.x_test, config.test_limit or None
    rng = np.random.default_rng((seed, 17))
    folder = (config.data_dir or None) if config.source == "files" else None
    make: dict[str, Callable[[], np.ndarray]] = {
        "fashion_mnist": lambda: fashion_mnist(folder).x_test[:last],
        "notmnist": lambda: notmnist(folder)[0][:last],
        "noise": lambda: rng.integers(0, 256, x.shape, np.uint8),
        "inversions": lambda: 255 - x,
        "blends": lambda: blends(x, problem.y_test, rng),
    }
    return {name: make[name]() for name in config.unfamiliar if name in make}


def blends(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means of two images of different classes.

    Args:
      x: images, uint8 `[n, ...]`.
      y: labels `[n]`.
      rng: pairs them.

    Returns:
      uint8 `[m, ...]` with m <= n: pairs that happen to share a class are left out.
    """
    other = rng.permutation(len(x))
    apart = y != y[other]
    return ((x[apart].astype(np.uint16) + x[other[apart]]) // 2).astype(np.uint8)


def pgd(
    logit_fn: Callable[[jax.Array], jax.Array], problem: Problem, config: Any, seed: int
) -> np.ndarray:
    """Test images moved within an l-infinity ball so that the output layer errs.

    Projected gradient ascent on the cross-entropy: 10 steps of epsilon / 10 with a random start.

    Args:
      logit_fn: raw images (floats in [0, 255]) to logits.
      problem: the test images.
      config: unused but for its data's name.
      seed: of the random start.

    Returns:
      float32 images `[m, ...]` in [0, 255], m at most `ATTACKED`.

    Reference:
      Madry et al., 2018, arXiv 1706.06083.
    """
    epsilon = 255 * EPSILON[config.data]

    def loss(x, y):
        return optax.softmax_cross_entropy_with_integer_labels(logit_fn(x), y).sum()

    @jax.jit
    def attack(key, x, y):
        def step(_, moved):
            moved = moved + epsilon / 10 * jnp.sign(jax.grad(loss)(moved, y))
            return jnp.clip(jnp.clip(moved, x - epsilon, x + epsilon), 0, 255)

        start = x + jax.random.uniform(key, x.shape, minval=-epsilon, maxval=epsilon)
        return jax.lax.fori_loop(0, 10, step, jnp.clip(start, 0, 255))

    x = problem.x_test[:ATTACKED].astype(np.float32)
    keys = jax.random.split(jax.random.key(seed), -(-len(x) // 250))
    parts = [
        attack(key, x[i * 250 : (i + 1) * 250], problem.y_test[:ATTACKED][i * 250 : (i + 1) * 250])
        for i, key in enumerate(keys)
    ]
    return np.concatenate([np.asarray(part) for part in parts])
