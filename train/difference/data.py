"""The images of the difference networks: MNIST, and drawn bars for smoke runs."""

import dataclasses
from typing import Any

import numpy as np

from monojax.data.images import mnist

CLASSES = 10
TRAINING = {"mnist": 60_000, "mnist_valid": 55_000, "bars": 320}
"""The sets, and the number of training images of each."""


@dataclasses.dataclass(frozen=True)
class Images:
    """Rows of pixels in [0, 1], float32 `[n, h * w]`, and labels, int32 `[n]`."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    side: int
    """Height and width of an image."""


def load(config: Any) -> Images:
    """The images that the config names: MNIST, or bars drawn here for a smoke run.

    "mnist_valid" takes the last 5,000 training images for testing: to choose settings on.

    Args:
      config: data, data_dir.

    Returns:
      Images.
    """
    if config.data == "bars":
        return bars()
    raw = mnist(config.data_dir or None)
    flat = lambda x: x.reshape(len(x), -1).astype(np.float32) / 255
    x, y = flat(raw.x_train), raw.y_train
    if config.data == "mnist_valid":
        return Images(x[:55_000], y[:55_000], x[55_000:], y[55_000:], 28)
    return Images(x, y, flat(raw.x_test), raw.y_test, 28)


def bars(side: int = 10, num: int = TRAINING["bars"], seed: int = 0) -> Images:
    """Ten classes of horizontal bars with grey noise: class k has its bar in row k.

    Args:
      side: height and width, 10 at least.
      num: images of the training part; the test part has a quarter of them.
      seed: of the noise.

    Returns:
      Images.
    """
    rng = np.random.default_rng(seed)

    def draw(count):
        y = np.arange(count, dtype=np.int32) % CLASSES
        x = 0.3 * rng.random((count, side, side), np.float32)
        x[np.arange(count), y] += 0.7
        return x.reshape(count, -1), y

    (x_train, y_train), (x_test, y_test) = draw(num), draw(num // 4)
    return Images(x_train, y_train, x_test, y_test, side)
