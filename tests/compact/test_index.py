"""Rows by id, smaller numbers, files opened from disk, faiss, and rows of another kind."""

import json
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from monojax import metrics
from monojax.compact import UnlikeGalleryWarning, compress, load_index, searching
from monojax.compact import storage as storing

BASIS = np.linalg.qr(np.random.default_rng(6).normal(size=(16, 16)))[0]


def data(n=300, seed=0, inside=6):
    """Rows near a subspace, float32 `[n, 16]`, and ten labels."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(n, inside)) @ BASIS[:inside] + 0.02 * rng.normal(size=(n, 16))
    return y.astype(np.float32), rng.integers(0, 10, n)


Y, LABELS = data()
Q = data(40, seed=1)[0]
IDS = 1000 + np.random.default_rng(3).permutation(300)


@pytest.fixture(params=storing.STORAGES)
def storage(request):
    return request.param


def same(one, other):
    """Equal rows and neighbours, by id; numbers to a unit of float32."""
    found, want = one.search(Q, 7), other.search(Q, 7)
    np.testing.assert_array_equal(found.ids, want.ids)
    np.testing.assert_allclose(found.similarities, want.similarities, rtol=1e-5)
    order, wanted = np.argsort(one.ids), np.argsort(other.ids)
    np.testing.assert_array_equal(one.ids[order], other.ids[wanted])
    np.testing.assert_allclose(one.vectors(order), other.vectors(wanted), atol=1e-6)


# --- rows by id -------------------------------------------------------------------------------


def test_ids_are_found(storage):
    made = compress(None, Y, ids=IDS, storage=storage)
    found = made.search(Y[:20], 1)
    assert found.ids[:, 0].tolist() == IDS[:20].tolist()
    assert found.indices[:, 0].tolist() == list(range(20))
    assert compress(None, Y, storage=storage).ids.tolist() == list(range(300))


def test_after_remove_and_add_it_is_the_one_built_at_once(storage):
    whole = compress(None, Y, ids=IDS, storage=storage)
    some = np.random.default_rng(4).permutation(300)[:50]
    less = whole.remove(IDS[some])
    assert len(less) == 250 and not np.isin(IDS[some], less.search(Q, 250).ids).any()
    same(less.add(Y[some], IDS[some]), whole)
    assert len(whole) == 300  # it never changes itself


def test_replaced_rows_stay_where_they_are(storage):
    whole = compress(None, Y, ids=IDS, labels=LABELS, storage=storage)
    mixed = np.array(Y)
    mixed[[5, 9]] = Y[[9, 5]]
    other = whole.replace(Y[[9, 5]], IDS[[5, 9]])
    assert other.ids.tolist() == whole.ids.tolist()
    np.testing.assert_array_equal(other.vectors([5, 9]), whole.vectors([9, 5]))
    np.testing.assert_array_equal(other.labels, LABELS)
    same(other.replace(Y[[5, 9]], IDS[[5, 9]]), whole)
    assert other.stats["rows_replaced"] == 2


def test_labels_and_metadata_follow_their_rows():
    told = [{"name": f"row {i}", "tags": [i]} for i in range(300)]
    made = compress(None, Y[:290], ids=IDS[:290], labels=LABELS[:290], metadata=told[:290])
    made = made.remove(IDS[[0, 4]]).add(
        Y[290:], IDS[290:], labels=LABELS[290:], metadata=told[290:]
    )
    assert len(made) == len(made.metadata) == len(made.labels) == 298
    for id, label, each in zip(made.ids, made.labels, made.metadata, strict=True):
        i = int(np.flatnonzero(id == IDS)[0])
        assert each == told[i] and label == LABELS[i]
    assert made.stats["items"] == 298 and made.stats["rows_added"] == 10
    assert made.stats["bytes"] == made.items.nbytes
    plain = compress(None, Y[:290], ids=IDS[:290])
    assert plain.metadata is None and plain.remove(IDS[:1]).metadata is None
    mixed = plain.add(Y[290:], IDS[290:], metadata=told[290:])
    assert mixed.metadata[0] == {} and mixed.metadata[-1] == told[-1]


def test_texts_are_ids(tmp_path):
    names = np.array([f"photo {i}" for i in range(300)])
    made = compress(None, Y[:299], ids=names[:299]).add(Y[299:], ["a much longer name"])
    assert made.search(Y[299:], 1).ids[0, 0] == "a much longer name"
    made = load_index(made.remove(["photo 3"]).save(tmp_path / "i"))
    assert "photo 3" not in made.ids and made.search(Y[7:8], 1).ids[0, 0] == "photo 7"


# --- smaller numbers --------------------------------------------------------------------------


def test_bytes_and_what_they_lose():
    stats = {s: compress(None, Y, held_out=Q, storage=s).stats for s in storing.STORAGES}
    full, half, byte = (stats[s] for s in storing.STORAGES)
    assert half["bytes"] * 2 == full["bytes"]
    assert byte["bytes"] == full["bytes"] // 4 + 4 * byte["dims"]  # and a scale per dimension
    assert full["storage_kept"] == 1 >= half["storage_kept"] >= byte["storage_kept"] > 0.8
    assert byte["storage_kept"] < 1
    # Stated is what is found: shares of the 10 nearest, from scratch.
    z = metrics.neighbours.unit_rows(Y)
    want = metrics.nearest(metrics.neighbours.unit_rows(Q), z, 10).indices
    got = compress(None, Y, held_out=Q, storage="int8").search(Q, 10).indices
    kept = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(want, got, strict=True)])
    assert byte["neighbours_kept"] == pytest.approx(kept)


def test_numbers_of_one_byte_are_within_half_a_step():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 4)) * [1, 1e-3, 10, 1]
    rows[:, 3] = 0  # a dimension without variance
    stored = storing.store(rows, "int8")
    assert stored.codes.dtype == np.int8 and stored.row_scale is None
    error = np.abs(storing.restore(stored) - rows) / stored.scale
    assert error.max() <= 0.5 + 1e-5
    # Rows far beyond the scale are not cut off: they have a scale of their own.
    far = storing.store(100 * rows[:2], "int8", stored.scale)
    assert (np.abs(storing.restore(far) - 100 * rows[:2]) <= 51 * stored.scale).all()
    both = storing.joined(stored, far)
    np.testing.assert_array_equal(storing.restore(both)[:50], storing.restore(stored))
    np.testing.assert_array_equal(storing.restore(both)[50:], storing.restore(far))
    assert storing.taken(both, np.arange(9)).row_scale is None


def test_blocks_give_what_the_whole_gives(monkeypatch):
    made = compress(None, np.concatenate([Y, Y[:30]]), storage="int8")  # with equal rows
    want = made.search(Q, 9)
    monkeypatch.setattr(searching, "BLOCK", 64)
    for found, expected in zip(made.search(Q, 9), want, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert made.search(Q[:2], 330).indices.shape == (2, 330)


# --- files ------------------------------------------------------------------------------------

FRESH = """
import sys
import numpy as np
from monojax.compact import compress, load_index
folder, storage = sys.argv[1:]
data = dict(np.load(folder + "/data.npz"))
made = load_index(folder + "/changed.npz", mmap=True)
whole = compress(None, data["y"], ids=data["ids"], storage=storage)
one, other = made.search(data["q"], 7), whole.search(data["q"], 7)
assert (one.ids == other.ids).all() and np.allclose(one.similarities, other.similarities, rtol=1e-5)
again = whole.remove(data["ids"][:60]).add(data["y"][:60], data["ids"][:60])
again.save(folder + "/again.npz")
assert "faiss" not in sys.modules
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param("float32", marks=pytest.mark.slow), "int8"])
def test_round_trip_in_fresh_processes(tmp_path, kind):
    """What one process changed and saved, another opens from disk and builds at once."""
    whole = compress(None, Y, ids=IDS, storage=kind)
    changed = whole.remove(IDS[100:200]).add(Y[100:200], IDS[100:200])
    changed.save(tmp_path / "changed.npz")
    np.savez(tmp_path / "data.npz", y=Y, ids=IDS, q=Q)
    command = [sys.executable, "-c", FRESH, str(tmp_path), kind]
    subprocess.run(command, check=True, timeout=300, cwd=Path(__file__).resolve().parents[2])
    same(load_index(tmp_path / "again.npz"), whole)


def test_opened_from_disk(tmp_path, storage):
    told = [{"n": i, "sign": "é☃\u2028"} for i in range(300)]
    made = compress(None, Y, ids=IDS, labels=LABELS, metadata=told, storage=storage)
    made = made.add(50 * Y[:3], [1, 2, 3], labels=[0, 1, 2])
    file = made.save(tmp_path / "index.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["index.npz"]
    for again in (load_index(file), load_index(file, mmap=True)):
        assert again.stats == made.stats and again.storage == storage
        assert again.metadata == made.metadata
        np.testing.assert_array_equal(again.labels, made.labels)
        same(again, made)
    assert isinstance(again.items, np.memmap) and not again.items.flags.writeable
    same(again.remove([1, 2, 3]), made.remove([1, 2, 3]))
    with zipfile.ZipFile(file) as archive:  # any tool reads the metadata
        lines = archive.read("metadata.jsonl").decode().splitlines()
    assert json.loads(lines[4]) == {"id": int(IDS[4]), "metadata": told[4]}


def test_files_of_format_2_open(checkout):
    """Written by the code before ids; the rows are counted."""
    old = load_index(checkout / "tests" / "compact" / "data" / "index_format_2.npz")
    assert old.ids.tolist() == list(range(30)) and old.storage == "float32"
    z = (lambda r: (r.normal(size=(30, 3)) @ r.normal(size=(3, 6)), r))(np.random.default_rng(0))
    z = (z[0] + 0.01 * z[1].normal(size=(30, 6))).astype(np.float32)
    want = [[0, 24, 29], [1, 20, 13], [2, 14, 16], [3, 9, 10], [4, 10, 5]]
    assert old.search(z[:5], 3).ids.tolist() == want
    new = old.remove([24]).add(z[24:25], [100], labels=[0])  # nothing is known of its rows' errors
    assert new.search(z[:1], 3).ids.tolist() == [[0, 100, 29]]


def test_a_file_is_not_overwritten_by_accident(tmp_path):
    made = compress(None, Y)
    file = made.save(tmp_path / "index.npz")
    with pytest.raises(FileExistsError, match="nothing was written"):
        made.save(file)
    made.remove([0]).save(file, overwrite=True)
    assert len(load_index(file)) == 299
    (tmp_path / "thesis").write_text("dear")
    with pytest.raises(FileExistsError, match="thesis exists"):
        made.save(tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis").read_text() == "dear"


def test_damaged_files_and_other_versions(tmp_path):
    file = compress(None, Y, storage="int8").save(tmp_path / "index.npz")
    with np.load(file) as archive:
        arrays = dict(archive)

    def changed(**parts):
        np.savez(tmp_path / "bad.npz", **(arrays | parts))
        return tmp_path / "bad.npz"

    header = json.loads(arrays["header"].tobytes())
    text = lambda **new: np.frombuffer(json.dumps(header | new).encode(), np.uint8)
    short = {k: v for k, v in arrays.items() if k != "scale"}
    cases = {
        "has format 'monojax compact index 9'": lambda: changed(
            header=text(format="monojax compact index 9")
        ),
        "ids has shape": lambda: changed(ids=np.arange(3)),
        "axes has shape": lambda: changed(axes=arrays["axes"][:, :1]),
        "items are float32, not int8": lambda: changed(items=arrays["items"].astype("f4")),
        "have no scale": lambda: np.savez(tmp_path / "bad.npz", **short) or tmp_path / "bad.npz",
    }
    for message, make in cases.items():
        for mmap in (False, True):
            with pytest.raises(ValueError, match=message):
                load_index(make(), mmap=mmap)
    np.savez_compressed(tmp_path / "packed.npz", **arrays)
    assert len(load_index(tmp_path / "packed.npz")) == 300
    with pytest.raises(ValueError, match="cannot be memory-mapped"):
        load_index(tmp_path / "packed.npz", mmap=True)


# --- faiss ------------------------------------------------------------------------------------


@pytest.mark.oracle
def test_faiss_finds_the_same(storage):
    pytest.importorskip("faiss", reason="pip install faiss-cpu")
    made = compress(None, Y, ids=IDS, storage=storage).remove(IDS[7:9])
    distances, ids = made.to_faiss().search(made.encode(Q), 7)
    found = made.search(Q, 7)
    np.testing.assert_array_equal(ids, found.ids)
    # faiss subtracts in float32: |q|^2 + |g|^2 - 2 q.g, of numbers up to 4.
    np.testing.assert_allclose(distances, found.similarities**2, atol=4e-6)


def test_without_faiss_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"faiss.*monojax\[faiss\]"):
        compress(None, Y).to_faiss()


# --- rows of another kind -----------------------------------------------------------------------


def test_rows_of_another_distribution_are_told():
    made = compress(None, Y, ids=IDS, dims=6)
    rng = np.random.default_rng(9)
    other = rng.normal(size=(50, 16)).astype(np.float32)
    with pytest.warns(UnlikeGalleryWarning, match="another distribution") as caught:
        after = made.add(other, np.arange(50))
    assert caught[0].filename == __file__
    assert after.stats["rows_unlike"] > 40
    with pytest.warns(UnlikeGalleryWarning):
        made.replace(other[:1], IDS[:1])  # one row, far away
    mixed = np.concatenate([data(45, seed=5)[0], other[:5]])
    with pytest.warns(UnlikeGalleryWarning, match="of 50 new rows"):
        made.add(mixed, np.arange(50))


def test_rows_of_the_same_distribution_are_not():
    made = compress(None, Y, ids=IDS, dims=6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(20):  # 1 in 100 lies above the percentile: that is no news
            after = made.add(data(100, seed=100 + seed)[0], np.arange(100))
            made.add(data(1, seed=200 + seed)[0], [0])
        compress(None, Y, dims=16).add(Y[:2], [300, 301])  # all dimensions: nothing to notice
        compress(None, Y[:9]).add(Q, 9 + np.arange(40))  # too few rows to know
    assert after.stats["rows_unlike"] < 10


def test_bad_rows_are_named_and_change_nothing():
    told = [{} for _ in range(300)]
    made = compress(None, Y, ids=IDS, labels=LABELS)
    add = lambda *args, **options: lambda: made.add(*args, **{"labels": [1, 2], **options})
    bad = np.array(Y[:2])
    bad[0, 0] = np.nan
    cases = {
        "ids repeat: 7": add(Y[:2], [7, 7]),
        f"has the ids {IDS[0]} already; use replace": add(Y[:2], [7, IDS[0]]),
        "one per row, shape .2,., got shape .3,.": add(Y[:2], [1, 2, 3]),
        "ids of this index are integers, got texts": add(Y[:2], ["a", "b"]),
        r"integers \(64 bits\) or texts, got float64": add(Y[:2], [1.0, 2.0]),
        "embeddings has NaN": add(bad, [1, 2]),
        "embeddings have 5 dimensions": add(Y[:2, :5], [1, 2]),
        "has labels; give labels=": lambda: made.add(Y[:2], [1, 2]),
        "labels must be one integer per row": add(Y[:2], [1, 2], labels=[1]),
        "1 entries for 2 rows": add(Y[:2], [1, 2], metadata=[{}]),
        "row 1: JSON does not hold it": add(Y[:2], [1, 2], metadata=[{}, {"a": {1, 2}}]),
        "has no labels": lambda: compress(None, Y).add(Y[:1], [300], labels=[1]),
        "the index has no ids 7": lambda: made.remove([7, IDS[0]]),
        f"ids repeat: {IDS[0]}": lambda: made.remove([IDS[0], IDS[0]]),
        "keeps at least one row": lambda: made.remove(IDS),
        "has no ids 8": lambda: made.replace(Y[:1], [8]),
        "ids repeat: 1000, 1001, 1002, 1003, 1004 and 145 more": lambda: compress(
            None, Y, ids=1000 + np.arange(300) // 2
        ),
        "storage must be one of": lambda: compress(None, Y, storage="int4"),
        "one dictionary per row: 299 entries": lambda: compress(None, Y, metadata=told[1:]),
        "a list with one dictionary per row": lambda: compress(None, Y, metadata="file.jsonl"),
    }
    for message, call in cases.items():
        with pytest.raises(ValueError, match=message):
            call()
    assert len(made) == 300
