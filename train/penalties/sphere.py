r"""Why random points miss the inside: balls in n dimensions, uniform draws and mixtures.

For :math:`y` uniform in the unit ball of :math:`R^n`, :math:`P(\|y\| > r) = 1 - r^n`: in high
dimension nearly all draws lie at the surface. Mixed with the origin, :math:`x = \lambda y` with
:math:`\lambda` uniform in [0, 1], the norms spread over the whole of [0, 1].

Reference:
  Monteiro et al., "Monotonicity Regularization", UAI 2022, appendix A, Figures 1 and 2. The
  probability printed there for mixtures is an upper bound, `prob_outside_mixup_published`; the
  exact one, `prob_outside_mixup`, was derived here and leads to the paper's conclusion too.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.training import Table
from train.reporting import figure, provenance, save_figure


def uniform_ball(key: jax.Array, num: int, n: int) -> jax.Array:
    """Points drawn uniformly from the unit ball.

    A direction (a normalised Gaussian) times U^(1/n), U uniform in [0, 1].

    Args:
      key: PRNG key.
      num: number of points, at least 1.
      n: dimension, at least 1.

    Returns:
      float32 `[num, n]`; norms are at most 1 up to rounding.

    Raises:
      ValueError: if ``num`` or ``n`` is below 1 or no integer.
    """
    _check_count(num, "num")
    _check_count(n, "n")
    key_direction, key_norm = jax.random.split(key)
    gauss = jax.random.normal(key_direction, (num, n), jnp.float32)
    # Exact zeros happen, once in some millions, and have no direction in n = 1.
    gauss = jnp.where(gauss == 0, 1e-6, gauss)
    direction = gauss / jnp.linalg.norm(gauss, axis=1, keepdims=True)
    return direction * jax.random.uniform(key_norm, (num, 1), jnp.float32) ** (1 / n)


def mixup_ball(key: jax.Array, num: int, n: int) -> jax.Array:
    """Uniform points of the unit ball, each mixed with the origin by a factor uniform in [0, 1].

    Args:
      key: PRNG key.
      num: number of points, at least 1.
      n: dimension, at least 1.

    Returns:
      float32 `[num, n]`.

    Raises:
      ValueError: as :func:`uniform_ball`.
    """
    key_ball, key_factor = jax.random.split(key)
    points = uniform_ball(key_ball, num, n)
    return jax.random.uniform(key_factor, (num, 1), jnp.float32) * points


def prob_outside_uniform(r: Any, n: int) -> np.ndarray:
    """P(||y|| > r) for y uniform in the unit ball: 1 - r^n, exact.

    Args:
      r: radii in [0, 1], any shape.
      n: dimension, at least 1.

    Returns:
      float64, the shape of ``r``.

    Raises:
      ValueError: if a radius lies outside [0, 1], or ``n`` is below 1 or no integer.
    """
    r = _check(r, n)
    return 1 - r**n


def prob_outside_mixup(r: Any, n: int) -> np.ndarray:
    r"""P(||x|| > r) for x uniform in the unit ball and mixed with the origin; exact.

    Given the factor, :math:`\|x\| > r` means :math:`\|y\| > r/\lambda`, so the probability is
    :math:`\int_r^1 1 - (r/\lambda)^n\, d\lambda`, that is
    :math:`1 - \frac{n}{n-1} r + \frac{1}{n-1} r^n`, and :math:`1 - r + r \ln r` for n = 1.
    It tends to :math:`1 - r` as n grows.

    Args:
      r: radii in [0, 1], any shape.
      n: dimension, at least 1.

    Returns:
      float64, the shape of ``r``.

    Raises:
      ValueError: as :func:`prob_outside_uniform`.
    """
    r = _check(r, n)
    if n == 1:
        return 1 - r + r * np.log(np.where(r > 0, r, 1))  # r ln r is 0 at 0
    return 1 - (n * r - r**n) / (n - 1)


def prob_outside_mixup_published(r: Any, n: int) -> np.ndarray:
    r"""The formula printed in the paper for mixtures, :math:`(1 - r^n)(1 - r)`: an upper bound.

    It is :math:`P(\|y\| > r)\,P(\lambda > r)`. Both events are necessary for
    :math:`\|\lambda y\| > r`, but not sufficient: two factors just above r have a product below.
    The gap to :func:`prob_outside_mixup` vanishes as n grows.

    Args:
      r: radii in [0, 1], any shape.
      n: dimension, at least 1.

    Returns:
      float64, the shape of ``r``.

    Raises:
      ValueError: as :func:`prob_outside_uniform`.
    """
    r = _check(r, n)
    return (1 - r**n) * (1 - r)


def check(config: Any) -> None:
    """Finds mistakes in the values of a config before anything is written.

    Args:
      config: the experiment's config.

    Raises:
      ValueError: naming the first one.
    """
    for n in config.dims:
        for r in (*config.radii, config.plane_radius):
            _check(r, n)
    for name in ("samples", "plane_points"):
        _check_count(config[name], f"config.{name}")


def total_steps(config: Any) -> int:
    """Units of work: one per dimension.

    Args:
      config: see train/configs/sphere.py.

    Returns:
      Their number.
    """
    return len(config.dims)


def run(config: Any, workdir: Path, bar: Any) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Draws points, compares them with the formulas, writes two figures and a table.

    Args:
      config: see train/configs/sphere.py.
      workdir: where to: figure1.png, figure2.png, sphere.md, sphere.csv.
      bar: progress bar over :func:`total_steps`.

    Returns:
      Dimension to the norms of uniform and of mixed points, `[samples]` each.
    """
    key_plane, *keys = jax.random.split(jax.random.key(config.seed), len(config.dims) + 1)
    norms = {}
    for key, n in zip(keys, config.dims, strict=True):
        norms[n] = _norms(key, config.samples, n)
        bar.update(1)
    plot_plane(key_plane, config.plane_points, config.plane_radius, workdir / "figure1.png")
    plot_probabilities(norms, workdir / "figure2.png")
    table = _table(norms, config.radii)
    table.write(workdir, "sphere", provenance(config))
    print("\n" + table.markdown(), flush=True)
    return norms


def plot_plane(key: jax.Array, num: int, radius: float, path: Path) -> None:
    """Figure 1, with points: the unit disc B, the inner disc B_r, uniform draws and mixtures.

    Args:
      key: PRNG key.
      num: points in each panel.
      radius: r, of the inner disc.
      path: the PNG.
    """
    drawn, axes = figure(1, 2, (8.4, 5.3))
    panels = {
        "uniform draws": (uniform_ball, prob_outside_uniform),
        "uniform draws mixed with the origin": (mixup_ball, prob_outside_mixup),
    }
    for axis, (title, (draw, prob)) in zip(axes[0], panels.items(), strict=True):
        points = np.asarray(draw(key, num, 2))
        outside = np.linalg.norm(points, axis=1) > radius
        for mask, color, label in (
            (outside, "tab:blue", "outside $B_r$"),
            (~outside, "tab:orange", "inside $B_r$"),
        ):
            axis.plot(*points[mask].T, ".", color=color, markersize=3, label=label)
        angle = np.linspace(0, 2 * np.pi, 200)
        axis.plot(np.cos(angle), np.sin(angle), "k-", linewidth=1.2)
        axis.plot(radius * np.cos(angle), radius * np.sin(angle), "k--", linewidth=1.2)
        for text, height in (("$B$", 1.02), ("$B_r$", radius + 0.02)):
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
            axis.text(0, height, text, ha="center", va="bottom", bbox=box)
        limits = (-1.2, 1.2)
        axis.set(aspect="equal", xlabel="$x_1$", ylabel="$x_2$", xlim=limits, ylim=limits)
        share = f"{outside.mean():.0%} outside $B_r$ (exact {float(prob(radius, 2)):.0%})"
        axis.set_title(f"{title}\n{share}", fontsize=10)
    handles = axes[0][0].get_legend_handles_labels()
    drawn.legend(*handles, loc="outside lower center", ncols=2, frameon=False, markerscale=3)
    drawn.suptitle(f"Unit disc $B$ and $B_r$, r = {radius:g}; {num} points each")
    save_figure(drawn, path)


def plot_probabilities(norms: dict[int, tuple[np.ndarray, np.ndarray]], path: Path) -> None:
    """Figure 2: P(||x|| > r) over r for each dimension, (a) uniform draws and (b) mixtures.

    Args:
      norms: dimension to the norms of uniform and of mixed points.
      path: the PNG.
    """
    from matplotlib.lines import Line2D

    drawn, axes = figure(1, 2, (9.6, 4.6), sharey=True)
    r, marks = np.linspace(0, 1, 401), np.linspace(0.05, 0.95, 10)
    for color, (n, both) in zip(_colors(len(norms)), norms.items(), strict=True):
        for axis, exact, sample in zip(
            axes[0], (prob_outside_uniform, prob_outside_mixup), both, strict=True
        ):
            axis.plot(r, exact(r, n), color=color, label=f"n = {n}")
            axis.plot(marks, _share_outside(sample, marks), "o", color=color, markersize=3.5)
        axes[0][1].plot(r, prob_outside_mixup_published(r, n), "--", color=color, linewidth=1)
    for axis, title in zip(
        axes[0], ("(a) x uniform in the ball", "(b) x mixed with the origin"), strict=True
    ):
        axis.set(xlabel="r", title=title, xlim=(0, 1), ylim=(0, 1.02))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("P(||x|| > r)")
    axes[0][0].legend(loc="lower left")
    styles = [
        Line2D([], [], color="k", label="exact"),
        Line2D([], [], color="k", linestyle="--", linewidth=1, label="published (an upper bound)"),
        Line2D([], [], color="k", marker="o", markersize=3.5, linestyle="", label="Monte Carlo"),
    ]
    axes[0][1].legend(handles=styles, loc="upper right")
    save_figure(drawn, path)


def _table(norms: dict[int, tuple[np.ndarray, np.ndarray]], radii: Any) -> Table:
    """Sampled, exact and printed probabilities for each dimension and radius."""
    num = len(next(iter(norms.values()))[0])
    header = ["n", "r", "uniform: sampled", "exact", "mixup: sampled", "exact", "published"]
    table = Table(header, f"P(norm > r), sampled from {num} points ± 1 standard error")
    for n, both in norms.items():
        for r in radii:
            sampled = []
            for sample in both:
                share = float(_share_outside(sample, r))
                sampled.append(f"{share:.4f} ± {np.sqrt(share * (1 - share) / num):.4f}")
            closed = (prob_outside_uniform, prob_outside_mixup, prob_outside_mixup_published)
            uniform, mixup, published = (f"{float(prob(r, n)):.4f}" for prob in closed)
            table.add(n, f"{r:g}", sampled[0], uniform, sampled[1], mixup, published)
    return table


def _norms(key: jax.Array, num: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Norms of independent uniform and mixed points, float32 `[num]` each."""
    key_uniform, key_mixup = jax.random.split(key)
    points = uniform_ball(key_uniform, num, n), mixup_ball(key_mixup, num, n)
    uniform, mixed = (np.asarray(jnp.linalg.norm(p, axis=1)) for p in points)
    return uniform, mixed


def _share_outside(norms: np.ndarray, r: Any) -> np.ndarray:
    """Share of the norms above each radius."""
    return 1 - np.searchsorted(np.sort(norms), r, side="right") / len(norms)


def _check(r: Any, n: int) -> np.ndarray:
    _check_count(n, "n")
    r = np.asarray(r, np.float64)
    if not ((r >= 0) & (r <= 1)).all():  # not: NaN fails too
        raise ValueError(f"r must lie in [0, 1], got {r if r.ndim == 0 else r.ravel()}.")
    return r


def _check_count(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")


def _colors(num: int) -> Any:
    """Dark to light: order in n is order in lightness, readable in grey too."""
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0, 0.85, num))
