"""Work directories of version 0.1.0, whose options had other names, are resumed."""

import json
import tarfile
from pathlib import Path

import ml_collections
import numpy as np
import pytest

from monojax.training import WorkdirError, open_workdir
from monojax.training.workdir import Versioned, plain_config
from train.__main__ import main
from train.renamed import new_key, today, translated

DATA = Path(__file__).parent / "data"
# The commands of the killed runs, in today's words.
TWO = """
from train.configs import difference

def get_config(mode="quick"):
    c, whole = difference.get_config("quick"), difference.get_config("full")
    c.widths, c.epochs, c.maps.networks = (2, 2), 4, ()
    c.networks = {name: whole.networks[name] for name in ("dic_inverted", "dic")}
    return c
"""
MONOCON = [
    "--config=monocon_digits:quick",
    "--config.kinds=('baseline','monocon')",
    "--config.data.train=96",
    "--config.data.valid=40",
    "--config.data.test=60",
    "--config.data.watch=40",
    "--config.data.features=(8,8)",
    "--config.recipe.batch_size=32",
    "--config.recipe.warmup_epochs=1",
]


def unpacked(name, tmp_path):
    with tarfile.open(DATA / f"old_{name}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "run"


def two(tmp_path):
    (tmp_path / "two.py").write_text(TWO)
    return [f"--config={tmp_path / 'two.py'}"]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow  # 8 s of compilation
def test_difference_goes_on_after_half_of_the_first_network(tmp_path):
    """Expected: what the old code gave when it was not killed."""
    run = unpacked("difference", tmp_path)
    stored = json.loads((run / "config.json").read_text())
    assert stored["reparam"] == "square" and "weight_map" not in stored
    before = lines(run / "dic" / "0" / "metrics.jsonl")
    assert before[-1]["step"] == 20
    assert main([*two(tmp_path), f"--workdir={run}"]) == 0
    after = lines(run / "dic" / "0" / "metrics.jsonl")
    assert after[: len(before)] == before and after[-1]["step"] == 40
    assert after[-1]["loss"] == pytest.approx(1.695979, rel=1e-4)
    rows = (run / "accuracy.csv").read_text().splitlines()
    assert rows[1].startswith('"DIC, h(x)",1.0000,1.0000,1.0000,2876,')
    assert rows[2].startswith('"DIC, h(1 - x)",1.0000,1.0000,1.0000,2876,')


def test_another_value_of_a_renamed_option_is_still_refused(tmp_path, capsys):
    run = unpacked("difference", tmp_path)
    assert main([*two(tmp_path), "--config.weight_map=abs", f"--workdir={run}"]) == 1
    error = capsys.readouterr().err
    assert "belongs to another config: weight_map is 'square' there and 'abs' now" in error


@pytest.mark.slow  # 20 s of compilation
def test_monocon_goes_on_and_finds_its_cells(tmp_path):
    run = unpacked("monocon", tmp_path)
    stored = json.loads((run / "config.json").read_text())
    assert stored["recipe"]["batch"] == 32 and stored["embed_batch"] == 100
    cells = {path.name: path.read_bytes() for path in (run / "cells").iterdir()}
    before = lines(run / "runs" / "monocon-42" / "main" / "metrics.jsonl")
    assert main([*MONOCON, f"--workdir={run}"]) == 0
    after = lines(run / "runs" / "monocon-42" / "main" / "metrics.jsonl")
    assert after[: len(before)] == before and after[-1]["step"] == 6
    found = {path.name: path.read_bytes() for path in (run / "cells").iterdir()}
    assert cells.items() <= found.items()  # the baseline was not computed again
    assert len([name for name in found if name.startswith("baseline")]) == 2
    (monocon,) = [name for name in found if name.startswith("monocon") and name.endswith("json")]
    numbers = json.loads(found[monocon])
    assert numbers["best_epoch"] == 1 and numbers["d_eff"] == 2 and numbers["violations"] == 0
    np.testing.assert_allclose(numbers["rmse_test"], 4.5265363e-4, rtol=1e-3)
    row = (run / "table1.csv").read_text().splitlines()[1]
    assert row.startswith("baseline (no head),1,5.00,5.00,18.33,7.0,5.90,5.70,1.04,1,")


@pytest.mark.parametrize(
    "experiment, old, new",
    [
        ("difference", {"reparam": "clip"}, {"weight_map": "clamp"}),
        ("difference", {"network": {"reparam": "exp"}}, {"network": {"weight_map": "exp"}}),
        (
            "difference",
            {"networks": {"row9": {"reparam": "clip", "title": "clip, rate 0.003"}}},
            {"networks": {"row9": {"weight_map": "clamp", "title": "clip, rate 0.003"}}},
        ),
        ("monocon", {"embed_batch": 7, "batch": 3}, {"embed_batch_size": 7, "batch": 3}),
        ("lipschitz_fits", {"fit": {"batch": 50}}, {"fit": {"batch_size": 50}}),
        ("tokens", {"model": {"pool": "cls"}}, {"model": {"reduce": "cls"}}),
        ("minilm_golden", {"experiment": "sentences"}, {"experiment": "minilm_golden"}),
        (
            "difference",
            {"network": {"kind": "monotone", "concave": 0.0}},
            {"network": {"kind": "monotone", "activation": "relu"}},
        ),
        (
            "difference",
            {"networks": {"dic": {"kind": "convex", "concave": 0.0}}},
            {"networks": {"dic": {"kind": "convex"}}},
        ),
        (
            "difference",  # there is no such network any more: refused when it is opened
            {"network": {"kind": "monotone", "concave": 0.5}},
            {"network": {"kind": "monotone", "concave": 0.5}},
        ),
        ("sphere", {"chunk": 3, "seed": 0}, {"chunk": 3, "seed": 0}),
    ],
)
def test_stored_words_become_todays(experiment, old, new):
    assert today(experiment, old) == new
    assert today(experiment, new) == new


def test_new_keys():
    assert new_key("difference", "networks.dm.reparam") == "networks.dm.weight_map"
    assert new_key("difference", "networks.dm.maps.reparam") is None
    assert new_key("groups", "reparam") is None


def test_a_work_directory_of_the_old_experiment_sentences(tmp_path):
    config = ml_collections.ConfigDict({"experiment": "minilm_golden", "limit": 40})
    made = open_workdir(tmp_path / "run", {"experiment": "sentences", "limit": 40})
    assert open_workdir(made, translated("minilm_golden", config)) == made
    config.limit = 41
    with pytest.raises(WorkdirError, match="limit is 40 there and 41 now"):
        open_workdir(made, translated("minilm_golden", config))


def test_versioned_configs_are_plain_and_new_directories_hold_todays_words(tmp_path):
    config = Versioned({"weight_map": "abs"}, lambda stored: today("difference", stored))
    assert plain_config(config) == {"weight_map": "abs"}
    made = open_workdir(tmp_path / "run", config)
    assert json.loads((made / "config.json").read_text()) == {"weight_map": "abs"}
