"""MiniLM off the shelf: every published or golden number of the encoder, from one command.

Cosines of three sentences, the STS Benchmark (dev and test), the effective dimension of the SNLI
entailment sentences and the error of cutting to it. Embeddings are cached in the work directory,
in the form that `train.monocon.features.embed` reads and others may use.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from monojax.data.text import snli, stsb, unique
from monojax.metrics import effective_dimension, reconstruction_error, sts_score
from monojax.models.minilm_text import SentenceEncoder
from monojax.training import Table
from train.checks import at_least
from train.monocon.features import embed
from train.reporting import provenance

THREE = ("The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.")
PAIRS = ((0, 1), (0, 2), (1, 2))
# (value, tolerance): the cosines from the documentation of sentence-transformers, 4 digits; STS-B
# test as published by MonoCon, appendix B; the others measured with the plain definition.
GOLDEN = {
    "cosine 1, 2": (0.6660, 5e-5),
    "cosine 1, 3": (0.1046, 5e-5),
    "cosine 2, 3": (0.1411, 5e-5),
    "STS-B dev": (86.72, 0.02),
    "STS-B test": (82.03, 0.02),
    "SNLI d_eff": (290, 2),
    "SNLI RMSE train, 1e-3": (4.90, 0.02),
    "STS-B RMSE test, 1e-3": (10.29, 0.05),
}


def sentence_sets(config: Any) -> dict[str, list[str]]:
    """The texts of the experiment: unique STS-B sentences and SNLI's entailment sentences.

    Args:
      config: `data_dir` (None for MONOJAX_DATA) and `limit` (None for all; pairs per set).

    Returns:
      Names to sorted lists.
    """
    sets = {}
    for split in ("dev", "test"):
        data = stsb(split, config.data_dir)
        sets[f"stsb_{split}"] = unique(data.first[: config.limit] + data.second[: config.limit])
    pairs = [p for split in ("dev", "test") for p in snli(split, config.data_dir).pairs()]
    sets["snli"] = unique(text for pair in pairs[: config.limit] for text in pair)
    return sets


def check(config: Any) -> None:
    """Finds mistakes in the values of a config before anything is written.

    Args:
      config: the experiment's config.

    Raises:
      ValueError: naming the first one.
      FileNotFoundError: if data or the encoder's files are missing.
    """
    if config.limit is not None:  # None: all pairs
        at_least(config, 2, "limit")
    sentence_sets(config)


def total_steps(config: Any) -> int:
    """Units of work: texts.

    Args:
      config: see train/configs/minilm_golden.py.

    Returns:
      Their number.
    """
    return sum(map(len, sentence_sets(config).values()))


def run(config: Any, workdir: Path, bar: Any) -> dict[str, float]:
    """Measures all golden values and compares them.

    Args:
      config: see train/configs/minilm_golden.py.
      workdir: where to: golden.md, golden.csv, and the cached embeddings.
      bar: progress bar over :func:`total_steps`.

    Returns:
      The measured values by name.

    Raises:
      ValueError: if a value lies outside its tolerance, after the table is written.
    """
    encoder = SentenceEncoder(config.folder)
    found = _cosines(encoder)
    vectors: dict[str, np.ndarray] = {}
    for name, texts in sentence_sets(config).items():
        vectors[name] = embed(encoder, texts, workdir / f"{name}.npz", tick=bar.update)
    for split in ("dev", "test"):
        data = stsb(split, config.data_dir)
        first, second = data.first[: config.limit], data.second[: config.limit]
        place = {text: i for i, text in enumerate(unique(first + second))}
        a, b = (vectors[f"stsb_{split}"][[place[t] for t in side]] for side in (first, second))
        found[f"STS-B {split}"] = sts_score(a, b, data.scores[: config.limit])
    train, test = (_normalised(vectors[name]) for name in ("snli", "stsb_test"))
    found["SNLI d_eff"] = effective_dimension(train)
    error = reconstruction_error(train, test)
    found["SNLI RMSE train, 1e-3"] = 1e3 * error.train
    found["STS-B RMSE test, 1e-3"] = 1e3 * error.test
    table, wrong = _table(found, config.limit is None)
    table.write(workdir, "golden", provenance(config))
    print("\n" + table.markdown(), flush=True)
    if wrong:
        raise ValueError(f"golden values not met: {', '.join(wrong)}; see {workdir}/golden.md.")
    return found


def _cosines(encoder: SentenceEncoder) -> dict[str, float]:
    vectors = encoder.encode(THREE, normalise=True).vectors
    return {f"cosine {i + 1}, {j + 1}": float(vectors[i] @ vectors[j]) for i, j in PAIRS}


def _table(found: dict[str, float], whole: bool) -> tuple[Table, Iterable[str]]:
    """Found and golden values; those of sets are compared where the sets are whole."""
    table = Table(["value", "found", "golden", "tolerance", "met"], "MiniLM off the shelf")
    wrong = []
    for name, value in found.items():
        golden, tolerance = GOLDEN[name]
        met = abs(value - golden) <= tolerance
        compared = whole or name.startswith("cosine")
        if compared and not met:
            wrong.append(name)
        table.add(
            name,
            f"{value:.4f}",
            f"{golden:g}",
            f"{tolerance:g}",
            ("yes" if met else "no") if compared else "(part of the set)",
        )
    return table, wrong


def _normalised(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
