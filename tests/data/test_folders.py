"""Class folders are numbered alike in all parts; pixels and labels are never changed silently."""

import io

import numpy as np
import pytest

from monojax.data import cifar10
from monojax.data.crops import BadImage, eval_crop, train_crop
from monojax.data.folders import int32_labels, list_images
from monojax.data.image_sources import open_images
from monojax.data.images import decode
from monojax.data.photos import imagenet_wnids
from train.occlusion import data as occlusion_data

Image = pytest.importorskip("PIL.Image", reason="images need pillow (extra data)")


def encoded(pixels, kind="PNG"):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


GREY = encoded(np.zeros((4, 4), np.uint8))


def write(root, folders, each=1):
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for i in range(each):
            (root / folder / f"{i}.png").write_bytes(GREY)


def named(images):
    """Class names by the number that the part gives them."""
    numbers = {}
    for i in range(len(images)):
        numbers[images.name(i).split("/")[-2]] = images[i][1]
    return numbers


def test_the_validation_part_has_the_training_parts_numbers(tmp_path):
    write(tmp_path / "train", ["0", "180", "270", "90"])
    write(tmp_path / "val", ["0", "270", "90"])
    train = named(open_images("folder", "train", tmp_path, num_classes=4))
    assert train == {"0": 0, "180": 1, "270": 2, "90": 3}
    found = named(open_images("folder", "validation", tmp_path, num_classes=4))
    assert found == {"0": 0, "270": 2, "90": 3}


@pytest.mark.parametrize("extra", ["unsure", "000", "zebra"])
def test_a_class_that_training_has_not_is_refused(tmp_path, extra):
    write(tmp_path / "train", ["0", "180"])
    write(tmp_path / "val", ["0", extra])
    with pytest.raises(ValueError, match=f"no class of the training part: {extra}"):
        open_images("folder", "validation", tmp_path, num_classes=2)


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("empty", ["100", ".ipynb_checkpoints", "aside"])
def test_empty_and_hidden_folders_are_no_classes(tmp_path, part, empty):
    for name in ("train", "val"):
        write(tmp_path / name, ["0", "180", "90"])
    write(tmp_path / part, [empty], each=1 if empty.startswith(".") else 0)
    (tmp_path / part / empty / "notes.txt").write_text("no image")
    for split in ("train", "validation"):
        images = open_images("folder", split, tmp_path, num_classes=3)
        assert named(images) == {"0": 0, "180": 1, "90": 2} and len(images) == 3


def test_directories_of_small_images_follow_the_same_rules(tmp_path):
    write(tmp_path / "train", ["a", "b", "c"])
    write(tmp_path / "test", ["c", "a"])
    write(tmp_path / "train", [".trash"])
    (tmp_path / "train" / "aa").mkdir()
    data = cifar10(tmp_path, source="directory")
    assert data.y_train.tolist() == [0, 1, 2] and data.y_test.tolist() == [0, 2]
    write(tmp_path / "test", ["d"])
    with pytest.raises(ValueError, match="no class of the training part: d"):
        cifar10(tmp_path, source="directory")


def test_occlusion_numbers_a_part_of_imagenet_as_imagenet_does(tmp_path):
    wnids = imagenet_wnids()
    write(tmp_path, [wnids[7], wnids[300]])
    paths, labels = occlusion_data._files(str(tmp_path))
    assert labels.tolist() == [7, 300] and [path.parent.name for path in paths] == [
        wnids[7],
        wnids[300],
    ]
    write(tmp_path, ["cats"])
    with pytest.raises(ValueError, match="cats"):
        occlusion_data._files(str(tmp_path))


def test_a_listing_without_images(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError, match="no class folders with images"):
        list_images(tmp_path)


# Pixels


def ramp(dtype, top):
    return np.linspace(0, top, 64 * 64).reshape(64, 64).astype(dtype)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_greys(kind):
    content = encoded(ramp(np.uint16, 65535), kind)
    want = ramp(np.float64, 255)
    np.testing.assert_allclose(decode(content), want, atol=1)
    crop = eval_crop(content, 56)
    assert crop.shape == (56, 56, 3) and (crop[..., 0] == crop[..., 2]).all()
    np.testing.assert_allclose(crop.mean(), want.mean(), atol=3)
    assert crop.min() < 30 and crop.max() > 225
    random = train_crop(content, 32, np.random.default_rng(0))
    assert 5 < random.mean() < 250


def test_a_dark_16_bit_image_stays_dark():
    content = encoded(np.full((40, 40), 2570, np.uint16))
    assert decode(content).tolist() == np.full((40, 40), 10).tolist()
    assert (eval_crop(content, 32) == 10).all()


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_without_a_known_range_are_refused(dtype):
    content = encoded(ramp(dtype, 1000), "TIFF")
    for read in (decode, lambda c: eval_crop(c, 32)):
        with pytest.raises(ValueError, match="range") as caught:
            read(content)
        assert not isinstance(caught.value, BadImage)  # it would be passed over as damaged


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_other_modes_are_what_pillow_makes_of_them(mode):
    picture = Image.fromarray(ramp(np.uint8, 255)).convert(mode)
    out = io.BytesIO()
    picture.save(out, "TIFF")
    want = np.asarray(picture.convert("RGB").resize((56, 56), 2, box=(4, 4, 60, 60)))
    np.testing.assert_array_equal(eval_crop(out.getvalue(), 56), want)


# Labels


@pytest.mark.parametrize("value", [2**31, 2**32 + 1, -(2**31) - 1])
def test_labels_beyond_32_bits_are_refused(value):
    with pytest.raises(ValueError, match="must fit in 32 bits"):
        int32_labels(np.array([0, value], np.int64))
    with pytest.raises(ValueError, match="must fit in 32 bits"):
        int32_labels(np.int64(value))


def test_labels_are_integers():
    assert int32_labels(np.array([3, 2**31 - 1], np.uint64)).tolist() == [3, 2**31 - 1]
    with pytest.raises(TypeError, match="integers, got float64"):
        int32_labels([0.5])
