"""The image sets of the group experiments: parts, shares, preparation and augmentation."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from monojax.data import cifar10, mnist


class Source(NamedTuple):
    """What is known of a set before it is read."""

    load: Callable[..., Any]
    train_rows: int
    mean: tuple[float, ...]
    """Of the training pixels in [0, 1], per channel; subtracted."""
    scale: tuple[float, ...]
    """Their standard deviations; divided by."""
    augmented: bool
    """Random crops (padding 4) and flips in training."""


DATA = {
    "mnist": Source(mnist, 60_000, (0.0,), (1.0,), False),
    "cifar10": Source(cifar10, 50_000, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), True),
}


@dataclasses.dataclass(frozen=True)
class Problem:
    """An image set in three parts; images are uint8 as stored."""

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_valid: np.ndarray
    y_valid: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int = 10

    def subset(self, share: float, seed: int) -> np.ndarray:
        """Rows of a class-balanced share of the training set.

        Args:
          share: in (0, 1]; 1 is every row.
          seed: decides which.

        Returns:
          int `[n]`, sorted.
        """
        if share == 1:
            return np.arange(len(self.y_train))
        rng = np.random.default_rng((seed, 5))
        rows = []
        for label in range(self.num_classes):
            of_class = np.flatnonzero(self.y_train == label)
            rows.append(rng.permutation(of_class)[: max(1, round(share * len(of_class)))])
        return np.sort(np.concatenate(rows))

    def prepare(self, images: jax.Array) -> jax.Array:
        """Raw images as the network takes them.

        Args:
          images: uint8 or float in [0, 255], `[n, h, w]` or `[n, h, w, c]`.

        Returns:
          float32 `[n, h, w, c]`.
        """
        x = jnp.asarray(images, jnp.float32) / 255
        x = x[..., None] if x.ndim == 3 else x
        source = DATA[self.name]
        mean, scale = (jnp.asarray(v).reshape(1, 1, 1, -1) for v in (source.mean, source.scale))
        return (x - mean) / scale

    def augment(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Random crops of the image padded by 4, and flips; nothing for MNIST.

        Args:
          key: PRNG key of the step.
          x: prepared images `[n, h, w, c]`.

        Returns:
          The same shape.
        """
        if not DATA[self.name].augmented:
            return x
        key_crop, key_flip = jax.random.split(key)
        padded = jnp.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)))
        corners = jax.random.randint(key_crop, (len(x), 2), 0, 9)
        cut = lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), x.shape[1:])
        x = jax.vmap(cut)(padded, corners)
        flip = jax.random.bernoulli(key_flip, shape=(len(x), 1, 1, 1))
        return jnp.where(flip, x[:, :, ::-1], x)


def load_problem(config: Any) -> Problem:
    """Reads the data of a config and sets the validation part aside.

    Args:
      config: data, source, data_dir, valid, train_limit, test_limit, split_seed.

    Returns:
      Problem.

    Raises:
      FileNotFoundError: if the data are missing; says what to get.
      ValueError: if more validation rows are asked for than there are.
    """
    source = DATA[config.data]
    data = source.load(config.data_dir or None, source=config.source)
    rows = len(data.y_train)
    if not 0 <= config.valid < rows:
        raise ValueError(f"config.valid must lie in [0, {rows}), got {config.valid}.")
    order = np.random.default_rng(config.split_seed).permutation(rows)
    valid, train = order[: config.valid], np.sort(order[config.valid :])
    if config.train_limit:
        train = train[: config.train_limit]
    last = config.test_limit or None
    return Problem(
        config.data,
        data.x_train[train],
        data.y_train[train],
        data.x_train[valid][:last],
        data.y_train[valid][:last],
        data.x_test[:last],
        data.y_test[:last],
    )
