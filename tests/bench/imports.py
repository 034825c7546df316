r"""Time of `import monojax` against jax, flax.linen and optax together.

python tests/bench/imports.py [--repeats 7]

Fresh processes in turn, median; the goal is a ratio of at most 1.3.
"""

import argparse
import statistics
import subprocess
import sys
import time

PARTS = {"jax, flax.linen, optax": "import jax, flax.linen, optax", "monojax": "import monojax"}


def main(repeats):
    """Prints the two medians and their ratio."""
    times = {name: [] for name in PARTS}
    for i in range(repeats + 1):
        for name, code in PARTS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            if i:
                times[name].append(time.perf_counter() - start)
    base, ours = (statistics.median(values) for values in times.values())
    print("| import | s | ratio |\n|---|---|---|")
    print(f"| jax, flax.linen, optax | {base:.2f} | 1.00 |")
    print(f"| monojax | {ours:.2f} | {ours / base:.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    main(parser.parse_args().repeats)
