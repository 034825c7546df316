"""Embeddings of a person: three kinds of what belongs together, and every mistake."""

import json
import sys

import numpy as np
import pytest

import monojax as mj
from monojax.compact import load_index
from train.__main__ import main
from train.monocon.embeddings import data, heads, measures, report

N, D = 240, 12
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 6, N)
CENTRES = RNG.normal(size=(6, 4)) @ np.linalg.qr(RNG.normal(size=(D, 4)))[0].T
Z = (CENTRES[LABELS] + 0.1 * RNG.normal(size=(N, D))).astype(np.float32)


@pytest.fixture
def files(tmp_path):
    """A folder with embeddings, labels, pairs and texts."""
    folder = tmp_path / "files"
    folder.mkdir()
    np.save(folder / "e.npy", Z)
    np.savez(folder / "e.npz", embeddings=Z, other=1)
    np.save(folder / "l.npy", LABELS * 10)
    np.save(folder / "names.npy", np.array([f"class {i}" for i in LABELS]))
    np.save(folder / "p.npy", np.argsort(LABELS, kind="stable")[: N // 2 * 2].reshape(-1, 2))
    (folder / "t.txt").write_text("\n".join(f"row {i}" for i in range(N)) + "\n", "utf-8")
    return folder


def command(files, workdir, **options):
    given = [f"--config.{key}={value}" for key, value in options.items()]
    base = ["--config", "compress_embeddings:quick", f"--config.embeddings={files / 'e.npy'}"]
    return main([*base, "--workdir", str(workdir), *given])


@pytest.mark.slow
def test_indices_and_models_that_open_elsewhere(files, tmp_path, capsys):
    pytest.importorskip("flatbuffers", reason="jax.export writes with flatbuffers")
    run = tmp_path / "run"
    assert command(files, run, labels=files / "l.npy", texts=files / "t.txt") == 0
    for kind in ("pca", "standard", "monocon"):
        index = load_index(run / f"index_{kind}.npz", mmap=True)
        # Searched by the encoder's own output; every row finds itself.
        found = index.search(Z[:30], 1)
        assert (found.ids[:, 0] == np.arange(30)).mean() > 0.9
        assert index.metadata[7] == {"text": "row 7"} and index.storage == "int8"
        np.testing.assert_array_equal(index.labels, LABELS * 10)
    model = mj.load_exported(run / "model_monocon.mjx")
    assert model.metadata["directions"] == [1] * D
    np.testing.assert_allclose(model(Z[:3]), index.embed(Z[:3]), rtol=1e-5, atol=1e-6)
    low, high = model(Z[:3]), model(Z[:3] + 0.1)
    assert (np.asarray(high) >= np.asarray(low)).all()
    table = (run / "compressed.md").read_text()
    assert "MonoCon head" in table and "5-NN" in table and "Take index_" in table
    assert (run / "recall.png").stat().st_size > 10_000
    before = sorted((run / "cells").iterdir())
    assert command(files, run, labels=files / "l.npy", texts=files / "t.txt") == 0
    assert sorted((run / "cells").iterdir()) == before  # nothing was trained again
    kept = (run / "index_pca.npz").read_bytes()
    np.save(files / "e.npy", Z[::-1])
    try:
        assert command(files, run, labels=files / "l.npy", texts=files / "t.txt") == 1
    finally:
        np.save(files / "e.npy", Z)
    assert "e.npy has changed since" in capsys.readouterr().err
    assert (run / "index_pca.npz").read_bytes() == kept


@pytest.mark.slow
def test_pairs_and_neighbours(files, tmp_path):
    pytest.importorskip("flatbuffers", reason="jax.export writes with flatbuffers")
    assert command(files, tmp_path / "pairs", pairs=files / "p.npy", heads="('monocon',)") == 0
    assert "partner is among" in (tmp_path / "pairs" / "compressed.md").read_text()
    assert command(files, tmp_path / "none", heads="('monocon',)", storage="float16") == 0
    text = (tmp_path / "none" / "compressed.md").read_text()
    assert "beside PCA: MonoCon head" in text and "Nothing says here" in text
    assert load_index(tmp_path / "none" / "index_monocon.npz").items.dtype == np.float16


@pytest.mark.slow
def test_heads_learn_what_belongs_together(checkout):
    """On classes in a noise of many more dimensions, both heads beat PCA at as few."""
    from train.arguments import load_config

    config = load_config(checkout / "train" / "configs" / "compress_embeddings.py", "full")
    config.unlock()
    config.recipe.update(steps=300, batch_size=256)
    config.update(curve=(4,), recall=(1,))
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 20, 1500)
    z = rng.normal(size=(20, 32))[labels] + 1.5 * rng.normal(size=(1500, 32))
    rows = data.Rows(z.astype(np.float32), "labels", labels, None, np.arange(20), None, "")
    parts = data.split(rows, 0.2, 0)
    job = measures.task(rows, parts, config)
    at_four = lambda y: measures.measured(rows, job, y, config)["curve"][0][2]
    base = at_four(rows.z)
    for kind in heads.KINDS:
        module, variables, about = heads.trained(rows, parts, kind, config, lambda steps: None)
        assert about["score"] > base + 0.1
        assert at_four(np.asarray(module.apply(variables, rows.z))) > base + 0.05


def test_what_is_paired_is_held_out_together():
    pairs = np.array([[0, 1], [1, 2], [5, 6], [8, 7]])
    group = data.components(pairs, 10)
    assert len(set(group[[0, 1, 2]])) == 1 and len(set(group)) == 10 - 4
    many = RNG.permutation(N)[:200].reshape(-1, 2)
    rows = data.Rows(Z, "pairs", data.components(many, N), many, None, None, "")
    parts = data.split(rows, 0.25, 1)
    assert sorted(np.concatenate(parts).tolist()) == list(range(N))
    for part in parts:
        inside = np.isin(many, part)
        assert (inside[:, 0] == inside[:, 1]).all()
    assert abs(len(parts.test) - N // 4) <= 1


def test_recall_is_what_it_says():
    """Against loops over all rows, in float64."""
    rows = data.Rows(Z, "labels", LABELS, None, np.arange(6), None, "")
    config = type("Config", (), {})()
    config.seed, config.queries, config.recall, config.dims = 0, 30, (1, 5), None
    config.variance, config.curve = 0.99, (2, 4)
    job = measures.task(rows, data.split(rows, 0.2, 0), config)
    assert not np.isin(job.query, job.gallery).any()
    found = measures.measured(rows, job, Z, config)
    z = np.float64(Z) / np.linalg.norm(np.float64(Z), axis=1, keepdims=True)
    mean = z[job.fit].mean(0)
    basis = np.linalg.svd(z[job.fit] - mean)[2]
    for width, recall in ((2, found["curve"][0][2]), (found["dims"], found["recall_1"][0])):
        cut = (z - mean) @ basis[:width].T
        far = np.linalg.norm(cut[job.query][:, None] - cut[job.gallery], axis=2)
        right = LABELS[job.gallery[far.argmin(1)]] == LABELS[job.query]
        assert recall == pytest.approx(right.mean(), abs=1e-12)
    free = data.Rows(Z, "neighbours", None, None, None, None, "")
    job = measures.task(free, data.split(free, 0.2, 0), config)
    whole = measures.measured(free, job, Z, config, whole=True)
    assert whole["recall_5"][0] == 1  # by definition
    pairs = np.argsort(LABELS, kind="stable").reshape(-1, 2)
    paired = data.Rows(Z, "pairs", data.components(pairs, N), pairs, None, None, "")
    job = measures.task(paired, data.split(paired, 0.2, 0), config)
    one = measures.measured(
        paired,
        job,
        np.repeat(Z[pairs.min(1)], 2, 0)[np.argsort(pairs.reshape(-1))],
        config,
        whole=True,
    )  # partners are equal, a row does not find itself
    assert one["recall_5"][0] == 1


def test_advice_takes_the_smallest_that_is_nearly_the_best():
    row = lambda dims, recall: {"dims": dims, "full": 64, "recall_1": [recall] * 3}
    found = {"full": row(64, 0.9), "pca": row(40, 0.9), "monocon": row(8, 0.895)}
    config = type("Config", (), {"recall": (1,)})()
    names = {"pca": "index_pca.npz", "monocon": "index_monocon.npz"}
    text = report.advice(found, "labels", config, names)
    assert text.startswith("Take index_monocon.npz (MonoCon head): 8 of 64 dimensions")
    found["monocon"] = row(8, 0.8)
    assert report.advice(found, "labels", config, names).startswith("Take index_pca.npz")


def test_mistakes_are_told_before_anything_is_written(files, tmp_path, capsys):
    bad = np.array(Z)
    bad[4, 2] = np.nan
    np.save(files / "nan.npy", bad)
    np.save(files / "ints.npy", LABELS)
    np.save(files / "few.npy", Z[:20])
    np.save(files / "flat.npy", Z[:, 0])
    np.save(files / "objects.npy", np.array([{}, 1], object))
    np.savez(files / "two.npz", a=Z, b=Z)
    np.save(files / "short.npy", LABELS[:-1])
    np.save(files / "one.npy", 0 * LABELS)
    np.save(files / "own.npy", np.arange(N))
    np.save(files / "far.npy", np.array([[0, N]] * 20))
    np.save(files / "self.npy", np.array([[3, 3]] * 20))
    (files / "text.npy").write_text("no array")
    (files / "short.txt").write_text("a\nb\n")
    (files / "gap.txt").write_text("a\n" * 5 + "\n" + "a\n" * (N - 6))
    (files / "latin.txt").write_bytes("é\n".encode("latin-1") * N)
    at = lambda name: files / name
    cases = [
        ({"embeddings": ""}, "config.embeddings must name a file"),
        ({"embeddings": at("gone.npy")}, "there is no file"),
        ({"embeddings": at("text.npy")}, "cannot be read as .npy or .npz"),
        ({"embeddings": at("objects.npy")}, "saved as texts by array.astype(str)"),
        ({"embeddings": at("two.npz")}, "holds a, b; name one of them 'embeddings'"),
        ({"embeddings": at("nan.npy")}, "NaN or infinite values in 1 of the"),
        ({"embeddings": at("ints.npy")}, "must hold floats"),
        ({"embeddings": at("flat.npy")}, "shape [n, d]"),
        ({"embeddings": at("few.npy")}, "20 rows are too few"),
        ({"labels": at("short.npy")}, "got int64 of shape (239,)"),
        ({"labels": at("one.npy")}, "name 1 classes"),
        ({"labels": at("own.npy")}, "name 240 classes"),
        ({"labels": at("e.npy")}, "one integer or text per row"),
        ({"labels": at("l.npy"), "pairs": at("p.npy")}, "not both"),
        ({"pairs": at("l.npy")}, "integers [m, 2]"),
        ({"pairs": at("far.npy")}, "pairs of rows 0 to 239, got 20 from 0 to 240"),
        ({"pairs": at("self.npy")}, "paired with themselves"),
        ({"texts": at("short.txt")}, "has 2 lines for 240 embeddings"),
        ({"texts": at("gap.txt")}, "line 6 is empty"),
        ({"texts": at("latin.txt")}, "no text in UTF-8"),
        ({"storage": "int4"}, "config.storage must be one of"),
        ({"heads": "('monoco',)"}, "did you mean 'monocon'"),
        ({"dims": 13}, "config.dims must be at most 12"),
        ({"held_out": 0.9}, "must lie in [0.05, 0.5]"),
        ({"recall": "(0,)"}, "integers >= 1"),
    ]
    run = tmp_path / "run"
    for changes, message in cases:
        code = command(files, run, **changes)
        said = capsys.readouterr().err
        assert code in (1, 2) and message in said, (changes, said)
        assert not run.exists()


def test_a_missing_package_is_told_before_anything_is_trained(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    assert command(files, tmp_path / "run") == 1
    assert "monojax[export]" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_labels_of_texts_stay(files):
    config = type("Config", (), {})()
    config.embeddings, config.labels = str(files / "e.npz"), str(files / "names.npy")
    config.pairs = config.texts = ""
    rows = data.read(config)
    from train.monocon.embeddings.experiment import _told

    told, labels = _told(rows)
    assert [each["label"] for each in told[:3]] == [f"class {i}" for i in LABELS[:3]]
    np.testing.assert_array_equal(labels, LABELS)
    assert json.dumps(told[0])
