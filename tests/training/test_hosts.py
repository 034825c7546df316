"""Parts of a run on several hosts that need no second process."""

import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from monojax import training
from monojax.training import hosts as several
from monojax.training.clock import Clock
from monojax.training.watchdog import EXIT_LOST
from monojax.training.workdir import differences


def test_options_from_the_environment():
    read = training.HostOptions.from_environment
    assert read({}) == training.HostOptions()
    found = read(
        {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "0"}
    )
    assert (found.coordinator, found.num_hosts, found.host) == ("a:1", 4, 0)
    with pytest.raises(ValueError, match="JAX_PROCESS_ID must be a whole number, got 'one'"):
        read({"JAX_PROCESS_ID": "one"})


@pytest.mark.parametrize(
    "options, match",
    [
        (dict(num_hosts=2), "need a coordinator"),
        (dict(coordinator="a:1"), "got host None of None"),
        (dict(coordinator="a:1", num_hosts=2, host=2), "got host 2 of 2"),
    ],
)
def test_incomplete_options(options, match):
    with pytest.raises(ValueError, match=match):
        training.start_hosts(training.HostOptions(**options))
    assert not training.start_hosts(training.HostOptions())


def test_auto_where_no_machine_knows(monkeypatch):
    """As jax says it, in its three ways."""
    for text in (
        "coordinator_address should be defined.",
        "Number of processes must be defined.",
        "The process id of the current process must be defined.",
    ):

        def initialize(text=text, **_):
            raise ValueError(text)

        monkeypatch.setattr(jax.distributed, "initialize", initialize)
        with pytest.raises(ValueError, match=r"'auto' found no hosts.*HOST:PORT.*this machine"):
            training.start_hosts(training.HostOptions("auto"))


def test_a_process_of_slurm_takes_all_gpus_of_its_node(monkeypatch):
    """JAX alone gives it the first one: it takes a process for every GPU for granted."""
    given = []
    monkeypatch.setattr(
        jax.distributed, "initialize", lambda **options: given.append(options["local_device_ids"])
    )
    one = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "4", "SLURM_GPUS_ON_NODE": "8"}
    cases = [
        (one, list(range(8))),
        ({**one, "SLURM_GPUS_ON_NODE": "1"}, [0]),
        ({**one, "SLURM_STEP_NUM_TASKS": "32"}, None),  # one for each GPU, as JAX expects
        ({**one, "JAX_LOCAL_DEVICE_IDS": "2,3"}, None),
        ({**one, "SLURM_GPUS_ON_NODE": ""}, None),
        ({}, None),  # a TPU pod
    ]
    for environment, want in cases:
        for name in (*one, "JAX_LOCAL_DEVICE_IDS"):
            monkeypatch.setenv(name, environment.get(name, ""))
        assert training.start_hosts(training.HostOptions("auto"))
        assert given[-1] == want, environment


def test_one_host_agrees_with_itself():
    first = training.agree({"a": 1, "b": {"c": 2}})
    assert first == training.agree({"b": {"c": 2}, "a": 1}) != training.agree({"a": 1})


def test_different_settings_are_named(monkeypatch):
    """Two hosts, played by their answers."""
    mine, theirs = {"lr": 0.1, "model": {"depth": 50}}, {"lr": 0.1, "model": {"depth": 18}}
    sent = []

    def gather(array):
        sent.append(array)
        if len(sent) == 1:
            return np.stack([array, array + 1])
        if len(sent) == 2:
            return np.array([[len(text(mine))], [len(text(theirs))]])
        width = len(array)
        pad = lambda data: np.frombuffer(data.ljust(width, b" "), np.uint8)
        return np.stack([pad(text(mine)), pad(text(theirs))])

    text = lambda values: training.hosts.json.dumps(values, sort_keys=True).encode()
    monkeypatch.setattr(several, "_gather", gather)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match=r"model\.depth: 50 on host 0, 18 on host 1"):
        training.agree(mine)


def test_differences_of_nested_values():
    found = list(differences({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 5}))
    assert found == [("a.c", 2, 4), ("d", 3, "(absent)"), ("e", "(absent)", 5)]


def test_a_state_survives_being_sent(monkeypatch):
    """Bits, dtypes and keys; the sending itself is tested with two processes."""
    params = {"w": jnp.array([-0.0, 1e-40, jnp.inf]), "n": jnp.arange(3, dtype=jnp.int32)}
    state = training.create_state(jax.random.key(7), params, optax.sgd(0.1, momentum=0.9))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(several, "_from_first", lambda data: data)
    hosts = several.AllHosts()
    step, got, meta = hosts.share((5, state, {"best": None}), state)
    assert (step, meta) == (5, {"best": None})
    raw = lambda tree: jax.tree.map(
        lambda x: np.asarray(jax.random.key_data(x) if several._is_key(x) else x), tree
    )
    for one, other in zip(jax.tree.leaves(raw(state)), jax.tree.leaves(raw(got)), strict=True):
        assert one.dtype == other.dtype and one.tobytes() == other.tobytes()
    assert hosts.share(None, state) is None


def test_all_devices_pack_and_send():
    hosts = training.AllHosts()
    state = {"w": jnp.arange(3.0)}
    packed = hosts.pack(hosts.unpack(state))
    np.testing.assert_array_equal(packed["w"], state["w"])
    num = jax.local_device_count()
    batch = hosts.send({"x": np.zeros((2 * num, 3))}, True)
    assert batch["x"].shape == (num, 2, 3) and batch["stop"].tolist() == [1.0] * num
    stop = jax.pmap(lambda x: jax.lax.pmean(x, "i"), axis_name="i")(batch["stop"])
    assert hosts.stopping(False, {"stop": stop}) and not hosts.stopping(True, None)


def test_the_watchdog_ends_a_process_that_hangs():
    program = (
        "import time; from monojax.training.watchdog import Watchdog\n"
        "dog = Watchdog(1.0); dog.wind(); time.sleep(0.5); dog.wind(); dog.stop()\n"
        "time.sleep(1.5)\n"
        "print('rested', flush=True); dog.wind(); time.sleep(600)"
    )
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == EXIT_LOST and done.stdout == "rested\n"
    assert "no step was completed for 1 s" in done.stderr and "Start all hosts again" in done.stderr
    assert time.monotonic() - begin < 300


def test_the_clock_leaves_out_compilation_and_pauses(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("monojax.training.clock.time.monotonic", lambda: now[0])

    def spend(seconds):
        now[0] += seconds

    clock = Clock(8)
    assert clock.read() == {}
    with clock.waiting():
        spend(50)
    spend(100)
    clock.step(1)  # the first step: compilation
    for _ in range(4):
        with clock.waiting():
            spend(0.5)
        spend(1.5)
        clock.step(1)
    with clock.pause():
        spend(1000)
    got = clock.read()
    assert got == pytest.approx(
        {"step_seconds": 2.0, "images_per_second_per_device": 4.0, "wait_share": 0.25}
    )
    assert clock.read() == {}
