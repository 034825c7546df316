"""Images per second of the renderer, after compilation.

PYTHONPATH=. python tests/bench/shapes3d.py [--size 64] [--images 2048] [--repeats 5]

Goal: 2,000 per second at 64 x 64 on two cores. The median over repeats, per batch size.
"""

import argparse
import time

import jax
import numpy as np

from monojax.data import shapes3d


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print("| batch | images/s | images per CPU second |")
    print("|---|---|---|")
    factors = shapes3d.random_factors(jax.random.key(0), options.images)
    draw = jax.jit(lambda rows: shapes3d.render(rows, options.size))
    for batch in (16, 64, 256):
        parts = [factors[i : i + batch] for i in range(0, options.images, batch)]
        draw(parts[0]).block_until_ready()
        wall, cpu = [], []
        for _ in range(options.repeats):
            start = time.perf_counter(), time.process_time()
            for part in parts:
                out = draw(part)
            out.block_until_ready()
            wall.append(time.perf_counter() - start[0])
            cpu.append(time.process_time() - start[1])
        rates = [options.images / np.median(seconds) for seconds in (wall, cpu)]
        print(f"| {batch} | {rates[0]:,.0f} | {rates[1]:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
