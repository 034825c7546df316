"""The explanation study: data, settings, statistics, and a quick run on real photographs."""

import json

import numpy as np
import pytest

from monojax.data.photos import IMAGENET_OF_COCO, coco128, imagenet_photos, imagenet_s
from monojax.metrics.intervals import mean_interval
from train.arguments import load_config
from train.explain import experiment as explain
from train.explain import tables as explain_tables
from train.explain.judge import METHODS, Setting, candidates
from train.explain.networks import _NETWORKS, Network


@pytest.fixture
def config(checkout):
    return lambda mode="full": load_config(checkout / "train" / "configs" / "explain.py", mode)


def test_photographs_with_masks(data_dir):
    coco = coco128(data_dir)
    # 79 of 128: 2 have no object, 37 show a person first, 10 another class that ImageNet lacks.
    assert coco.images.shape == (79, 224, 224, 3) and coco.masks.shape == (79, 224, 224)
    assert coco.masks.any((1, 2)).all() and len(set(coco.ids.tolist())) == 79
    for name, classes in zip(coco.names, coco.classes, strict=True):
        assert classes == IMAGENET_OF_COCO[name]
    zebra = coco.masks[coco.names.index("zebra")]
    assert 0.02 < zebra.mean() < 0.9


def test_class_table_has_no_class_twice():
    listed = [i for classes in IMAGENET_OF_COCO.values() for i in classes]
    assert len(listed) == len(set(listed)) and min(listed) >= 0 and max(listed) < 1000


def test_imagenet_photographs(data_dir):
    images, labels = imagenet_photos(data_dir)
    assert images.shape == (250, 224, 224, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(labels, np.arange(0, 1000, 4))


def test_imagenet_s_layout(tmp_path):
    """A made-up copy: ids R + 256 G, other classes and ignored pixels are not in the mask."""
    image = pytest.importorskip("PIL.Image")
    wnids = ["n01443537", "n01440764"]  # classes 1 and 0
    (tmp_path / "categories.txt").write_text("\n".join(wnids))
    for number, wnid in enumerate(wnids, start=1):
        (tmp_path / "validation" / wnid).mkdir(parents=True)
        (tmp_path / "validation-segmentation" / wnid).mkdir(parents=True)
        pixels = np.full((64, 96, 3), 40 * number, np.uint8)
        image.fromarray(pixels).save(tmp_path / "validation" / wnid / "a.JPEG")
        code = np.zeros((64, 96, 3), np.uint8)
        code[16:48, 32:64, 0] = number
        code[:16, :, 0], code[:16, :, 1] = 1000 % 256, 1000 // 256
        code[48:, :, 0] = 3 - number
        image.fromarray(code).save(tmp_path / "validation-segmentation" / wnid / "a.png")
    found = imagenet_s(tmp_path, size=56)
    assert found.names == wnids and found.classes == [(1,), (0,)]
    assert found.images.shape == (2, 56, 56, 3)
    # Scaled by 64 / 64 and cropped by (4, 20): rows 12 to 43, columns 12 to 43.
    want = np.zeros((56, 56), bool)
    want[12:44, 12:44] = True
    np.testing.assert_array_equal(found.masks[0], want)
    (tmp_path / "validation-segmentation" / wnids[0] / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.png is missing"):
        imagenet_s(tmp_path)


def test_imagenet_s_says_what_it_needs(tmp_path):
    with pytest.raises(FileNotFoundError, match="no copy of ImageNet-S: it needs validation/WNID"):
        imagenet_s(tmp_path)


def test_config_mistakes(config):
    for key, value, match in [
        ("methods", ("gradcam",), "got 'gradcam'; did you mean 'grad_cam'"),
        ("alphas", (0.6,), r"an alpha must lie in \[0, 0.5\] or be .balanced., got 0.6"),
        ("validation", 31, r"must lie in \[1, 30\], got 31"),
        ("studies", ("squeeze_coco",), "got 'squeeze_coco'"),
    ]:
        wrong = config()
        with wrong.unlocked():
            wrong[key] = value
        with pytest.raises(ValueError, match=match):
            explain.check(wrong)
    for mode in ("full", "reduced", "quick", "imagenet_s"):
        explain.check(config(mode))
        assert explain.total_steps(config(mode)) > 0
    with pytest.raises(ValueError, match="unknown mode 'fast'"):
        config("fast")


def test_candidates_treat_all_methods_alike():
    layers = _NETWORKS["squeezenet1_1"][-1]
    net = Network("n", "N", lambda x, v: x, {}, lambda a: a, layers)
    count = {m: len(candidates(m, net, (0.3, 0.4))) for m in METHODS}
    assert count["gradient"] == count["lrp_epsilon"] == 2 * len(layers)
    assert count["split_grad"] == 2 * count["gradient"]
    assert count["grad_cam"] == len(layers) - 1  # not at the input, rectified
    assert count["random"] == count["centre"] == 1


def test_validation_images_choose_and_are_not_judged(config):
    data = type("D", (), {"pixels": np.zeros((79, 1)), "masks": np.zeros((79, 1))})
    held, rest = explain.parts(config(), data)
    assert len(held) == 20 and not set(held) & set(rest) and len(rest) == 59


def test_bootstrap_interval():
    """Against the normal interval of a large sample; NaNs are left out."""
    values = np.random.default_rng(0).normal(3.0, 2.0, 4000)
    mean, low, high = mean_interval(np.append(values, np.nan))
    assert mean == pytest.approx(values.mean())
    half = 1.96 * values.std() / np.sqrt(values.size)
    # The quantiles of 2000 draws scatter by about 4% of the half-width.
    assert (high - low) / 2 == pytest.approx(half, rel=0.15)
    assert np.isnan(mean_interval([np.nan])[0])


def test_verdicts_are_paired_and_plain():
    rng = np.random.default_rng(0)
    hard = rng.normal(size=40)  # shared difficulty, which pairing removes
    values = {
        "split_cam": {"localisation": hard + 0.1, "sensitivity": hard + 0.1, "pointing": hard},
        "grad_cam": {"localisation": hard, "sensitivity": hard, "pointing": hard + 1e-3 * hard},
        "random": {"localisation": hard + 9, "sensitivity": hard - 9, "pointing": hard + 9},
    }
    lines = explain_tables.winners({"values": values}, ["localisation", "sensitivity", "pointing"])
    first, second, third, _, caveat = lines.splitlines()
    assert "intervals are too narrow" in caveat
    assert "SplitCAM against Grad-CAM, better by 0.100" in first and "split wins" in first
    assert "better by -0.100" in second and "split loses" in second
    assert "no difference" in third


def test_constant_and_broken_maps_are_never_chosen():
    """Setting 0 is constant (points everywhere, never changes), 1 has a NaN, 3 is best."""
    found = {
        "pointing": [[1.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]],
        "localisation": [[0.9, 0.9, 0.2, 0.3], [0.9, float("nan"), 0.2, 0.3]],
        "flipping": [[0.0, 0.0, 2.0, 1.0], [0.0, 0.0, 2.0, 1.0]],
        "sensitivity": [[0.0, 0.1, 0.4, 0.4], [0.0, 0.1, 0.4, 0.4]],
    }
    assert explain.best_setting(found) == 3


def test_settings_read_well():
    assert str(Setting(None, None, False)) == "input"
    assert str(Setting("fire5", 0.4, True)) == "fire5, alpha 0.4, abs"


@pytest.mark.slow  # compiles a dozen programs of SqueezeNet
def test_quick_run_resumes(config, data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("MONOJAX_DATA", str(data_dir))
    updates = []
    bar = type("Bar", (), {"update": lambda self, n: updates.append(n)})()
    c = config("quick")
    explain.run(c, tmp_path, bar)
    assert sum(updates) == pytest.approx(explain.total_steps(c), abs=1)
    table = (tmp_path / "coco128_squeezenet1_1.md").read_text()
    assert "QUICK FORM" in table and "SplitCAM" in table
    for name in ("alpha_sweep.png", "maps_coco128_squeezenet1_1.png", "mean_ranks.csv"):
        assert (tmp_path / name).stat().st_size > 0
    cells = {p: p.stat().st_mtime_ns for p in (tmp_path / "cells").iterdir()}
    explain.run(c, tmp_path, bar)  # nothing is computed twice
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cells").iterdir()} == cells
    numbers = json.loads(next((tmp_path / "cells").glob("coco128-*gradient*.json")).read_text())
    assert set(numbers) == set(explain_tables.MEASURES)


def test_rows_of_an_earlier_run_are_kept_and_compared(tmp_path):
    """Methods without an alpha keep their row; who wins is then said of means alone."""
    (tmp_path / "coco128_net.csv").write_text(
        "Method,Setting,screened,Pointing ↑,Max-sensitivity ↓\n"
        'Gradient,"fire5, abs",12,"0.9 [0.8, 1.0]","0.5 [0.4, 0.6]"\n'
        'SplitCAM,"fire9, alpha 0.3",48,"0.9 [0.8, 1.0]","0.1 [0.0, 0.2]"\n'
    )
    assert explain_tables.stored_settings(str(tmp_path), "coco128", "net") == {
        "gradient": Setting("fire5", None, True)
    }
    assert explain_tables.stored_settings("", "coco128", "net") == {}
    values = {"split_cam": {"pointing": [1.0, 0.0], "sensitivity": [0.1, 0.3]}}
    earlier = {"gradient": {"pointing": 0.9, "sensitivity": 0.5}}
    found = {"values": values, "earlier": earlier}
    first, second, *_ = explain_tables.winners(found, ["pointing", "sensitivity"]).splitlines()
    assert "SplitCAM against Gradient, better by -0.400: means alone" in first
    assert "better by 0.300: means alone" in second


def test_scenes_are_judged_by_networks_of_their_own(config):
    """Names, masks and the two sides of a study that belong together."""
    full = config("shapes3d")
    explain.check(full)
    assert len(full.studies) == 6 and full.study.vgg16_scenes_2_shapes3d.sensitive == 50
    full.study.vgg16_scenes_2_shapes3d.data = "coco128"
    with pytest.raises(ValueError, match="networks of scenes are judged on shapes3d"):
        explain.check(full)


def test_the_scenes_summary_compares_image_by_image(config, tmp_path):
    """A made-up sweep with its best alpha inside the spot, and a split that localises better."""
    from train.explain.summary import Summary

    chosen, rng = config("shapes3d"), np.random.default_rng(0)
    means = [0.1, 0.2, 0.3, 0.4, 0.45, 0.6, 0.5, 0.4, 0.3, 0.55]  # alpha 0.4 is the sixth
    summary = Summary()
    for seed in range(2):
        base = 0.05 * rng.random(20)
        rows = [{"localisation": (mean + base).tolist()} for mean in means]
        name = f"vgg16_scenes_{seed}"
        summary.add(name, "features_26", {"split_cam at features_26": rows})
        gain = 0.2 * (seed + 1)  # 0.3 on average
        values = {"split_cam": {"localisation": base + gain}, "layer_cam": {"localisation": base}}
        summary.judged(name, {"values": values})
        settings = {m: Setting("features_14", None, bool(seed)) for m in values}
        summary.tuned(name, settings, {"split_cam": base, "layer_cam": base + 0.1})
    summary.write(chosen, tmp_path)
    spot = (tmp_path / "sweet_spot.csv").read_text().splitlines()[1]
    assert spot.startswith("vgg16,features_26,SplitCAM,2,0.4,")
    assert "+0.300 [+0.300, +0.300] (+0.300, +0.300)" in spot
    assert "-0.050 [-0.050, -0.050] (-0.050, -0.050)" in spot
    found = (tmp_path / "localisation.csv").read_text()
    assert "vgg16,SplitCAM,LayerCAM,2," in found
    assert "+0.300 [+0.300, +0.300] (+0.200, +0.400)" in found  # each network's own behind
    assert "-0.100 [-0.100, -0.100]" in (tmp_path / "localisation_tuned.csv").read_text()
    settings = (tmp_path / "localisation_settings.csv").read_text()
    assert "features_14; features_14, abs" in settings


def test_alphas_are_chosen_on_other_scenes():
    """Alphas that are good by chance, each on its half of the scenes, gain nothing."""
    from train.explain.summary import _gap

    values = np.zeros((1, 3, 8))
    values[0, 1, ::2], values[0, 2, 1::2] = 1.0, 1.0
    assert _gap(values, [1, 2], [0]).mean() == 0.0  # chosen on the same scenes: 1
    values[0, 1] = 1.0
    assert _gap(values, [1, 2], [0]).mean() == 1.0


def test_a_setting_is_chosen_by_the_measures_that_are_named():
    found = {
        "pointing": [[1.0, 0.0], [1.0, 1.0]],
        "localisation": [[0.2, 0.3], [0.2, 0.3]],
        "flipping": [[1.0, 2.0], [1.0, 2.0]],
        "sensitivity": [[0.1, 0.4], [0.1, 0.4]],
    }
    assert explain.best_setting(found) == 0
    assert explain.best_setting(found, ("localisation",)) == 1


@pytest.mark.full  # trains and judges a network of full depth: 75 CPU s, nearly all compilation
def test_quick_run_on_scenes(config, tmp_path):
    class Bar:
        def update(self, units):
            pass

        def set_postfix_str(self, text):
            pass

    chosen = config("shapes3d_quick")
    explain.check(chosen)
    explain.run(chosen, tmp_path, Bar())
    assert (tmp_path / "shapes3d_resnet18_scenes_0.md").exists()
    assert (tmp_path / "alpha_sweep_resnet18_scenes_0_layer3_1.png").exists()
    rows = (tmp_path / "sweet_spot.csv").read_text().splitlines()
    assert len(rows) == 1 + 3  # layers
