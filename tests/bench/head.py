r"""The training step of MonoCon's head beside the same in PyTorch, in one process.

python tests/bench/head.py [--rounds 9] [--steps 10] [--threads 1 2]

Both train the same head from equal weights (squared weights, leaky ReLU, free biases; widths of
the paper: 512 with a batch of 256, 384 with 256 sentences) with the clip and AdamW of the paper,
towards fixed unit vectors, so that the head and not the contrastive loss is timed. The losses of
the first steps must agree. Rounds of the two alternate; a round is the mean of --steps steps, the
table gives the median of --rounds rounds after warm-up. PyTorch runs with one thread and with all
(read the faster row). Prints a message and ends where torch is absent.
"""

import argparse
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import optax
from alternating import race

from monojax.layers import MonotoneHead

CASES = {"images": (512, 256), "sentences": (384, 256)}
RATE, DECAY, CLIP = 2e-4, 1e-4, 1.0


def data(dim, batch):
    rng = np.random.default_rng(0)
    x = np.maximum(rng.normal(size=(batch, dim)), 0).astype(np.float32)
    goal = rng.normal(size=(batch, dim)).astype(np.float32)
    return x, goal / np.linalg.norm(goal, axis=1, keepdims=True)


def ours(dim, x, goal):
    """A function that runs n steps and returns the last loss; and the initial parameters."""
    head = MonotoneHead(dim)
    params = jax.jit(head.init)(jax.random.key(0), x)
    optimiser = optax.chain(optax.clip_by_global_norm(CLIP), optax.adamw(RATE, weight_decay=DECAY))

    @jax.jit
    def step(params, memory, x, goal):
        def loss(p):
            y = head.apply(p, x)
            z = y / jnp.maximum(jnp.linalg.norm(y, axis=1, keepdims=True), 1e-12)
            return -jnp.mean(jnp.sum(z * goal, axis=1))

        value, slope = jax.value_and_grad(loss)(params)
        update, memory = optimiser.update(slope, memory, params)
        return optax.apply_updates(params, update), memory, value

    state = [params, optimiser.init(params)]
    x, goal = jnp.asarray(x), jnp.asarray(goal)

    def run(steps):
        for _ in range(steps):
            *state[:], value = step(*state, x, goal)
        return float(value)

    return run, params["params"]


def theirs(start, x, goal):
    """The same in PyTorch, eager, from the same weights."""
    import torch

    leaves = [
        torch.nn.Parameter(torch.tensor(np.asarray(start[layer][part])))
        for layer in ("dense_0", "dense_1")
        for part in ("kernel", "bias")
    ]
    optimiser = torch.optim.AdamW(leaves, lr=RATE, weight_decay=DECAY)
    x, goal = torch.tensor(x), torch.tensor(goal)

    def run(steps):
        for _ in range(steps):
            w1, b1, w2, b2 = leaves
            hidden = torch.nn.functional.leaky_relu(torch.addmm(b1, x, w1 * w1), 0.01)
            z = torch.nn.functional.normalize(torch.addmm(b2, hidden, w2 * w2), dim=1)
            loss = -(z * goal).sum(dim=1).mean()
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(leaves, CLIP)
            optimiser.step()
        return loss.item()

    return run


def measure(name, rounds, steps):
    """One row: ours and theirs, milliseconds per step."""
    dim, batch = CASES[name]
    x, goal = data(dim, batch)
    first, start = ours(dim, x, goal)
    second = theirs(jax.device_get(start), x, goal)
    # Float32 sums in another order, three steps apart.
    losses = [(first(1), second(1)) for _ in range(3)]
    if not np.allclose(*zip(*losses, strict=True), rtol=1e-3, atol=1e-4):
        raise RuntimeError(f"the two heads differ: losses {losses}.")
    first(5), second(5)
    return race(first, second, rounds, steps)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, nargs="+", help="torch threads; default 1 and all")
    options = parser.parse_args(argv)
    if importlib.util.find_spec("torch") is None:
        print("skipped: torch not installed; the peer of this comparison.")
        return 0
    import torch

    threads = options.threads or sorted({1, torch.get_num_threads()})
    print(f"jax {jax.__version__}, torch {torch.__version__}\n")
    print("| case | torch threads | monojax, ms per step | PyTorch, ms per step | ratio |")
    print("| --- | --- | --- | --- | --- |")
    for name in CASES:
        for number in threads:
            torch.set_num_threads(number)
            mine, peer = measure(name, options.rounds, options.steps)
            ratio = f"{peer / mine:.2f}x"
            print(f"| {name} | {number} | {mine:.2f} | {peer:.2f} | {ratio} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
