r"""VGG16's convolutions at 64 x 64 written in several ways, beside torch, in one process.

PYTHONPATH=tests/bench python tests/bench/convolutions.py [--batch 16] [--threads 1] [--forms ...]

Random weights, forward only; every form is checked against torch. XLA may take a second thread
whatever --threads says: compare CPU seconds then. Rounds go through all forms in
turn; the table gives medians of CPU milliseconds and of the clock, an image, and torch's over each.
XLA's flags and the precision of products come from outside: XLA_FLAGS=--xla_cpu_..., or
JAX_DEFAULT_MATMUL_PRECISION=bfloat16.
"""

import argparse
import os
import time

PLAN = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
"""Widths; 0 is a maximum over 2 x 2."""
SIZE = 64
ONE_THREAD = " --xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def kernels(rng):
    import numpy as np

    made, wide = [], 3
    for width in filter(None, PLAN):
        made.append(rng.normal(size=(3, 3, wide, width)) * (2 / (9 * wide)) ** 0.5)
        wide = width
    return [np.asarray(kernel, np.float32) for kernel in made]


def forms():
    """Name to (convolution, channel-last)."""
    import jax
    import jax.numpy as jnp

    def lax(layout, kernel):
        return lambda x, w: jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=(layout, kernel, layout)
        )

    def shifts(x):
        high, wide = x.shape[1:3]
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return [x[:, i : i + high, j : j + wide] for i in range(3) for j in range(3)]

    def im2col(x, w):
        return jnp.concatenate(shifts(x), axis=-1) @ w.reshape(-1, w.shape[-1])

    def nine_products(x, w):
        return sum(s @ k for s, k in zip(shifts(x), w.reshape(9, *w.shape[2:]), strict=True))

    last = lax("NHWC", "HWIO")
    return {
        "channel-last": (last, True),
        "channel-first": (lax("NCHW", "OIHW"), False),
        "im2col": (im2col, True),
        "nine products": (nine_products, True),
        "im2col from 64 channels": (
            lambda x, w: last(x, w) if x.shape[-1] < 64 else im2col(x, w),
            True,
        ),
    }


def network(conv, last):
    """The forward pass with one way to convolve."""
    import jax

    window = (1, 2, 2, 1) if last else (1, 1, 2, 2)

    def run(weights, x):
        kernel = iter(weights)
        for width in PLAN:
            if width:
                x = jax.nn.relu(conv(x, next(kernel)))
            else:
                x = jax.lax.reduce_window(x, -float("inf"), jax.lax.max, window, window, "VALID")
        return x

    return run


def in_torch(weights):
    import torch

    layers, kernel = [], iter(weights)
    for width in PLAN:
        if not width:
            layers.append(torch.nn.MaxPool2d(2))
            continue
        w = next(kernel)
        conv = torch.nn.Conv2d(w.shape[2], width, 3, padding=1, bias=False)
        conv.weight.data = torch.tensor(w.transpose(3, 2, 0, 1).copy())
        layers += [conv, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers).eval()


def calls(options):
    """Name to a call without arguments that gives channel-last numpy."""
    import jax
    import numpy as np
    import torch

    rng = np.random.default_rng(0)
    weights = kernels(rng)
    x = rng.normal(size=(options.batch, SIZE, SIZE, 3)).astype(np.float32)
    first = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    theirs, given = in_torch(weights), torch.tensor(first)

    def torch_call():
        with torch.no_grad():
            return theirs(given).numpy().transpose(0, 2, 3, 1)

    made = {"torch": torch_call}
    for name, (conv, last) in forms().items():
        if options.forms and name not in options.forms:
            continue
        own = weights if last else [w.transpose(3, 2, 0, 1) for w in weights]
        held = jax.device_put((own, x if last else first))
        program = jax.jit(network(conv, last)).lower(*held).compile()
        turned = (0, 1, 2, 3) if last else (0, 2, 3, 1)
        made[name] = lambda p=program, h=held, t=turned: np.asarray(p(*h)).transpose(t)
    return made


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--forms", nargs="*", default=[])
    options = parser.parse_args(argv)
    if options.threads == 1:  # before jax is imported
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + ONE_THREAD
    import numpy as np
    import torch

    torch.set_num_threads(options.threads)
    runs = calls(options)
    wanted = runs["torch"]()
    for name, call in runs.items():  # warms up, too
        error = np.abs(call() - wanted).max() / np.abs(wanted).max()
        assert error < 0.05, (name, error)
    spent = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, call in runs.items():
            cpu, wall = time.process_time(), time.perf_counter()
            call()
            spent[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    base = np.array(spent["torch"])
    print(f"batch {options.batch}, {options.threads} threads, load {os.getloadavg()[0]:.1f}\n")
    print("| form | CPU ms | clock ms | torch / this, CPU | clock |\n|---|---|---|---|---|")
    for name, pairs in spent.items():
        cpu, wall = 1e3 * np.median(pairs, axis=0) / options.batch
        ratios = np.median(base / np.array(pairs), axis=0)
        print(f"| {name} | {cpu:.1f} | {wall:.1f} | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
