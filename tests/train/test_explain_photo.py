"""The photograph's command as a person uses it, and every mistake before anything is written."""

import base64
import json
import re

import numpy as np
import pytest

from monojax.models import ResNet18
from train.__main__ import main
from train.arguments import load_config
from train.explain.photo import check, models, pictures, scene, total_steps
from train.explain.photo.measure import scores

Image = pytest.importorskip("PIL.Image", reason="pictures are read by Pillow")
pytest.importorskip("safetensors", reason="weights are read by safetensors")


@pytest.fixture
def config(checkout):
    made = load_config(checkout / "train" / "configs" / "explain_photo.py", "quick")
    made.unlock()
    return made


def photo(path, size=(90, 70), mode="RGB", seed=0):
    """A smooth picture with an edge."""
    y, x = np.mgrid[: size[1], : size[0]]
    channels = len(Image.new(mode, (1, 1)).getbands())
    values = np.stack([x + y, 2 * x, 255 - y, 0 * x + 255][:channels], -1) % 256
    Image.fromarray(values.astype(np.uint8).squeeze(), mode).save(path)
    return str(path)


def torchvision_weights(path, width=4, classes=3):
    """A file such as torchvision's ResNet18, narrow, of random numbers."""
    import jax
    from safetensors.numpy import save_file

    from monojax.models import pretrained

    module = ResNet18(classes, width)
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 224, 224, 3), np.float32))
    rng = np.random.default_rng(0)
    draw = lambda leaf: np.abs(rng.normal(size=leaf.shape)).astype(np.float32) * 0.1
    variables = jax.tree.map(draw, shapes)
    # Names as torchvision has them; the table needs tensors of the right rank to make entries.
    names = {}
    for stage in range(1, 5):
        for block in range(2):
            for conv in (1, 2):
                names[f"layer{stage}.{block}.conv{conv}.weight"] = 4
                names[f"layer{stage}.{block}.bn{conv}.weight"] = 1
            if stage > 1 and block == 0:
                names[f"layer{stage}.{block}.downsample.0.weight"] = 4
                names[f"layer{stage}.{block}.downsample.1.weight"] = 1
    names |= {"conv1.weight": 4, "bn1.weight": 1}
    table = pretrained.PUBLISHED["resnet18"].table(
        {name: np.zeros((1,) * rank) for name, rank in names.items()}
    )
    tensors = pretrained.export(variables, table)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)
    return str(path)


@pytest.mark.slow
def test_without_a_picture_a_scene_is_explained(tmp_path):
    """In under a minute, and the object is found."""
    assert main(["--config", "explain_photo", "--workdir", str(tmp_path / "run")]) == 0
    text = (tmp_path / "run" / "index.html").read_text()
    assert re.search(r"first choice is (circle|square|triangle|cross) \(\d+\.\d%\)", text)
    assert float(re.search(r"right on (\d+)%", text)[1]) >= 90
    with np.load(tmp_path / "run" / "000_scene.npz") as found:
        values = scores(dict(found))
    best = min(values, key=lambda name: values[name]["rank"])
    assert values[best]["flips"] < values["centre"]["flips"]
    assert max(row["inside"] for row in values.values()) > 0.6 > values["random"]["inside"]


@pytest.mark.slow
def test_a_page_with_everything_inside(tmp_path, capsys):
    run = tmp_path / "run"
    command = ["--config", "explain_photo:quick", "--workdir", str(run)]
    assert main([*command, "--config.target=cross"]) == 0
    text = (run / "index.html").read_text()
    assert "cross" in text and "SplitCAM" in text and "centre (control)" in text
    inside = re.findall(r"src='data:image/png;base64,([^']+)'", text)
    assert len(inside) == 3 and "http" not in text.replace("http-equiv", "")
    stored = sorted(path.name for path in run.glob("*.png"))
    assert stored == [f"000_scene_{kind}.png" for kind in ("curves", "maps", "split")]
    assert base64.b64decode(inside[0]) == (run / "000_scene_maps.png").read_bytes()
    with np.load(run / "000_scene.npz") as found:
        assert int(found["target"]) == 3 and found["maps/gradient"].shape == (32, 32)
        assert {"split/SplitGrad of g", "split/SplitCAM of h", "sweep/balanced"} <= set(found)
        assert found["layers"][()] and json.loads(str(found["layers"]))["gradient"] == "input"
        assert (
            len(found["flips/gradient"]) == 5 and "QUICK" in (run / "faithfulness.md").read_text()
        )
    # Again: nothing is computed, the page is the same but for the command's line.
    before = (run / "000_scene.npz").stat().st_mtime_ns
    assert main([*command, "--config.target=cross"]) == 0
    assert (run / "000_scene.npz").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_folder_of_photographs_by_torchvision_s_names(tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    photo(folder / "a b&c.jpg")
    photo(folder / "grey.png", mode="L")
    (folder / "notes.txt").write_text("not a picture")
    names = tmp_path / "names.txt"
    names.write_text("cat <b>\ndog\nfox\n")
    command = ["--config", "explain_photo:quick", f"--config.image={folder}"]
    command += ["--config.model=resnet18", f"--config.classes={names}"]
    weights = torchvision_weights(tmp_path / "w.safetensors")
    run = tmp_path / "run"
    assert main([*command, f"--config.weights={weights}", "--workdir", str(run)]) == 0
    text = (run / "index.html").read_text()
    assert text.count("<h2>") == 2 and "a b&amp;c_jpg" in text and "cat &lt;b&gt;" in text
    assert (run / "001_grey_png.npz").is_file() and text.count("data:image/png") == 6
    # The numbers of the files would move: another folder's results go elsewhere.
    (folder / "a b&c.jpg").unlink()
    assert main([*command, f"--config.weights={weights}", "--workdir", str(run)]) == 1
    assert "a b&c.jpg was added or taken away since" in capsys.readouterr().err
    assert (run / "index.html").read_text() == text


def test_pictures_are_turned_and_cropped(tmp_path):
    image = Image.new("RGB", (40, 20), "red")
    image.paste("blue", (0, 0, 20, 20))
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was held upright
    image.save(tmp_path / "turned.png", exif=exif)
    found = pictures.read(tmp_path / "turned.png", 16)
    assert found.pixels.shape == (16, 16, 3) and "20 x 40 pixels" in found.note
    assert found.pixels[0, 0, 2] > 200 and found.pixels[-1, 0, 0] > 200
    opaque = pictures.read(tmp_path / photo(tmp_path / "opaque.png", mode="RGBA"), 16)
    plain = pictures.read(tmp_path / photo(tmp_path / "plain.png"), 16)
    np.testing.assert_array_equal(opaque.pixels, plain.pixels)


def bad_pictures(folder):
    """Files that are no plain photographs, and what is said of them."""
    clear = np.full((20, 20, 4), 128, np.uint8)
    Image.fromarray(clear, "RGBA").save(folder / "clear.png")
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(folder / "grey16.png")
    (folder / "deep.png").write_bytes(rgb16())
    Image.fromarray(np.zeros((20, 20), np.int32), "I").save(folder / "int32.tif")
    (folder / "text.jpg").write_text("I am no picture")
    photo(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:600])
    return {
        "clear.png": "transparent in places",
        "grey16.png": "16 bits per channel",
        "deep.png": "16 bits per channel",
        "int32.tif": "bits per channel",
        "text.jpg": "cannot be read as an image",
        "cut.jpg": "cannot be read as an image",
    }


def rgb16(size=8):
    """A PNG of 16 bits per channel, which Pillow does not write."""
    import struct
    import zlib

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", size, size, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + bytes(6 * size) for _ in range(size))
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_bad_pictures_are_told(tmp_path):
    for name, message in bad_pictures(tmp_path).items():
        with pytest.raises(ValueError, match=message):
            pictures.read(tmp_path / name, 32)


def test_mistakes_are_told_before_anything_is_written(tmp_path, capsys):
    weights = torchvision_weights(tmp_path / "w.safetensors")
    image = photo(tmp_path / "photo.jpg")
    (tmp_path / "two.txt").write_text("cat\ndog\n")
    (tmp_path / "three.txt").write_text("cat\ncat\nfox\n")
    (tmp_path / "none").mkdir()
    (tmp_path / "damaged.safetensors").write_bytes(b"no weights")
    bad_pictures(tmp_path)
    good = {"image": image, "model": "resnet18", "weights": weights}
    cases = [
        ({"image": str(tmp_path / "nowhere.jpg")}, "no file or folder"),
        ({"image": str(tmp_path / "none")}, "holds no pictures"),
        ({"image": str(tmp_path / "clear.png")}, "transparent in places"),
        ({"image": str(tmp_path / "text.jpg")}, "cannot be read as an image"),
        ({"model": ""}, "config.model must name the network"),
        ({"model": "resnet19"}, "did you mean 'resnet18'"),
        ({"model": "vgg16"}, "is no file of vgg16"),
        ({"model": "resnet50"}, "does not fit the model"),
        ({"weights": ""}, "config.weights must name the weights of ResNet18: torchvision's"),
        ({"weights": str(tmp_path / "damaged.safetensors")}, "cannot be read as weights"),
        ({"weights": str(tmp_path / "gone.npz")}, "no weights file"),
        ({"classes": str(tmp_path / "two.txt")}, "has 2 names, and the network has 3 outputs"),
        ({"classes": str(tmp_path / "gone.txt")}, "no file of names"),
        ({"target": 3}, "must lie in [0, 2], got 3"),
        ({"target": "dgo"}, "config.target must be one of"),
        ({"classes": str(tmp_path / "three.txt"), "target": "cat"}, "several classes are called"),
        ({"methods": ("gradcam",)}, "did you mean 'grad_cam'"),
        ({"alpha": 0.7}, "an alpha must lie in [0, 0.5]"),
        ({"pixel_steps": 1}, "must be at least 2"),
        ({"most": 1, "image": str(tmp_path)}, "more than config.most=1"),
        ({"image": ""}, "config.image is missing"),
    ]
    run = tmp_path / "run"
    for changes, message in cases:
        given = [f"--config.{key}={value}" for key, value in (good | changes).items()]
        code = main(["--config", "explain_photo:quick", "--workdir", str(run), *given])
        said = capsys.readouterr().err
        assert code in (1, 2) and message in said, (changes, said)
        assert not run.exists()


def test_the_scene_can_be_told_apart():
    """Shapes lie inside the picture, with colours unlike the ground there."""
    rng = np.random.default_rng(0)
    for number in range(40):
        pixels, mask = scene.render(rng, number % 4, 48)
        assert 0.02 < mask.mean() < 0.2
        assert not mask[[0, -1]].any() and not mask[:, [0, -1]].any()
        gap = np.abs(pixels[mask].mean(0) - pixels[~mask].mean(0))
        assert gap.max() > 20


def test_a_map_that_does_not_make_the_probability_fall_is_not_believed():
    from train.explain.photo import page

    def found(start, left):
        curve = lambda value: np.array([start, value, value])
        kinds = {"gradient": left, "random": 0.5, "centre": 0.4}
        out = {f"maps/{name}": np.zeros((2, 2)) for name in kinds}
        for kind in ("patches", "flips"):
            out |= {f"{kind}/{name}": curve(value) for name, value in kinds.items()}
        return out | {"logits": np.array([2.0, 0.0]), "target": np.array(0)}

    assert page.believed(found(0.9, 0.1)) == ("gradient", True)
    assert page.believed(found(0.05, 0.1)) == ("gradient", False)  # it rises
    assert page.believed(found(0.9, 0.45)) == ("gradient", False)  # a bump does better
    assert "No map is clearly" in page.sentence(found(0.05, 0.1), ["cat", "dog"])
    assert "believe Gradient first" in page.sentence(found(0.9, 0.1), ["cat", "dog"])


def test_counts_and_names(config, tmp_path):
    check(config)
    assert total_steps(config) == 1 + 4 + 2
    assert len(models.class_names("", 1000)) == 1000 and models.class_names("", 2)[1] == "class 1"
    (tmp_path / "c.csv").write_text("index,name\n0,cat\n1,dog\n")
    assert models.class_names(str(tmp_path / "c.csv"), 2) == ("cat", "dog")
