"""SNLI and STS-B: counts of the files, tensorflow-datasets' forms, bad input."""

import sys
import types

import numpy as np
import pytest

from monojax.data.text import LABELS, snli, stsb, unique


@pytest.mark.parametrize(
    "split, counts", [("dev", (3329, 3235, 3278)), ("test", (3368, 3219, 3237))]
)
def test_snli_has_the_known_counts(data_dir, split, counts):
    data = snli(split, data_dir)
    assert tuple(np.bincount(data.labels)) == counts
    assert len(data.premises) == len(data.hypotheses) == sum(counts)
    for label, count in zip(LABELS, counts, strict=True):
        assert len(data.pairs(label)) == count
    assert all(p.strip() and h.strip() for p, h in data.pairs())


def test_entailment_sentences_and_order(data_dir):
    pairs = [pair for split in ("dev", "test") for pair in snli(split, data_dir).pairs()]
    sentences = unique(text for pair in pairs for text in pair)
    assert len(sentences) == 12_614 and sentences == sorted(set(sentences))
    assert snli("dev", data_dir).pairs()[0] == (
        "Two women are embracing while holding to go packages.",
        "Two woman are holding packages.",
    )


@pytest.mark.parametrize("split, number", [("train", 5749), ("dev", 1500), ("test", 1379)])
def test_stsb_has_the_known_counts(data_dir, split, number):
    first, second, scores = stsb(split, data_dir)
    assert len(first) == len(second) == len(scores) == number
    assert scores.min() == 0 and scores.max() == 5
    assert not any('"' == text[0] == text[-1] and '""' in text for text in first)  # no quoting


def test_environment_variable(data_dir, monkeypatch):
    monkeypatch.setenv("MONOJAX_DATA", str(data_dir))
    assert len(stsb("dev").first) == 1500
    monkeypatch.delenv("MONOJAX_DATA")
    with pytest.raises(FileNotFoundError, match=r"text/stsb_dev.tsv.gz.*MONOJAX_DATA"):
        stsb("dev")


def test_bad_arguments_and_damaged_files(tmp_path):
    with pytest.raises(ValueError, match=r"must be one of 'dev', 'test', got 'train'"):
        snli("train", tmp_path)
    with pytest.raises(ValueError, match="hides the scores"):
        stsb("test", source="tfds")
    with pytest.raises(ValueError, match="source must be one of"):
        stsb("dev", source="web")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "snli_dev.tsv.gz").write_bytes(b"no data")
    with pytest.raises(ValueError, match="sha256"):
        snli("dev", tmp_path)


@pytest.fixture(params=["load", "data_source"])
def datasets(request, monkeypatch):
    """A stand-in for tensorflow-datasets: its two ways of reading, its types of values."""
    rows = {
        "snli": [
            dict(premise="p", hypothesis="h", label=np.int64(2)),
            dict(premise="q", hypothesis="i", label=np.int64(-1)),
            dict(premise="r", hypothesis="j", label=np.int64(0)),
        ],
        "glue/stsb": [dict(sentence1="s", sentence2="t", label=np.float32(3.5), idx=0)],
    }
    encoded = lambda row: {k: v.encode() if isinstance(v, str) else v for k, v in row.items()}
    asked = []

    def read(name, split, **options):
        asked.append((name, split, options))
        return [encoded(row) for row in rows[name]]

    fake = types.ModuleType("tensorflow_datasets")
    setattr(fake, request.param, read)
    fake.as_numpy = lambda data: data
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake)
    with_tensorflow = types.ModuleType("tensorflow") if request.param == "load" else None
    monkeypatch.setitem(sys.modules, "tensorflow", with_tensorflow)
    return asked


def test_tensorflow_datasets(datasets):
    data = snli("train", source="tfds")
    assert data.pairs("contradiction") == [("p", "h")] and data.pairs() == [("r", "j")]
    assert len(data.labels) == 2  # the pair without a gold label is left out
    first, second, scores = stsb("dev", "somewhere", source="tfds")
    assert (first, second, list(scores)) == (["s"], ["t"], [3.5])
    assert datasets == [
        ("snli", "train", {}),
        ("glue/stsb", "validation", {"data_dir": "somewhere"}),
    ]


def test_without_tensorflow_datasets(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r"monojax\[data\]"):
        snli("dev", source="tfds")
    with pytest.raises(ValueError, match="label must be one of"):
        from monojax.data.text import Inference

        Inference([], [], np.zeros(0, int)).pairs("maybe")
