r"""The input pipeline alone: JPEG to augmented 224 x 224, against a plain PIL loop in the same run.

PYTHONPATH=. MONOJAX_DATA=DIR python tests/bench/input.py [--images_per_chip 1940] [--quick]

The photos are the project's 250, scaled up to 500 x 375 (near ImageNet's average) and encoded
again at quality 90. Each way reads the same number of images in turn, several times over; medians.
"images/s" is wall time on whatever cores are free; "ms" is processor time per image, which other
programs blur less, and from which the cores that a host needs are reckoned:
chips x images/s per chip x processor seconds per image.
"""

import argparse
import io
import os
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from PIL import Image

from monojax.data.image_sources import PhotoImages
from monojax.data.imagenet import Share, TrainBatches

SIZE, BATCH, CHIPS = 224, 50, 4  # chips of a v5e host


class Large:
    """The photos at the size of ImageNet's."""

    def __init__(self, num):
        photos, self.rows, self.reads = PhotoImages(), [], 0
        for i in range(num):
            data, label = photos[i % len(photos)]
            out = io.BytesIO()
            pixels = Image.open(io.BytesIO(data)).convert("RGB").resize((500, 375))
            pixels.save(out, "JPEG", quality=90)
            self.rows.append((out.getvalue(), label))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        self.reads += 1
        return self.rows[index]

    def name(self, index):
        return f"photo {index}"


def plain(images, count):
    """What one writes by hand: decode all of it, crop, resize, mirror, stack."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        data, _ = images[i % len(images)]
        image = Image.open(io.BytesIO(data)).convert("RGB")
        w, h = image.size
        for _ in range(10):
            area, ratio = w * h * rng.uniform(0.08, 1), np.exp(rng.uniform(*np.log([3 / 4, 4 / 3])))
            cw, ch = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
            if cw <= w and ch <= h:
                break
        else:
            cw, ch = w, h
        left, top = rng.integers(w - cw + 1), rng.integers(h - ch + 1)
        image = image.crop((left, top, left + cw, top + ch))
        image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
        rows.append(pixels[:, ::-1] if rng.random() < 0.5 else pixels)
        if len(rows) == BATCH:
            np.stack(rows)
            rows = []


def ours(images, count, share):
    """Batches through grain."""
    batches = TrainBatches(images, BATCH, SIZE, share=share)
    for _ in range(count // BATCH):
        next(batches)
    batches.close()


def measure(ways, images, count, repeats):
    """Medians of images/s and of processor ms per image, the ways in turn.

    Threads read ahead what is not asked for any more; processor time is divided by all reads.
    """
    found = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            images.reads, begin, cpu = 0, time.perf_counter(), time.process_time()
            way()
            wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
            found[name].append((count / wall, 1e3 * cpu / images.reads))
    return {name: np.median(values, axis=0) for name, values in found.items()}


def main(images_per_chip, quick):
    count, repeats = (100, 1) if quick else (500, 5)
    images = Large(50 if quick else 250)
    ways = {
        "PIL, plain loop": lambda: plain(images, count),
        "1 thread": lambda: ours(images, count, Share(threads=1)),
        "2 threads": lambda: ours(images, count, Share(threads=2)),
    }
    found = measure(ways, images, count, repeats)
    base = found["PIL, plain loop"]
    print("| way | images/s | ratio | ms of a core per image | ratio |")
    print("|---|---|---|---|---|")
    for name, (rate, cpu) in found.items():
        print(f"| {name} | {rate:.0f} | {rate / base[0]:.2f} | {cpu:.2f} | {cpu / base[1]:.2f} |")
    need = CHIPS * images_per_chip
    cores = need * found["2 threads"][1] / 1e3
    print(
        f"\nA v5e host of {CHIPS} chips at {images_per_chip:.0f} images/s each: {need:.0f} images/s"
    )
    print(f"need {cores:.1f} cores like these for the decoding ({os.cpu_count()} here).")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images_per_chip", type=float, default=1940.0)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    main(options.images_per_chip, options.quick)
