"""The two moons, points far from them, and the image sets, prepared."""

from typing import Any, NamedTuple

import numpy as np

from monojax.data import cifar10, fashion_mnist, mnist, notmnist

GRID = 100
"""Points along each side of the plane that the pictures show."""
PLANE = ((-2.5, 3.5), (-3.0, 3.0))
"""Its sides, as in the authors' code."""
AWAY = 0.5
"""Points of the box count as unfamiliar that are so far from every training point."""
MEAN, SCALE = 0.2861, 0.3530
"""Of Fashion-MNIST's training pixels in [0, 1]: all sets are prepared with them."""
EXTRA = ("cifar10_grey", "rotated", "noisy")
"""Further sets: CIFAR-10's middle in grey, and test images that are turned or noised by degrees."""


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


def grey(images: np.ndarray) -> np.ndarray:
    """Colour images `[n, 32, 32, 3]` as brightness of their middle, uint8 `[n, 28, 28]`."""
    middle = images[:, 2:30, 2:30].astype(np.float32)
    return np.rint(middle @ np.asarray([0.299, 0.587, 0.114], np.float32)).astype(np.uint8)


def rotated(images: np.ndarray, degrees: float) -> np.ndarray:
    """Images turned about their middle, bilinear, 0 outside.

    Args:
      images: uint8 `[n, h, w]`.
      degrees: counter-clockwise.

    Returns:
      uint8 of the same shape.
    """
    h, w = images.shape[1:]
    turn = np.deg2rad(degrees)
    y, x = np.mgrid[:h, :w]
    y, x = y - (h - 1) / 2, x - (w - 1) / 2
    rows = np.cos(turn) * y + np.sin(turn) * x + (h - 1) / 2
    columns = -np.sin(turn) * y + np.cos(turn) * x + (w - 1) / 2
    padded = np.pad(images, ((0, 0), (1, 2), (1, 2))).astype(np.float32)
    rows, columns = np.clip(rows + 1, 0, h + 0.999), np.clip(columns + 1, 0, w + 0.999)
    i, j = rows.astype(int), columns.astype(int)
    a, b = (rows - i).astype(np.float32), (columns - j).astype(np.float32)
    out = (1 - a) * (1 - b) * padded[:, i, j] + (1 - a) * b * padded[:, i, j + 1]
    out = out + a * (1 - b) * padded[:, i + 1, j] + a * b * padded[:, i + 1, j + 1]
    return np.rint(out).astype(np.uint8)


def noisy(images: np.ndarray, deviation: float) -> np.ndarray:
    """Images with normal noise of a standard deviation in grey levels, cut to [0, 255]."""
    noise = np.random.default_rng(0).normal(0, deviation, images.shape)
    return np.rint(np.clip(images + noise, 0, 255)).astype(np.uint8)


def load_images(config: Any, size: int) -> Images:
    """Reads the sets of a config and sets the validation part aside.

    Args:
      config: source, data_dir, others_dir, valid, train_limit, test_limit, extra, angles, noises,
        held_out (classes that are not trained on, and unfamiliar).
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
    x, y = prepared(familiar.x_train, size), np.asarray(familiar.y_train, np.int32)
    raw, y_test = familiar.x_test[:last], np.asarray(familiar.y_test[:last], np.int32)
    strange = {"mnist": mnist(others).x_test[:last], "notmnist": notmnist(others)[0][:last]}
    if "cifar10_grey" in config.extra:
        strange["cifar10_grey"] = grey(cifar10(others).x_test[:last])
    if config.held_out:
        out = np.isin(y_test, config.held_out)
        strange["held_out"], raw, y_test = raw[out], raw[~out], y_test[~out]
        train, valid = (rows[~np.isin(y[rows], config.held_out)] for rows in (train, valid))
        number = np.cumsum(~np.isin(np.arange(10), config.held_out)) - 1  # without gaps
        y, y_test = number[y].astype(np.int32), number[y_test].astype(np.int32)
    if "rotated" in config.extra:
        strange |= {f"rotated {angle:g}": rotated(raw, angle) for angle in config.angles}
    if "noisy" in config.extra:
        strange |= {f"noisy {level:g}": noisy(raw, level) for level in config.noises}
    return Images(
        x[train],
        y[train],
        x[valid],
        y[valid],
        prepared(raw, size),
        y_test,
        {name: prepared(images, size) for name, images in strange.items()},
    )
