"""Checkpoints: every tree comes back as it was or is refused before anything is written."""

import shutil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from monojax import training

A = np.arange(3, dtype=np.float32)


class Pair(NamedTuple):
    """A container of one's own."""

    first: Any
    second: Any


TREES = {
    "integer keys, of which orbax makes texts": {i: np.full(2, i, np.float32) for i in range(12)},
    "tuples": (A, [A + 1, Pair(A + 2, None)], {"a": (), "b": {}}),
    "the other byte order": {"a": A.astype(">f4"), "b": A.astype(">i2")},
    "narrow types": {"a": A.astype(ml_dtypes.int4), "b": A.astype(ml_dtypes.float8_e4m3fn)},
    "no elements": {"a": np.zeros((0, 3), np.float32), "b": A, "c": jnp.zeros((2, 0), jnp.int32)},
    "only no elements": {"a": np.zeros((0, 3), np.float32)},
    "numbers": {"a": np.float32(3), "n": 5, "f": 0.5, "t": True},
    "odd keys": {"a/b": A, "c[0]": A + 1, "": A + 2, "d\\e": A + 3, "..": A + 4, "a b*": A + 5},
    "complex": {"a": (A + 1j).astype(np.complex64), "b": A > 1},
}


def same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for one, other in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        assert one.shape == np.shape(other)
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("name", TREES)
def test_trees_come_back_as_they_were(tmp_path, name):
    checkpoints = training.Checkpoints(tmp_path / "c")
    checkpoints.save(3, TREES[name], {"note": 1})
    step, got, meta = checkpoints.restore(TREES[name])
    checkpoints.close()
    assert (step, meta) == (3, {"note": 1})
    same(got, TREES[name])


@pytest.mark.parametrize(
    "state, match",
    [
        ({"w": A, "name": "x"}, "state's name is a str"),
        ({"w": A, "o": np.array([object()])}, "array of object"),
        ({"w": A, "o": np.array(["2020"], "datetime64[D]")}, "array of datetime64"),
        ({"a.b": A, "a": {"b": A}}, r"two arrays would be written under the name 'a.b'"),
        ({}, "holds no arrays"),
    ],
)
def test_states_that_cannot_be_saved_are_refused_before_the_first_step(tmp_path, state, match):
    """At 97de41c orbax raised at the first checkpoint, after hours of training."""

    def advance(state, batch):
        raise AssertionError("a step was taken")

    with pytest.raises(training.CheckpointError, match=match):
        training.fit(
            state,
            advance,
            training.Schedule(500),
            keep=training.Keep(tmp_path / "run", {"a": 1}, tensorboard=False),
            bar=False,
        )


def test_a_run_with_leaves_without_elements_resumes(tmp_path):
    def run(num_steps):
        step = training.jit_step(loss, optax.sgd(0.1))
        params = {"w": jnp.ones(3), "none": jnp.zeros((0, 4))}
        return training.fit(
            training.create_state(jax.random.key(0), params, optax.sgd(0.1)),
            step,
            training.Schedule(num_steps),
            keep=training.Keep(tmp_path / "run", {"a": 1}, tensorboard=False),
            bar=False,
        )

    loss = lambda params, state, batch, key, axis: (jnp.square(params["w"]).sum(), (state, {}))
    assert run(2).resumed_from == 0
    again = run(4)
    assert again.resumed_from == 2 and again.state.params["none"].shape == (0, 4)


@pytest.mark.parametrize("name", ["run[1]", "a*b", "what?", "back\\slash", "in[3]/run"])
def test_paths_that_orbax_cannot_read_again_are_refused(tmp_path, name):
    """At 97de41c run[1] wrote what was never found again, and a*b could read its neighbours."""
    keep = training.Keep(tmp_path / name, {"a": 1}, tensorboard=False)
    with pytest.raises(training.WorkdirError, match="takes for a pattern; nothing was written"):
        training.fit({"w": A}, None, training.Schedule(1), keep=keep, bar=False)
    with pytest.raises(ValueError, match="takes for a pattern; nothing was written"):
        training.Checkpoints(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["sp ace", "ünï", "a%b", "{x}", "a,b", "~x", "!x", "x:y", "a#b"])
def test_other_odd_paths_work(tmp_path, name):
    checkpoints = training.Checkpoints(tmp_path / name)
    checkpoints.save(1, {"w": A})
    same(checkpoints.restore({"w": A})[1], {"w": A})
    checkpoints.close()


def test_a_save_is_read_back(tmp_path):
    checkpoints = training.Checkpoints(tmp_path / "c")
    checkpoints.save(1, {"w": A})
    checkpoints.wait()
    checkpoints.save(2, {"w": A})
    checkpoints._manager.wait_until_finished()
    shutil.rmtree(tmp_path / "c" / "2" / "state")  # the disk lost it
    with pytest.raises(training.CheckpointError, match=r"2 (cannot be read back|is not what)"):
        checkpoints.wait()
    with pytest.warns(UserWarning, match="going on from step 1"):
        assert checkpoints.restore({"w": A})[0] == 1
    checkpoints.close()


def test_a_state_whose_memory_was_donated_still_says_its_shapes(tmp_path):
    """At 97de41c the files were blamed: "no checkpoint can be read"."""
    state = {"w": jnp.arange(3.0), "key": jax.random.key(3)}
    checkpoints = training.Checkpoints(tmp_path / "c")
    checkpoints.save(1, state)
    checkpoints.wait()
    for leaf in jax.tree.leaves(state):
        leaf.delete()
    _, got, _ = checkpoints.restore(state)
    checkpoints.close()
    np.testing.assert_array_equal(got["w"], [0, 1, 2])
    assert (jax.random.key_data(got["key"]) == jax.random.key_data(jax.random.key(3))).all()
