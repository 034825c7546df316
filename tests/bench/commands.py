r"""The commands for a person's own photograph and embeddings, from nothing, by the clock.

PYTHONPATH=. MONOJAX_DATA=DIR python tests/bench/commands.py [photo] [embeddings]

explain_photo: one photograph of COCO128 at 224 x 224 by SqueezeNet, all methods, compilation
included (goal: 60 s on two cores). compress_embeddings: 50,000 rows of 384 in 200 classes, all
three models, indices and pictures (goal: 5 minutes). Each runs in a process of its own without a
compilation cache; CPU seconds stand beside, since the clock counts what else the machine does.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from monojax.data.locate import data_directory
from monojax.training.workdir import machine


def photo(folder):
    """A photograph as a file, and the options that explain it."""
    with np.load(data_directory(None, "images/coco128_seg.npz", "COCO128.") / (
        "images/coco128_seg.npz"
    )) as found:  # fmt: skip
        start, end = found["jpeg_offset"][3:5]
        (folder / "photo.jpg").write_bytes(found["jpeg"][start:end].tobytes())
    return ["explain_photo", f"--config.image={folder / 'photo.jpg'}", "--config.model=squeezenet"]


def embeddings(folder, num=50_000, dims=384, classes=200):
    """Classes in 60 of the dimensions, noise that decreases in the others; rotated."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, num)
    inside = rng.normal(size=(classes, 60))[labels] + 1.3 * rng.normal(size=(num, 60))
    outside = 0.7 * rng.normal(size=(num, dims - 60)) * np.linspace(1, 0.05, dims - 60)
    turn = np.linalg.qr(rng.normal(size=(dims, dims)))[0]
    np.save(folder / "E.npy", (np.concatenate([inside, outside], 1) @ turn).astype(np.float32))
    np.save(folder / "L.npy", labels)
    files = f"--config.embeddings={folder / 'E.npy'}", f"--config.labels={folder / 'L.npy'}"
    return ["compress_embeddings", *files]


def main(names):
    """Times each."""
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            config, *options = {"photo": photo, "embeddings": embeddings}[name](Path(folder))
            command = [sys.executable, "-m", "train", "--config", config, *options]
            command += ["--workdir", f"{folder}/run"]
            environment = {k: v for k, v in os.environ.items() if "COMPILATION_CACHE" not in k}
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
            seconds, after = (
                time.perf_counter() - start,
                resource.getrusage(resource.RUSAGE_CHILDREN),
            )
            cpu = sum(getattr(after, k) - getattr(before, k) for k in ("ru_utime", "ru_stime"))
            print(f"{config}: {seconds:.0f} s, {cpu:.0f} CPU s", flush=True)
    print(f"{machine()}, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main(sys.argv[1:] or ["photo", "embeddings"])
