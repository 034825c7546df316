r"""Exact nearest neighbours in a memory-mapped gallery: time, and memory beyond the gallery.

python tests/bench/neighbours.py [--gallery 1000000] [--queries 10000] [--dims 512]

The gallery is written to a temporary file (2 GiB for the defaults) and memory-mapped. Memory is the
process's anonymous memory, which does not count the mapped file, watched every 20 ms. About 10
TFLOP for the defaults. Beside it scikit-learn's brute force on a part that fits.
"""

import argparse
import re
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from monojax.metrics import nearest
from monojax.training.workdir import machine


def anonymous():
    """MiB of memory that is not a mapped file."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) / 1024


class Peak:
    """Context that watches the largest anonymous memory above its start."""

    def __enter__(self):
        self.start = self.top = anonymous()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while not self.done.wait(0.02):
            self.top = max(self.top, anonymous())

    def __exit__(self, *exc):
        self.done.set()
        self.thread.join()

    @property
    def grown(self):
        return self.top - self.start


def main(options):
    rng = np.random.default_rng(0)
    shape = options.gallery, options.dims
    query = rng.normal(size=(options.queries, options.dims)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gallery.npy"
        gallery = np.lib.format.open_memmap(path, "w+", np.float32, shape)
        for start in range(0, len(gallery), 16384):
            part = gallery[start : start + 16384]
            part[:] = rng.standard_normal(part.shape, np.float32)
        gallery.flush()
        gallery = np.load(path, mmap_mode="r")
        nearest(query[:2], gallery[: 2 * 8192], 10)  # compiles
        with Peak() as peak:
            start = time.perf_counter()
            found = nearest(query, gallery, 10)
            seconds = time.perf_counter() - start
        flops = 2 * options.queries * options.gallery * options.dims
        print(
            f"{options.queries} queries in {options.gallery} x {options.dims}: {seconds:.1f} s "
            f"({flops / seconds / 1e9:.0f} GFLOP/s), {peak.grown:.0f} MiB beyond the gallery"
        )
        compare(query[:1000], gallery, found.indices)
    print(machine())


def compare(query, gallery, indices):
    """The same on a part with scikit-learn, and the agreement there."""
    try:
        from sklearn.neighbors import NearestNeighbors
    except ImportError:
        return
    part = np.asarray(gallery[:100_000])
    start = time.perf_counter()
    oracle = NearestNeighbors(n_neighbors=10, algorithm="brute").fit(part).kneighbors(query)[1]
    middle = time.perf_counter()
    ours = nearest(query, part, 10).indices
    end = time.perf_counter()
    print(
        f"{len(query)} queries in {len(part)}: scikit-learn {middle - start:.1f} s, "
        f"ours {end - middle:.1f} s; rows equal: {(oracle == ours).all(axis=1).mean():.2%}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gallery", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--dims", type=int, default=512)
    main(parser.parse_args())
