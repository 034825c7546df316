"""mj.save and mj.load: the same model back, and nothing run from a file."""

import enum
import json
import os
import subprocess
import sys
from typing import NamedTuple

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


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES, ids=lambda module: type(module).__name__)
def test_the_same_outputs(tmp_path, module):
    variables = jax.jit(module.init)(jax.random.key(1), X)
    path = mj.save(tmp_path / "model", module, variables)
    loaded, values = mj.load(path)
    assert loaded == module
    # Equal modules share a compiled program.
    apply = jax.jit(lambda module, variables: module.apply(variables, X), static_argnums=0)
    np.testing.assert_array_equal(apply(loaded, values), apply(module, variables))
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


@pytest.mark.slow
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


def round_trip(tmp_path, module, variables=None, classes=()):
    path = mj.save(tmp_path / "m", module, {} if variables is None else variables)
    return mj.load(path, classes=classes)


class Twice(nn.Module):
    """One submodule used twice, with one set of parameters."""

    first: nn.Module
    second: nn.Module

    def __call__(self, x):
        """The sum of both."""
        return self.first(x) + self.second(x)


def test_a_shared_submodule_stays_one(tmp_path):
    """At 97de41c it came back as two, for which there were no parameters."""
    inner = nn.Dense(3)
    module = Twice(inner, inner)
    variables = module.init(jax.random.key(0), X)
    loaded, values = round_trip(tmp_path, module, variables, [Twice])
    assert loaded.first is loaded.second
    np.testing.assert_array_equal(loaded.apply(values, X), module.apply(variables, X))


@pytest.mark.parametrize(
    "value",
    [np.float32(0.5), np.float64(0.1), np.int8(3), np.arange(3.0), np.array([1, 2], ">i4"),
     jnp.arange(3.0), jnp.float32(2), jnp.ones((2, 2), jnp.bfloat16), float("inf")],
)  # fmt: skip
def test_numbers_and_arrays_in_fields_come_back_as_they_were(tmp_path, value):
    back = round_trip(tmp_path, Holder(options=value), classes=[Holder])[0].options
    assert isinstance(back, jax.Array) == isinstance(value, jax.Array)
    assert np.shape(back) == np.shape(value) and isinstance(back, np.ndarray) == isinstance(
        value, np.ndarray
    )
    assert np.asarray(back).dtype == np.asarray(value).dtype.newbyteorder("=")
    np.testing.assert_array_equal(back, value)


class Colour(enum.IntEnum):
    """A number that is more than a number."""

    RED = 1


class Point(NamedTuple):
    """A tuple that is more than a tuple."""

    x: int


@pytest.mark.parametrize("value", [Colour.RED, Point(1), {1, 2}, np.array(["a"]), np.array([1j])])
def test_fields_that_would_come_back_as_something_else_are_refused(tmp_path, value):
    with pytest.raises(TypeError, match=r"module.options.* cannot be saved"):
        mj.save(tmp_path / "m", Holder(options=value), {})
    assert not list(tmp_path.iterdir())


def test_variables_of_every_kind_come_back_as_they_were(tmp_path):
    """At 97de41c tuples came back as lists, and arrays without elements could not be written."""
    variables = {
        "params": {
            "a": (np.float32([1]), [np.float32([2]), None]),
            "b": {},
            "c": jnp.zeros((0, 3)),
        },
        "rng": {"key": jax.random.split(jax.random.key(3), 2)},
        "state": {"big": np.arange(3, dtype=">f4"), "n": 3, "half": jnp.ones(2, jnp.bfloat16)},
    }
    back = round_trip(tmp_path, nn.Dense(2), variables)[1]
    assert jax.tree.structure(back) == jax.tree.structure(variables)
    assert (
        jax.random.key_data(back["rng"]["key"]) == jax.random.key_data(variables["rng"]["key"])
    ).all()
    assert back["state"]["big"].dtype == np.float32 and back["params"]["c"].shape == (0, 3)
    np.testing.assert_array_equal(back["state"]["big"], [0, 1, 2])
    assert back["state"]["n"] == 3 and back["state"]["half"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "variables, error",
    [
        ({"params": {1: X}}, "has the key 1; keys must be strings"),
        ({"params": {"": X}}, "has the key ''; keys"),
        ({"params": Point(X)}, "is a Point, which cannot be saved"),
        ({"params": {"a": "text"}}, "is a str, which cannot be saved"),
        ({"params": {"a": np.array([object()])}}, "array of object, which cannot"),
        ({"params": {"a.b": X, "a": {"b": X}}}, r"two arrays would be written under the name"),
    ],
)
def test_variables_that_could_not_come_back_are_refused(tmp_path, variables, error):
    with pytest.raises((TypeError, ValueError), match=error):
        mj.save(tmp_path / "m", nn.Dense(2), variables)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["fold[1]", "a\\b", "x*", "what?", "in[2]/model"])
def test_paths_that_orbax_cannot_read_again_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="takes for a pattern; nothing was written"):
        mj.save(tmp_path / name, nn.Dense(2), {"params": {"kernel": jnp.ones((2, 2))}})
    assert not list(tmp_path.iterdir())


def test_a_save_is_read_back_before_it_gets_its_name(tmp_path, monkeypatch):
    """Should orbax ever write less than it was given, nothing takes the model's place."""
    from monojax.saving import variables

    answers = iter([{"a": 1}, {}])  # what was written, what is read
    monkeypatch.setattr(variables, "shapes", lambda tree: next(answers))
    with pytest.raises(ValueError, match="cannot read back what it wrote at a"):
        mj.save(tmp_path / "m", nn.Dense(2), {"a": X})
    assert not list(tmp_path.iterdir())


def test_every_public_module_of_monojax_has_a_public_name():
    """A class without one could not be saved, and one that moves must keep its own."""
    import importlib
    import pkgutil

    from monojax.base import registry

    for info in pkgutil.walk_packages(mj.__path__, "monojax."):
        importlib.import_module(info.name)
    found = list(nn.Module.__subclasses__())
    for cls in found:
        found += cls.__subclasses__()
    for cls in {c for c in found if c.__module__.startswith("monojax.")}:
        # A class that others are made of is no model of its own.
        inside = cls.__name__.startswith("_") or cls.__subclasses__()
        assert inside or registry.name_of(cls), cls
    names = registry.names()
    assert {"monojax.BLNN", "monojax.layers.ICNN", "monojax.models.ResNet50"} <= {*names}
    assert registry.name_of(mj.BLNN) == "monojax.BLNN"
    # Names that a folder on somebody's disk may hold; add to the list, never take away.
    from monojax.saving import format1

    assert {*format1.CLASSES.values()} <= {*names}


def test_a_public_name_is_taken_once():
    from monojax.base import registry

    with pytest.raises(ValueError, match=r"'monojax\.conjugate\.Solver' is taken"):
        registry.publish("monojax.conjugate", type("Solver", (), {}))
