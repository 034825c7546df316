"""Image sets: what is in the files, what a wrong file gives, and the way through tfds."""

import logging
import types

import numpy as np
import pytest

from monojax.data import images
from monojax.data.images import cifar10, fashion_mnist, mnist, notmnist


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
    with pytest.raises(ValueError, match="'tfds', 'directory' or 'idx', got 'web'"):
        mnist(tmp_path, source="web")


@pytest.mark.slow  # decodes 60,000 files
def test_cifar10_counts_and_order(data_dir):
    pytest.importorskip("PIL", reason="CIFAR-10 is stored as JPEG; the extra data has Pillow")
    data = cifar10(data_dir)
    assert data.x_train.shape == (50000, 32, 32, 3) and data.x_test.shape == (10000, 32, 32, 3)
    assert data.x_train.dtype == np.uint8 and data.y_train.dtype == np.int32
    assert np.bincount(data.y_train).tolist() == [5000] * 10
    assert np.bincount(data.y_test).tolist() == [1000] * 10
    assert np.bincount(data.y_train[:70]).tolist() == [7] * 10
    # The published means per channel, 125.3, 123.0, 113.9; JPEG moves them by far less than 0.5.
    np.testing.assert_allclose(data.x_train.mean(axis=(0, 1, 2)), [125.3, 123.0, 113.9], atol=0.5)


@pytest.mark.parametrize("grey", [True, False])
def test_folders_of_images(tmp_path, grey):
    image = pytest.importorskip("PIL.Image", reason="the extra data has Pillow")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, 5, 6) if grey else (4, 5, 6, 3), np.uint8)
    names = ["train/b/0.png", "train/a/0.png", "test/b/0.png", "train/b/1.PNG"]
    for name, array in zip(names, pixels, strict=True):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(array).save(tmp_path / name)
    (tmp_path / "train" / "a" / "notes.txt").write_text("no image")
    data = cifar10(tmp_path, source="directory")
    np.testing.assert_array_equal(data.x_train, pixels[[1, 0, 3]])
    np.testing.assert_array_equal(data.x_test, pixels[[2]])
    assert data.y_train.tolist() == [0, 1, 1] and data.y_test.tolist() == [1]
    image.fromarray(pixels[0][:3]).save(tmp_path / "train" / "a" / "1.png")
    with pytest.raises(ValueError, match="differ in size"):
        mnist(tmp_path, source="directory")


def test_folders_that_are_not_there_or_empty_or_unknown(tmp_path):
    with pytest.raises(FileNotFoundError, match="DIR/train/CLASS"):
        mnist(None, source="directory")
    with pytest.raises(FileNotFoundError, match="DIR/train/CLASS"):
        mnist(tmp_path, source="directory")
    (tmp_path / "train" / "a").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="no class folders with images"):
        mnist(tmp_path, source="directory")
    image = pytest.importorskip("PIL.Image", reason="the extra data has Pillow")
    (tmp_path / "test" / "z").mkdir(parents=True)
    for name in ("train/a/0.png", "test/z/0.png"):
        image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / name)
    with pytest.raises(ValueError, match="no class of the training part: z"):
        mnist(tmp_path, source="directory")


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


@pytest.mark.parametrize("error", [ConnectionError("no name"), FileNotFoundError("x"), OSError()])
def test_a_set_that_cannot_be_had_is_one_error(monkeypatch, capsys, error):
    def loud(*_, **__):
        for i in range(30):
            logging.getLogger("urllib3.connectionpool").warning("Retrying %s", i)
        raise error

    fake = FakeTfds("tensorflow_datasets")
    fake.load = fake.data_source = loud
    monkeypatch.setattr(images, "require", lambda *_: fake)
    with pytest.raises(FileNotFoundError, match=r"could not get mnist.*where there is a network"):
        mnist("somewhere", source="tfds")
    assert logging.getLogger("urllib3.connectionpool").level == logging.NOTSET
    assert "Retrying" not in capsys.readouterr().err


@pytest.mark.parametrize("label", [2**31, 2**32 + 1])
def test_labels_of_tfds_that_do_not_fit_are_refused(monkeypatch, label):
    fake = FakeTfds("tensorflow_datasets")
    row = {"image": np.zeros((2, 2, 1), np.uint8), "label": np.int64(label)}
    fake.data_source = lambda *_, **__: [row]
    monkeypatch.setattr(images, "require", lambda *_: fake)
    monkeypatch.setattr(images.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="labels of mnist must fit in 32 bits"):
        mnist("somewhere", source="tfds")
