"""The compact index: what it keeps, what it says about its loss, and its files."""

import importlib.util
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from monojax import metrics
from monojax.compact import compress, contrastive, export_model, index, load_index, load_model


def data(n=300, d=12, seed=0):
    """Ten classes around ten directions of a 4-dimensional subspace, with a little noise."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(5).normal(size=(10, 4))
    basis = np.linalg.qr(np.random.default_rng(6).normal(size=(d, 4)))[0]
    labels = rng.integers(0, 10, n)
    y = (centres[labels] + 0.1 * rng.normal(size=(n, 4))) @ basis.T
    return (y + 1e-3 * rng.normal(size=(n, d))).astype(np.float32), labels


def test_keeps_the_effective_dimension_and_states_the_loss():
    y, labels = data()
    query, query_labels = data(50, seed=1)
    made = compress(None, y, labels=labels, held_out=query, held_out_labels=query_labels)
    z = y / np.linalg.norm(y, axis=1, keepdims=True)
    assert made.stats["dims"] == metrics.effective_dimension(z) == 4
    assert made.items.shape == (300, 4) and made.items.dtype == np.float32
    assert made.stats["bytes"] * 3 == made.stats["bytes_full"]
    assert 0.99 <= made.stats["variance_kept"] < 1
    assert made.stats["rmse"] == pytest.approx(metrics.reconstruction_error(z, z).train)
    zq = query / np.linalg.norm(query, axis=1, keepdims=True)
    full = metrics.recall_at_k(zq, query_labels, z, labels, 1, similarity="euclidean")
    found = made.search(query, 1)
    cut = float((labels[found.indices[:, 0]] == query_labels).mean())
    assert made.stats["recall_1_full"] == full and made.stats["recall_1_cut"] == cut
    assert made.stats["recall_1_lost"] == pytest.approx(full - cut)
    assert made.stats["neighbours_kept"] > 0.9
    assert set(made.stats) >= {"knn_full", "knn_cut", "queries"}


def test_cutting_too_far_shows_in_the_statistics():
    y, labels = data()
    good, bad = (compress(None, y, labels=labels, dims=dims).stats for dims in (12, 1))
    assert good["neighbours_kept"] == 1 and bad["neighbours_kept"] < 0.5
    assert bad["variance_kept"] < 0.9 < good["variance_kept"]


def test_without_held_out_queries_each_item_is_searched_among_the_others():
    y, labels = data(60)
    stats = compress(None, y, labels=labels, dims=2).stats
    z = y / np.linalg.norm(y, axis=1, keepdims=True)
    centred = z - z.mean(axis=0)
    cut = centred @ np.linalg.svd(centred)[2][:2].T
    for name, side in (("full", z), ("cut", cut)):
        distance = np.linalg.norm(side[:, None] - side, axis=2)
        np.fill_diagonal(distance, np.inf)
        near = labels[np.argsort(distance, axis=1)]
        votes = np.array([np.bincount(row[:5]).argmax() for row in near])
        assert stats[f"knn_{name}"] == (votes == labels).mean()
        assert stats[f"recall_1_{name}"] == (near[:, 0] == labels).mean()
    assert stats["recall_1_lost"] == stats["recall_1_full"] - stats["recall_1_cut"]


def test_whole_rotation_keeps_all_distances():
    y, _ = data(60)
    made = compress(None, y, dims=12)
    z = y / np.linalg.norm(y, axis=1, keepdims=True)
    want = metrics.nearest(z[:9], z, 5)
    found = made.search(y[:9], 5)
    np.testing.assert_array_equal(found.indices, want.indices)
    # float32 scores of unit vectors.
    np.testing.assert_allclose(found.similarities, want.similarities, atol=1e-6)


NEEDS_FLATBUFFERS = "jax.export writes with flatbuffers; pip install flatbuffers"


def test_file_round_trip_without_a_model(tmp_path):
    y, labels = data(80)
    made = compress(None, y, labels=labels)
    again = load_index(made.save(tmp_path / "index.npz"))
    assert again.stats == made.stats and again.model == b""
    np.testing.assert_array_equal(again.labels, labels)
    np.testing.assert_array_equal(again.encode(y[:7]), made.encode(y[:7]))
    assert [path.name for path in tmp_path.iterdir()] == ["index.npz"]


def test_file_round_trip_with_its_model(tmp_path):
    pytest.importorskip("flatbuffers", reason=NEEDS_FLATBUFFERS)
    weight = jnp.asarray(np.random.default_rng(2).normal(size=(12, 9)), jnp.float32)
    embed = jax.jit(lambda x: jnp.tanh(x @ weight))
    y, labels = data(80)
    program = export_model(embed, y[:3], tmp_path / "model.bin")
    made = compress(embed, y, labels=labels, model=program, batch_size=32)
    again = load_index(made.save(tmp_path / "index.npz"))
    assert again.stats == made.stats
    np.testing.assert_array_equal(again.labels, labels)
    # The exported program, for another batch size; one compiler, other fusions.
    np.testing.assert_allclose(again.encode(y[:7]), made.encode(y[:7]), atol=1e-6)
    np.testing.assert_array_equal(again.search(y[:7], 3).indices, made.search(y[:7], 3).indices)
    assert [path.name for path in tmp_path.glob("*.npz")] == ["index.npz"]
    model = load_model(tmp_path / "model.bin")
    for rows in (1, 5):
        np.testing.assert_allclose(model(y[:rows]), embed(y[:rows]), atol=1e-6)


def gallery_of_a_model():
    """A model whose embeddings are as wide as its inputs: nothing shows which is which."""
    turn = np.linalg.qr(np.random.default_rng(9).normal(size=(12, 12)))[0].astype(np.float32)
    embed = lambda x: np.tanh(3 * np.asarray(x) @ turn)
    y, labels = data(120)
    return embed, y, labels


def test_an_index_without_its_model_does_not_take_inputs_for_embeddings(tmp_path):
    """Searched with raw inputs of the same width it lost nearly all recall, in silence."""
    embed, y, labels = gallery_of_a_model()
    made = compress(embed, y, labels=labels)
    want = made.search(y[:9], 3).indices
    again = load_index(made.save(tmp_path / "index.npz"))
    for call in (again.search, again.encode):
        with pytest.raises(
            ValueError, match=r"embedded by a model that was not saved.*embed=model"
        ):
            call(y[:9])
    np.testing.assert_array_equal(again.search_embeddings(embed(y[:9]), 3).indices, want)
    with_model = load_index(tmp_path / "index.npz", embed=embed)
    np.testing.assert_array_equal(with_model.search(y[:9], 3).indices, want)
    # Saved again and read again, it still knows.
    twice = load_index(again.save(tmp_path / "again.npz"))
    with pytest.raises(ValueError, match="was not saved"):
        twice.search(y[:9])


def test_an_index_of_embeddings_takes_embeddings(tmp_path):
    embed, y, _ = gallery_of_a_model()
    z = embed(y)
    made = compress(None, z)
    again = load_index(made.save(tmp_path / "index.npz"))
    for call in (again.search, again.search_embeddings):
        np.testing.assert_array_equal(call(z[:5], 2).indices, made.search(z[:5], 2).indices)


def test_a_file_of_version_0_1_cannot_say_and_is_asked(tmp_path):
    """It did not write whether its gallery came as embeddings."""
    _, y, _ = gallery_of_a_model()
    compress(None, y).save(tmp_path / "index.npz")
    with np.load(tmp_path / "index.npz") as file:
        arrays = dict(file)
    header = json.loads(arrays["header"].tobytes())
    header = {"format": "monojax compact index 1", "stats": header["stats"]}
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(tmp_path / "old.npz", **arrays)
    old = load_index(tmp_path / "old.npz")
    with pytest.raises(ValueError, match=r"does not say whether.*search_embeddings"):
        old.search(y[:3])
    assert old.search_embeddings(y[:3], 1).indices[:, 0].tolist() == [0, 1, 2]
    assert load_index(tmp_path / "old.npz", embed=lambda x: x).search(y[:3], 1).indices[2, 0] == 2


@pytest.mark.parametrize("size", [1e-30, 1e-13, 1e30])
def test_embeddings_of_any_length(size):
    """Rows shorter than 1e-12 were taken for zeros."""
    y, labels = data(60)
    want = compress(None, y, labels=labels)
    made = compress(None, (y.astype(np.float64) * size), labels=labels)
    assert made.stats["dims"] == want.stats["dims"]
    np.testing.assert_allclose(made.items, want.items, atol=1e-5)


def test_old_names_raise_with_the_new_one():
    with pytest.raises(TypeError, match="'batch' is named 'batch_size' now"):
        compress(None, data(30)[0], batch=3)


def test_exported_program_is_for_three_platforms():
    pytest.importorskip("flatbuffers", reason=NEEDS_FLATBUFFERS)
    program = export_model(lambda tree: tree["a"] * 2.0, {"a": np.ones((4, 3), np.float32)})
    exported = jax.export.deserialize(bytearray(program))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert str(exported.in_avals[0].shape[0]) == "b"


def test_export_without_flatbuffers_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ImportError, match=r"flatbuffers.*monojax\[export\]"):
        export_model(lambda x: x, np.ones((2, 2), np.float32))


def test_each_name_has_one_home():
    assert not hasattr(contrastive, "compress") and not hasattr(index, "export_model")


def test_bad_input_is_named(tmp_path):
    y, labels = data(30)
    bad = y.copy()
    bad[3, 0] = np.nan
    made = compress(None, y)
    (tmp_path / "text").write_text("no archive")
    np.savez(tmp_path / "other.npz", a=1)
    cases = {
        "gallery has NaN": lambda: compress(None, bad),
        "labels must be one integer per row": lambda: compress(None, y, labels=labels[:4]),
        "dims must lie between 1 and 12, got 13": lambda: compress(None, y, dims=13),
        "embeddings have 5 dimensions and the index was made from 12": lambda: made.encode(
            y[:, :5]
        ),
        "embeddings has NaN": lambda: made.search(bad, 1),
        "k must lie between 1 and the gallery's 30 rows, got 31": lambda: made.search(y, 31),
        "text is no compact index": lambda: load_index(tmp_path / "text"),
        "other.npz is no compact index": lambda: load_index(tmp_path / "other.npz"),
    }
    if importlib.util.find_spec("flatbuffers"):
        cases["text is no exported program"] = lambda: load_model(tmp_path / "text")
        cases["example must be a batch"] = lambda: export_model(lambda x: x, 1.0)
    for message, call in cases.items():
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(FileNotFoundError):
        load_index(tmp_path / "absent.npz")
    for embed in (y, {"params": y}, y.tolist()):  # the two in the other order, parameters
        with pytest.raises(
            TypeError, match=r"embed must be a function.*compress\(embed, gallery\)"
        ):
            compress(embed, lambda x: x)
