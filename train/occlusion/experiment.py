"""Table 4: what classifiers still see of images covered but for another network's maps.

Monteiro et al. (UAI 2022), section on explanations: an image is multiplied by a class activation
map of a network h, made of all its maps or of the predicted class's slice only, and auxiliary
classifiers say what it shows. The better they do, the more of the object the map has kept.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.attribution.occlusion import (
    WEIGHTS,
    activation_cam,
    mask_of,
    random_mask,
)
from monojax.training import Table, write_atomically
from train.checks import at_least, choice
from train.occlusion.data import DATA, batches, number_of_images
from train.occlusion.networks import AUXILIARIES, SOURCES, auxiliary, source
from train.reporting import figure, provenance, save_figure

# Monteiro et al., UAI 2022, supplement, Table 4: top-1 %, whole validation set.
AUXILIARIES_PUBLISHED = ("ResNext-50", "MobileNet-v3", "VGG-16", "SqueezeNet")
PUBLISHED = {
    "reference (clean)": (77.62, 74.04, 71.59, 58.09),
    "ResNet-50": (72.94, 68.31, 67.34, 49.95),
    "MonoResNet-50": (72.88, 68.75, 66.99, 48.92),
    "MonoResNet-50, constrained": (72.44, 66.55, 66.92, 45.83),
}
ROWS = {
    "plain": "plain CAM: the last maps",
    "all": "maps in class slices, all",
    "slice": "the class's slice only",
    "random": "random mask of the slice's mean",
}


def check(config: Any) -> None:
    """Finds mistakes in the values of a config before anything is computed or written.

    Args:
      config: see train/configs/occlusion.py.

    Raises:
      ValueError: naming the first one.
    """
    choice(config, DATA, "data")
    choice(config, WEIGHTS, "weights")
    choice(config, ("predicted", "true"), "target")
    choice(config, SOURCES, "sources")
    choice(config, AUXILIARIES, "auxiliaries")
    at_least(config, 1, "batch_size", "size", "sources", "auxiliaries")


def total_steps(config: Any) -> int:
    """Batches of images.

    Args:
      config: see train/configs/occlusion.py.

    Returns:
      Their number.
    """
    return -(-number_of_images(config) // config.batch_size)


def run(config: Any, workdir: Path, bar: Any) -> dict[str, Any]:
    """Counts what every auxiliary classifier names rightly, for every kind of mask.

    After each batch the counts are kept in ``counts.json``; a killed run goes on from there.

    Args:
      config: see train/configs/occlusion.py.
      workdir: where counts.json, occlusion.md, occlusion.csv and occlusion.png go.
      bar: progress bar over :func:`total_steps`.

    Returns:
      ``{"images": n, "hits": {"source|row|auxiliary": count}}``.
    """
    sources = {name: source(name, config) for name in config.sources}
    helpers = {name: auxiliary(name, config) for name in config.auxiliaries}
    maps_of = {name: jax.jit(net.maps) for name, net in sources.items()}
    masks_of = {name: jax.jit(_masks(net, config)) for name, net in sources.items()}
    file = Path(workdir) / "counts.json"
    counts: dict[str, Any] = {"images": 0, "hits": {}}
    if file.exists():
        counts = json.loads(file.read_text())
    bar.update(counts["images"] // config.batch_size)
    for pixels, labels in batches(config, counts["images"]):
        seen: dict[str, Any] = {"clean|": np.ones((len(labels), 1, 1), np.float32)}
        shown = {}
        for name in sources:
            maps, logits = maps_of[name](jnp.asarray(pixels))
            right = np.argmax(logits, axis=1) == labels
            _add(counts, f"{name}|itself|", right)
            key = jax.random.fold_in(jax.random.key(config.seed), counts["images"])
            target = labels if config.target == "true" else np.argmax(logits, axis=1)
            masks, named = masks_of[name](key, maps, jnp.asarray(target))
            if named is not None:
                _add(counts, f"{name}|itself by slices|", np.asarray(named) == labels)
            shown[name] = masks = {row: masks[row] for row in ROWS if row in masks}
            seen |= {f"{name}|{row}": np.asarray(mask) for row, mask in masks.items()}
        for what, mask in seen.items():
            _add(counts, f"{what}|mean", np.mean(mask, axis=(1, 2)))
            covered = pixels * mask[..., None]
            for helper, predict in helpers.items():
                named = np.argmax(predict(covered.astype(np.float32)), axis=1)
                _add(counts, f"{what}|{helper}", named == labels)
        if counts["images"] == 0:
            plot(pixels[: config.pictures], shown, Path(workdir) / "occlusion.png")
        counts["images"] += len(labels)
        write_atomically(file, json.dumps(counts, indent=1) + "\n")
        bar.update(1)
    table(counts, sources, config).write(workdir, "occlusion", provenance(config))
    published().write(workdir, "published", "Monteiro et al., UAI 2022, supplement, Table 4.")
    print("\n" + table(counts, sources, config).markdown(), flush=True)
    return counts


def _masks(net: Any, config: Any):
    """The masks of one source for a batch: row to `[n, size, size]`, and the slices' reading."""
    size = (config.size, config.size)

    def one(key, maps, target):
        head, sliced = net.head, net.sliced(maps)
        plain = {} if net.native else {"plain": (maps, head)}
        out, cells = {}, maps.shape[:2]
        kinds = plain | {"all": (sliced, net.sliced_head)}
        for row, (a, logits_of) in kinds.items():
            out[row] = mask_of(_cam(a, logits_of, target, config.weights), size)
        own = _cam(sliced, net.sliced_head, target, config.weights, net.num_classes)
        out["slice"] = mask_of(own, size)
        out["random"] = random_mask(key, out["slice"], cells)
        totals = sliced.sum(axis=(0, 1)).reshape(net.num_classes, -1).sum(axis=1)
        return out, jnp.argmax(totals)

    def many(key, maps, target):
        return jax.vmap(one)(jax.random.split(key, len(maps)), maps, target)

    return many


def _cam(maps, head, target, weights, num_classes=None):
    """The map of one example with the weights that the config names."""
    slopes = None
    if weights.startswith("gradient"):
        slopes = jax.grad(lambda a: head(a)[target])(maps)
    label = None if num_classes is None else target
    return activation_cam(
        maps, weights=weights, slopes=slopes, num_classes=num_classes, label=label
    )


def _add(counts: dict[str, Any], key: str, values: Any) -> None:
    counts["hits"][key] = counts["hits"].get(key, 0) + float(np.sum(values))


def table(counts: dict[str, Any], sources: dict[str, Any], config: Any) -> Table:
    """Top-1 accuracies of the auxiliary classifiers, a row for every kind of mask.

    Args:
      counts: of :func:`run`.
      sources: name to network.
      config: auxiliaries, weights, target.

    Returns:
      A Table.
    """
    number = counts["images"]
    percent = lambda key: f"{100 * counts['hits'][key] / number:.1f}"
    half = 196 * np.sqrt(0.25 / number)
    title = (
        f"Table 4's protocol on {number} images, {config.weights} weights, {config.target} class: "
        f"top-1 % (95% interval at most ± {half:.1f})"
    )
    helpers = list(config.auxiliaries)
    header = ["maps from", "mask", *(AUXILIARIES[name] for name in helpers), "mean of the mask %"]
    result = Table(header, title)
    result.add("reference (clean)", "", *(percent(f"clean||{h}") for h in helpers), "100.0")
    for name, net in sources.items():
        accuracy = percent(f"{name}|itself|")
        for row, label in ROWS.items():
            if f"{name}|{row}|mean" not in counts["hits"]:
                continue
            cells = [percent(f"{name}|{row}|{h}") for h in helpers]
            mean = percent(f"{name}|{row}|mean")
            result.add(f"{net.title} (top-1 {accuracy})", label, *cells, mean)
        slices = percent(f"{name}|itself by slices|")
        result.add(f"{net.title}, read off its slices", f"top-1 {slices}", *[""] * len(helpers), "")
    return result


def published() -> Table:
    """The paper's Table 4.

    Returns:
      A Table.
    """
    result = Table(["maps from", *AUXILIARIES_PUBLISHED], "Table 4 as published, top-1 %")
    for name, row in PUBLISHED.items():
        result.add(name, *(f"{value:.2f}" for value in row))
    return result


def plot(pixels: np.ndarray, shown: dict[str, Any], path: Path) -> None:
    """The first images and what is left of them under every mask.

    Args:
      pixels: uint8 `[n, size, size, 3]`.
      shown: source to row to masks.
      path: the PNG.
    """
    columns = [(name, row) for name, masks in shown.items() for row in masks]
    size = (1.7 * (len(columns) + 1), 1.75 * len(pixels) + 0.6)
    drawn, axes = figure(len(pixels), len(columns) + 1, size, layout="tight")
    for i, image in enumerate(pixels):
        axes[i][0].imshow(image)
        for j, (name, row) in enumerate(columns, start=1):
            mask = np.asarray(shown[name][row][i])[..., None]
            axes[i][j].imshow((image * mask).astype(np.uint8))
            if i == 0:
                axes[i][j].set_title(f"{name}\n{row}", fontsize=8)
        for axis in axes[i]:
            axis.set_axis_off()
    save_figure(drawn, path, dpi=80)
