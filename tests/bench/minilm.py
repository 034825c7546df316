r"""Sentences per second: MiniLM here beside sentence-transformers with torch, in one process.

MONOJAX_DATA=DIR python tests/bench/minilm.py [--rounds 5] [--sentences 512] [--threads 2]

Both encode the same STS-B test sentences with the same weights, tokens counted in: tokenizing,
sorting by length, padding, the forward pass, embeddings in order on the host. Rounds of the two
alternate; the table gives the median of the rounds after one that warms up and compiles. torch
runs with --threads threads, jax with as many as XLA takes (all cores). sentence-transformers pads
each batch to its longest sentence; here to a multiple of --bucket. Prints a message and ends where
torch or sentence-transformers is absent.
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
    """Seconds, and what came out."""
    start = time.perf_counter()
    vectors = run(texts)
    return time.perf_counter() - start, vectors


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sentences", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--bucket", type=int, nargs="+", default=[8, 16])
    options = parser.parse_args()
    if not all(map(importlib.util.find_spec, ("torch", "sentence_transformers"))):
        print("minilm bench: torch and sentence-transformers are needed for the comparison.")
        return
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(options.threads)
    first, second, _ = stsb("test")
    texts = unique(first + second)
    order = np.random.default_rng(0).permutation(len(texts))[: options.sentences]
    texts = [texts[i] for i in order]
    theirs = SentenceTransformer(str(minilm_folder()), device="cpu")
    theirs.max_seq_length = 128  # as here; no STS-B sentence is longer
    runs = {
        f"torch {torch.__version__}, batch {size}": lambda t, size=size: theirs.encode(
            t, batch_size=size, normalize_embeddings=True, show_progress_bar=False
        )
        for size in options.batch
    }
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
    best = min(statistics.median(t) for name, t in times.items() if name.startswith("torch"))
    print(
        f"{len(texts)} sentences, {encoder.encode(texts).lengths.mean():.1f} tokens on average; "
        f"load {os.getloadavg()[0]:.1f}; largest difference of a coordinate {apart:.1e}"
    )
    print("| encoder | sentences/s | of the best torch |")
    print("|---------|-------------|-------------------|")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"| {name} | {len(texts) / median:.0f} | {best / median:.2f}x |")


if __name__ == "__main__":
    main()
