"""The pictures: traversals between pairs, sweeps, the hue circle, films, contact sheets."""

import io
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.data.shapes3d import FACTORS, SHAPES, factor_values, random_factors, render
from monojax.models.vae import traverse
from monojax.training import write_atomically
from train.generation.data import factors, images_of
from train.generation.evaluate import ends
from train.generation.training import Model
from train.reporting import figure, save_figure

STEPS = 10
"""Pictures in a row."""
FRAMES = 14
"""Of a film, one way."""


def scenes(workdir: Path) -> None:
    """A contact sheet of 100 scenes, and one row of scenes per factor.

    Args:
      workdir: where scenes.png and factors.png go.
    """
    sheet = np.asarray(render(random_factors(jax.random.key(0), 100)))
    _write(Path(workdir) / "scenes.png", tiled(sheet.reshape(10, 10, 64, 64, 3)))
    rows = []
    for k, values in enumerate(factor_values()):
        row = np.tile(np.asarray([0.1, 0.55, 0.8, 1.0, 0.0, 12.0], np.float32), (STEPS, 1))
        shown = values[np.linspace(0, len(values) - 1, STEPS).round().astype(int)]
        row[:, k] = np.arange(STEPS) % len(SHAPES) if FACTORS[k] == "shape" else shown
        if FACTORS[k] == "shape":
            row[:, 5] = np.linspace(-30, 30, STEPS)
        rows.append(np.asarray(render(row)))
    _write(Path(workdir) / "factors.png", tiled(np.stack(rows)))


def tiled(images: np.ndarray) -> np.ndarray:
    """Pictures `[rows, columns, h, w, 3]` as one, uint8."""
    r, c, h, w, _ = images.shape
    whole = images.transpose(0, 2, 1, 3, 4).reshape(r * h, c * w, 3)
    return np.round(255 * np.clip(whole, 0, 1)).astype(np.uint8)


def traversals(config: Any, model: Model, workdir: Path) -> None:
    """Figures 9 to 14: from one picture of a pair to the other, through the segment of codes.

    A row per factor: the first picture, ten decoded points between the two codes, the second.

    Args:
      config: source.
      model: a trained one.
      workdir: where traversal_NAME.png goes.
    """
    first = np.asarray(factors(jax.random.key(21), len(FACTORS), "grid"))
    second = first.copy()
    for k, values in enumerate(factor_values()):
        place = int(np.abs(values - first[k, k]).argmin())
        # As far as the grid goes, for a hue half of the circle.
        far = (place + len(values) // 2) % len(values)
        if k > 2:
            far = 0 if place >= len(values) // 2 else len(values) - 1
        second[k, k] = values[far]
    images = images_of(config)
    x, y = np.asarray(images(first)), np.asarray(images(second))
    z, other = np.asarray(model.codes(x)), np.asarray(model.codes(y))
    t = np.linspace(0, 1, STEPS)[None, :, None]
    points = z[:, None] + t * (other - z)[:, None]
    rows = np.asarray(model.decode(points.astype(np.float32)))
    whole = np.concatenate([x[:, None], rows, y[:, None]], axis=1)
    drawn, axes = figure(len(FACTORS), 1, (12, 6.4))
    for k, axis in enumerate(axes[:, 0]):
        axis.imshow(tiled(whole[k : k + 1]))
        axis.set_xticks([31.5, 64 * (STEPS + 1.5)], ["picture", "its pair"], fontsize=6)
        axis.set_yticks([])
        axis.set_ylabel(FACTORS[k], fontsize=8)
    drawn.suptitle(f"{model.title}, seed {model.seed}: between the codes of a pair", fontsize=10)
    save_figure(drawn, Path(workdir) / f"traversal_{model.name}.png", dpi=75)


def floor_sweeps(curves: dict[str, dict[str, Any]], titles: dict[str, str], workdir: Path) -> None:
    """Figures 7 and 8: the bottom left patch along the floor's latent, a row per image.

    Args:
      curves: model's name to what `evaluate.floor_sweep` gives.
      titles: model's name to its title.
      workdir: where floor_sweep.png goes.
    """
    drawn, axes = figure(len(curves), 1, (12, 2.6 * len(curves)))
    for axis, (name, found) in zip(axes[:, 0], curves.items(), strict=True):
        axis.imshow(tiled(found["patches"] / 255))
        axis.set_title(f"{titles[name]}: the floor's latent from 0 to 1, a row per image")
        axis.set_axis_off()
    save_figure(drawn, Path(workdir) / "floor_sweep.png", dpi=60)


def hue_circles(curves: dict[str, dict[str, Any]], titles: dict[str, str], workdir: Path) -> None:
    """Figure 6: the hue of the floor around the circle while its latent grows outwards.

    Args:
      curves: as in :func:`floor_sweeps`.
      titles: model's name to its title.
      workdir: where hue_circle.png goes.
    """
    drawn, axes = figure(
        1, len(curves), (4.2 * len(curves), 4.6), subplot_kw={"projection": "polar"}
    )
    for axis, (name, found) in zip(axes[0], curves.items(), strict=True):
        angle = np.radians(found["hue"][:20])
        out = np.linspace(0.3, 1, angle.shape[1])
        for row in angle:
            axis.plot(np.unwrap(row), out, color="0.75", linewidth=0.5, zorder=1)
            axis.scatter(row, out, c=row, cmap="hsv", vmin=0, vmax=2 * np.pi, s=6, zorder=2)
        axis.set_yticks([])
        axis.set_title(titles[name], fontsize=10)
    drawn.suptitle("Hue of the floor; the latent grows from the centre outwards", fontsize=10)
    save_figure(drawn, Path(workdir) / "hue_circle.png")


def films(config: Any, models: list[Model], owners: dict[str, list[int]], workdir: Path) -> None:
    """A GIF per factor: its latent from end to end and back, a row per model, two images.

    Args:
      config: source.
      models: trained ones.
      owners: model's name to the latent of each factor.
      workdir: where sweep_FACTOR.gif go.
    """
    rows = np.asarray(factors(jax.random.key(33), 60, "grid"))
    x = images_of(config)(rows)
    for k, factor in enumerate(FACTORS):
        strips = []
        for model in models:
            z, own = np.asarray(model.codes(x)), owners[model.name][k]
            values = np.linspace(*ends(model, z, own), FRAMES, dtype=np.float32)
            turned = traverse(jnp.asarray(z[:2]), own, jnp.asarray(values))
            strips.append(np.asarray(model.decode(turned)))
        frames = [tiled(np.stack([strip[:, i] for strip in strips])) for i in range(FRAMES)]
        _gif(Path(workdir) / f"sweep_{factor.replace(' ', '_')}.gif", frames)


def ranks(table: dict[str, list[dict[str, Any]]], titles: dict[str, str], workdir: Path) -> None:
    """Rank correlation of each latent with its factor, a dot per seed.

    Args:
      table: model's name to its numbers, one dictionary per seed.
      titles: model's name to its title.
      workdir: where ranks.png goes.
    """
    drawn, axes = figure(1, 1, (8, 3.2))
    axis = axes[0][0]
    for m, (name, rows) in enumerate(table.items()):
        shift = 0.16 * (m - (len(table) - 1) / 2)
        for k, factor in enumerate(FACTORS):
            key = f"cut {factor}" if f"cut {factor}" in rows[0] else f"rank {factor}"
            label = titles[name] if k == 0 else None
            at = [k + shift] * len(rows)
            axis.plot(at, [row[key] for row in rows], "o", color=f"C{m}", ms=5, label=label)
    axis.set_xticks(range(len(FACTORS)), FACTORS)
    axis.set_ylim(0, 1.02)
    axis.set_ylabel("|Spearman|, hues at the best cut")
    axis.legend()
    save_figure(drawn, Path(workdir) / "ranks.png")


def _write(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png", optimize=True)
    write_atomically(path, buffer.getvalue())


def _gif(path: Path, frames: list[np.ndarray]) -> None:
    """There and back, so that the film has no jump."""
    from PIL import Image

    film = [
        Image.fromarray(frame).quantize(64, dither=Image.Dither.NONE)
        for frame in frames + frames[-2:0:-1]
    ]
    buffer = io.BytesIO()
    film[0].save(buffer, format="gif", save_all=True, append_images=film[1:], duration=110, loop=0)
    write_atomically(path, buffer.getvalue())
