"""Convolutions of 4 x 4 and stride 2, and their transpose: ours against jax.lax's, on CPU.

PYTHONPATH=. python tests/bench/strided.py [--batch 64] [--repeats 5]

Smallest seconds over interleaved repeats, forward and with both derivatives. Shapes are those of
the usual decoder for 64 x 64.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from monojax.layers.strided import doubling_conv, halving_conv

# (height of the small picture, channels of the large one, of the small one)
SHAPES = ((32, 3, 32), (16, 32, 32), (8, 32, 64), (4, 64, 64))
LAYOUT = ("NHWC", "HWIO", "NHWC")


def lax_down(x, kernel):
    """The same by jax.lax."""
    return jax.lax.conv_general_dilated(
        x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=LAYOUT
    )


def lax_up(x, kernel):
    """The same by jax.lax: a convolution of a picture with zeros in between."""
    turned, border = kernel[::-1, ::-1].transpose(0, 1, 3, 2), ((2, 2), (2, 2))
    return jax.lax.conv_general_dilated(
        x, turned, (1, 1), border, lhs_dilation=(2, 2), dimension_numbers=LAYOUT
    )


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print("| small side | channels | convolution | forward | with derivatives |")
    print("|---|---|---|---|---|")
    for side, wide, narrow in SHAPES:
        rng = np.random.default_rng(0)
        draw = lambda *shape, rng=rng: jnp.asarray(rng.normal(size=shape), jnp.float32)
        large = draw(options.batch, 2 * side, 2 * side, wide)
        small = draw(options.batch, side, side, narrow)
        kernel = draw(4, 4, wide, narrow)
        pairs = {
            "halving": (large, lax_down, halving_conv),
            "doubling": (small, lax_up, doubling_conv),
        }
        for name, (x, theirs, ours) in pairs.items():
            runs = {}
            for who, fn in (("lax", theirs), ("ours", ours)):
                runs[who, 0] = jax.jit(fn)
                runs[who, 1] = jax.jit(
                    jax.grad(lambda x, kernel, fn=fn: (fn(x, kernel) ** 2).sum(), (0, 1))
                )
            times = {key: [] for key in runs}
            for repeat in range(options.repeats + 1):
                for key, run in runs.items():
                    start = time.perf_counter()
                    jax.block_until_ready(run(x, kernel))
                    if repeat:
                        times[key].append(time.perf_counter() - start)
            best = {key: min(values) for key, values in times.items()}
            ratios = [best["lax", part] / best["ours", part] for part in (0, 1)]
            cells = (f"{r:.1f}x as fast" for r in ratios)
            print(f"| {side} | {wide}, {narrow} | {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
