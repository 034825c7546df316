r"""Certificates: time of a proof, of bounds beside gradients; tightness beside another package.

python tests/bench/certify.py [--boxes 10000] [--rounds 3]

Three tables. (1) A 13-32-32-1 network on the unit box, compiled and not. (2) Bounds of all slopes
on --boxes boxes beside as many gradients, in float64, in chunks of 500: the median of rounds.
(3) The slopes of a 13-32-1 tanh network, W1^T (w2 (1 - tanh(W1 x + b)^2)), by the package
bound-propagation (torch, float64, intervals and CROWN), which can bound this one graph, and by the
three bounds here: mean width over boxes of three sizes, and time. Another network's slopes multiply
two values that vary, which its `Sequential` does not express. Table 3 is left out without it.
"""

import argparse
import functools
import importlib.util
import itertools
import os
import time

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.compat import enable_x64
from monojax.certify import certify_monotone
from monojax.certify.compiled import compiled_bounds
from monojax.certify.search import posed

CHUNK = 500
KINDS = ("interval", "forward", "backward")


def network(sizes, act, positive=False):
    """Weights and the function of ONE example."""
    rng = np.random.default_rng(1)
    pairs = list(itertools.pairwise(sizes))
    weights = [rng.standard_normal(pair) / np.sqrt(pair[0]) for pair in pairs]
    weights = [np.abs(w) if positive else w for w in weights]
    biases = [0.1 * rng.standard_normal(size) for size in sizes[1:]]

    def fn(x):
        for w, b in zip(weights[:-1], biases[:-1], strict=True):
            x = act(x @ w + b)
        return (x @ weights[-1] + biases[-1])[0]

    return weights, biases, fn


def boxes(count, width, radius):
    rng = np.random.default_rng(2)
    center = rng.uniform(0, 1, (count, width))
    return center - radius, center + radius


def seconds(run, rounds):
    run()  # compiles
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def chunked(bound, low, high):
    def run():
        parts = [bound(low[i : i + CHUNK], high[i : i + CHUNK]) for i in range(0, len(low), CHUNK)]
        return [np.concatenate([np.asarray(p[i]) for p in parts]) for i in (0, 1)]

    return run


def slopes_at(slope, points):
    return np.asarray(slope(points))


def proofs():
    print("| 13-32-32-1, two inputs rising on the unit box | answer | wall s | CPU s |")
    print("|---|---|---|---|")
    cases = [("relu", jax.nn.relu), ("tanh", jnp.tanh), ("softplus", jax.nn.softplus)]
    for name, act in cases:
        for positive in (True, False):
            *_, fn = network((13, 32, 32, 1), act, positive)
            directions = [1, 1] + [0] * 11
            for again in (False, True):
                wall, cpu = time.perf_counter(), time.process_time()
                found = certify_monotone(fn, [0.0] * 13, [1.0] * 13, directions, budget=2000)
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                kind = f"{name}, {'positive' if positive else 'any'} weights"
                kind += ", once more" if again else ""
                print(f"| {kind} | {found.status} ({found.stage}) | {wall:.1f} | {cpu:.1f} |")


def costs(count, rounds):
    print(f"\n| {count} gradients of 13-32-32-1 | gradients s | interval | forward | backward |")
    print("|---|---|---|---|---|")
    for name, act in (("relu", jax.nn.relu), ("tanh", jnp.tanh)):
        *_, fn = network((13, 32, 32, 1), act)
        low, high = boxes(count, 13, 0.05)
        program = posed(fn, 13).program
        with enable_x64():
            slope = jax.jit(jax.vmap(jax.grad(fn)))
            base = seconds(functools.partial(slopes_at, slope, low), 10 * rounds)
            bounds = [chunked(compiled_bounds(program, kind), low, high) for kind in KINDS]
            cells = [seconds(bound, rounds) for bound in bounds]
        times = " | ".join(f"{cell:.2f} s, {cell / base:.0f}x" for cell in cells)
        print(f"| {name} | {base:.4f} | {times} |")


def theirs(weights, biases):
    """The gradient of a 13-32-1 tanh network as a module of bound-propagation."""
    import torch
    from bound_propagation import BoundModelFactory, HyperRectangle, Pow
    from torch import nn

    (w1, w2), b1 = weights, biases[0]
    first, last = nn.Linear(13, 32, dtype=torch.float64), nn.Linear(32, 13, dtype=torch.float64)
    with torch.no_grad():
        first.weight.copy_(torch.tensor(w1.T))
        first.bias.copy_(torch.tensor(b1))
        last.weight.copy_(torch.tensor(-w1 * w2[:, 0]))
        last.bias.copy_(torch.tensor(w1 @ w2[:, 0]))
    net = BoundModelFactory().build(nn.Sequential(first, nn.Tanh(), Pow(2), last))

    def bound(kind):
        def run(low, high):
            box = HyperRectangle(torch.tensor(low), torch.tensor(high))
            with torch.no_grad():
                out = net.ibp(box) if kind == "interval" else net.crown(box).concretize()
            return out.lower.numpy(), out.upper.numpy()

        return run

    return {"bound-propagation, interval": bound("interval"), "its CROWN": bound("crown")}


def tightness(count, rounds):
    if importlib.util.find_spec("bound_propagation") is None:
        print("\nbound-propagation is not installed: no comparison.")
        return
    weights, biases, fn = network((13, 32, 1), jnp.tanh)
    program = posed(fn, 13).program
    print("\n| slopes of 13-32-1 tanh: mean width | radius 0.01 | 0.1 | 0.5 | s for all at 0.1 |")
    print("|---|---|---|---|---|")
    with enable_x64():
        bounds = theirs(weights, biases)
        bounds |= {f"here, {kind}": compiled_bounds(program, kind) for kind in KINDS}
        slope = jax.jit(jax.vmap(jax.grad(fn)))
        for name, bound in bounds.items():
            widths = []
            for radius in (0.01, 0.1, 0.5):
                low, high = boxes(CHUNK, 13, radius)
                lo, hi = map(np.asarray, bound(low, high))
                seen = np.asarray(slope((low + high) / 2))
                assert (lo <= seen + 1e-9).all() and (seen <= hi + 1e-9).all(), name
                widths.append(f"{(hi - lo).mean():.4f}")
            low, high = boxes(count, 13, 0.1)
            spent = seconds(chunked(bound, low, high), rounds)
            print(f"| {name} | {' | '.join(widths)} | {spent:.2f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--boxes", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(f"jax {jax.__version__}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    proofs()
    costs(given.boxes, given.rounds)
    tightness(given.boxes, given.rounds)


if __name__ == "__main__":
    main()
