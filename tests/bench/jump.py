r"""LMN on the jump task: ours beside the package monotonenorm on torch, by one protocol.

python tests/bench/jump.py [--constants 5 10] [--seeds 123 43 13 7 365]

Task and protocol are those of `--config lipschitz_fits:tightness`: y = x + (x > 0), 300 points
uniform on [-2, 2], Adam, 100 epochs of 6 batches of 50, a rate that climbs to 0.01 at 40% and falls
to 0. The points are the same; weights and order are each framework's own. Widths 64, 64, 1.

"lambda = L/2" has slopes in [0, L] with the linear term, as our row; "lambda = L, no linear term"
is the package's network without it. Printed, over seeds: the steepest secant of neighbours on a
grid of 20,001 points of [-0.5, 0.5] in % of L, and the mean squared error on [-2, 2].
Ends with a message where torch or monotonenorm is absent.
"""

import argparse
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np

from train.lipschitz_fits.models import build
from train.lipschitz_fits.training import Task, learning_rate, points, start, train

TASK = Task(points=300, batch_size=50, epochs=100, lr=0.01, target="jump", low=-2.0, high=2.0)
WINDOW = np.linspace(-0.5, 0.5, 20_001)
EVERYWHERE = np.linspace(-2, 2, 20_001)


def judged(predict, constant):
    """Steepest secant in % of L and mean squared error of a map of float32 `[n, 1]`."""
    near, far = (predict(x.astype(np.float32)[:, None])[:, 0] for x in (WINDOW, EVERYWHERE))
    steps = np.diff(near.astype(float)) / np.diff(WINDOW.astype(np.float32).astype(float))
    error = np.mean((far - (EVERYWHERE + (EVERYWHERE > 0))) ** 2)
    return 100 * np.abs(steps).max() / constant, error


def ours(constant, seeds):
    """The experiment's own row, `[seeds, 2]`."""
    model = build("lmn", None)
    runs = start(model, TASK, seeds, [constant] * len(seeds), 1.0)
    runs, _ = train(model, TASK, runs)
    apply = jax.jit(lambda v, x: model(v, x, 1.0, constant))
    each = [jax.tree.map(lambda leaf, i=i: leaf[i], runs.params) for i in range(len(seeds))]
    return np.asarray([judged(lambda x, v=v: np.asarray(apply(v, x)), constant) for v in each])


def theirs(constant, seeds, linear):
    """The package, with or without its linear term, `[seeds, 2]`."""
    import monotonenorm
    import torch

    rates = [
        float(learning_rate(jnp.float32(e + (s + 1) / 6), TASK.epochs, TASK.lr))
        for e in range(TASK.epochs)
        for s in range(TASK.points // TASK.batch_size)
    ]
    bound = constant / 2 if linear else constant
    found = []
    for seed in seeds:
        torch.manual_seed(seed)
        x = torch.tensor(np.array(points(TASK, seed)))[:, None]
        y = x + (x > 0)
        layers, before, kind, each = [], 1, "one-inf", bound ** (1 / 3)
        for i, width in enumerate((64, 64, 1)):
            dense = torch.nn.Linear(before, width)
            layers.append(monotonenorm.direct_norm(dense, kind=kind, max_norm=each))
            if i < 2:
                layers.append(monotonenorm.GroupSort(width // 2))
            before, kind = width, "inf"
        net = torch.nn.Sequential(*layers)
        if linear:
            net = monotonenorm.SigmaNet(net, bound, [1])
        optimiser = torch.optim.Adam(net.parameters(), lr=TASK.lr)
        for step, rate in enumerate(rates):
            if step % 6 == 0:
                order = torch.randperm(TASK.points).reshape(6, TASK.batch_size)
            for group in optimiser.param_groups:
                group["lr"] = rate
            rows = order[step % 6]
            optimiser.zero_grad()
            torch.mean((net(x[rows]) - y[rows]) ** 2).backward()
            optimiser.step()
        with torch.no_grad():
            found.append(judged(lambda x, net=net: net(torch.tensor(x)).numpy(), constant))
    return np.asarray(found)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--constants", type=float, nargs="+", default=[5.0, 10.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[123, 43, 13, 7, 365])
    options = parser.parse_args(argv)
    missing = [m for m in ("torch", "monotonenorm") if importlib.util.find_spec(m) is None]
    if missing:
        print(f"skipped: {' and '.join(missing)} not installed; the peer of this comparison.")
        return 0
    import torch

    torch.set_num_threads(1)
    print(f"jax {jax.__version__}, torch {torch.__version__}, {len(options.seeds)} seeds\n")
    print("| network | L | slope reached, % of L | each seed | mean squared error |")
    print("| --- | --- | --- | --- | --- |")
    for constant in options.constants:
        rows = {
            "monojax, lambda = L/2": ours(constant, options.seeds),
            "monotonenorm, lambda = L/2": theirs(constant, options.seeds, True),
            "monotonenorm, lambda = L, no linear term": theirs(constant, options.seeds, False),
        }
        for name, found in rows.items():
            share, error = found.T
            seeds = ", ".join(f"{v:.0f}" for v in share)
            cells = f"{share.mean():.1f} ± {share.std():.1f} | {seeds} | {error.mean():.4f}"
            print(f"| {name} | {constant:g} | {cells} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
