"""Work directories by address, with a folder of this machine in the bucket's place.

etils' own path class does the work, as it does for a bucket; what is not tested here is a store's
network and its client.
"""

import os
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from monojax import training
from monojax.base import paths


class Stored(type(epath.Path("x"))):
    """A local epath that counts as a store: no os.replace, no appending."""

    def open(self, mode="r", *args, **options):
        assert "a" not in mode, "an object cannot be appended to"
        return super().open(mode, *args, **options)


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """gs://bucket is the folder returned."""
    folder = tmp_path / "bucket"
    folder.mkdir()

    def as_directory(path, name="path"):
        text = os.fspath(path)
        if text.startswith("gs://bucket"):
            return Stored(str(folder) + text.removeprefix("gs://bucket"))
        return Stored(text) if text.startswith(str(folder)) else real(path, name)

    real = paths.as_directory
    local = lambda path: not os.fspath(path).startswith(("gs://", str(folder)))
    for module in ("base.paths", "training.workdir", "training.writers", "training.checkpoints"):
        monkeypatch.setattr(f"monojax.{module}.is_local", local)
    for module in ("base.paths", "training.writers", "training.cells", "training.tables"):
        monkeypatch.setattr(f"monojax.{module}.as_directory", as_directory)
    return folder


def go(num_steps, at=None, tensorboard=True):
    def advance(state, batch):
        if int(state["n"]) == at:
            raise RuntimeError("killed")
        return {"n": state["n"] + 1, "w": state["w"] * 0.5}, {"loss": state["w"].sum()}

    return training.fit(
        {"n": jnp.int32(0), "w": jnp.ones(3)},
        advance,
        training.Schedule(num_steps, eval_every=2, checkpoint_every=2),
        keep=training.Keep(
            "gs://bucket/run", {"lr": 0.1}, best=("size", "min"), tensorboard=tensorboard
        ),
        evaluate=lambda state: {"size": state["w"].sum()},
        bar=False,
    )


def test_a_run_in_a_store_resumes(bucket, tmp_path):
    with pytest.raises(RuntimeError, match="killed"):
        go(6, at=5)
    run = go(6)
    assert run.resumed_from == 4 and run.best["step"] == 6
    np.testing.assert_array_equal(run.state["w"], np.full(3, 0.5**6))
    lines = training.read_metrics("gs://bucket/run")
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert list((bucket / "run" / "tensorboard").glob("events*"))
    assert {p.name for p in (bucket / "run" / "checkpoints").iterdir()} == {"4", "6"}
    assert not list(tmp_path.rglob("gs:*"))


def test_a_store_of_another_config_is_refused(bucket):
    training.open_workdir("gs://bucket/run", {"lr": 0.2})
    with pytest.raises(training.WorkdirError, match=r"lr is 0.2 there and 0.1 now"):
        go(2)


def test_a_damaged_checkpoint_in_a_store_is_set_aside(bucket):
    go(4, tensorboard=False)
    for file in (bucket / "run" / "checkpoints" / "4" / "state").rglob("*"):
        if file.is_file():
            file.unlink()
    with pytest.warns(UserWarning, match="damaged; going on from step 2"):
        assert go(4, tensorboard=False).resumed_from == 2
    assert (bucket / "run" / "checkpoints" / "4.damaged").is_dir()


def test_tables_and_cells_in_a_store(bucket):
    table = training.Table(["a"])
    table.add(1)
    table.write("gs://bucket", "t")
    assert (bucket / "t.csv").read_text() == "a\n1\n"
    cells = training.Cells("gs://bucket")
    computed = cells.get("x", {"seed": 0}, lambda: ({"n": 1}, {"curve": np.arange(3)}))
    again = cells.get("x", {"seed": 0}, lambda: pytest.fail("computed twice"))
    assert computed[0] == again[0] == {"n": 1} and again[1]["curve"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("path", ["gs://bucket/x", "s3://b/x", "gs:/bucket/x"])
def test_models_are_saved_on_this_machine(path, tmp_path, monkeypatch):
    import flax.linen as nn

    import monojax as mj

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="must be on this machine, got the address"):
        mj.save(path, nn.Dense(2), {})
    with pytest.raises(ValueError, match="must be on this machine"):
        mj.load(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("use", ["Checkpoints", "open_workdir", "MetricsWriter"])
def test_addresses_without_a_client_or_a_slash_write_nothing_here(use, tmp_path, monkeypatch):
    """At 97de41c a folder "gs:" was left in the current directory, and a KeyError."""
    monkeypatch.chdir(tmp_path)
    call = getattr(training, use)
    more = [{"a": 1}] if use == "open_workdir" else []
    with pytest.raises(ValueError, match="lost a slash"):
        call("gs:/bucket/run", *more)
    with pytest.raises(ValueError, match=r"does not write to; there is: gs://, s3://"):
        call("nosuchstore://bucket/run", *more)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ImportError, match="gcsfs"):
        call("gs://bucket/run", *more)
    assert not list(tmp_path.iterdir())
