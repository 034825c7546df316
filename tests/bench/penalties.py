r"""Ratios of the training step with a penalty to the plain step, and to PyTorch's usual form.

python tests/bench/penalties.py [--repeats 60] [--points train,random,mixup]

Everything is timed in turn in one process: median after warm-up, results waited for; compile time
apart. The penalty is asked of the batch's own points ("train", one shared forward pass) and of
the recipe's 1,024 fresh points ("random", "mixup"), with the mean and the max reduction. The
PyTorch column (where torch is installed) is `autograd.grad(create_graph=True)` on the same
points. Then the metric over 10,000 points.
"""

import argparse
import functools
import importlib.util
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import monojax as mj
from monojax.models import MLP
from monojax.training import Table
from monojax.training.workdir import machine

SIZES = [(100, 20), (100, 100), (500, 20), (500, 100)]
BATCH, FRESH, GAMMA, LR = 256, 1024, 1e2, 1e-3
MODEL = MLP((256, 256))
OPTIMIZER = optax.adam(LR)


def jax_step(directions, where, reduce):
    """One training step: plain, on the batch's own points, or on fresh ones."""
    low, high = jnp.zeros(len(directions)), jnp.ones(len(directions))

    def loss(params, key, x, y):
        fn = functools.partial(MODEL.apply, params)
        if where == "plain":
            return jnp.mean(jnp.square(fn(x) - y))
        if where == "train":
            values, omega = mj.value_and_penalty(fn, x, directions, reduce=reduce)
            return jnp.mean(jnp.square(values - y)) + GAMMA * omega
        if where == "random":
            points = mj.uniform_points(key, FRESH, low, high)
        else:
            points = mj.mixup_points(key, FRESH, x, low, high)
        omega = mj.monotonicity_penalty(fn, points, directions, reduce=reduce)
        return jnp.mean(jnp.square(fn(x) - y)) + GAMMA * omega

    def step(params, opt_state, key, x, y):
        value, grads = jax.value_and_grad(loss)(params, key, x, y)
        updates, opt_state = OPTIMIZER.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    return jax.jit(step)


def compiled(directions, where, reduce, x, y):
    """A call without arguments that runs the compiled step, its compile time, its FLOPs."""
    params = MODEL.init(jax.random.key(0), x[:1])
    args = (params, OPTIMIZER.init(params), jax.random.key(1), x, y)
    start = time.perf_counter()
    program = jax_step(directions, where, reduce).lower(*args).compile()
    seconds = time.perf_counter() - start
    cost = program.cost_analysis()
    return lambda: jax.block_until_ready(program(*args)), seconds, cost["flops"]


def torch_step(directions, reduce, x, y):
    """The same step in PyTorch, the penalty written the usual way; None without torch."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    monotone = torch.tensor(np.flatnonzero(directions))
    net = torch.nn.Sequential(
        torch.nn.Linear(x.shape[1], 256),
        torch.nn.ReLU(),
        torch.nn.Linear(256, 256),
        torch.nn.ReLU(),
        torch.nn.Linear(256, 1),
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=LR)
    x, y = torch.tensor(np.asarray(x)), torch.tensor(np.asarray(y))

    def step():
        points = x.clone().requires_grad_(reduce != "plain")
        values = net(points)[:, 0]
        loss = ((values - y) ** 2).mean()
        if reduce != "plain":
            (slopes,) = torch.autograd.grad(values.sum(), points, create_graph=True)
            violation = torch.clamp(-slopes[:, monotone], min=0) ** 2
            omega = violation.sum(dim=1).mean() if reduce == "mean" else violation.max()
            loss = loss + GAMMA * omega
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def medians(calls, repeats, pause=0.0):
    """Median seconds of each call: rounds of three, in turn, the first of each three not counted.

    ``pause`` lies between calls: PyTorch's threads spin for a while after a step and would slow
    whatever comes next.
    """
    times = {name: [] for name in calls}
    for i in range(2 + -(-repeats // 2)):
        for name, call in calls.items():
            time.sleep(pause)
            call()
            for _ in range(2):
                start = time.perf_counter()
                call()
                if i >= 2:
                    times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def steps_table(repeats, points):
    """The table of step ratios."""
    header = ["D", "\\|M\\|", "step", "ms", "times plain", "FLOPs times plain", "compile s"]
    table = Table([*header, "torch / ours"], f"batch {BATCH}, MLP 256-256")
    for d, m in SIZES:
        directions = np.where(np.arange(d) < m, 1, 0)
        x = jax.random.uniform(jax.random.key(2), (BATCH, d))
        y = jnp.sin(x).mean(axis=1)
        kinds = [
            ("plain", ""),
            *((w, r) for w in points for r in ("mean", "max")),
        ]
        built = {kind: compiled(directions, *kind, x, y) for kind in kinds}
        calls = {kind: call for kind, (call, _, _) in built.items()}
        for reduce in ("plain", "mean", "max"):
            call = torch_step(directions, reduce, x, y)
            if call is not None:
                calls["torch", reduce] = call
        times = medians(calls, repeats, pause=0.02)
        peers = {("train", reduce): ("torch", reduce) for reduce in ("mean", "max")}
        peers["plain", ""] = ("torch", "plain")
        plain, flops = times[("plain", "")], built[("plain", "")][2]
        for kind in kinds:
            peer = times.get(peers.get(kind))
            table.add(
                d,
                m,
                " ".join(kind).strip(),
                f"{1e3 * times[kind]:.2f}",
                f"{times[kind] / plain:.2f}",
                f"{built[kind][2] / flops:.2f}",
                f"{built[kind][1]:.1f}",
                "" if peer is None else f"{peer / times[kind]:.2f}",
            )
    return table


def metric_table(repeats):
    """The violation rate over 10,000 points at D = 500."""
    points = jax.random.uniform(jax.random.key(0), (10_000, 500))
    params = MODEL.init(jax.random.key(0), points[:1])
    fn = functools.partial(MODEL.apply, params)
    rate = lambda p: mj.metrics.violation_rate(fn, p, np.ones(500, int))
    program = jax.jit(rate).lower(points).compile()
    memory = program.memory_analysis()
    seconds = medians(
        {"rate": lambda: jax.block_until_ready(program(points))}, max(5, repeats // 6)
    )
    table = Table(["violation_rate", "s", "MiB beyond the points"], "10,000 points, D = 500")
    table.add("10,000 x 500", f"{seconds['rate']:.3f}", f"{memory.temp_size_in_bytes / 2**20:.0f}")
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--points", default="train,random,mixup")
    options = parser.parse_args()
    print(steps_table(options.repeats, options.points.split(",")).markdown())
    print(metric_table(options.repeats).markdown())
    print(machine())
