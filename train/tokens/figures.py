"""Pictures of the token experiment: deletion curves, patches, words."""

from pathlib import Path
from typing import Any

import numpy as np

from train.reporting import figure, save_figure
from train.tokens.data import Problem

SHOWN = 4
"""Examples in a picture."""


def plot_curves(curves: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """Mean score over the share of deleted tokens, one panel a problem, one line a method.

    Args:
      curves: title of the problem to method to `[steps + 1]`.
      path: the PNG.
    """
    drawn, axes = figure(1, len(curves), (5.4 * len(curves), 4.6))
    from matplotlib import colormaps

    for axis, (title, lines) in zip(axes[0], curves.items(), strict=True):
        for i, (name, line) in enumerate(lines.items()):
            style = "-" if name.startswith("Split") else "--"
            share = np.linspace(0, 1, len(line))
            axis.plot(share, line, style, color=colormaps["tab10"](i), label=name)
        axis.set(xlabel="share of tokens deleted", ylabel="mean score", title=title)
        axis.title.set_fontsize(10)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    save_figure(drawn, path)


def plot_images(problem: Problem, found: dict[str, Any], first: int, path: Path) -> None:
    """Some images and each method's map of patches: red for, blue against the class.

    Args:
      problem: images `[n, h, w, 1]`.
      found: method to what `measure` returned.
      first: number of the first test example.
      path: the PNG.
    """
    shown = range(min(SHOWN, len(problem.x) - first))
    methods = [name for name in found if name != "random order"]
    drawn, axes = figure(len(shown), 1 + len(methods), (1.5 * (1 + len(methods)), 1.7 * SHOWN))
    for row, i in enumerate(shown):
        image = problem.x[first + i, ..., 0]
        axes[row][0].imshow(image, cmap="gray_r")
        if problem.targets is not None:
            axes[row][0].set_ylabel(f"class {problem.targets[first + i]}", fontsize=8)
        axes[row][0].set(xticks=[], yticks=[])
        for axis, name in zip(axes[row][1:], methods, strict=True):
            maps = found[name]["maps"][i]
            side = round(len(maps) ** 0.5)
            limit = np.abs(maps).max() or 1
            axis.imshow(image, cmap="gray_r")
            extent = (-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5)
            shown_map = maps.reshape(side, side)
            axis.imshow(shown_map, cmap="bwr", vmin=-limit, vmax=limit, alpha=0.6, extent=extent)
            axis.set(xticks=[], yticks=[])
            if row == 0:
                axis.set_title(name.replace(", ", ",\n"), fontsize=7)
    save_figure(drawn, path)


def plot_sentences(problem: Problem, found: dict[str, Any], first: int, path: Path) -> None:
    """Some sentences, a line a method, each word coloured by its attribution.

    Args:
      problem: with words.
      found: method to what `measure` returned.
      first: number of the first test example.
      path: the PNG.
    """
    assert problem.words is not None
    shown = range(min(SHOWN, len(problem.x) - first))
    methods = [name for name in found if name != "random order"]
    drawn, axes = figure(len(shown), 1, (12, 0.34 * len(methods) * len(shown) + 1))
    for axis, i in zip(axes[:, 0], shown, strict=True):
        words = problem.words[first + i]
        maps = np.stack([found[name]["maps"][i][: len(words)] for name in methods])
        maps[:, ~problem.tokens[first + i][: len(words)]] = 0  # those that are never deleted
        maps /= np.maximum(np.abs(maps).max(1, keepdims=True), 1e-30)
        axis.imshow(maps, cmap="bwr", vmin=-1, vmax=1, aspect="auto", alpha=0.7)
        axis.set_xticks(range(len(words)), words, fontsize=8)
        axis.set_yticks(range(len(methods)), methods, fontsize=7)
        axis.xaxis.tick_top()
    save_figure(drawn, path)
