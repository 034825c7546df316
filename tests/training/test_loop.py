"""The loop: resuming, guarding, stopping, refusing."""

import dataclasses
import json
import os
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from monojax import training

X = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
Y = X @ np.float32([1, -2, 3])
OPTIMIZER = optax.adam(1e-2)


def loss_fn(params, model_state, batch, key, axis_name):
    noise = jax.random.normal(key, ())  # the run's randomness must resume, too
    error = jnp.mean(jnp.square(batch["x"] @ params["w"] + 0.01 * noise - batch["y"]))
    return error, (model_state, {})


STEP = training.jit_step(loss_fn, OPTIMIZER)


def fresh():
    return training.create_state(jax.random.key(0), {"w": jnp.zeros(3)}, OPTIMIZER)


def batches():
    return training.ArrayBatches({"x": X, "y": Y}, 8, seed=3)


def evaluate(state):
    return {"valid": jnp.mean(jnp.square(X @ state.params["w"] - Y))}


CONFIG = {"lr": 0.01, "model": {"width": 3}}
SCHEDULE = {field.name for field in dataclasses.fields(training.Schedule)}


def go(workdir, num_steps=20, step=STEP, config=CONFIG, best=("valid", "min"), **more):
    """A run; ``more`` are fields of the schedule and options of `fit`."""
    schedule = {"eval_every": 5, "checkpoint_every": 5}
    schedule |= {name: more.pop(name) for name in SCHEDULE & more.keys()}
    return training.fit(
        fresh(),
        step,
        training.Schedule(num_steps, **schedule),
        keep=training.Keep(workdir, config, best, tensorboard=more.pop("tensorboard", False)),
        **{"batches": batches(), "evaluate": evaluate, "bar": False} | more,
    )


def same_bits(a, b):
    for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        np.testing.assert_array_equal(x, y)


def stopping(at):
    """A step that sends this process SIGTERM during step ``at``."""

    def step(state, batch):
        if int(state.step) == at - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return STEP(state, batch)

    return step


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    path = tmp_path_factory.mktemp("unbroken")
    return go(path / "run"), path / "run"


def test_files_of_a_run(unbroken):
    run, path = unbroken
    lines = training.read_metrics(path)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 21))
    assert sorted(p.name for p in (path / "checkpoints").iterdir()) == ["15", "20"]
    assert json.loads((path / "config.json").read_text())["model"] == {"width": 3}
    values = [(line["valid"], line["step"]) for line in lines if "valid" in line]
    assert run.best == {"step": min(values)[1], "value": min(values)[0]}
    assert [p.name for p in (path / "best").iterdir()] == [str(run.best["step"])]


@pytest.mark.parametrize("at", [1, 7, 10])
def test_sigterm_saves_and_the_resumed_run_ends_with_the_same_bits(unbroken, tmp_path, at, capsys):
    with pytest.raises(SystemExit) as stop:
        go(tmp_path / "run", step=stopping(at))
    assert stop.value.code == 143
    said = capsys.readouterr().err
    assert f"step {at}" in said and str(tmp_path / "run" / "checkpoints" / str(at)) in said
    resumed = go(tmp_path / "run")
    assert resumed.resumed_from == at
    same_bits(resumed.state, unbroken[0].state)
    assert resumed.best == unbroken[0].best
    assert training.read_metrics(tmp_path / "run") == training.read_metrics(unbroken[1])


@pytest.mark.slow
def test_ctrl_c_exits_with_130(tmp_path):
    def step(state, batch):
        os.kill(os.getpid(), signal.SIGINT)
        return STEP(state, batch)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as stop:
        go(tmp_path / "run", step=step)
    assert stop.value.code == 130 and signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_does_not_wait(tmp_path):
    def step(state, batch):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return STEP(state, batch)

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run", step=step)


def test_a_finished_run_is_read_not_repeated(unbroken):
    before = sorted(p.stat().st_mtime_ns for p in unbroken[1].rglob("checkpoints/*/state/*"))
    again = go(unbroken[1])
    assert again.resumed_from == 20
    same_bits(again.state, unbroken[0].state)
    assert before == sorted(
        p.stat().st_mtime_ns for p in unbroken[1].rglob("checkpoints/*/state/*")
    )


def test_lines_past_the_checkpoint_and_torn_lines_are_dropped(tmp_path, unbroken):
    with pytest.raises(SystemExit):
        go(tmp_path / "run", step=stopping(5))
    file = tmp_path / "run" / "metrics.jsonl"
    file.write_text(file.read_text() + '{"step": 6, "loss": 1.0}\n{"step": 7, "lo')
    go(tmp_path / "run")
    assert training.read_metrics(tmp_path / "run") == training.read_metrics(unbroken[1])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("log_every", [1, 4])
def test_a_non_finite_loss_stops_and_names_the_step(tmp_path, bad, log_every):
    def step(state, batch):
        number = int(state.step) + 1
        state, metrics = STEP(state, batch)
        return state, {**metrics, "loss": jnp.asarray(bad if number == 7 else 1.0)}

    with pytest.raises(FloatingPointError, match="step 7;"):
        go(tmp_path / "run", step=step, log_every=log_every)
    # Nothing of that step or later was kept.
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["5"]


def test_a_non_finite_loss_inside_a_call_of_many_steps():
    def advance(state, batch):
        loss = np.ones((4, 3))
        if state["n"] == 1:
            loss[2, 1] = np.nan  # third step of the second call, second seed
        return {"n": state["n"] + 1}, {"loss": loss}

    with pytest.raises(FloatingPointError, match="step 7;"):
        training.fit({"n": 0}, advance, training.Schedule(12, 4, 4), bar=False)


def test_another_config_is_refused_and_nothing_changes(unbroken):
    path = unbroken[1]
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    with pytest.raises(training.WorkdirError, match=r"model.width is 3 there and 4 now"):
        go(path, config={"lr": 0.01, "model": {"width": 4}})
    with pytest.raises(training.WorkdirError, match=r"decay is '\(absent\)' there and 1 now"):
        go(path, config={"lr": 0.01, "model": {"width": 3}, "decay": 1})
    assert before == {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_a_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(training.WorkdirError, match="no work directory of monojax"):
        go(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(training.WorkdirError, match="is a file"):
        go(tmp_path / "thesis.tex")


def test_a_damaged_config_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(training.WorkdirError, match=r"config\.json is damaged"):
        go(tmp_path)


def damage(checkpoint, how, part="state"):
    """Breaks a checkpoint the way disks do."""
    files = [p for p in (checkpoint / part).rglob("*") if p.is_file()]
    if how == "truncate":
        for file in files:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif how == "flip":
        for file in files:
            data = bytearray(file.read_bytes())
            if data:
                data[len(data) // 2] ^= 0xFF
            file.write_bytes(bytes(data))
    else:
        for file in files:
            file.unlink()


@pytest.mark.parametrize("part", ["state", "meta"])
@pytest.mark.parametrize("how", ["truncate", "flip", "delete"])
def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path, unbroken, how, part):
    with pytest.raises(SystemExit):
        go(tmp_path / "run", step=stopping(12))
    latest = tmp_path / "run" / "checkpoints" / "12"
    damage(latest, how, part)
    with pytest.warns(UserWarning, match=f"{latest}.*damaged; going on from step 10"):
        resumed = go(tmp_path / "run")
    assert resumed.resumed_from == 10
    same_bits(resumed.state, unbroken[0].state)
    assert (latest.parent / "12.damaged").is_dir()  # kept for whoever wants to look


def test_all_checkpoints_damaged(tmp_path):
    with pytest.raises(SystemExit):
        go(tmp_path / "run", step=stopping(7))
    for step in ("5", "7"):
        damage(tmp_path / "run" / "checkpoints" / step, "delete")
    with pytest.raises(training.CheckpointError, match=r"no checkpoint can be read.*Nothing was"):
        go(tmp_path / "run")
    assert {p.name for p in (tmp_path / "run" / "checkpoints").iterdir()} == {"5", "7"}


def test_a_checkpoint_of_another_model_is_no_match(tmp_path):
    checkpoints = training.Checkpoints(tmp_path / "c")
    checkpoints.save(1, {"w": jnp.zeros(3)})
    checkpoints.wait()
    with pytest.raises(training.CheckpointError):
        checkpoints.restore({"w": jnp.zeros(4)})
    checkpoints.close()


def test_keys_and_dtypes_survive(tmp_path):
    state = {
        "key": jax.random.split(jax.random.key(5), 3),
        "half": jnp.arange(3, dtype=jnp.bfloat16),
        "n": jnp.int32(4),
    }
    checkpoints = training.Checkpoints(tmp_path / "c")
    checkpoints.save(2, state, {"note": "x"})
    step, got, meta = checkpoints.restore(state)
    checkpoints.close()
    assert step == 2 and meta == {"note": "x"} and got["half"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        jax.random.key_data(got["key"]), jax.random.key_data(state["key"])
    )
    np.testing.assert_array_equal(np.float32(got["half"]), np.float32(state["half"]))


def test_schedules_that_do_not_fit_are_refused():
    for options, match in [
        (dict(num_steps=0), "num_steps must be at least 1"),
        (dict(num_steps=10, steps_per_call=4), "num_steps = 10 must be a multiple"),
        (dict(num_steps=8, steps_per_call=4, log_every=4, eval_every=2), "eval_every = 2"),
    ]:
        with pytest.raises(ValueError, match=match):
            training.Schedule(**options)


def test_best_names_a_metric_that_exists(tmp_path):
    with pytest.raises(ValueError, match=r"'accuracy', but evaluate gave \['valid'\]"):
        go(tmp_path / "run", best=("accuracy", "max"))


def test_best_by_maximum_keeps_that_state(tmp_path):
    run = go(tmp_path / "run", best=("valid", "max"))
    assert run.best["step"] == 5  # the error falls, so its maximum is the first evaluation


@pytest.mark.parametrize(
    ("values", "stop"),
    [
        # A value per evaluation, every 5 steps; patience 10 steps, that is two bad ones.
        ([1, 2, 3, 4], 20),
        ([3, 2, 1, 4], 15),
        ([3, 2, 4, 1], 20),
        ([3, 3, 3, 3], 15),  # equal is not better
    ],
)
def test_patience_counts_steps_since_the_best(tmp_path, values, stop):
    scores = lambda state: {"score": float(values[int(state.step) // 5 - 1])}
    run = lambda: go(tmp_path / "run", evaluate=scores, best=("score", "max"), patience=10)
    first = run()
    assert (first.steps, first.stopped_early) == (stop, stop < 20)
    again = run()  # a run that stopped early stays stopped
    assert (again.steps, again.resumed_from, again.stopped_early) == (stop, stop, stop < 20)
    assert again.best == first.best


def test_patience_between_evaluations_waits_for_the_next_one(tmp_path):
    scores = lambda state: {"score": -float(state.step)}
    run = go(tmp_path / "run", evaluate=scores, best=("score", "max"), patience=7)
    assert run.steps == 15


def test_patience_needs_something_to_watch():
    with pytest.raises(ValueError, match="needs best and evaluate"):
        go(None, best=None, patience=5)


def test_tensorboard_and_bar(tmp_path, capsys):
    go(tmp_path / "run", num_steps=2, tensorboard=True, bar=None)
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
    assert "2/2" in capsys.readouterr().err


def test_a_missing_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"monojax\[train\]"):
        go(tmp_path / "run", tensorboard=True)


def test_bookkeeping_changed_on_disk_is_noticed(tmp_path):
    """A step that was altered would resume at another place in the data."""
    with pytest.raises(SystemExit):
        go(tmp_path / "run", step=stopping(7))
    file = tmp_path / "run" / "checkpoints" / "7" / "meta" / "metadata"
    text = file.read_text().replace(" ", "")
    assert '"step":7' in text
    file.write_text(text.replace('"step":7', '"step":8'))
    with pytest.warns(UserWarning, match="checksum does not agree.*going on from step 5"):
        assert go(tmp_path / "run").resumed_from == 5


@pytest.mark.slow
def test_parameters_that_are_not_finite_are_never_saved(tmp_path):
    """A finite loss with a NaN gradient: the state of that step must not become the latest."""

    def step(state, batch):
        number = int(state.step) + 1
        state, metrics = STEP(state, batch)
        if number == 7:
            state = state.replace(params={"w": jnp.full(3, jnp.nan)})
        return state, {"loss": metrics["loss"] if number < 8 else jnp.asarray(jnp.nan)}

    for every in (1, 5):
        path = tmp_path / str(every)
        with pytest.raises(FloatingPointError, match=r"The last good state is .*checkpoints"):
            go(path, step=step, checkpoint_every=every, eval_every=0, evaluate=None, best=None)
        saved = {int(p.name) for p in (path / "checkpoints").iterdir()}
        assert max(saved) == (6 if every == 1 else 5)
        assert go(path, checkpoint_every=every, eval_every=0, evaluate=None, best=None).steps == 20


def test_a_gradient_that_is_not_finite_is_named():
    def step(state, batch):
        return state, {"loss": jnp.float32(1), "grad_norm": jnp.float32(jnp.inf)}

    with pytest.raises(FloatingPointError, match="the gradient is not finite at step 1;"):
        training.fit(fresh(), step, training.Schedule(3), bar=False)


def test_a_nan_evaluation_is_never_the_best(tmp_path):
    values = iter([np.nan, 3.0, 1.0, 2.0])
    run = go(tmp_path / "run", evaluate=lambda state: {"valid": next(values)})
    assert run.best == {"step": 15, "value": 1.0}
    assert [p.name for p in (tmp_path / "run" / "best").iterdir()] == ["15"]


def test_the_best_that_a_checkpoint_names_is_on_disk(tmp_path):
    """Killed after a better evaluation but before the checkpoint that would name it."""
    values = iter([5.0, 9.0, 9.0, 1.0])

    def dies(state):
        value = next(values)
        if value == 1.0:
            raise RuntimeError("killed")
        return {"valid": value}

    options = dict(eval_every=3, checkpoint_every=5)
    with pytest.raises(RuntimeError):
        go(tmp_path / "run", num_steps=30, evaluate=dies, **options)
    with pytest.raises(SystemExit):
        go(tmp_path / "run", num_steps=30, step=stopping(11), evaluate=dies, **options)
    assert "3" in {p.name for p in (tmp_path / "run" / "best").iterdir()}


def test_a_directory_killed_in_its_first_moment_can_be_used(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".config.json.abc").write_text('{"lr"')
    assert go(tmp_path / "run", num_steps=5).steps == 5


def test_fewer_steps_than_taken_and_no_config_are_refused(unbroken, tmp_path):
    with pytest.raises(training.WorkdirError, match="at step 20, past num_steps = 5"):
        go(unbroken[1], num_steps=5)
    with pytest.raises(ValueError, match="needs a config"):
        training.Keep(tmp_path / "run")


def test_positions_may_be_bytes(tmp_path):
    class Counting(training.ArrayBatches):
        def get_state(self):
            return str(super().get_state()["step"]).encode()

        def set_state(self, state):
            super().set_state({"step": int(state)})

    with pytest.raises(SystemExit):
        go(tmp_path / "a", step=stopping(7), batches=Counting({"x": X, "y": Y}, 8, seed=3))
    run = go(tmp_path / "a", batches=Counting({"x": X, "y": Y}, 8, seed=3))
    same_bits(run.state, go(tmp_path / "b").state)


def test_a_damaged_line_of_metrics_is_named(tmp_path):
    with pytest.raises(SystemExit):
        go(tmp_path / "run", step=stopping(5))
    file = tmp_path / "run" / "metrics.jsonl"
    file.write_text("{oops\n" + file.read_text())
    with pytest.raises(ValueError, match=r"metrics.jsonl is damaged"):
        go(tmp_path / "run")


@pytest.mark.parametrize(
    "option, where",
    [
        (dict(num_steps=3), r"Schedule\(num_steps"),
        (dict(eval_every=3), r"Schedule\(num_steps"),
        (dict(patience=3), r"Schedule\(num_steps"),
        (dict(workdir="run"), r"Keep\(workdir, config"),
        (dict(best=("valid", "min")), r"Keep\(workdir, config"),
        (dict(tensorboard=False), r"Keep\(workdir, config"),
    ],
)
def test_old_options_raise_with_the_new_place(option, where):
    with pytest.raises(TypeError, match=f"{next(iter(option))}.*{where}"):
        training.fit(fresh(), STEP, training.Schedule(1), bar=False, **option)


def test_what_is_no_schedule_or_no_keep_is_named(tmp_path):
    with pytest.raises(TypeError, match=r"takes a training.Schedule there, got 20: fit\(state"):
        training.fit(fresh(), STEP, 20, bar=False)
    with pytest.raises(TypeError, match=r"takes a training.Keep there, got 2"):
        training.fit(fresh(), STEP, training.Schedule(1), keep=2, bar=False)
    with pytest.raises(ValueError, match=r"best\[1\] must be one of 'min', 'max', got 'maxx'"):
        training.Keep(best=("valid", "maxx"))
    with pytest.raises(ValueError, match="eval_every = -5"):
        training.Schedule(20, eval_every=-5)
    with pytest.raises(TypeError, match="'chunk' is named 'batch_size' now"):
        training.over_seeds(abs, chunk=2)
