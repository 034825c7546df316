"""Pairs of sentences: SNLI and the STS Benchmark, from files or by tensorflow-datasets."""

import csv
import gzip
import io
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from monojax.base.choices import one_of
from monojax.base.extras import require
from monojax.data.downloads import one_error
from monojax.data.locate import external_bytes

LABELS = ("entailment", "neutral", "contradiction")
"""Of SNLI, in the order of tensorflow-datasets' numbers."""
SOURCES = ("files", "tfds")

_SHA256 = {
    "snli_dev": "00191b23d12c20c45457b29c1274a87d03eaecaad4be5ccf71dae16404725c77",
    "snli_test": "c282f20c8960bb9b940ede137f8a9877f010e62006207348fcbbbabdb0c59d48",
    "stsb_dev": "691b6ae00416fb74bafaced992229573067f8d5102928f1bdbfa2aa0986250ff",
    "stsb_test": "99c58a3a6200d1c1e357b29d5e2e69fc9a6bd1f3dd2500902828696d11710944",
    "stsb_train": "0c07384104a7c098e9e5ee5b6c13ab6563f0596100bc09ef884b445f4aec65ac",
}
_GET = {
    "snli": "SNLI (Bowman et al. 2015, CC BY-SA 4.0), as the data folder's README describes, from "
    "MJ-Jang/BECEL; or use source='tfds'.",
    "stsb": "the STS Benchmark (Cer et al. 2017), as the data folder's README describes, from "
    "zhangzhenhu/Semantic-Texual-Similarity-Toolkits; or use source='tfds'.",
}
_TFDS_SPLITS = {"train": "train", "dev": "validation", "test": "test"}


class Inference(NamedTuple):
    """Pairs of SNLI with a gold label."""

    premises: list[str]
    hypotheses: list[str]
    labels: np.ndarray
    """Index into `LABELS`, int32 `[n]`."""

    def pairs(self, label: str = "entailment") -> list[tuple[str, str]]:
        """The pairs with one label, as ``(premise, hypothesis)``.

        Args:
          label: one of `LABELS`.

        Returns:
          list, in the file's order.

        Raises:
          ValueError: on another label.
        """
        one_of(label, LABELS, "label")
        chosen = np.flatnonzero(self.labels == LABELS.index(label))
        return [(self.premises[i], self.hypotheses[i]) for i in chosen]


class Similarity(NamedTuple):
    """Pairs of the STS Benchmark with people's scores."""

    first: list[str]
    second: list[str]
    scores: np.ndarray
    """0 (unrelated) to 5 (the same), float64 `[n]`."""


def snli(
    split: str, data_dir: str | os.PathLike[str] | None = None, source: str = "files"
) -> Inference:
    """Pairs of the Stanford Natural Language Inference corpus that have a gold label.

    Args:
      split: "dev" or "test"; "train" by tensorflow-datasets only.
      data_dir: the data folder (``text/snli_dev.tsv.gz``), or None for ``MONOJAX_DATA``; with
        source "tfds" tensorflow-datasets' folder, or None for its own.
      source: "files" or "tfds".

    Returns:
      Inference.

    Raises:
      MissingDataError: if the file is missing; says where to get it.
      ValueError: on an unknown split or source, or a damaged file.
      ImportError: without tensorflow-datasets, for source "tfds".
    """
    if _check("snli", split, source) == "tfds":
        rows = _tfds_rows("snli", split, data_dir)
        rows = [row for row in rows if int(row["label"]) >= 0]  # -1: the annotators disagreed
        return Inference(
            [_text(row["premise"]) for row in rows],
            [_text(row["hypothesis"]) for row in rows],
            np.array([int(row["label"]) for row in rows], np.int32),
        )
    rows = _file_rows("snli", split, data_dir)
    return Inference(
        [row["premise"] for row in rows],
        [row["hypothesis"] for row in rows],
        np.array([LABELS.index(row["label"]) for row in rows], np.int32),
    )


def stsb(
    split: str, data_dir: str | os.PathLike[str] | None = None, source: str = "files"
) -> Similarity:
    """Pairs of the STS Benchmark.

    Args:
      split: "train", "dev" or "test"; by tensorflow-datasets (GLUE) not "test", whose scores are
        hidden there.
      data_dir: the data folder (``text/stsb_dev.tsv.gz``), or None for ``MONOJAX_DATA``; with
        source "tfds" tensorflow-datasets' folder, or None for its own.
      source: "files" or "tfds".

    Returns:
      Similarity.

    Raises:
      MissingDataError: if the file is missing; says where to get it.
      ValueError: on an unknown split or source, or a damaged file.
      ImportError: without tensorflow-datasets, for source "tfds".
    """
    if _check("stsb", split, source) == "tfds":
        rows = _tfds_rows("glue/stsb", split, data_dir)
        names, score = ("sentence1", "sentence2"), "label"
    else:
        rows = _file_rows("stsb", split, data_dir)
        names, score = ("sentence1", "sentence2"), "score"
    first, second = ([_text(row[name]) for row in rows] for name in names)
    return Similarity(first, second, np.array([float(row[score]) for row in rows]))


def unique(texts: Iterable[str]) -> list[str]:
    """Each text once, sorted, so that the order does not depend on anything else.

    Args:
      texts: any number.

    Returns:
      list.
    """
    return sorted(set(texts))


def _check(name: str, split: str, source: str) -> str:
    one_of(source, SOURCES, "source")
    files = tuple(key.split("_")[1] for key in _SHA256 if key.startswith(name))
    prepared = ("train", "dev", "test") if name == "snli" else ("train", "dev")
    known = files if source == "files" else prepared
    hint = " (GLUE hides the scores of the test part)" if name == "stsb" else ""
    one_of(split, known, f"split of {name} from {source}{hint}")
    return source


def _file_rows(name: str, split: str, data_dir: Any) -> list[dict[str, str]]:
    """Rows of a tab-separated file without quoting."""
    key = f"{name}_{split}"
    content = external_bytes(f"text/{key}.tsv.gz", _SHA256[key], _GET[name], data_dir)
    text = gzip.decompress(content).decode("utf-8")
    return list(csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))


def _tfds_rows(name: str, split: str, data_dir: Any) -> list[dict[str, Any]]:
    """Rows by tensorflow-datasets: read by TensorFlow where it is installed, else without it."""
    tfds = require("tensorflow_datasets", "data")
    where = {"data_dir": str(data_dir)} if data_dir is not None else {}
    try:
        require("tensorflow")
    except ImportError:
        with one_error(name):
            return list(tfds.data_source(name, split=_TFDS_SPLITS[split], **where))
    with one_error(name):
        return list(tfds.as_numpy(tfds.load(name, split=_TFDS_SPLITS[split], **where)))


def _text(value: str | bytes) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
