r"""Sentences per second: MiniLM here beside sentence-transformers with torch, in one process.

MONOJAX_DATA=DIR python tests/bench/minilm.py [--rounds 5] [--sentences 512] [--threads 1 2]

Both encode the same STS-B test sentences with the same weights, tokens counted in: tokenizing,
sorting by length, padding, the forward pass, embeddings in order on the host. Rounds of the two
alternate; the table gives medians of the rounds after one that warms up and compiles. torch runs
with each of --threads, jax with as many as XLA takes (all cores). torch's threads wait for each
other on a busy machine: read the time of the processors then, of one thread. sentence-transformers
pads each batch to its longest sentence; here to a multiple of --bucket. Prints a message and ends
where torch or sentence-transformers is absent.
"""

import argparse
import importlib.util
import os
import statistics
import time

import jax
import numpy as np

from monojax.data.text import stsb, unique
from monojax.models.minilm import minilm_folder
from monojax.models.minilm_text import SentenceEncoder


def timed(run, texts):
    """Seconds of the clock and of the processors, and what came out."""
    start = time.perf_counter(), time.process_time()
    vectors = run(texts)
    return (time.perf_counter() - start[0], time.process_time() - start[1]), vectors


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sentences", type=int, default=512)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--bucket", type=int, nargs="+", default=[8, 16])
    options = parser.parse_args()
    if not all(map(importlib.util.find_spec, ("torch", "sentence_transformers"))):
        print("minilm bench: torch and sentence-transformers are needed for the comparison.")
        return
    import torch
    from sentence_transformers import SentenceTransformer

    first, second, _ = stsb("test")
    texts = unique(first + second)
    order = np.random.default_rng(0).permutation(len(texts))[: options.sentences]
    texts = [texts[i] for i in order]
    theirs = SentenceTransformer(str(minilm_folder()), device="cpu")
    theirs.max_seq_length = 128  # as here; no STS-B sentence is longer

    def with_torch(texts, threads, size):
        torch.set_num_threads(threads)
        return theirs.encode(
            texts, batch_size=size, normalize_embeddings=True, show_progress_bar=False
        )

    runs = {}
    for threads in options.threads:
        for size in options.batch:
            runs[f"torch {torch.__version__}, {threads} threads, batch {size}"] = (
                lambda t, threads=threads, size=size: with_torch(t, threads, size)
            )
    for size in options.batch:
        for bucket in options.bucket:
            encoder = SentenceEncoder(batch_size=size, bucket=bucket)
            runs[f"jax {jax.__version__}, batch {size}, lengths to {bucket}"] = (
                lambda t, encoder=encoder: encoder.encode(t, normalise=True).vectors
            )
    vectors = {name: timed(run, texts)[1] for name, run in runs.items()}
    reference, *others = vectors.values()
    apart = max(float(np.abs(reference - other).max()) for other in others)
    times = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            times[name].append(timed(run, texts)[0])
    median = lambda name, which: statistics.median(one[which] for one in times[name])
    best = min(median(name, 0) for name in times if name.startswith("torch"))
    print(
        f"{len(texts)} sentences, {encoder.encode(texts).lengths.mean():.1f} tokens on average; "
        f"load {os.getloadavg()[0]:.1f}; largest difference of a coordinate {apart:.1e}"
    )
    print("| encoder | sentences/s | times the best torch | processor ms/sentence |")
    print("|---------|-------------|----------------------|-----------------------|")
    for name in times:
        clock, processors = median(name, 0), median(name, 1)
        rate, each = len(texts) / clock, 1e3 * processors / len(texts)
        print(f"| {name} | {rate:.0f} | {best / clock:.2f}x | {each:.1f} |")


if __name__ == "__main__":
    main()
