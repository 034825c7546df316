"""Data of the MonoCon experiments: inputs, splits, and how a score is taken.

Pictures have classes: the score is the accuracy of five nearest neighbours. Sentences come in
pairs that mean the same: the score is Spearman's correlation with human judgements.
"""

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from monojax.data.augment import random_erasing, trivial_augment_wide
from monojax.data.crops import normalise
from train.monocon.encoders import LiteTail, Perceptron, Pooled, SmallConv


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Inputs with a class each."""

    x: Any
    label: np.ndarray


@dataclasses.dataclass(frozen=True)
class Paired:
    """Pairs of inputs with a human score of their likeness."""

    first: Any
    second: Any
    gold: np.ndarray


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is embedded, by what, and where it is judged."""

    title: str
    classes: bool
    """True: `Labelled` parts and accuracies; False: `Paired` parts and similarity scores."""
    encoder: nn.Module
    dim: int
    """Width d of the features and of the embedding."""
    train: Any
    """Arrays of the training batches, one leading length."""
    views: Callable[[Any, str | None], tuple[Any, jax.Array]]
    """``(batch, axis_name) -> (inputs, labels)``"""
    train_inputs: Callable[[jax.Array, Any], Any]
    """``(key, inputs) -> encoder inputs``, augmented"""
    eval_inputs: Callable[[Any], Any]
    gallery: Any
    """What validation searches: the training inputs, not augmented."""
    gallery_label: np.ndarray | None
    valid: Any
    test: Any
    test_inputs: Any
    """Inputs of the reconstruction error: those of the test set, each once."""
    watch: Any
    """Whose correlations and dimension are watched: validation images, training sentences."""
    whole: Labelled | None = None
    """What the final test searches and fits principal axes on, with the validation part; None: the
    gallery."""
    pretrained: Callable[[jax.Array, dict[str, Any]], dict[str, Any]] | None = None
    """``(key, fresh variables) -> variables``, or None to start afresh"""
    collate: Callable[[Any], Any] = lambda batch: batch
    """Applied to a batch in the host's memory: cuts padding, for example."""


def labelled_views(batch: Any, axis_name: str | None) -> tuple[Any, jax.Array]:
    """A batch of single examples with classes."""
    return batch["x"], batch["label"]


def paired_views(batch: Any, axis_name: str | None) -> tuple[Any, jax.Array]:
    """First members, then second ones; the label is the pair's place in the whole batch."""
    num = len(jax.tree.leaves(batch["first"])[0])
    place = jnp.arange(num)
    if axis_name is not None:
        place = place + num * jax.lax.axis_index(axis_name)
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), batch["first"], batch["second"])
    return both, jnp.concatenate([place, place])


def digit_pairs(options: Any, data_dir: str | None = None) -> Problem:
    """Two handwritten digits side by side, 100 classes: scikit-learn's 1,797 digits of 8 x 8.

    The digits are split first, 65% for training, 10% for validation, 25% for testing, and paired
    within each part; so no digit of a test pair was seen in training.

    Args:
      options: ``config.data``: train, valid, test (numbers of pairs), noise, split_seed, features.
      data_dir: not used; scikit-learn ships the digits.

    Returns:
      Problem.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = digits.data.astype(np.float32) / 16, digits.target.astype(np.int32)
    rng = np.random.default_rng(options.split_seed)
    order, num = rng.permutation(len(images)), len(images)
    parts = np.split(order, [round(0.65 * num), round(0.75 * num)])
    pairs = []
    for rows, count in zip(parts, (options.train, options.valid, options.test), strict=True):
        a, b = rng.choice(rows, count), rng.choice(rows, count)
        x = np.concatenate([images[a], images[b]], axis=1)
        pairs.append(Labelled(x, 10 * labels[a] + labels[b]))
    train, valid, test = pairs
    noise = options.noise
    return Problem(
        title="pairs of digits, 100 classes",
        classes=True,
        encoder=Perceptron(tuple(options.features)),
        dim=options.features[-1],
        train={"x": train.x, "label": train.label},
        views=labelled_views,
        train_inputs=lambda key, x: x + noise * jax.random.normal(key, x.shape),
        eval_inputs=lambda x: x,
        gallery=train.x,
        gallery_label=train.label,
        valid=valid,
        test=test,
        test_inputs=test.x,
        watch=valid.x[: options.watch],
    )


def article_pairs(options: Any, data_dir: str | None = None) -> Problem:
    """Two articles of Fashion-MNIST side by side, 100 classes, by a convolutional encoder.

    Articles are split before they are paired, as :func:`digit_pairs` does; those of the test pairs
    are of the published test part.

    Args:
      options: ``config.data``: train, valid, test (numbers of pairs), noise, split_seed, watch,
        channels and features of the encoder.
      data_dir: the folder with images/, or None for ``MONOJAX_DATA``.

    Returns:
      Problem.
    """
    from monojax.data import images

    sets = images.fashion_mnist(data_dir)
    rng = np.random.default_rng(options.split_seed)
    order, num = rng.permutation(len(sets.x_train)), len(sets.x_train)
    train, valid = np.split(order, [round(0.87 * num)])

    def paired(x, label, rows, count):
        a, b = rng.choice(rows, count), rng.choice(rows, count)
        both = np.concatenate([x[a], x[b]], axis=2)[..., None]  # [n, 28, 56, 1], uint8
        return Labelled(both, (10 * label[a] + label[b]).astype(np.int32))

    fitted = paired(sets.x_train, sets.y_train, train, options.train)
    held = paired(sets.x_train, sets.y_train, valid, options.valid)
    test = paired(sets.x_test, sets.y_test, np.arange(len(sets.x_test)), options.test)
    scaled = lambda x: x.astype(jnp.float32) / 255

    def noisy(key, x):
        return scaled(x) + options.noise * jax.random.normal(key, x.shape)

    return Problem(
        title="pairs of Fashion-MNIST, 100 classes, convolutional encoder",
        classes=True,
        encoder=SmallConv(tuple(options.channels), options.features),
        dim=options.features,
        train={"x": fitted.x, "label": fitted.label},
        views=labelled_views,
        train_inputs=noisy,
        eval_inputs=scaled,
        gallery=fitted.x,
        gallery_label=fitted.label,
        valid=held,
        test=test,
        test_inputs=test.x,
        watch=held.x[: options.watch],
    )


def augmented(key: jax.Array, images: jax.Array) -> jax.Array:
    """The published training transform: TrivialAugmentWide, RandomErasing, normalising.

    Args:
      key: PRNG key.
      images: uint8 `[b, h, w, 3]`.

    Returns:
      float32 `[b, h, w, 3]`.
    """
    key_augment, key_erase = jax.random.split(key)
    images = trivial_augment_wide(key_augment, images).astype(jnp.float32) / 255
    return normalise(255 * random_erasing(key_erase, images))


def seed_42_split(num: int, held: int) -> tuple[np.ndarray, np.ndarray]:
    """The published split: Python's Mersenne Twister, seed 42; the last ``held`` are validation.

    Args:
      num: images in all.
      held: validation images.

    Returns:
      Indices ``(train [num - held], valid [held])``.
    """
    order = list(range(num))
    random.Random(42).shuffle(order)
    return np.asarray(order[: num - held]), np.asarray(order[num - held :])


def cifar(options: Any, data_dir: str | None = None) -> Problem:
    """CIFAR-10 or CIFAR-100 with the published ResNet-34.

    Args:
      options: ``config.data``: name, source, valid, watch, weights (torchvision's file, "" for a
        fresh network), limit (images per part, 0 for all), width.
      data_dir: where the data are, see `monojax.data.images`.

    Returns:
      Problem; the test's gallery is all of the training images, as published.
    """
    from monojax.data import images
    from monojax.models import ResNet34

    if options.name == "cifar10":
        sets = images.cifar10(data_dir, source=options.source)
    else:
        sets = images.from_tfds("cifar100", data_dir)
    sets = images.ImageSplits(*(part[: options.limit or None] for part in sets))
    rows, held = seed_42_split(len(sets.x_train), options.valid)
    net = ResNet34(width=options.width, stem="cifar")
    return Problem(
        title=f"{options.name.upper()}, ResNet-34",
        classes=True,
        encoder=Pooled(net),
        dim=8 * options.width,
        train={"x": sets.x_train[rows], "label": sets.y_train[rows]},
        views=labelled_views,
        train_inputs=augmented,
        eval_inputs=normalise,
        gallery=sets.x_train[rows],
        gallery_label=sets.y_train[rows],
        valid=Labelled(sets.x_train[held], sets.y_train[held]),
        test=Labelled(sets.x_test, sets.y_test),
        test_inputs=sets.x_test,
        watch=sets.x_train[held[-options.watch :]],
        whole=Labelled(sets.x_train, sets.y_train),
        pretrained=_imagenet_resnet(options.weights) if options.weights else None,
    )


def _imagenet_resnet(path: str) -> Callable[[jax.Array, dict[str, Any]], dict[str, Any]]:
    """Published ResNet-34 weights under a fresh 3x3 stem, as the published code does."""

    def graft(key: jax.Array, fresh: dict[str, Any]) -> dict[str, Any]:
        from monojax.models.pretrained import load_pretrained

        _, found = load_pretrained("resnet34", path)
        params = {k: v for k, v in found["params"].items() if k not in ("conv1", "fc")}
        shape = fresh["params"]["net"]["conv1"]["kernel"].shape
        bound = (3 * 3 * shape[2]) ** -0.5  # PyTorch's default for a convolution
        params["conv1"] = {"kernel": jax.random.uniform(key, shape, minval=-bound, maxval=bound)}
        return {"params": {"net": params}, "batch_stats": {"net": found["batch_stats"]}}

    return graft


def cifar10_lite(options: Any, data_dir: str | None = None) -> Problem:
    """CIFAR-10 with a pretrained EfficientNet-Lite0 that is frozen up to its last block.

    The maps before the last block are computed once for all images (enlarged to ``side``) and kept
    in a file; the block is trained on them, and its 320 channels are averaged. No augmentation:
    the cache holds one view per image.

    Args:
      options: ``config.data``: side, cache (a folder), limit, valid, watch.
      data_dir: the folder with images/ and weights/.

    Returns:
      Problem.
    """
    from monojax.data.locate import data_directory
    from train.monocon.features import lite_maps

    weights = "weights/efficientnet_lite0_imagenet_f16.npz"
    get = "EfficientNet-Lite0's weights as an npz file, see BUILD.md."
    weights_file = data_directory(data_dir, weights, get) / weights
    train, test, block = lite_maps(weights_file, options.side, options.cache, data_dir)
    limit = options.limit or None
    x_train, y_train = (part[:limit] for part in train)
    x_test, y_test = (part[:limit] for part in test)
    rows, held = seed_42_split(len(x_train), options.valid)
    return Problem(
        title=f"CIFAR-10, EfficientNet-Lite0 at {options.side}x{options.side}, last block trained",
        classes=True,
        encoder=LiteTail(),
        dim=320,
        train={"x": x_train[rows], "label": y_train[rows]},
        views=labelled_views,
        train_inputs=lambda key, x: x.astype(jnp.float32),
        eval_inputs=lambda x: x.astype(jnp.float32),
        gallery=x_train[rows],
        gallery_label=y_train[rows],
        valid=Labelled(x_train[held], y_train[held]),
        test=Labelled(x_test, y_test),
        test_inputs=x_test,
        watch=x_train[held[-options.watch :]],
        whole=Labelled(x_train, y_train),
        pretrained=lambda key, fresh: {"params": {"block": block}},
    )
