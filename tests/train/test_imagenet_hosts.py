"""Two processes x 4 simulated devices: one result with one process x 8, killed or not.

`python tests/pods.py` does the same with the whole of `imagenet:quick` on the 250 photos.
"""

import json
import random
import signal

import numpy as np
import pytest
from pods import FAKE, PHOTOS, Pod, distance

from monojax.training import read_metrics

pytest.importorskip("grain", reason="the input needs grain (extra data)")
pytest.importorskip("PIL", reason="the input needs pillow (extra data)")

RUN = (*FAKE, "--config.epochs=12", "--config.eval_every_epochs=12", "--config.lr=1e-5")  # 33 steps
ONE_STEP = (*FAKE, "--config.epochs=1", "--config.data.fake=16")
LOST = 75  # exit status of a host that gives the others up


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Compiled programs, shared by the processes of this file."""
    return {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, cache):
    workdir = tmp_path_factory.mktemp("unbroken") / "run"
    with Pod(workdir, RUN, environment=cache) as pod:
        return pod.finish(), workdir


def same_bits(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.slow
def test_a_step_of_two_hosts_is_the_step_of_one(tmp_path, cache):
    """The bar for one SGD step: float32 sums over devices in another order."""
    with Pod(tmp_path / "two", ONE_STEP, environment=cache) as pod:
        two = pod.finish()
    with Pod(tmp_path / "one", ONE_STEP, hosts=1, devices=8, environment=cache) as pod:
        one = pod.finish()
    assert one["step"] == two["step"] == 1
    assert distance(one, two) <= 1e-6
    # After one step the momentum is the gradient: its own scale, not that of the parameters.
    # Batch norm's backward pass cancels digits, hence the wider bar.
    assert distance(one, two, "opt_state") <= 1e-4


@pytest.mark.slow
def test_a_run_of_two_hosts_ends_like_one(unbroken, tmp_path, cache):
    with Pod(tmp_path / "one", RUN, hosts=1, devices=8, environment=cache) as pod:
        one = pod.finish()
    # The momentum is what the last ten batches gave: it is 1.4 away for other images. At this
    # rate a step hardly amplifies the rounding of the step before it (at 1e-3 it does so by a
    # half each time, and 33 steps make it as large as the result: the loss is that curved).
    assert distance(unbroken[0], one, "opt_state") <= 1e-2
    # Rounding of 1e-7 that grew over 33 steps: 7e-6 was seen.
    assert distance(unbroken[0], one) <= 5e-5
    lines = [line for line in read_metrics(unbroken[1]) if "eval_count" in line]
    assert [line["eval_count"] for line in lines] == [44.0]  # 3 batches of 16, the last padded
    logged = [line for line in read_metrics(unbroken[1]) if "step_seconds" in line]
    for line in logged:
        assert line["images_per_second_per_device"] > 0 and 0 <= line["wait_share"] <= 1
    assert len(logged) >= 30
    assert json.loads((unbroken[1] / "imagenet.json").read_text())["eval_count"] == 44


@pytest.mark.slow
def test_hosts_that_die_stop_or_hang_and_come_back(unbroken, tmp_path, cache):
    """Each fault ends both processes with a word; the restarted pair ends with the same bits."""
    workdir, rng = tmp_path / "run", random.Random()
    arguments = (*RUN, "--config.host_timeout=20.0")

    with Pod(workdir, arguments, environment=cache) as pod:
        pod.wait_for_step(4)
        pod.kill(1)
        assert pod.wait(120)[0] != 0  # bounded, not for ever
        assert "Start all hosts again" in pod.said(0) or "distributed service" in pod.said(0)

    with Pod(workdir, arguments, environment=cache) as pod:
        pod.wait_for_step(8 + rng.randrange(3))
        pod.kill(1, signal.SIGTERM)  # preemption of one host stops both after the same step
        assert pod.wait(120) == [143, 143], pod.said(0) + pod.said(1)
        step = int(pod.said(0).split("interrupted at step ")[1].split(";")[0])
        assert f"interrupted at step {step}; the first host saves" in pod.said(1)
        assert (workdir / "checkpoints" / str(step)).is_dir()

    with Pod(workdir, arguments, environment=cache) as pod:
        pod.wait_for_step(step + 3)
        pod.kill(1, signal.SIGSTOP)  # hangs with its connections open
        pod.processes[0].wait(120)
        assert pod.processes[0].returncode != 0
        pod.kill(1, signal.SIGCONT)
        pod.wait(120)

    with Pod(workdir, arguments, environment=cache) as pod:
        pod.wait_for_step(step + 6 + rng.randrange(6))
        for host in (0, 1):
            pod.kill(host)

    with Pod(workdir, arguments, environment=cache) as pod:
        got = pod.finish()
    same_bits(unbroken[0], got)


@pytest.mark.slow
def test_photos_killed_at_a_random_moment(tmp_path, cache, data_dir):
    arguments = (*PHOTOS, "--config.epochs=1")
    environment = {**cache, "MONOJAX_DATA": str(data_dir)}
    with Pod(tmp_path / "unbroken", arguments, environment=environment) as pod:
        want = pod.finish()
    with Pod(tmp_path / "broken", arguments, environment=environment) as pod:
        pod.wait_for_step(random.randrange(1, want["step"]))
        pod.kill(random.randrange(2))
        pod.wait(120)
    with Pod(tmp_path / "broken", arguments, environment=environment) as pod:
        same_bits(want, pod.finish())


@pytest.mark.slow
@pytest.mark.parametrize(
    "different, match",
    [
        (["--config.batch_size=32"], "config.batch_size: 16 on host 0, 32 on host 1"),
        (["--config.lr=0.1"], "config.lr: 1e-05 on host 0, 0.1 on host 1"),
    ],
)
def test_hosts_with_different_settings_stop_and_say_so(tmp_path, different, match):
    with Pod(tmp_path / "run", RUN, different={1: different}) as pod:
        assert pod.wait(120) == [1, 1]
        for host in (0, 1):
            assert match in pod.said(host), pod.said(host)
    assert not (tmp_path / "run").exists()  # before anything is written
