"""What the two streams of a difference network mark: gradient maps, shares, overlays.

"g marks strokes that are present, h strokes that are absent" is put to numbers. For a logit c and
an image: which share of the positive part of g_c's gradient lies on the image's ink, and which of
h_c's on pixels where class c usually has ink and the image has none. Both are compared with the
share of another image's map on the same pixels; h's also with the strokes of another class.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.layers import DCNetwork
from monojax.training import Table, write_atomically
from train.reporting import figure, provenance, save_figure

INK = 0.5
"""A pixel above it is ink."""
STROKE = 0.3
"""A pixel belongs to a class's strokes where the mean of its training images is above it."""
KINDS = ("gradient", "gradient x input", "smoothed")
NOISE, SAMPLES = 0.2, 4  # of the smoothed maps
SHARES = ("present", "present shuffled", "absent", "absent shuffled", "absent other class")


def maps(
    net: DCNetwork, params: Any, images: np.ndarray, kind: str = "gradient", seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of every output of both streams, each in its own input; negative parts are cut.

    Args:
      net: the network.
      params: its variables.
      images: `[n, d]`.
      kind: one of `KINDS`: "gradient"; that times the stream's input; or "smoothed", its mean
        over images with noise of standard deviation 0.2, cut to [0, 1] again.
      seed: of the noise.

    Returns:
      ``(g, h)``, float32 `[n, classes, d]` each.

    Raises:
      ValueError: on an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}.")
    if kind == "smoothed":
        rng, total = np.random.default_rng(seed), np.zeros(())
        for _ in range(SAMPLES):
            noisy = images + NOISE * rng.normal(size=images.shape)
            found = _slopes(net, params, jnp.asarray(np.clip(noisy, 0, 1), jnp.float32))
            total = total + np.stack([np.asarray(part) for part in found]) / SAMPLES
        g, h = total
    else:
        g, h = (np.asarray(part) for part in _slopes(net, params, jnp.asarray(images)))
        if kind == "gradient x input":
            g, h = g * images[:, None], h * _second(net, images)[:, None]
    return np.maximum(g, 0), np.maximum(h, 0)


def _second(net: DCNetwork, x: Any) -> Any:
    """What the second stream sees."""
    return 1 - x if net.inverted else x


@functools.partial(jax.jit, static_argnums=0)
def _slopes(net: DCNetwork, params: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Jacobians of both streams, each in its own input, `[n, classes, d]`."""

    def one(x):
        streams: Any = functools.partial(net.apply, params, method="streams")
        g = jax.jacrev(lambda a: streams(a, _second(net, x))[0])(x)
        return g, jax.jacrev(lambda b: streams(x, b)[1])(_second(net, x))

    return jax.vmap(one)(images)


def shares(
    g: np.ndarray, h: np.ndarray, images: np.ndarray, strokes: np.ndarray, seed: int = 0
) -> dict[str, np.ndarray]:
    """Where the mass of the maps lies, per image and logit, and where chance would put it.

    Args:
      g: maps of the first stream, >= 0, `[n, c, d]`.
      h: of the second.
      images: `[n, d]`.
      strokes: where each class usually has ink, bool `[c, d]`.
      seed: of the shuffling.

    Returns:
      `[n, c]` for each of `SHARES`: "present": share of g on the image's ink; "absent": share of
      h on strokes of the logit's class without ink; "shuffled": of another image's map of the
      same logit, on the same pixels; "other class": of h on such strokes of the next class, per
      pixel of the logit's own. A map of zeros has the share 0.
    """
    ink = images > INK
    order = np.random.default_rng(seed).permutation(len(ink))
    g, h = (part / np.maximum(part.sum(-1, keepdims=True), 1e-30) for part in (g, h))
    absent = strokes & ~ink[:, None]
    nearby = np.roll(strokes, -1, axis=0) & ~ink[:, None]
    # The two sets of strokes differ in size.
    ratio = absent.sum(-1) / np.maximum(nearby.sum(-1), 1)
    found = (
        (g * ink[:, None]).sum(-1),
        (g[order] * ink[:, None]).sum(-1),
        (h * absent).sum(-1),
        (h[order] * absent).sum(-1),
        (h * nearby).sum(-1) * ratio,
    )
    return dict(zip(SHARES, found, strict=True))


def class_means(images: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Mean image of each class, `[classes, d]`."""
    return np.stack([images[labels == c].mean(axis=0) for c in range(classes)])


def report(config: Any, shown: dict[str, tuple[DCNetwork, list[Any]]], data: Any, workdir: Path):
    """Writes the tables of shares (all classes, and class by class) and the overlays.

    Args:
      config: maps.images, maps.examples, maps.kinds, networks.
      shown: network's name to the module and its trained variables, one per seed.
      data: `train.difference.data.Images`.
      workdir: where to.
    """
    num, classes = config.maps.images, data.y_train.max() + 1
    images, labels = data.x_test[:num], data.y_test[:num]
    strokes = class_means(data.x_train, data.y_train, classes) > STROKE
    own = labels[:, None] == np.arange(classes)
    ends = ["g present", "shuffled", "h absent", "shuffled", "other class"]
    table = Table(
        ["network", "map", "logits", *ends],
        f"Share of a map's mass, {len(images)} test images, {len(config.seeds)} seeds",
    )
    by_class = Table(["network", "map", "class", "logits", *ends])
    for name, (net, trained) in shown.items():
        title = config.networks[name].title
        for kind in config.maps.kinds:
            every = []
            for params in trained:
                g, h = maps(net, params, images, kind)
                every.append(shares(g, h, images, strokes))
            mean = {key: np.mean([found[key] for found in every], axis=0) for key in SHARES}
            for logits, mask in (("own class", own), ("others", ~own)):
                cells = (f"{mean[key][mask].mean():.3f}" for key in SHARES)
                table.add(title, kind, logits, *cells)
                for c in range(classes):
                    rows = mask & (np.arange(classes) == c)
                    cells = (f"{mean[key][rows].mean():.3f}" for key in SHARES)
                    by_class.add(title, kind, c, logits, *cells)
        _pictures(config, name, net, trained[0], images, labels, workdir)
    table.write(workdir, "shares", provenance(config))
    write_atomically(Path(workdir) / "shares_by_class.csv", by_class.csv())
    print("\n" + table.markdown(), flush=True)


def _pictures(config, name, net, params, images, labels, workdir) -> None:
    """Overlays of single images and of class means, for the first seed."""
    classes = range(labels.max() + 1)
    first = [int(np.flatnonzero(labels == c)[0]) for c in classes if (labels == c).any()]
    rows = first[: config.maps.examples]
    for kind in config.maps.kinds:
        g, h = maps(net, params, images[rows], kind)
        title = f"{config.networks[name].title}: {kind}; red g, blue h, line: the digit"
        file = f"overlay_{name}_{kind.replace(' ', '_')}.png"
        draw(images[rows], g, h, title, Path(workdir) / file)
    g, h = maps(net, params, images)
    mean = lambda part: class_means(part, labels, len(classes))[: config.maps.examples]
    title = f"{config.networks[name].title}: mean gradient over the images of a class"
    draw(mean(images), mean(g), mean(h), title, Path(workdir) / f"overlay_{name}_mean.png")


def blend(g: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Two maps as one picture: white where both are 0, red for g, blue for h, black for both.

    Args:
      g: map >= 0, `[a, b]`; scaled so that its 99.5% quantile has full strength.
      h: the same.

    Returns:
      Colours in [0, 1], `[a, b, 3]`.
    """
    strength = lambda part: np.clip(part / max(np.quantile(part, 0.995), 1e-30), 0, 1)
    red, blue = strength(g), strength(h)
    return 1 - np.stack([blue, np.maximum(red, blue), red], axis=-1)


def draw(images: np.ndarray, g: np.ndarray, h: np.ndarray, title: str, path: Path) -> None:
    """A row per image and a column per logit: both maps, and the outline of the digit.

    Args:
      images: `[r, d]`.
      g: maps of the first stream, `[r, c, d]`.
      h: of the second.
      title: above it all.
      path: the PNG.
    """
    rows, columns = g.shape[:2]
    side = round(images.shape[1] ** 0.5)
    square = lambda row: row.reshape(side, side)
    drawn, axes = figure(rows, columns + 1, (1.15 * (columns + 1), 1.2 * rows + 0.6))
    for r in range(rows):
        axes[r][0].imshow(square(images[r]), cmap="gray_r")
        for c in range(columns):
            axis = axes[r][c + 1]
            axis.imshow(blend(square(g[r, c]), square(h[r, c])))
            axis.contour(square(images[r]), [INK * images[r].max()], colors="k", linewidths=0.5)
            if r == 0:
                axis.set_title(f"logit {c}", fontsize=8)
    for axis in axes.ravel():
        axis.set_axis_off()
    drawn.suptitle(title, fontsize=10)
    save_figure(drawn, path, dpi=90)
