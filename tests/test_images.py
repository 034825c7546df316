"""Image sets: what is in the files, what a wrong file gives, and the way through tfds."""

import types

import numpy as np
import pytest

from monojax.data import images
from monojax.data.images import fashion_mnist, mnist, notmnist


def test_mnist_counts(data_dir):
    """Published sizes and counts per class (LeCun's page)."""
    data = mnist(data_dir)
    assert data.x_train.shape == (60000, 28, 28) and data.x_test.shape == (10000, 28, 28)
    assert data.x_train.dtype == np.uint8 and data.y_train.dtype == np.int32
    assert np.bincount(data.y_train).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    assert np.bincount(data.y_test)[[0, 9]].tolist() == [980, 1009]


def test_fashion_and_notmnist_counts(data_dir):
    data = fashion_mnist(data_dir)
    assert len(data.x_train) == len(data.y_train) == 20000
    assert np.bincount(data.y_test).tolist() == [1000] * 10
    x, y = notmnist(data_dir)
    assert x.shape == (10000, 28, 28) and x.dtype == np.uint8 and y.dtype == np.int32
    assert np.bincount(y).tolist() == [1000] * 10


def test_a_missing_or_another_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"mnist\.npz is missing"):
        mnist(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "mnist.npz").write_bytes(b"something else")
    with pytest.raises(ValueError, match="is not the expected file"):
        mnist(tmp_path)
    with pytest.raises(ValueError, match="'files' or 'tfds', got 'web'"):
        mnist(tmp_path, source="web")


class FakeTfds(types.ModuleType):
    """What `from_tfds` calls, with two rows a split."""

    def load(self, name, batch_size, split, data_dir):
        assert (name, batch_size, data_dir) == ("mnist", -1, "somewhere")
        first = {"train": 0, "test": 10}[split]
        image = np.arange(2 * 4, dtype=np.uint8).reshape(2, 2, 2, 1) + first
        return {"image": image, "label": np.array([3, 4]) + first}

    def as_numpy(self, tree):
        return tree

    def data_source(self, name, split, data_dir):
        whole = self.load(name, -1, split, data_dir)
        return [{"image": x, "label": y} for x, y in zip(*whole.values(), strict=True)]


@pytest.mark.parametrize("tensorflow", [True, False])
def test_both_ways_through_tfds_agree(monkeypatch, tensorflow):
    monkeypatch.setattr(images, "require", lambda *_: FakeTfds("tensorflow_datasets"))
    monkeypatch.setattr(
        images.importlib.util, "find_spec", lambda name: object() if tensorflow else None
    )
    data = mnist("somewhere", source="tfds")
    assert data.x_train.shape == (2, 2, 2) and data.x_train.dtype == np.uint8
    assert data.x_train.ravel().tolist() == list(range(8))
    assert data.x_test.ravel().tolist() == list(range(10, 18))
    assert data.y_train.tolist() == [3, 4] and data.y_test.tolist() == [13, 14]
    assert data.y_train.dtype == np.int32
