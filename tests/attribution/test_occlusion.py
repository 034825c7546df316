"""Maps weighed by activations, masks, the occlusion protocol on a small world of its own."""

import csv
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import monojax as mj
from monojax.attribution.occlusion import activation_cam, mask_of, occlude, random_mask

# float32: sums of a few dozen numbers of size 1.
RTOL = 1e-5


def maps(seed=0, shape=(3, 4, 6)):
    return jax.nn.relu(jax.random.normal(jax.random.key(seed), shape))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("label", [None, 0, 2])
@pytest.mark.parametrize("weights", ["activation", "activation_pp"])
def test_weights_are_the_activations(weights, label, jit):
    a = np.float64(maps())
    alpha = a.mean(axis=(0, 1))
    if weights == "activation_pp":
        alpha = np.zeros(6)
        for w in range(6):
            for value in a[..., w].ravel():
                if value > 0:
                    alpha[w] += value / (2 + a[..., w].sum() * value)
    options = {} if label is None else {"num_classes": 3, "label": label}
    if label is not None:
        alpha[[w for w in range(6) if w // 2 != label]] = 0
    call = lambda a: activation_cam(a, weights=weights, **options)
    got = (jax.jit(call) if jit else call)(maps())
    np.testing.assert_allclose(got, a @ alpha, rtol=RTOL)


@pytest.mark.parametrize(
    "weights, judge", [("gradient", "grad_cam"), ("gradient_pp", "grad_cam_pp")]
)
def test_gradient_weights_agree_with_the_attribution_room(weights, judge):
    """The same maps under the same head, through monojax.attribution."""
    v = jax.random.normal(jax.random.key(1), (6, 4))

    def fn(a):  # a convolution of size 1 and a mean, curved so that slopes depend on the place
        return jnp.tanh(mj.tag(a, "maps") @ v).sum(axis=(0, 1))

    slopes = jax.grad(lambda a: fn(a)[2])(maps())
    got = activation_cam(maps(), weights=weights, slopes=slopes)
    want = getattr(mj.attribution, judge)(fn, maps(), 2, layer="maps", channel_axis=-1)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_a_mask_spans_0_to_1_and_a_constant_map_hides_all():
    mask = mask_of(jnp.arange(6.0).reshape(2, 3) + 5, (8, 9))
    assert mask.shape == (8, 9)
    assert (float(mask.min()), float(mask.max())) == (0.0, 1.0)
    np.testing.assert_array_equal(mask_of(jnp.full((2, 3), 4.0), (8, 9)), 0)
    # At the map's own size it is (c - min) / (max - min).
    cam = maps(3)[..., 0]
    want = (np.float64(cam) - np.min(cam)) / (np.max(cam) - np.min(cam))
    np.testing.assert_allclose(mask_of(cam, cam.shape), want, atol=1e-6)


def test_occlusion_multiplies_raw_pixels():
    image = jax.random.uniform(jax.random.key(0), (6, 8, 3)) * 255
    cam = maps(1)[..., 0]
    np.testing.assert_allclose(
        occlude(image, cam), image * np.asarray(mask_of(cam, (6, 8)))[..., None], rtol=RTOL
    )


@pytest.mark.parametrize("mean", [0.05, 0.5, 0.9])
def test_random_masks_keep_the_mean(mean):
    mask = jnp.full((20, 20), mean)
    drawn = [random_mask(jax.random.key(seed), mask, (4, 4)) for seed in (0, 1)]
    for one in drawn:
        assert float(one.mean()) == pytest.approx(mean, rel=1e-5)
        assert float(one.min()) >= 0 and float(one.max()) <= 1 + 1e-6
        assert float(one.std()) > 0.01
    assert float(jnp.abs(drawn[0] - drawn[1]).max()) > 0.01


@pytest.mark.parametrize(
    "message, call",
    [
        ("one example", lambda: activation_cam(maps()[None])),
        ("weights must be one of", lambda: activation_cam(maps(), weights="sum")),
        ("needs slopes", lambda: activation_cam(maps(), weights="gradient")),
        ("takes no slopes", lambda: activation_cam(maps(), slopes=maps())),
        ("maps' shape",
         lambda: activation_cam(maps(), weights="gradient", slopes=maps()[:2])),
        ("both num_classes and label", lambda: activation_cam(maps(), num_classes=3)),
        ("both num_classes and label", lambda: activation_cam(maps(), label=1)),
        ("use 4 or 8 maps", lambda: activation_cam(maps(), num_classes=4, label=1)),
        (r"\[height, width, c\]", lambda: occlude(jnp.ones((4, 4)), jnp.ones((2, 2)))),
    ],
)  # fmt: skip
def test_bad_input_is_refused(message, call):
    with pytest.raises(ValueError, match=message):
        call()


def bright_photos(data_dir=None):
    """Six black pictures with one bright quarter, which is their class."""
    images, labels = np.full((6, 16, 16, 3), 4, np.uint8), np.arange(6) % 4
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 200
    return images, labels


def bright_network():
    """Maps: grey levels, one map per quarter; logits: their means."""
    where = np.zeros((4, 4, 4), np.float32)
    for k in range(4):
        row, column = divmod(k, 2)
        where[2 * row : 2 * row + 2, 2 * column : 2 * column + 2, k] = 1
    pooled = lambda x: x.reshape(-1, 4, 4, 4, 4, 3).mean(axis=(2, 4, 5)) / 255
    return lambda x: pooled(x)[..., None] * where[None]


@pytest.fixture
def small_world(monkeypatch):
    """The protocol with its networks and photos replaced by ones that are known exactly."""
    pytest.importorskip("ml_collections", reason="the experiments need the extra train")
    pytest.importorskip("matplotlib", reason="the experiments need the extra train")
    from train.occlusion import data as occlusion_data
    from train.occlusion import experiment as occlusion
    from train.occlusion import networks as occlusion_networks

    backbone = bright_network()
    net = lambda name, config: occlusion_networks.Source(
        "quarters", backbone, jnp.eye(4), jnp.zeros(4), native=name == "saved"
    )
    logits = lambda x: np.asarray(backbone(x)).mean(axis=(1, 2))
    monkeypatch.setattr(occlusion, "source", net)
    monkeypatch.setattr(occlusion, "auxiliary", lambda name, config: logits)
    monkeypatch.setattr(occlusion_data, "imagenet_photos", bright_photos)
    return occlusion


ARGV = ("--config", "occlusion:quick", "--config.limit=6", "--config.size=16",
        "--config.batch_size=2", "--config.sources=('resnet18','saved')",
        "--config.auxiliaries=('squeezenet1_1','resnet18')")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["activation", "activation_pp", "gradient", "gradient_pp"])
def test_the_protocol_on_known_networks(small_world, tmp_path, weights, capsys):
    """Every mask keeps the bright quarter only, so the auxiliary network is always right."""
    from train.__main__ import main

    argv = [*ARGV, "--workdir", str(tmp_path / "run"), f"--config.weights={weights}"]
    assert main(argv) == 0
    capsys.readouterr()
    counts = json.loads((tmp_path / "run" / "counts.json").read_text())
    hits = counts["hits"]
    assert counts["images"] == 6 and hits["clean||squeezenet1_1"] == 6
    for name in ("resnet18", "saved"):
        assert hits[f"{name}|itself|"] == hits[f"{name}|itself by slices|"] == 6
        assert hits[f"{name}|slice|squeezenet1_1"] == 6
        # A quarter of the image, and what bilinear resizing spreads around it.
        assert 0.2 < hits[f"{name}|slice|mean"] / 6 < 0.4
        assert hits[f"{name}|random|mean"] == pytest.approx(hits[f"{name}|slice|mean"], rel=1e-4)
    assert not any(key.startswith("saved|plain") for key in hits)  # its maps are the slices
    with (tmp_path / "run" / "occlusion.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["maps from"] == "reference (clean)" and rows[0]["SqueezeNet 1.1"] == "100.0"
    assert (tmp_path / "run" / "occlusion.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_counts(small_world, tmp_path, monkeypatch, capsys):
    from train.__main__ import main

    whole, broken = ([*ARGV, "--workdir", str(tmp_path / name)] for name in ("whole", "broken"))
    assert main(whole) == 0
    write, calls = small_world.write_atomically, []

    def dies(*args):
        calls.append(write(*args))
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(small_world, "write_atomically", dies)
    assert main(broken) == 130
    assert json.loads((tmp_path / "broken" / "counts.json").read_text())["images"] == 4
    monkeypatch.setattr(small_world, "write_atomically", write)
    assert main(broken) == 0
    counts = [json.loads((tmp_path / n / "counts.json").read_text()) for n in ("whole", "broken")]
    assert counts[0] == counts[1]
    capsys.readouterr()


@pytest.mark.parametrize(
    "change, message",
    [
        ("data=photo", "did you mean 'photos'"),
        ("weights=activations", "did you mean 'activation'"),
        ("target=predict", "did you mean 'predicted'"),
        ("sources=('resnet19',)", "did you mean"),
        ("auxiliaries=('saved',)", "auxiliaries"),
        ("batch_size=0", "batch_size must be at least 1"),
        ("data=folder", "a folder per WNID"),
    ],
)
def test_mistakes_in_a_config_are_named(change, message, tmp_path, capsys):
    pytest.importorskip("ml_collections", reason="the experiments need the extra train")
    from train.__main__ import main

    argv = ["--config", "occlusion:quick", f"--config.{change}", "--workdir", str(tmp_path / "r")]
    assert main(argv) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "r" / "counts.json").exists()


def test_folders_of_photos_are_cropped_and_in_a_fixed_order(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="the extra data has Pillow")
    from train.occlusion.data import batches, number_of_images

    for k, name in enumerate(("n01443537", "n01440764")):
        (tmp_path / name).mkdir()
        for i in range(3):
            picture = np.full((40 + i, 60, 3), 50 * k + i, np.uint8)
            image.fromarray(picture).save(tmp_path / name / f"{i}.png")
    config = types.SimpleNamespace(
        data="folder", folder=str(tmp_path), limit=5, batch_size=2, size=28, seed=0
    )
    assert number_of_images(config) == 5
    found = list(batches(config))
    assert [len(labels) for _, labels in found] == [2, 2, 1]
    for pixels, labels in found:
        assert pixels.shape[1:] == (28, 28, 3)
        np.testing.assert_array_equal(pixels[:, 14, 14, 0] < 25, labels == 1)  # by WNID
    again = list(batches(config, 2))
    np.testing.assert_array_equal(again[0][0], found[1][0])
