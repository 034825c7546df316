"""The scripts that start a run on several hosts: what they would run, and what a host receives."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).resolve().parents[2] / "train" / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
ARGUMENTS = ["--config", "imagenet", "--config.lr_drops=(20, 25)", "--workdir", "it's here"]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="shell scripts")


def dry(script, *words):
    command = [LAUNCH / script, *words, "--", *ARGUMENTS]
    done = subprocess.run(command, env={**os.environ, "DRY": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


def test_a_pod_runs_one_command_on_all_workers():
    (words,) = dry("tpu_pod.sh", "pod-1", "us-east1-d")
    assert words[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod-1"]
    assert words[6:8] == ["--zone=us-east1-d", "--worker=all"]
    (command,) = words[8:]
    remote = shlex.split(command.removeprefix("--command="))
    assert remote[:3] == ["cd", "monojax", "&&"]
    assert remote[3:] == ["python3", "-m", "train", "--coordinator", "auto", *ARGUMENTS]


def test_slurm_starts_a_process_on_every_node():
    (words,) = dry("slurm.sh")
    want = ["srun", "--kill-on-bad-exit=1", "python3", "-m", "train", "--coordinator", "auto"]
    assert words == [*want, *ARGUMENTS]


def test_ssh_names_the_coordinator_and_numbers_the_hosts():
    lines = dry("ssh.sh", "me@first", "second", "third")
    assert [line[:2] for line in lines] == [["ssh", h] for h in ("me@first", "second", "third")]
    for i, (_, _, remote) in enumerate(lines):
        assert "JAX_COORDINATOR_ADDRESS=first:1234 JAX_NUM_PROCESSES=3" in remote
        assert f"JAX_PROCESS_ID={i} " in remote
        assert shlex.split(remote)[-len(ARGUMENTS) :] == ARGUMENTS


def test_the_dry_form_of_slurm_queues_nothing():
    """`DRY=1 sbatch ...` would queue a job, so no text says it."""
    root = LAUNCH.parents[1]
    for path in (LAUNCH / "slurm.sh", LAUNCH / "README.md", root / "docs" / "pods.md"):
        text = path.read_text()
        assert "DRY=1 bash train/launch/slurm.sh -- " in text, path
        assert not re.search(r"DRY=1\]? sbatch", text), path


def test_flags_of_the_launch_table_are_flags_of_the_config():
    from train.__main__ import CONFIGS
    from train.arguments import parse

    text = (LAUNCH.parents[1] / "docs" / "pods.md").read_text()
    flags = set(re.findall(r"--config\.[\w.]+=\w+", text))
    assert {"--config.weights=FILE", "--config.data.dir=DIR", "--config.data.source=folder"} < flags
    for flag in flags:
        if flag != "--config.batch_size=N":
            parse(["--config=imagenet", flag], CONFIGS)


@pytest.mark.parametrize(
    "script, words",
    [
        ("tpu_pod.sh", ["pod"]),
        ("tpu_pod.sh", ["pod", "zone", "--config", "imagenet"]),
        ("slurm.sh", ["--config", "imagenet"]),
        ("ssh.sh", ["first", "second"]),
        ("ssh.sh", ["--", "--config", "imagenet"]),
    ],
)
def test_a_wrong_command_line_is_told_the_right_one(script, words):
    done = subprocess.run([LAUNCH / script, *words], capture_output=True, text=True)
    assert done.returncode == 2 and "usage:" in done.stderr


@pytest.fixture
def hosts(tmp_path):
    """Two "hosts" on this machine: ssh runs the command here, Python notes what it was given."""
    (tmp_path / "monojax").mkdir()
    ssh = tmp_path / "fake_ssh"
    ssh.write_text('#!/bin/sh\nshift\nexec bash -c "$*"\n')
    python = tmp_path / "fake_python"
    python.write_text(
        f"#!{sys.executable}\n"
        "import json, os, signal, sys, time\n"
        "def stop(*_):\n    print('stopped', flush=True); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "jax = {k: v for k, v in os.environ.items() if k.startswith('JAX_') and 'COMP' not in k}\n"
        # One write for the whole line: print() writes its newline apart where output is unbuffered,
        # and both hosts share one pipe.
        "os.write(1, (json.dumps([jax, sys.argv[1:]]) + '\\n').encode())\n"
        "time.sleep(60 if '--wait' in sys.argv else 0)\n"
    )
    for file in (ssh, python):
        file.chmod(0o755)
    names = {"SSH": str(ssh), "PYTHON": str(python), "PORT": "5555"}
    return {**os.environ, **names, "MONOJAX_DIR": str(tmp_path / "monojax")}


def test_what_a_host_receives(hosts):
    command = [LAUNCH / "ssh.sh", "a@127.0.0.1", "b", "--", *ARGUMENTS]
    done = subprocess.run(command, env=hosts, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    got = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(jax["JAX_PROCESS_ID"] for jax, _ in got) == ["0", "1"]
    for jax, argv in got:
        assert jax["JAX_COORDINATOR_ADDRESS"] == "127.0.0.1:5555"
        assert jax["JAX_NUM_PROCESSES"] == "2"
        assert argv == ["-m", "train", *ARGUMENTS]


def test_a_signal_reaches_the_first_host(hosts):
    command = [LAUNCH / "ssh.sh", "a", "--", "--wait"]
    process = subprocess.Popen(command, env=hosts, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith("[")
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert "stopped" in out and process.returncode == 143


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script):
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
