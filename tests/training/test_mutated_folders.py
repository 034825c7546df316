"""Some hundred damaged and forged model folders: one clear error each, or the model, never else."""

import copy
import json
import random
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import monojax as mj
from monojax.conjugate import Solver, softplus
from monojax.saving.folder import _digest

X = jnp.ones((2, 3))
ODD = [None, True, -1, 0, 10**30, 1e308, float("nan"), "", "é", [], {}, [[]], {"$": 1}]
ODD += [{"$module": "x"}, {"$tuple": 3}, {"$same": 99}, {"$array": [1, "a"], "dtype": "float32"}]
ODD += [{"$dtype": "object"}, {"$record": "monojax.BLNN", "fields": {}}, {"$function": 7}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    module = mj.layers.Chain(
        (mj.BLNN((3,), 0.5, 2.0, softplus(2.0), Solver("newton")), mj.layers.Rotation())
    )
    variables = jax.jit(module.init)(jax.random.key(0), X)
    return mj.save(tmp_path_factory.mktemp("fuzz") / "model", module, variables)


def loads_or_says_why(path):
    """None, or the message; any other exception is the test's failure."""
    try:
        module, _ = mj.load(path)
    except (ValueError, FileNotFoundError) as error:
        assert str(path) in str(error), error  # which folder it is about
        return str(error)
    assert isinstance(module, nn.Module)
    return None


def places(value, path=()):
    """Every place in JSON data."""
    yield path
    if isinstance(value, dict):
        items = value.items()
    else:
        items = enumerate(value if isinstance(value, list) else ())
    for key, item in items:
        yield from places(item, (*path, key))


def changed(record, rng):
    """The record with one place replaced, removed, or moved elsewhere."""
    record = copy.deepcopy(record)
    path = rng.choice([p for p in places(record) if p])
    holder = record
    for key in path[:-1]:
        holder = holder[key]
    how = rng.randrange(3)
    if how == 0:
        holder[path[-1]] = copy.deepcopy(rng.choice(ODD))
    elif how == 1:
        del holder[path[-1]]
    elif isinstance(holder, dict):
        holder[rng.choice(["$module", "fields", "x", "$tuple"])] = holder.pop(path[-1])
    return record


def test_a_changed_byte_of_the_description_is_noticed(folder, tmp_path):
    """At 97de41c "alpha": 0.5 changed to 0.7 loaded as a network with another guarantee."""
    text, rng = (folder / "model.json").read_text(), random.Random(0)
    shutil.copytree(folder, tmp_path / "m")
    edits = [('"alpha": 0.5', '"alpha": 0.7'), ('"beta": 2.0', '"beta": 20.0')]
    edits += [('"sharpness": 2.0', '"sharpness": 4.0'), ('"newton"', '"auto"')]
    for old, new in edits:
        assert text.count(old) >= 1
        (tmp_path / "m" / "model.json").write_text(text.replace(old, new))
        assert "digest does not agree" in loads_or_says_why(tmp_path / "m")
    for _ in range(100):
        place = rng.randrange(len(text))
        bad = text[:place] + chr(rng.randrange(32, 127)) + text[place + 1 :]
        (tmp_path / "m" / "model.json").write_text(bad)
        try:
            same = json.loads(bad) == json.loads(text)
        except ValueError:
            same = False
        assert same or loads_or_says_why(tmp_path / "m") is not None, bad[place - 9 : place + 9]


@pytest.mark.slow
@pytest.mark.parametrize("signed", [True, False])
def test_changed_records(folder, tmp_path, signed):
    record, rng = json.loads((folder / "model.json").read_text()), random.Random(1)
    shutil.copytree(folder, tmp_path / "m")
    for _ in range(200):
        bad = changed(record, rng)
        if signed:
            bad["digest"] = _digest(bad)
        (tmp_path / "m" / "model.json").write_text(json.dumps(bad))
        message = loads_or_says_why(tmp_path / "m")
        assert signed or bad == record or message is not None


def test_changed_records_of_format_1(folder, tmp_path):
    """No digest there: the reading itself has to hold."""
    record, rng = json.loads((folder / "model.json").read_text()), random.Random(2)
    record = {"format": 1, "module": record["module"], "checksum": record["checksum"]}
    shutil.copytree(folder, tmp_path / "m")
    for _ in range(200):
        (tmp_path / "m" / "model.json").write_text(json.dumps(changed(record, rng)))
        loads_or_says_why(tmp_path / "m")


def test_other_texts(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "m")
    deep = "[" * 100_000
    for text in ("", "null", "3", "[]", "{}", '{"format": 2}', '{"format": true}', deep, '{"a":'):
        (tmp_path / "m" / "model.json").write_text(text)
        assert loads_or_says_why(tmp_path / "m")
    (tmp_path / "m" / "model.json").write_bytes(b"\xff\xfe{}")
    assert "damaged" in loads_or_says_why(tmp_path / "m")


def test_damaged_files_of_the_variables(folder, tmp_path):
    rng, good = random.Random(3), mj.load(folder)[1]
    for number in range(40):
        path = tmp_path / str(number)
        shutil.copytree(folder, path)
        files = sorted(p for p in (path / "variables").rglob("*") if p.is_file())
        file = rng.choice(files)
        data = bytearray(file.read_bytes())
        how = rng.randrange(3)
        if how == 0 or not data:
            file.unlink()
        elif how == 1:
            file.write_bytes(data[: rng.randrange(len(data))])
        else:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            file.write_bytes(data)
        if loads_or_says_why(path) is None:  # a part that says nothing of the arrays
            jax.tree.map(np.testing.assert_array_equal, mj.load(path)[1], good)
