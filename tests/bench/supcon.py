r"""The contrastive loss and a step of the head beside PyTorch; the blocked form's time and memory.

python tests/bench/supcon.py [--repeats 30] [--no-large]

Everything in one process, in turn, medians after warm-up. PyTorch (where installed) computes the
usual formula with autograd: normalise, one product, masks, log-softmax. "autodiff" is the same
formula in JAX without the gradient written by hand. The step is that of the MonoCon head, d = 512,
hidden 1,024: head, loss, gradient and AdamW on 1,024 features. The large batch is 8,192 x 512;
memory is XLA's temporary memory, and, measured, the growth of the process.
"""

import argparse
import functools
import importlib.util
import resource
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from monojax import supcon_loss
from monojax.layers import MonotoneHead
from monojax.training import Table
from monojax.training.workdir import machine

N, E, CLASSES, TAU = 1024, 512, 100, 0.1
LARGE = 8192


def plain(z, labels):
    """The loss by autodiff."""
    z = z / jnp.linalg.norm(z, axis=1, keepdims=True)
    self = jnp.eye(len(z), dtype=bool)
    s = jnp.where(self, -jnp.inf, z @ z.T / TAU)
    same = (labels[:, None] == labels) & ~self
    lse = jax.nn.logsumexp(s, axis=1)
    count = same.sum(axis=1)
    pulled = jnp.where(same, s, 0).sum(axis=1) / jnp.maximum(count, 1)
    return jnp.where(count > 0, lse - pulled, 0).mean()


def data(n):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, E)).astype(np.float32), rng.integers(0, CLASSES * n // N, n)


def torch_loss(torch, z, labels):
    """As the published code has it."""
    z = torch.nn.functional.normalize(z, dim=1)
    s = z @ z.T / TAU
    s = s - s.max(dim=1, keepdim=True).values.detach()
    others = torch.ones_like(s).fill_diagonal_(0)
    positives = (labels[:, None] == labels).float() * others
    log_prob = s - torch.log((torch.exp(s) * others).sum(1, keepdim=True) + 1e-9)
    return (-(positives * log_prob).sum(1) / (positives.sum(1) + 1e-9)).mean()


def compiled(fn, *args):
    """A call without arguments of the compiled function, and its temporary memory in MiB."""
    args = jax.tree.map(jnp.asarray, args)
    program = jax.jit(fn).lower(*args).compile()
    temporary = program.memory_analysis().temp_size_in_bytes / 2**20
    return lambda: jax.block_until_ready(program(*args)), temporary


def loss_calls(torch):
    """Forward and backward of the loss, 1,024 x 512."""
    z, labels = data(N)
    ours = jax.value_and_grad(functools.partial(supcon_loss, temperature=TAU))
    calls = {
        "ours": compiled(ours, z, labels)[0],
        "autodiff": compiled(jax.value_and_grad(plain), z, labels)[0],
    }
    if torch:
        tz, tl = torch.tensor(z, requires_grad=True), torch.tensor(labels)

        def call():
            tz.grad = None
            torch_loss(torch, tz, tl).backward()

        calls["torch"] = call
        call()
        np.testing.assert_allclose(calls["ours"]()[1], tz.grad, atol=1e-6)
    return calls


def step_calls(torch):
    """A training step of the head on cached features."""
    x, labels = data(N)
    head, optimizer = (
        MonotoneHead(E),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)),
    )
    params = head.init(jax.random.key(0), jnp.asarray(x[:1]))

    def step(params, state, x, labels):
        loss = lambda p: supcon_loss(head.apply(p, x), labels, TAU)
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    calls = {"ours": compiled(step, params, optimizer.init(params), x, labels)[0]}
    if torch:
        layers = [torch.nn.Linear(E, 2 * E), torch.nn.Linear(2 * E, E)]
        weights = [p for layer in layers for p in layer.parameters()]
        adamw, tx, tl = torch.optim.AdamW(weights, 1e-3), torch.tensor(x), torch.tensor(labels)
        linear = torch.nn.functional.linear

        def call():
            h = torch.nn.functional.leaky_relu(linear(tx, layers[0].weight ** 2, layers[0].bias))
            loss = torch_loss(torch, linear(h, layers[1].weight ** 2, layers[1].bias), tl)
            adamw.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            adamw.step()

        calls["torch"] = call
    return calls


def medians(calls, repeats):
    """Median seconds; a pause before each, since PyTorch's threads spin on after a step."""
    times = {name: [] for name in calls}
    for i in range(repeats + 2):
        for name, call in calls.items():
            time.sleep(0.02)
            call()
            start = time.perf_counter()
            call()
            if i >= 2:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def large_table(repeats):
    """The blocked form at 8,192 beside the whole one at 1,024, per pair."""
    table = Table(["n", "form", "ms", "ns per pair", "MiB of XLA"], "forward and backward")
    grad = lambda block: jax.value_and_grad(
        functools.partial(supcon_loss, temperature=TAU, batch_size=block)
    )
    cases = {(N, "whole"): None, (LARGE, "blocks of 1,024"): 1024}
    built = {key: compiled(grad(block), *data(key[0])) for key, block in cases.items()}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = medians({key: call for key, (call, _) in built.items()}, repeats)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    for (n, form), seconds in times.items():
        temporary = built[n, form][1]
        table.add(
            n, form, f"{1e3 * seconds:.1f}", f"{1e9 * seconds / n**2:.2f}", f"{temporary:.0f}"
        )
    per_pair = [seconds / n**2 for (n, _), seconds in times.items()]
    return table, per_pair[1] / per_pair[0], grown


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--no-large", action="store_true")
    options = parser.parse_args()
    torch = None
    if importlib.util.find_spec("torch"):
        import torch
    table = Table(["what", "ours ms", "autodiff / ours", "torch / ours"], f"n = {N}, e = {E}")
    for what, calls in {
        "loss, forward and backward": loss_calls(torch),
        "step of the head": step_calls(torch),
    }.items():
        found = medians(calls, options.repeats)
        ratios = [
            f"{found[k] / found['ours']:.2f}" if k in found else "" for k in ("autodiff", "torch")
        ]
        table.add(what, f"{1e3 * found['ours']:.1f}", *ratios)
    print(table.markdown())
    if not options.no_large:
        table, ratio, grown = large_table(max(3, options.repeats // 6))
        print(table.markdown())
        print(f"time per pair, blocks / whole: {ratio:.2f}; the process grew by {grown:.0f} MiB\n")
    print(machine())
