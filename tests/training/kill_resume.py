r"""Kills a run with SIGKILL at random moments, resumes it, and compares the bits of the result.

python tests/training/kill_resume.py [--count 20] [--seed 0]

Prints a line per kill and "20 of 20 equal"; the exit status is 1 if one differs. Checkpoints are
written every third step, so that some kills fall into the middle of a write.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

STEPS = 60


def child(workdir: Path) -> None:
    """A small run with random points in every step; slowed down so that it can be hit."""
    import jax
    import jax.numpy as jnp
    import optax

    import monojax as mj
    from monojax import training

    rng = np.random.default_rng(0)
    x = rng.uniform(size=(100, 4)).astype(np.float32)
    y = np.sin(6 * x).sum(axis=1)
    shapes = {"a": (4, 32), "b": (32, 1)}
    keys = jax.random.split(jax.random.key(0), 2)
    params = {
        name: 0.3 * jax.random.normal(key, shape)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    optimizer = optax.adam(1e-2)

    def loss_fn(params, model_state, batch, key, axis_name):
        fn = lambda x: (jnp.tanh(x @ params["a"]) @ params["b"])[..., 0]
        points = mj.mixup_points(key, 32, batch["x"], 0.0, 1.0)
        penalty = mj.monotonicity_penalty(fn, points, (1, 1, 0, -1))
        return jnp.mean((fn(batch["x"]) - batch["y"]) ** 2) + penalty, (model_state, {})

    step = training.jit_step(loss_fn, optimizer)

    def slow(state, batch):
        time.sleep(0.02)
        return step(state, batch)

    run = training.fit(
        training.create_state(jax.random.key(1), params, optimizer),
        slow,
        training.Schedule(STEPS, eval_every=6, checkpoint_every=3),
        keep=training.Keep(workdir, {"what": "kill and resume"}, ("size", "max")),
        batches=training.ArrayBatches({"x": x, "y": y}, 16, seed=2),
        evaluate=lambda s: {"size": jnp.square(s.params["a"]).sum()},
        bar=False,
    )
    print(f"resumed from {run.resumed_from}", flush=True)
    np.savez(workdir / "final.npz", best=run.best["step"], **jax.device_get(run.state.params))


def start(workdir: Path) -> subprocess.Popen:
    """Starts the child."""
    command = [sys.executable, __file__, "--child", str(workdir)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(workdir: Path) -> tuple[dict[str, np.ndarray], int]:
    """Runs the child to its end; the parameters and the step at which it took over."""
    process = start(workdir)
    out, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the run in {workdir} failed with exit status {process.returncode}")
    with np.load(workdir / "final.npz") as file:
        return dict(file), int(out.split()[-1])


def kill(workdir: Path, after: float) -> None:
    """Starts the run and kills it ``after`` seconds from its first step."""
    process = start(workdir)
    metrics = workdir / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.01)
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.wait()


def main(count: int, seed: int) -> int:
    """Returns the number of runs that did not end like the unbroken one."""
    rng = random.Random(seed)
    different = 0
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        want, _ = finish(Path(folder) / "unbroken")
        span = min(time.monotonic() - began, 0.04 * STEPS)
        for i in range(count):
            workdir, after = Path(folder) / str(i), rng.uniform(0, span)
            kill(workdir, after)
            got, resumed = finish(workdir)
            equal = want.keys() == got.keys() and all(
                want[k].tobytes() == got[k].tobytes() for k in want
            )
            different += not equal
            verdict = "equal" if equal else "DIFFERENT"
            print(f"killed after {after:.2f} s, resumed from step {resumed}: {verdict}", flush=True)
    print(f"{count - different} of {count} equal", flush=True)
    return different


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=Path)
    options = parser.parse_args()
    if options.child is not None:
        child(options.child)
    else:
        sys.exit(1 if main(options.count, options.seed) else 0)
