"""The files that MNIST and Fashion-MNIST were published in: what is read, and what is refused."""

import gzip

import numpy as np
import pytest

from monojax.data.idx import read_idx
from monojax.data.images import cifar10, fashion_mnist, mnist

COUNTS = {"train": 5, "t10k": 3}


def content(values):
    """An IDX file of bytes, put together by hand from LeCun's description."""
    lengths = b"".join(int(n).to_bytes(4, "big") for n in values.shape)
    return bytes([0, 0, 8, values.ndim]) + lengths + values.astype(np.uint8).tobytes()


def arrays(rng):
    return {
        split: (rng.integers(0, 256, (n, 28, 28)), rng.integers(0, 10, n))
        for split, n in COUNTS.items()
    }


def write(folder, splits, mark="-", packed=True):
    for split, (images, labels) in splits.items():
        for kind, values in (("images", images), ("labels", labels)):
            name = f"{split}-{kind}{mark}idx{values.ndim}-ubyte"
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content(values)))
            else:
                (folder / name).write_bytes(content(values))


@pytest.mark.parametrize(("mark", "packed"), [("-", True), ("-", False), (".", False)])
@pytest.mark.parametrize("load", [mnist, fashion_mnist])
def test_four_files_are_the_set(tmp_path, load, mark, packed):
    splits = arrays(np.random.default_rng(0))
    write(tmp_path, splits, mark, packed)
    found = load(tmp_path, source="idx")
    for got, want in zip(found, [*splits["train"], *splits["t10k"]], strict=True):
        np.testing.assert_array_equal(got, want)
    assert found.x_train.dtype == np.uint8 and found.y_test.dtype == np.int32
    found.x_train[0] = 0  # the reader's own, as of the other sources


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="needs data_dir="):
        mnist(source="idx")
    write(tmp_path, arrays(np.random.default_rng(0)))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no file t10k-labels-idx1-ubyte\.gz"):
        mnist(tmp_path, source="idx")
    with pytest.raises(ValueError, match="'tfds' or 'directory', got 'idx'"):
        cifar10(tmp_path, source="idx")


WHOLE = content(np.arange(12).reshape(3, 4))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (b"", "is no IDX file"),
        (b"\x89PNG" + WHOLE[4:], "is no IDX file"),
        (b"\0\0\x0d" + WHOLE[3:], "is no IDX file of unsigned bytes"),  # floats
        (WHOLE[:7], "ends within its header"),
        (WHOLE[:-1], "has 11 values where its header tells of 12"),
        (WHOLE + b"\0", "has 13 values where its header tells of 12"),
        (bytes([0, 0, 8, 4]) + b"\xff" * 16 + b"\0", "has 1 values"),  # more than an int64 counts
        (bytes([0, 0, 8, 4]) + b"\0" * 4 + b"\xff" * 12, "has 0 values where"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_other_and_damaged_files(tmp_path, found, message, packed):
    path = tmp_path / ("file.gz" if packed else "file")
    path.write_bytes(gzip.compress(found) if packed else found)
    with pytest.raises(ValueError, match=message):
        read_idx(path)


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-9], lambda c: c[:2] + b"PK" + c[4:], lambda c: c[:30]]
)
def test_damaged_archives(tmp_path, damage):
    path = tmp_path / "file.gz"
    path.write_bytes(damage(gzip.compress(content(np.arange(2000).reshape(40, 50) % 251))))
    with pytest.raises(ValueError, match="is no whole gzip archive"):
        read_idx(path)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ((5, 28, 29), 5, r"must hold images \[n, 28, 28\]"),
        ((0, 28, 28), 0, r"must hold images \[n, 28, 28\]"),
        ((5, 28, 28), 4, "one label for each of the 5 images"),
        ((5, 28, 28), 5, "labels from 0 to 9, got 10"),
    ],
)
def test_parts_that_do_not_fit(tmp_path, images, labels, message):
    splits = arrays(np.random.default_rng(0))
    splits["train"] = (np.zeros(images), np.arange(6, 6 + labels))
    write(tmp_path, splits)
    with pytest.raises(ValueError, match=message):
        mnist(tmp_path, source="idx")


def test_the_two_sets_are_told_apart(data_dir, tmp_path, monkeypatch):
    """Their files have the same names; the test labels are the sets' own."""
    data = fashion_mnist(data_dir)
    write(tmp_path, {"train": (data.x_train[:9], data.y_train[:9]), "t10k": data[2:]}, packed=False)
    assert len(fashion_mnist(tmp_path, source="idx").x_test) == 10000
    with pytest.raises(ValueError, match="holds fashion_mnist, not mnist"):
        mnist(tmp_path, source="idx")
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert len(fashion_mnist(f"~/{tmp_path.name}", source="idx").x_train) == 9


def test_the_content_says_whether_it_is_packed(tmp_path):
    values = np.arange(6).reshape(2, 3)
    (tmp_path / "a.gz").write_bytes(content(values))
    (tmp_path / "b").write_bytes(gzip.compress(content(values)))
    for name in ("a.gz", "b"):
        np.testing.assert_array_equal(read_idx(tmp_path / name), values)


def test_the_published_files_are_those_of_the_others(data_dir, tmp_path):
    """Written as IDX, the data folder's digits come back as they were."""
    data = mnist(data_dir)
    write(tmp_path, {"train": data[:2], "t10k": data[2:]}, packed=False)
    for got, want in zip(mnist(tmp_path, source="idx"), data, strict=True):
        np.testing.assert_array_equal(got, want)
