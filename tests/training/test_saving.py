"""mj.save and mj.load: the same model back, and nothing run from a file."""

import json
import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import monojax as mj
from monojax.conjugate import Activation, Solver, as_activation, softplus
from monojax.layers import ICNN, LMN, Chain, LipschitzMLP, Rotation
from monojax.models import MLP, TwoBranch
from monojax.saving.folder import _digest


def write(path, record):
    """Puts a changed record back under a digest that agrees: what a forger would do."""
    record["digest"] = _digest(record)
    (path / "model.json").write_text(json.dumps(record))


X = jax.random.uniform(jax.random.key(0), (4, 6))


class Mine(nn.Module):
    """A user's module with every kind of field."""

    widths: tuple[int, ...]
    inner: nn.Module
    activation: object = nn.gelu
    dtype: object = jnp.bfloat16
    table: object = None
    options: object = None
    scale: float | None = None

    @nn.compact
    def __call__(self, x):
        """Inner module, then a dense layer in the field's dtype."""
        x = self.activation(self.inner(x)[..., None])
        return nn.Dense(self.widths[0], dtype=self.dtype)(x)


MODULES = [
    MLP((5, 4), 3, jnp.tanh),
    TwoBranch((0, 2)),
    nn.Dense(2),
    ICNN((3,), jax.nn.softplus),
    ICNN((3, 2), as_activation("squared_relu"), "square"),
    ICNN((3,), Activation(jnp.exp, name="exp")),
    mj.BLNN((3,), 0.5, 2.0, softplus(0.1 + 0.2), Solver("newton", tolerance=1e-3)),
    LMN((4, 1), 2.0, (1, 0, -1, 1, 0, 0)),
    LipschitzMLP((3, 1), 2.0),
    Chain((Rotation(), Rotation())),
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: type(module).__name__)
def test_the_same_outputs(tmp_path, module):
    variables = module.init(jax.random.key(1), X)
    path = mj.save(tmp_path / "model", module, variables)
    loaded, values = mj.load(path)
    assert loaded == module
    np.testing.assert_array_equal(loaded.apply(values, X), module.apply(variables, X))
    assert not list(tmp_path.glob(".*"))  # no temporary left


def test_a_users_module_is_named_at_loading(tmp_path):
    module = Mine((2,), MLP((3,)), table=np.float32([1, 2]), options={"a": [1, None]}, scale=0.5)
    variables = module.init(jax.random.key(1), X)
    path = mj.save(tmp_path / "model", module, variables)
    loaded, values = mj.load(path, classes=[Mine])
    assert loaded.inner == module.inner and loaded.activation is nn.gelu
    assert loaded.dtype == jnp.bfloat16 and loaded.options == {"a": [1, None]}
    np.testing.assert_array_equal(loaded.table, module.table)
    np.testing.assert_array_equal(loaded.apply(values, X), module.apply(variables, X))
    with pytest.raises(ValueError, match=r"Mine'; pass it with mj.load"):
        mj.load(path)


def test_existing_paths_are_not_overwritten(tmp_path):
    module = MLP((3,))
    variables = module.init(jax.random.key(1), X)
    path = mj.save(tmp_path / "model", module, variables)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        mj.save(path, module, variables)
    other = jax.tree.map(jnp.zeros_like, variables)
    mj.save(path, module, other, overwrite=True)
    assert not any(leaf.any() for leaf in jax.tree.leaves(mj.load(path)[1]))
    (tmp_path / "notes").mkdir()
    with pytest.raises(FileExistsError, match="nothing was written"):
        mj.save(tmp_path / "notes", module, variables, overwrite=True)


def test_a_failed_save_leaves_nothing(tmp_path):
    module = MLP((3,), activation=lambda x: x)
    variables = module.init(jax.random.key(1), X)
    with pytest.raises(TypeError, match=r"module.activation"):
        mj.save(tmp_path / "model", module, variables)
    module = mj.BLNN((3,), 0.5, 2.0, solver=Solver(optax.sgd(0.1)))
    with pytest.raises(TypeError, match=r"module.solver.method.*cannot be saved"):
        mj.save(tmp_path / "model", module, variables)
    assert not list(tmp_path.iterdir())


def test_names_in_the_file_are_not_imported(tmp_path):
    module = MLP((3,))
    path = mj.save(tmp_path / "model", module, module.init(jax.random.key(1), X))
    record = json.loads((path / "model.json").read_text())
    for evil in ("os.system", "jax.nn.__class__.x", "subprocess.run"):
        record["module"]["fields"]["activation"] = {"$function": evil}
        write(path, record)
        with pytest.raises(ValueError, match="not known here"):
            mj.load(path)
    record["module"]["fields"]["activation"] = {"$record": "subprocess.Popen", "fields": {}}
    write(path, record)
    with pytest.raises(ValueError, match=r"'subprocess.Popen', not known here"):
        mj.load(path)
    record["module"]["$module"] = "monojax.models.MPL"
    write(path, record)
    with pytest.raises(ValueError, match=r"similar: monojax.models.MLP"):
        mj.load(path)
    record["format"] = 9
    write(path, record)
    with pytest.raises(ValueError, match="format 9"):
        mj.load(path)


def test_no_model_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no model.json"):
        mj.load(tmp_path)


def test_a_fresh_process_loads_a_model_of_monojax(tmp_path):
    """Nothing but `import monojax` has happened there."""
    module = TwoBranch((0, 2))
    path = mj.save(tmp_path / "model", module, module.init(jax.random.key(1), X))
    code = f"import monojax as mj; print(type(mj.load({str(path)!r})[0]).__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "TwoBranch", done.stderr


def test_an_interrupted_overwrite_keeps_the_old_model(tmp_path, monkeypatch):
    module = MLP((3,))
    variables = module.init(jax.random.key(1), X)
    path = mj.save(tmp_path / "model", module, variables)
    replace = os.replace

    def interrupted(source, target):
        if os.fspath(source).endswith("model") and str(target) == str(path):
            raise KeyboardInterrupt
        return replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            mj.save(path, module, jax.tree.map(jnp.zeros_like, variables), overwrite=True)
    for a, b in zip(*map(jax.tree.leaves, (mj.load(path)[1], variables)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_damaged_models_are_named(tmp_path):
    module = MLP((64, 64))
    path = mj.save(tmp_path / "model", module, module.init(jax.random.key(1), X))
    largest = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    good = largest.read_bytes()
    for place in (len(good) // 3, len(good) // 2):
        bad = bytearray(good)
        bad[place] ^= 0x10
        largest.write_bytes(bytes(bad))
        with pytest.raises(ValueError, match="is damaged"):
            mj.load(path)
    largest.unlink()
    with pytest.raises(ValueError, match="is damaged"):
        mj.load(path)
    (path / "model.json").write_text("{")
    with pytest.raises(ValueError, match=r"model.json is damaged"):
        mj.load(path)


def test_double_precision_that_is_cut_is_said(tmp_path):
    path = mj.save(tmp_path / "model", nn.Dense(2), {"params": {"kernel": np.ones((6, 2))}})
    with pytest.warns(UserWarning, match="holds float64, read as float32"):
        mj.load(path)


class Holder(nn.Module):
    """A field that holds a class."""

    block: type = MLP
    options: object = None


def test_classes_survive_and_other_keys_are_refused(tmp_path):
    path = mj.save(tmp_path / "a", Holder(), {})
    assert mj.load(path, classes=[Holder])[0].block is MLP
    with pytest.raises(TypeError, match="keys that are no strings"):
        mj.save(tmp_path / "b", Holder(options=({1: 2},)), {})
    with pytest.raises(TypeError, match="cannot be saved"):
        mj.save(tmp_path / "b", Holder(block=dict), {})


@pytest.mark.parametrize("name", ["jax.numpy.load", "jax.numpy.__builtins__", "jax.nn.__loader__"])
def test_functions_that_read_files_are_not_known(tmp_path, name):
    path = mj.save(tmp_path / "model", MLP((3,)), {})
    text = (path / "model.json").read_text()
    assert "flax.linen.relu" in text or "jax.nn.relu" in text
    text = text.replace("flax.linen.relu", name).replace("jax.nn.relu", name)
    write(path, json.loads(text))
    with pytest.raises(ValueError, match="not known here"):
        mj.load(path)
