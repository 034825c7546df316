r"""Draws the pictures of README and the front page from the experiments' stored results.

PYTHONPATH=. python docs/pictures.py

Two are cut from pictures under train/results, so that they fit a page's width. The jump under
L = 50 is trained again (five seeds, three networks, some minutes on one core), since curves are
not stored; the settings are those of `python -m train --config lipschitz_fits:tightness`.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from PIL import Image

import monojax as mj
from monojax.models import MLP
from train.configs.lipschitz_fits import get_config
from train.lipschitz_fits.models import build
from train.lipschitz_fits.training import Task, points, start, train

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "train" / "results"
BOUND = 50.0
TITLES = {"sandwich": "Sandwich", "bilipnet": "BiLipNet", "smooth": "mj.BLNN, Fenchel-Young loss"}


def cut(source: str, name: str, box: tuple[int, int, int, int]) -> None:
    """Cuts a rectangle (left, top, right, bottom, in pixels) out of a stored picture."""
    with Image.open(RESULTS / source) as picture:
        picture.convert("RGB").crop(box).save(HERE / "_static" / name, optimize=True)


def jump() -> None:
    """Fits of the jump by one at 0 whose slopes may be at most 50: what each network reaches."""
    config = get_config("tightness")
    fit = config.fit
    task = Task(fit.points, fit.batch, fit.epochs, fit.lr, "jump", -2.0, 2.0)
    seeds = np.asarray(config.seeds)
    x = np.linspace(-0.15, 0.15, 1201, dtype=np.float32)
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.9), sharey=True, layout="constrained")
    for ax, (name, title) in zip(axes, TITLES.items(), strict=True):
        model = build(name, config)
        runs = start(model, task, seeds, np.full(len(seeds), BOUND), config.alpha)
        runs, _ = train(model, task, runs)
        for half in (x[x <= 0], x[x > 0]):
            ax.plot(half, half + (half > 0), color="0.75", lw=5, solid_capstyle="butt")
        evaluate = jax.jit(lambda p, model=model: model(p, x[:, None], config.alpha, BOUND)[:, 0])
        for i in range(len(seeds)):
            params = jax.tree.map(lambda leaf, i=i: leaf[i], runs.params)
            ax.plot(x, evaluate(params), color="C0", lw=1)
        data = np.asarray(points(task, int(seeds[0])))
        data = data[np.abs(data) < x[-1]]
        ax.plot(data, data + (data > 0), "k.", ms=4)
        ax.set_title(title, fontsize=10)
        ax.grid(alpha=0.3)
    figure.savefig(HERE / "_static" / "jump.png", dpi=110)


def monotone() -> None:
    """A free and a monotone network on the same noisy points."""
    rng = np.random.default_rng(3)
    x = np.sort(rng.uniform(-6, 6, 40)).astype(np.float32)[:, None]
    truth = lambda x: np.sqrt(np.maximum(x + 4, 0)) / 2 + (x > 2)
    y = (truth(x) + rng.normal(0, 0.25, x.shape)).astype(np.float32)
    line = np.linspace(-6, 6, 400, dtype=np.float32)[:, None]
    nets = {
        "MLP": MLP((64, 64)),
        "mj.layers.MonotoneMLP": mj.layers.MonotoneMLP((64, 64, 1), input_variance=12.0),
    }
    figure, axes = plt.subplots(1, 2, figsize=(8, 2.9), sharey=True, layout="constrained")
    for ax, (title, net) in zip(axes, nets.items(), strict=True):
        params = net.init(jax.random.key(0), x)
        predict = jax.jit(lambda p, x, net=net: net.apply(p, x).reshape(len(x)))
        loss = lambda p, predict=predict: ((predict(p, x) - y[:, 0]) ** 2).mean()
        rule = optax.adam(optax.cosine_decay_schedule(5e-3, 4000))
        step = jax.jit(lambda p, s, rule=rule, loss=loss: rule.update(jax.grad(loss)(p), s))
        state = rule.init(params)
        for _ in range(4000):
            updates, state = step(params, state)
            params = optax.apply_updates(params, updates)
        values = np.asarray(predict(params, line))
        falls = np.append(np.diff(values) < 0, False)
        ax.plot(line, truth(line), color="0.75", lw=5)
        ax.plot(x, y, "k.", ms=5)
        ax.plot(line, values, color="C0", lw=1.5)
        ax.plot(line, np.where(falls, values, np.nan), color="C3", lw=2.5)
        ax.set_title(title, fontsize=10)
        ax.grid(alpha=0.3)
    figure.savefig(HERE / "_static" / "monotone.png", dpi=110)


def split() -> None:
    """A ReLU network of one variable, and the two convex parts that it is the difference of."""
    rng = np.random.default_rng(1)
    kinks, first = np.array([-0.8, -0.3, 0.2, 0.6, 0.9]), np.array([1.0, -1.0, 1.0, 1.0, -1.0])
    second = np.array([1.6, 0.9, -3.2, 4.0, 1.2]) + rng.normal(0, 0.1, 5)
    fn = lambda x: (jax.nn.relu(first * (x[0] - kinks)) * second).sum()
    x = np.linspace(-1.2, 1.2, 600)
    pair = jax.vmap(mj.split(fn, recentre="none"))(x[:, None].astype(np.float32))
    figure, axes = plt.subplots(1, 2, figsize=(8, 2.7), layout="constrained")
    axes[0].plot(x, pair.g - pair.h, color="k", lw=2)
    axes[0].set_title("the network f = g - h", fontsize=10)
    axes[1].plot(x, pair.g, color="C3", lw=2, label="g")
    axes[1].plot(x, pair.h, color="C0", lw=2, label="h")
    axes[1].set_title("its two convex parts", fontsize=10)
    axes[1].legend()
    for ax in axes:
        ax.grid(alpha=0.3)
    figure.savefig(HERE / "_static" / "split.png", dpi=110)


if __name__ == "__main__":
    cut("main/auto_mpg_dependence.png", "auto_mpg.png", (0, 22, 1320, 338))
    cut(
        "difference/overlay_dic_inverted_gradient_x_input.png",
        "overlay.png",
        (0, 22, 828, 364),
    )
    split()
    monotone()
    jump()
