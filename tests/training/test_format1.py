"""Folders written by monojax before public names: every one loads, and predicts what it did.

Compared bit for bit with the same network built by hand from explicit options, which holds on any
machine; with the stored predictions to float32 rounding, since another processor or another jax
may round the last bits of a solve differently.
"""

import dataclasses
import json
import warnings
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

import monojax as mj
from monojax import layers
from monojax.base import registry
from monojax.conjugate import Solver, softplus
from monojax.saving import format1

ARCHIVE = Path(__file__).parent / "data" / "format1.zip"
RTOL = 2e-5  # solved networks stop at a relative residual of 1e-4, at the same step or one apart
GONE = ("dc_monotone_softplus", "monotone_mlp_clip")  # paired units, which are patented
NAMES = sorted(
    {name.split("/")[0] for name in zipfile.ZipFile(ARCHIVE).namelist() if "/" in name} - {*GONE}
)

BY_HAND = {
    "blnn": lambda: mj.BLNN(
        (4, 4), 0.5, 2.0, softplus(10.0), None, False, False, True, "clamp", "glorot_normal"
    ),
    "partial_blnn": lambda: mj.PartialBLNN(
        (4,), 0.5, 2.0, "vector", False, "picnn", softplus(10.0), None, False, False, "clamp"
    ),
    "conv_blnn": lambda: mj.ConvBLNN((2,), 0.5, 1.0, activation=softplus(10.0)),
    "icnn": lambda: layers.ICNN((4,), softplus(10.0)),
    "partial_icnn": lambda: layers.PartialICNN((4,), softplus(10.0)),
    "pairwise_icnn": lambda: layers.PairwiseICNN((4,), softplus(10.0)),
    "conv_icnn": lambda: layers.ConvICNN((2,), activation=softplus(10.0)),
    "blnn_options": lambda: mj.BLNN(
        (4,), 0.5, 2.0, softplus(4.0), Solver("newton", tolerance=1e-5)
    ),
    "chain_blnn_rotation": lambda: layers.Chain(
        (mj.BLNN((4,), 0.5, 2.0, softplus(10.0)), layers.Rotation())
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    path = tmp_path_factory.mktemp("format1")
    zipfile.ZipFile(ARCHIVE).extractall(path)
    return path


def predict(module, variables, inputs):
    y = jax.jit(module.apply)(variables, *inputs)
    return np.asarray(y[0] if isinstance(y, tuple) else y)


# Every third by README's command, all by .ci/run.
SHARED = [pytest.param(n, marks=[pytest.mark.slow] if i % 3 else []) for i, n in enumerate(NAMES)]


@pytest.mark.parametrize("name", SHARED)
def test_old_folders_predict_what_they_did(folders, name):
    module, variables = mj.load(folders / name)
    with np.load(folders / f"{name}.npz") as stored:
        inputs = [stored[f"x{i}"] for i in range(len(stored.files) - 1)]
        want = stored["y"]
    got = predict(module, variables, inputs)
    np.testing.assert_allclose(got, want, rtol=RTOL, atol=RTOL * np.abs(want).max())
    if name in BY_HAND:
        by_hand = predict(BY_HAND[name](), variables, inputs)
        assert got.tobytes() == by_hand.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_old_folders_are_saved_again_as_format_2(folders, name, tmp_path):
    module, variables = mj.load(folders / name)
    path = mj.save(tmp_path / "new", module, variables)
    record = json.loads((path / "model.json").read_text())
    assert record["format"] == 2
    assert record["module"]["$module"].count(".") <= 2  # a public name, no place
    again, values = mj.load(path)
    assert again == module
    jax.tree.map(np.testing.assert_array_equal, values, variables)


@pytest.mark.parametrize("name", GONE)
def test_networks_of_paired_units_are_refused(folders, name):
    with pytest.raises(ValueError, match=r"pairs of convex and concave units.* train a new one"):
        mj.load(folders / name)


def test_softplus_of_a_convex_network_keeps_its_sharpness(folders):
    assert mj.load(folders / "dc_convex_softplus")[0].activation == softplus(10.0)


def test_a_field_that_no_version_knows_is_named(folders, tmp_path):
    record = json.loads((folders / "mlp" / "model.json").read_text())
    record["module"]["fields"]["depth"] = 3
    (tmp_path / "model.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"fields \['depth'\].*upgrade monojax"):
        mj.load(tmp_path)


def test_no_warning_at_reading(folders):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mj.load(folders / "mlp")


def test_every_field_of_old_is_known_today():
    """A field that is renamed without a line in `format1.FIELDS` breaks somebody's folder."""
    old = json.loads((ARCHIVE.parent / "format1_fields.json").read_text())
    lost = []
    for place, fields in old.items():
        name = format1.class_name(place)
        cls = registry.find(name)
        if cls is None:  # a base class, or a part that was never a model
            assert place.rpartition(".")[2].startswith("_") or name == place
            continue
        today = {field.name for field in dataclasses.fields(cls)}
        words = format1.FIELDS.get(name, {})
        lost += [f"{name}.{f}" for f in fields if f not in today and words.get(f) not in today]
    gone = {"monojax.layers.DCNetwork.concave", "monojax.layers.MonotoneMLP.concave"}
    assert {*lost} == gone  # of networks of paired units, which are refused by name
