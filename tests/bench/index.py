r"""The compact index beside faiss: its exact flat index, and HNSW at equal recall.

PYTHONPATH=. python tests/bench/index.py [--gallery 1000000] [--dims 512] [--queries 1000]
PYTHONPATH=. python tests/bench/index.py --hnsw [--gallery 100000] [--dims 64] [--queries 1000]

The first writes the gallery to a temporary file, opens it memory-mapped, and compares times and
rows found (2 GiB on disk for the defaults, and as much in faiss's memory). The second builds an
HNSW graph and raises its efSearch until it finds 90, 95 and 99% of the ten nearest; ours is exact.
Rows are a mixture of clusters: an HNSW graph of plain Gaussian noise finds little.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from monojax.compact import CompactIndex, load_index
from monojax.training.workdir import machine


def rows(rng, num, dims):
    """Unit rows around 1,000 centres, float32."""
    centres = np.random.default_rng(7).normal(size=(1000, dims)).astype(np.float32)
    found = centres[rng.integers(0, 1000, num)]
    found += rng.standard_normal(found.shape, np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def gallery(num, dims, storage="float32"):
    """An index of so many rows, nothing cut: what is timed is the search alone."""
    rng = np.random.default_rng(0)
    items = np.empty((num, dims), np.float32)
    for start in range(0, num, 65_536):
        part = items[start : start + 65_536]
        part[:] = rows(rng, len(part), dims)
    mean, axes = np.zeros(dims, np.float32), np.eye(dims, dtype=np.float32)
    return CompactIndex(mean, axes, items, None, {}, storage=storage)


def timed(call, repeats=1):
    """Result and best seconds."""
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        best = min(best, time.perf_counter() - start)
    return result, best


def flat(options):
    """The whole gallery, exactly, by both."""
    made = gallery(options.gallery, options.dims)
    query = rows(np.random.default_rng(1), options.queries, options.dims)
    other = made.to_faiss()
    with tempfile.TemporaryDirectory() as folder:
        index = load_index(made.save(Path(folder) / "index.npz"), mmap=True)
        del made
        index.search_embeddings(query[:2], 10)  # compiles
        encoded = index.encode(query)
        ours, seconds = timed(lambda: index.search_embeddings(query, 10), options.repeats)
        (_, theirs), faiss_seconds = timed(lambda: other.search(encoded, 10), options.repeats)
    same = float((np.sort(ours.ids, 1) == np.sort(theirs, 1)).all(axis=1).mean())
    print(
        f"{options.queries} queries in {options.gallery} x {options.dims}: ours {seconds:.1f} s, "
        f"memory-mapped; faiss flat {faiss_seconds:.1f} s; ours / faiss "
        f"{seconds / faiss_seconds:.2f}; queries with the same ten rows {same:.2%}"
    )


def hnsw(options):
    """An approximate index at several recalls."""
    import faiss

    made = gallery(options.gallery, options.dims)
    query = rows(np.random.default_rng(1), options.queries, options.dims)
    made.search_embeddings(query[:2], 10)
    ours, seconds = timed(lambda: made.search_embeddings(query, 10), options.repeats)
    graph = faiss.IndexHNSWFlat(options.dims, 32)
    graph.hnsw.efConstruction = 100
    _, built = timed(lambda: graph.add(made.vectors()))
    print(
        f"{options.queries} queries in {options.gallery} x {options.dims}: ours, exact, "
        f"{1e3 * seconds / options.queries:.2f} ms a query; HNSW was built in {built:.0f} s"
    )
    wanted = [0.9, 0.95, 0.99]
    for width in (16, 32, 64, 128, 256, 512, 1024, 2048):
        graph.hnsw.efSearch = width
        encoded = made.encode(query)
        (_, found), took = timed(lambda e=encoded: graph.search(e, 10), options.repeats)
        pairs = zip(found, ours.ids, strict=True)
        recall = float(np.mean([len(set(a) & set(b)) / 10 for a, b in pairs]))
        if wanted and recall >= wanted[0]:
            wanted = [level for level in wanted if level > recall]
            print(
                f"HNSW, efSearch {width}: recall {recall:.3f}, "
                f"{1e3 * took / options.queries:.3f} ms a query; ours / HNSW "
                f"{seconds / took:.1f}"
            )
        if not wanted:
            break


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hnsw", action="store_true")
    parser.add_argument("--gallery", type=int, default=None)
    parser.add_argument("--dims", type=int, default=None)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()
    given.gallery = given.gallery or (100_000 if given.hnsw else 1_000_000)
    given.dims = given.dims or (64 if given.hnsw else 512)
    (hnsw if given.hnsw else flat)(given)
    print(f"{machine()}, load {os.getloadavg()[0]:.1f}")
