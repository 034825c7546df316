"""The two moons, points far from them, and the image sets, prepared."""

from typing import Any, NamedTuple

import numpy as np

from monojax.data import fashion_mnist, mnist, notmnist

GRID = 100
"""Points along each side of the plane that the pictures show."""
PLANE = ((-2.5, 3.5), (-3.0, 3.0))
"""Its sides, as in the authors' code."""
AWAY = 0.5
"""Points of the box count as unfamiliar that are so far from every training point."""
MEAN, SCALE = 0.2861, 0.3530
"""Of Fashion-MNIST's training pixels in [0, 1]: all sets are prepared with them."""
UNFAMILIAR = ("mnist", "notmnist")


def two_moons(count: int, noise: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two half circles, one hanging into the other.

    Args:
      count: points, half of each class.
      noise: standard deviation of both coordinates.
      rng: of noise and order.

    Returns:
      float32 `[count, 2]` and int32 `[count]`.
    """
    turn = np.linspace(0, np.pi, count // 2)
    upper = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    lower = np.stack([1 - np.cos(turn), 0.5 - np.sin(turn)], axis=1)
    x = np.concatenate([upper, lower])
    order = rng.permutation(len(x))
    x = x + noise * rng.normal(size=x.shape)
    return x[order].astype(np.float32), np.repeat([0, 1], count // 2)[order].astype(np.int32)


def plane() -> np.ndarray:
    """The grid of the pictures, float32 `[GRID * GRID, 2]`, row by row from below."""
    (left, right), (low, high) = PLANE
    x, y = np.meshgrid(np.linspace(left, right, GRID), np.linspace(low, high, GRID))
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)


def far_points(x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Points of a box three times as wide as the data, those near the data left out.

    Args:
      x: training points `[n, d]`.
      count: how many to keep.
      rng: draws them.

    Returns:
      float32 `[count, d]`.
    """
    low, high = x.min(axis=0), x.max(axis=0)
    centre, half = (low + high) / 2, (high - low) / 2
    kept = np.zeros((0, x.shape[1]))
    while len(kept) < count:
        drawn = rng.uniform(centre - 3 * half, centre + 3 * half, (2 * count, x.shape[1]))
        gaps = np.linalg.norm(drawn[:, None] - x[None], axis=-1).min(axis=1)
        kept = np.concatenate([kept, drawn[gaps > AWAY]])
    return kept[:count].astype(np.float32)


class Images(NamedTuple):
    """Fashion-MNIST and the unfamiliar sets, prepared and flat."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_valid: np.ndarray
    y_valid: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    unfamiliar: dict[str, np.ndarray]


def pooled(images: np.ndarray) -> np.ndarray:
    """Images `[n, 28, 28]` with each 2 by 2 pixels' largest, `[n, 14, 14]`."""
    n, h, w = images.shape
    if h % 2 or w % 2:
        raise ValueError(f"images must have an even height and width, got {images.shape}.")
    return images.reshape(n, h // 2, 2, w // 2, 2).max(axis=(2, 4))


def prepared(images: Any, size: int) -> np.ndarray:
    """Raw images as the networks take them.

    Args:
      images: uint8 `[n, 28, 28]`.
      size: 14 pools by maxima, 28 keeps them.

    Returns:
      float32 `[n, size * size]`, with Fashion-MNIST's mean and deviation.

    Raises:
      ValueError: on images of another size or range.
    """
    images = np.asarray(images)
    if images.ndim != 3 or images.shape[1:] != (28, 28):
        raise ValueError(f"images must have shape [n, 28, 28], got {images.shape}.")
    if images.dtype != np.uint8:
        raise ValueError(
            f"images must be uint8 in [0, 255], got {images.dtype}: another range would pass for "
            "unfamiliar."
        )
    if size not in (14, 28):
        raise ValueError(f"size must be 14 or 28, got {size}.")
    images = pooled(images) if size == 14 else images
    return ((images.astype(np.float32) / 255 - MEAN) / SCALE).reshape(len(images), -1)


def load_images(config: Any, size: int) -> Images:
    """Reads the sets of a config and sets the validation part aside.

    Args:
      config: source, data_dir, others_dir, valid, train_limit, test_limit.
      size: 14 or 28.

    Returns:
      Images.

    Raises:
      FileNotFoundError: if the data are missing; says what to get.
    """
    folder = config.data_dir or None
    familiar = fashion_mnist(folder, source=config.source)
    last, others = config.test_limit or None, config.others_dir or None
    if config.source == "files":
        others = others or folder
    order = np.random.default_rng(0).permutation(len(familiar.y_train))
    valid, train = order[: config.valid], order[config.valid :]
    train = train[: config.train_limit or None]
    x = prepared(familiar.x_train, size)
    y = np.asarray(familiar.y_train, np.int32)
    others = {
        "mnist": mnist(others).x_test[:last],
        "notmnist": notmnist(others)[0][:last],
    }
    return Images(
        x[train],
        y[train],
        x[valid],
        y[valid],
        prepared(familiar.x_test[:last], size),
        np.asarray(familiar.y_test[:last], np.int32),
        {name: prepared(images, size) for name, images in others.items()},
    )
