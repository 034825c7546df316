"""Depthwise convolution: shifts and sums against XLA's own, forward and gradient, on CPU.

PYTHONPATH=. python tests/bench/depthwise.py [--batch 8] [--repeats 5]

Median seconds over interleaved repeats in one run, after a warm-up. Shapes are those of
EfficientNet-Lite0.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from monojax.layers.depthwise import depthwise_conv

# (height, channels, kernel, stride)
SHAPES = ((112, 32, 3, 1), (112, 96, 3, 2), (56, 144, 5, 2), (28, 240, 5, 1), (7, 1152, 5, 1))


def xla(x, kernel, strides):
    """The same by jax.lax."""
    return jax.lax.conv_general_dilated(
        x, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )  # fmt: skip


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print("| shape | kernel | stride | forward | gradient | largest difference |")
    print("|---|---|---|---|---|---|")
    for height, channels, size, stride in SHAPES:
        rng = np.random.default_rng(0)
        shape = (options.batch, height, height, channels)
        x = jnp.asarray(rng.normal(size=shape), jnp.float32)
        kernel = jnp.asarray(rng.normal(size=(size, size, 1, channels)), jnp.float32)
        runs = {}
        for name, fn in (("xla", xla), ("ours", depthwise_conv)):
            run = functools.partial(fn, strides=(stride, stride))
            runs[name, "forward"] = jax.jit(run)
            loss = lambda x, kernel, run=run: (run(x, kernel) ** 2).sum()
            runs[name, "gradient"] = jax.jit(jax.grad(loss, (0, 1)))
        times = {key: [] for key in runs}
        for repeat in range(options.repeats + 1):
            for key, run in runs.items():
                start = time.perf_counter()
                jax.block_until_ready(run(x, kernel))
                if repeat:
                    times[key].append(time.perf_counter() - start)
        cost = {key: np.median(values) for key, values in times.items()}
        gap = jnp.abs(runs["xla", "forward"](x, kernel) - runs["ours", "forward"](x, kernel)).max()
        ratios = [cost["xla", part] / cost["ours", part] for part in ("forward", "gradient")]
        cells = (f"{ratios[0]:.0f}x faster", f"{ratios[1]:.0f}x faster", f"{float(gap):.1g}")
        print(f"| {shape} | {size} | {stride} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
