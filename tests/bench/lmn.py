r"""LMN's training step beside the package monotonenorm's, in one process.

python tests/bench/lmn.py [--rounds 7] [--steps 50] [--threads 1 2]

Both train the same network (equal weights, GroupSort in pairs, Adam, mean squared error, batch
300): 5,121 parameters (13-64-64-1) and 82,689 (64-256-256-1). Rounds of the two alternate; a round
is the mean of --steps steps, the table gives the median of --rounds rounds after warm-up. The
package runs with one thread and with all (read the faster row: its threads wait for each other on
a busy machine). Prints a message and ends where torch or monotonenorm is absent.
"""

import argparse
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import optax
from alternating import race

from monojax.layers.lmn import LMN

BATCH = 300
NETWORKS = {"5K": (13, (64, 64, 1)), "83K": (64, (256, 256, 1))}
LEARNING_RATE = 1e-3


def data(width):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH, width)).astype(np.float32)
    return x, np.tanh(x.sum(axis=1, keepdims=True))


def ours(width, widths, x, y):
    """A function that runs n steps and returns the last loss."""
    model = LMN(widths, 1.0, (1,) * width)
    variables = model.init(jax.random.key(0), x)
    optimiser = optax.adam(LEARNING_RATE)

    @jax.jit
    def step(variables, memory, x, y):
        def loss(v):
            return jnp.mean((model.apply(v, x) - y) ** 2)

        value, slope = jax.value_and_grad(loss)(variables)
        update, memory = optimiser.update(slope, memory)
        return optax.apply_updates(variables, update), memory, value

    state = [variables, optimiser.init(variables)]
    x, y = jnp.asarray(x), jnp.asarray(y)

    def run(steps):
        for _ in range(steps):
            *state[:], value = step(*state, x, y)
        return float(value)

    return run, sum(p.size for p in jax.tree.leaves(variables))


def theirs(width, widths, x, y):
    """The same with the published package, eager as its examples run it."""
    import monotonenorm
    import torch

    layers, before, kind = [], width, "one-inf"
    for i, features in enumerate(widths):
        layers.append(monotonenorm.direct_norm(torch.nn.Linear(before, features), kind=kind))
        if i < len(widths) - 1:
            layers.append(monotonenorm.GroupSort(features // 2))
        before, kind = features, "inf"
    net = monotonenorm.SigmaNet(torch.nn.Sequential(*layers), 1.0, [1] * width)
    optimiser = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    x, y = torch.tensor(x), torch.tensor(y)

    def run(steps):
        for _ in range(steps):
            loss = torch.mean((net(x) - y) ** 2)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return loss.item()

    return run, sum(p.numel() for p in net.parameters())


def measure(name, rounds, steps):
    """One row: (parameters, ours, theirs), milliseconds per step."""
    width, widths = NETWORKS[name]
    x, y = data(width)
    (first, count), (second, other) = ours(width, widths, x, y), theirs(width, widths, x, y)
    if count != other:
        raise RuntimeError(f"networks differ in size: {count} and {other}.")
    for run in (first, second):
        run(20)
    return count, *race(first, second, rounds, steps)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, nargs="+", help="torch threads; default 1 and all")
    options = parser.parse_args(argv)
    missing = [m for m in ("torch", "monotonenorm") if importlib.util.find_spec(m) is None]
    if missing:
        print(f"skipped: {' and '.join(missing)} not installed; the peer of this comparison.")
        return 0
    import torch

    threads = options.threads or sorted({1, torch.get_num_threads()})
    print(f"jax {jax.__version__}, torch {torch.__version__}, batch {BATCH}\n")
    print(
        "| parameters | torch threads | monojax, ms per step | monotonenorm, ms per step | ratio |"
    )
    print("| --- | --- | --- | --- | --- |")
    for name in NETWORKS:
        for number in threads:
            torch.set_num_threads(number)
            count, mine, peer = measure(name, options.rounds, options.steps)
            ratio = f"{peer / mine:.2f}x"
            print(f"| {count:,} | {number} | {mine:.3f} | {peer:.3f} | {ratio} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
