"""The pictures of one explanation: all maps, the split's parts and sweep, and the curves."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from monojax import attribution
from train.explain.judge import TITLES
from train.explain.photo.measure import CONTROLS, scores
from train.reporting import figure, save_figure

COLUMNS = 5


def title(name: str) -> str:
    """What a map is called in pictures and tables."""
    return "SplitLRP" if name == "split_lrp" else TITLES[name]


def all_maps(found: dict[str, Any], path: Path) -> None:
    """The picture, and every map over it, the best of both measures first.

    Args:
      found: arrays of one picture.
      path: the PNG.
    """
    layers, values = json.loads(str(found["layers"])), scores(found)
    names = sorted(layers, key=lambda name: values[name]["rank"])
    tiles: list[tuple[str, Any]] = [("what the network sees", None)]
    for name in names:
        text = f"{title(name)}\nat {layers[name]}, {values[name]['flips']:.3f}"
        tiles.append((text, found[f"maps/{name}"]))
    _tiles(found["pixels"], tiles, path)


def split_parts(found: dict[str, Any], path: Path) -> None:
    """g and h apart, then SplitGrad inside the network for several alphas.

    Args:
      found: arrays of one picture.
      path: the PNG.
    """
    tiles: list[tuple[str, Any]] = [("what the network sees", None)]
    deep = str(found["deep"])
    for key in found:
        if key.startswith("split/"):
            name = key.removeprefix("split/")
            place = deep if "CAM" in name else "input"
            tiles.append((f"{name}\nat {place}", found[key]))
    tiles += [("", ...)] * (-len(tiles) % COLUMNS)  # the sweep begins a row
    for key in found:
        if key.startswith("sweep/"):
            alpha = key.removeprefix("sweep/")
            text = alpha if alpha == "balanced" else f"alpha {alpha}"
            tiles.append((f"SplitGrad, {text}\nat {found['swept']}", found[key]))
    _tiles(found["pixels"], tiles, path)


def _tiles(pixels: np.ndarray, tiles: list[tuple[str, Any]], path: Path) -> None:
    """A grid of overlays; None is the picture itself, ... an empty place."""
    rows = -(-len(tiles) // COLUMNS)
    drawn, axes = figure(rows, COLUMNS, (2.3 * COLUMNS, 2.6 * rows))
    flat = axes.reshape(-1)
    for place in flat:
        place.set_axis_off()
    for place, (text, found) in zip(flat, tiles, strict=False):
        if found is None:
            place.imshow(pixels)
        elif found is not ...:
            attribution.overlay(place, pixels, _visible(found), stretch=True)
        place.set_title(text, fontsize=8)
    save_figure(drawn, path)


def _visible(found: np.ndarray) -> np.ndarray:
    """Cut off at the size that 1 in 200 pixels exceeds: a few would leave all others pale."""
    top = np.quantile(np.abs(found), 0.995)
    return np.clip(found, -top, top) if top > 0 else found


def curves(found: dict[str, Any], path: Path) -> None:
    """How the class's probability falls as its map's best parts are removed.

    Args:
      found: arrays of one picture.
      path: the PNG.
    """
    values = scores(found)
    names = sorted(values, key=lambda name: values[name]["rank"])
    names = [name for name in names if name not in CONTROLS]
    kinds = {"patches": "patches of 8 x 8 removed", "flips": "pixels removed"}
    drawn, axes = figure(1, 2, (11, 4), sharey=True)
    from matplotlib import colormaps

    colours = colormaps["tab20"](np.linspace(0, 1, 20))
    for axis, (kind, text) in zip(axes[0], kinds.items(), strict=True):
        for number, name in enumerate([*names, *CONTROLS]):
            scored = found[f"{kind}/{name}"]
            style = {"color": "0.4", "ls": ":" if name == "random" else "--"}
            if name not in CONTROLS:
                style = {"color": colours[number % 20], "ls": "-"}
            axis.plot(np.linspace(0, 1, len(scored)), scored, label=title(name), lw=1.4, **style)
        axis.set(xlabel=f"share of the {text}", xlim=(0, 1))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("probability of the class")
    axes[0][0].set_ylim(bottom=0)  # shared; the top is that of both
    drawn.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right", fontsize=7)
    save_figure(drawn, path)
