"""Runs `train/configs/imagenet.py:quick` as several processes on this machine, for the tests.

Each process is a host with simulated devices; they talk over loopback.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]

# A network so small that a step is milliseconds; compiling it is what takes time.
SMALL = (
    "--config=imagenet:quick",
    "--config.data.size=32",
    "--config.data.threads=1",
    "--config.model.width=4",
    "--config.batch_size=16",
    "--config.eval_batch_size=16",
    "--config.lr_drops=()",
)
FAKE = (*SMALL, "--config.data.source=fake", "--config.model.num_classes=10")
FAKE = (*FAKE, "--config.model.maps=20", "--config.data.fake=44")
PHOTOS = (*SMALL, "--config.model.maps=1000")


class Pod:
    """Processes of one run; use as a context, which ends what is left of them.

    Args:
      workdir: of the run; logs go beside it.
      arguments: of `python -m train`, the same for all hosts.
      hosts: number of processes; one runs without a coordinator.
      devices: simulated devices of each.
      different: host to further arguments of its own.
      environment: further variables.
    """

    def __init__(self, workdir, arguments, hosts=2, devices=4, different=None, environment=None):
        self.workdir, self.processes, self.logs = Path(workdir), [], []
        coordinator = f"localhost:{free_port()}"
        for host in range(hosts):
            command = [sys.executable, "-m", "train", *arguments, f"--workdir={workdir}"]
            if hosts > 1:
                command += [f"--coordinator={coordinator}", f"--num_hosts={hosts}"]
                command += [f"--host={host}"]
            command += (different or {}).get(host, [])
            log = self.workdir.with_name(f"{self.workdir.name}.host{host}.{time.time_ns()}.log")
            with log.open("w") as file:
                process = subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=_environment(devices, environment or {}),
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
            self.processes.append(process)
            self.logs.append(log)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()

    def wait(self, timeout=600):
        """Exit statuses of all hosts."""
        deadline = time.monotonic() + timeout
        return [p.wait(max(1.0, deadline - time.monotonic())) for p in self.processes]

    def said(self, host):
        """What a host wrote, without the libraries' chatter."""
        lines = self.logs[host].read_text(errors="replace").splitlines()
        return "\n".join(line for line in lines if "[Gloo]" not in line)

    def finish(self, timeout=900):
        """The state of the last checkpoint, as flat arrays by name, of a run that ends well."""
        codes = self.wait(timeout)
        assert codes == [0] * len(codes), "\n\n".join(map(self.said, range(len(codes))))
        return last_state(self.workdir)

    def wait_for_step(self, step, timeout=600):
        """Returns when the metrics of a step are on disk (or a host has ended)."""
        metrics = self.workdir / "metrics.jsonl"
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if any(process.poll() is not None for process in self.processes):
                return
            if metrics.exists() and f'"step": {step}' in metrics.read_text():
                return
            time.sleep(0.02)
        raise TimeoutError(f"no step {step} after {timeout} s:\n{self.said(0)}")

    def kill(self, host, number=signal.SIGKILL):
        """Sends a signal to one host."""
        self.processes[host].send_signal(number)


def last_state(workdir):
    """The newest checkpoint: name of a leaf to array, and "step"."""
    import jax
    import orbax.checkpoint as ocp

    step = max(int(path.name) for path in (Path(workdir) / "checkpoints").iterdir())
    tree = ocp.StandardCheckpointer().restore(Path(workdir) / "checkpoints" / str(step) / "state")
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves} | {"step": step}


def distance(one, other, part="params"):
    """Norm of the difference of two states over the norm of the first."""
    names = [name for name in one if name.startswith(f"['{part}']")]
    assert names
    flat = lambda state: np.concatenate([np.ravel(np.float64(state[name])) for name in names])
    return np.linalg.norm(flat(one) - flat(other)) / np.linalg.norm(flat(one))


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def _environment(devices, more):
    found = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    return found | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "OPENBLAS_NUM_THREADS": "1",
        # The same program is compiled by every process of every run here.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        **more,
    }


def main(folder):
    """The acceptance run on the 250 photos; prints what it finds."""
    import random

    folder = Path(folder)
    environment = {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    quick = ("--config=imagenet:quick",)
    with Pod(folder / "two", quick, environment=environment) as pod:
        want = pod.finish(7200)
    print(f"2 x 4 devices, unbroken: {want['step']} steps", flush=True)
    with Pod(folder / "killed", quick, environment=environment) as pod:
        pod.wait_for_step(random.randrange(1, want["step"] - 1), 7200)
        time.sleep(random.uniform(0, 2))
        victim = random.randrange(2)
        pod.kill(victim)
        began = time.monotonic()
        codes = pod.wait(600)
        print(f"host {victim} killed; both ended {codes} after {time.monotonic() - began:.1f} s")
        print(pod.said(1 - victim).strip().splitlines()[-1], flush=True)
    with Pod(folder / "killed", quick, environment=environment) as pod:
        got = pod.finish(7200)
    equal = all(np.array_equal(want[name], got[name]) for name in want)
    print(f"killed and restarted: {'the same bits' if equal else 'DIFFERENT'}", flush=True)
    with Pod(folder / "one", quick, hosts=1, devices=8, environment=environment) as pod:
        one = pod.finish(7200)
    parts = {part: f"{distance(want, one, part):.1e}" for part in ("params", "opt_state")}
    print(f"1 x 8 devices after {one['step']} steps, relative: {parts}", flush=True)
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
