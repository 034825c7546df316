"""ImageNet's input: sources, crops, order, positions, unreadable images."""

import io
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from monojax.data import crops
from monojax.data.image_sources import (
    FakeImages,
    FolderImages,
    PhotoImages,
    TfdsImages,
    open_images,
)
from monojax.data.imagenet import Share, Skipped, TrainBatches, eval_batches

Image = pytest.importorskip("PIL.Image", reason="images need pillow (extra data)")
pytest.importorskip("grain", reason="the input needs grain (extra data)")


class Coded:
    """Images of one colour each, so that a pixel names its image; some cannot be read."""

    def __init__(self, num, broken=(), size=(24, 20)):
        self.images = [jpeg(np.full((*size, 3), 255 * i // num, np.uint8)) for i in range(num)]
        for i in broken:
            self.images[i] = self.images[i][: len(self.images[i]) // 2]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], index

    def name(self, index):
        return f"picture {index}"


def jpeg(pixels, mode="RGB", kind="JPEG"):
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind, quality=95)
    return out.getvalue()


def photo(height=300, width=400):
    """Smooth colours, so that two ways of resizing agree."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 40 + y / 60), np.cos(x / 50), np.sin(y / 45)]
    return np.uint8(127 + 120 * np.stack(waves, axis=-1))


def draw(source, count, batch_size=4, **options):
    batches = TrainBatches(source, batch_size, 8, **options)
    try:
        return [next(batches) for _ in range(count)]
    finally:
        batches.close()


def labels(batches):
    return np.concatenate([batch["label"] for batch in batches])


def test_every_epoch_shows_every_image_once_in_another_order():
    got = labels(draw(Coded(10), 10, seed=3)).reshape(4, 10)  # batches of 4 straddle the epochs
    for epoch in got:
        assert sorted(epoch) == list(range(10))
    assert len({tuple(epoch) for epoch in got}) == 4
    assert not np.array_equal(labels(draw(Coded(10), 10, seed=4)).reshape(4, 10), got)


def test_crops_are_a_function_of_seed_epoch_and_image():
    source = Coded(6, size=(64, 48))
    source.images = [jpeg(photo(64, 48)[:, ::-1] if i % 2 else photo(64, 48)) for i in range(6)]
    by_batch = {}
    for size in (2, 3):
        batches = draw(source, 12 // size, size, seed=1)
        images = np.concatenate([batch["image"] for batch in batches])
        order = labels(batches)
        by_batch[size] = {(i // 6, order[i]): images[i].tobytes() for i in range(12)}
    assert by_batch[2] == by_batch[3]  # the batch size moves an image, and leaves its crop
    assert len(set(by_batch[2].values())) == 12  # the second epoch crops anew


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_read_the_parts_of_the_same_batches(hosts):
    whole = draw(Coded(10), 6, seed=3)
    parts = [draw(Coded(10), 6, seed=3, share=Share(i, hosts)) for i in range(hosts)]
    for step, want in enumerate(whole):
        for key in want:
            got = np.concatenate([part[step][key] for part in parts])
            np.testing.assert_array_equal(got, want[key])
    seen = labels([batch for part in parts for batch in part[:5]])
    assert sorted(seen) == sorted(2 * list(range(10)))  # 20 images: two epochs, none twice


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_a_position_is_gone_back_to_by_any_reader(threads):
    want = draw(Coded(10), 8, seed=3)
    batches = TrainBatches(Coded(10), 4, 8, seed=3, share=Share(threads=threads))
    for _ in range(3):
        next(batches)
    position = batches.get_state()
    assert position == {"step": 3}
    other = TrainBatches(Coded(10), 4, 8, seed=3)
    for reader in (batches, other):
        reader.set_state(position)
        for batch in want[3:]:
            got = next(reader)
            for key in batch:
                np.testing.assert_array_equal(got[key], batch[key])
        reader.close()


@pytest.mark.slow  # starts processes, which import everything again
def test_worker_processes_give_the_same_batches():
    want = draw(FakeImages(12, 16), 5)
    got = draw(FakeImages(12, 16), 5, share=Share(threads=1, workers=2))
    for one, other in zip(want, got, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])


def test_an_unreadable_image_is_replaced_and_counted():
    source = Coded(10, broken=(4,))
    batches = TrainBatches(source, 5, 8, seed=3)
    got = labels([next(batches) for _ in range(4)]).reshape(2, 10)
    batches.close()
    for epoch in got:  # its place goes to the next one
        assert sorted(epoch) == sorted([0, 1, 2, 3, 5, 5, 6, 7, 8, 9])
    assert batches.skipped.count == 2 and batches.skipped.names == {"picture 4": 2}


def test_too_many_unreadable_images_stop_the_run():
    skipped = Skipped(Coded(3), 0.1)
    skipped.add(np.array([2] * 10))  # 10 are let pass, however few were seen
    skipped.add(np.full(90, -1))
    with pytest.raises(ValueError, match=r"11 of 101 .* more than 10.0% .*: picture 2, picture 0"):
        skipped.add(np.array([0]))
    with pytest.raises(ValueError, match="share between 0 and 1"):
        Skipped(Coded(3), 1.5)
    batches = TrainBatches(Coded(12, broken=range(0, 12, 2)), 12, 8)
    with pytest.raises(ValueError, match="max_skipped"):
        for _ in range(4):
            next(batches)
    batches.close()


def test_evaluation_counts_every_readable_image_once():
    source = Coded(10, broken=(7,))
    for hosts in (1, 2):
        parts = [list(eval_batches(source, 4, 8, share=Share(i, hosts))) for i in range(hosts)]
        assert {len(part) for part in parts} == {3}
        rows = [batch for part in parts for batch in part]
        mask = np.concatenate([batch["mask"] for batch in rows])
        seen = labels(rows)[mask > 0]
        assert sorted(seen) == [0, 1, 2, 3, 4, 5, 6, 8, 9]
        assert {batch["image"].shape for batch in rows} == {(4 // hosts, 8, 8, 3)}


def test_a_batch_that_does_not_divide_by_the_hosts():
    with pytest.raises(ValueError, match=r"30 images does not divide by 4 hosts.*32"):
        TrainBatches(Coded(3), 30, 8, share=Share(0, 4))
    with pytest.raises(ValueError, match="5 images does not divide by 2 hosts"):
        list(eval_batches(Coded(3), 5, 8, share=Share(0, 2)))


def test_the_central_crop_is_resize_then_crop():
    """Against the two steps written out; pixels at the border see less of their surroundings."""
    np.testing.assert_array_equal(
        crops.eval_crop(photo(256, 352), 224), photo(256, 352)[16:240, 64:288]
    )
    got = crops.eval_crop(photo(512, 704), 224)
    small = Image.fromarray(photo(512, 704)).resize((352, 256), Image.Resampling.BILINEAR)
    want = np.asarray(small)[16:240, 64:288]
    assert got.shape == (224, 224, 3) and got.dtype == np.uint8
    np.testing.assert_array_equal(got[2:-2, 2:-2], want[2:-2, 2:-2])


def test_random_crops_have_the_asked_areas_and_mirror_half():
    """A gradient from 0 to 255 tells where a crop begins and ends, and if it was mirrored."""
    ramp = np.repeat(np.linspace(0, 255, 200)[None, :, None], 200, 0).repeat(3, 2).astype(np.uint8)
    widths, mirrored = [], []
    for i in range(300):
        crop = crops.train_crop(ramp, 16, np.random.default_rng(i), scale=(0.25, 0.25))
        row = crop[8, :, 0].astype(float)
        mirrored.append(row[0] > row[-1])
        widths.append(abs(row[-1] - row[0]) / 255 * 16 / 15)
    assert 0.4 < np.mean(mirrored) < 0.6  # 300 tosses: 4 standard deviations are 0.12
    # Area 1/4 and log-uniform ratio in [3/4, 4/3]: width is sqrt(ratio / 4).
    assert 0.42 < min(widths) < 0.46 and 0.55 < max(widths) < 0.60
    assert abs(np.mean(np.log(2 * np.array(widths)))) < 0.02


def test_crops_of_long_images_and_other_kinds_of_files():
    rng = np.random.default_rng(0)
    assert crops.train_crop(photo(20, 400), 8, rng).shape == (8, 8, 3)
    for data in (jpeg(photo(), "L"), jpeg(photo(), "CMYK"), jpeg(photo(), "P", "PNG")):
        assert crops.eval_crop(data, 8).shape == (8, 8, 3)
    fine = crops.eval_crop(photo(), 32)  # the JPEG is decoded at a quarter of its size
    assert np.abs(crops.eval_crop(jpeg(photo()), 32).astype(int) - fine).max() < 12
    whole = jpeg(photo())
    for data in (b"", b"no image", whole[:200], whole[: len(whole) // 2]):
        with pytest.raises(crops.BadImage):
            crops.eval_crop(data, 8)
    with pytest.raises(ValueError, match=r"uint8 \[h, w, 3\]"):
        crops.eval_crop(np.zeros((4, 4)), 8)


def test_normalise_is_the_closed_form():
    pixels = np.random.default_rng(0).integers(256, size=(2, 3, 3, 3), dtype=np.uint8)
    want = (pixels / 255 - np.array(crops.MEAN)) / np.array(crops.STD)
    got = crops.normalise(pixels)
    np.testing.assert_allclose(got, want, atol=1e-6)  # float32 rounding of numbers up to 2.6
    assert crops.normalise(pixels, "bfloat16").dtype == "bfloat16"


def write_folders(root, classes=3, each=2):
    for part in ("train", "val"):
        for k in range(classes):
            folder = root / part / f"n{k:04d}"
            folder.mkdir(parents=True)
            for i in range(each):
                (folder / f"{i}.JPEG").write_bytes(jpeg(np.full((9, 9, 3), 50 * k, np.uint8)))
            (folder / "notes.txt").write_text("no image")


def test_folders(tmp_path):
    write_folders(tmp_path)
    images = open_images("folder", "train", tmp_path, num_classes=3)
    assert isinstance(images, FolderImages) and len(images) == 6
    assert [images[i][1] for i in range(6)] == [0, 0, 1, 1, 2, 2]
    assert images.name(3) == str(tmp_path / "train" / "n0001" / "1.JPEG")
    assert len(open_images("folder", "validation", tmp_path, num_classes=3)) == 6
    with pytest.raises(ValueError, match=r"have 3 classes and the model has 1000.*num_classes=3"):
        open_images("folder", "train", tmp_path)


def write_tfds(root, counts):
    """A prepared imagenet2012 without TensorFlow: records, and the set's description."""
    tfds = pytest.importorskip("tensorflow_datasets", reason="needs tensorflow-datasets")
    records = pytest.importorskip("array_record.python.array_record_module")
    from tensorflow_datasets.proto import tf_example_pb2

    builder = tfds.builder("imagenet2012", data_dir=root, file_format="array_record")
    folder = Path(builder.data_dir)
    folder.mkdir(parents=True)
    splits = []
    for split, count in counts.items():
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder,
            dataset_name="imagenet2012",
            split=split,
            filetype_suffix="array_record",
        )
        splits.append(
            tfds.core.SplitInfo(
                name=split, shard_lengths=[count], num_bytes=1, filename_template=template
            )
        )
        path = str(template.sharded_filepath(shard_index=0, num_shards=1))
        writer = records.ArrayRecordWriter(path, "group_size:1")
        for i in range(count):
            example = tf_example_pb2.Example()
            feature = example.features.feature
            image = jpeg(np.full((16, 12, 3), 40 * i, np.uint8))
            feature["image"].bytes_list.value.append(image)
            feature["file_name"].bytes_list.value.append(b"x.JPEG")
            feature["label"].int64_list.value.append(7 * i)
            writer.write(example.SerializeToString())
        writer.close()
    builder.info.set_splits(tfds.core.SplitDict(splits))
    builder.info.write_to_directory(folder)


def test_tensorflow_datasets_without_tensorflow(tmp_path):
    write_tfds(tmp_path, {"train": 5, "validation": 3})
    before = "tensorflow" in sys.modules
    images = open_images("tfds", "train", tmp_path)
    assert isinstance(images, TfdsImages) and len(images) == 5
    copy = pickle.loads(pickle.dumps(images))  # as it is sent to a worker process
    for i in range(5):
        data, label = copy[i]
        assert label == 7 * i and abs(int(crops.eval_crop(data, 4).mean()) - 40 * i) <= 2
    assert copy.name(3) == "imagenet2012/train row 3"
    assert sorted(labels(draw(images, 1, 5))) == [0, 7, 14, 21, 28]
    assert len(open_images("tfds", "validation", tmp_path)) == 3
    assert ("tensorflow" in sys.modules) == before


@pytest.mark.parametrize(
    "source, made",
    [
        ("tfds", ""),
        ("folder", ""),
        ("folder", "train"),
        ("folder", "train/n0001"),
        ("folder", None),
    ],
)
def test_no_data_says_how_to_get_it(tmp_path, source, made):
    if source == "tfds":
        pytest.importorskip("tensorflow_datasets", reason="needs tensorflow-datasets")
    if made:
        (tmp_path / made).mkdir(parents=True)
    where = None if made is None else tmp_path
    with pytest.raises(FileNotFoundError, match=r"register at image-net.org.*tfds build.*CLASS"):
        open_images(source, "train", where)


def test_photos(data_dir, monkeypatch):
    images = open_images("photos", "train", data_dir)
    assert isinstance(images, PhotoImages) and len(images) == 250
    assert [images[i][1] for i in (0, 1, 249)] == [0, 4, 996]
    assert crops.eval_crop(images[3][0], 64).shape == (64, 64, 3)
    monkeypatch.delenv("MONOJAX_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"imagenet_samples_224\.npz"):
        open_images("photos", "train")


def test_mistaken_arguments():
    with pytest.raises(ValueError, match=r"source of images must be one of 'tfds', .* got 'photo'"):
        open_images("photo", "train")
    with pytest.raises(ValueError, match="split must be one of 'train', 'validation', got 'test'"):
        open_images("fake", "test")
    with pytest.raises(ValueError, match="at least one image"):
        open_images("fake", "train", fake=0)
