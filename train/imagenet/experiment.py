"""Group-monotone fine-tuning on ImageNet, over all devices of all hosts.

Monteiro et al. (UAI 2022): ResNet-50 with an added convolution of 15,000 maps, 15 per class,
cross-entropy plus the group penalty. One command per host; see train/configs/imagenet.py.
"""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from monojax.base.checks import check_maps
from monojax.data.image_sources import SOURCES, Images, open_images
from monojax.data.imagenet import Share, TrainBatches, eval_batches
from monojax.training import (
    AllHosts,
    Clock,
    Keep,
    Schedule,
    Table,
    agree,
    fit,
    shard_batch,
    write_atomically,
)
from train.checks import at_least, choice
from train.imagenet.model import (
    DTYPES,
    check_devices,
    eval_program,
    initial_state,
    train_program,
)
from train.reporting import provenance


def check(config: Any) -> None:
    """Finds mistakes in a config before hosts are connected or anything is written.

    Args:
      config: the experiment's config.

    Raises:
      ValueError: naming the first one.
      FileNotFoundError: if there is no data at the given place; says how to get it.
    """
    choice(config, SOURCES, "data.source")
    choice(config, (18, 34, 50), "model.depth")
    choice(config, DTYPES, "model.dtype")
    choice(config, ("gradient", "activation"), "form")
    choice(config, ("none", "linear"), "lr_scaling")
    at_least(config, 0, "gamma", "mu")
    at_least(config, 1, "epochs", "batch_size", "eval_batch_size")
    check_maps(config.model.maps, config.model.num_classes)
    if config.weights and not Path(config.weights).is_file():
        raise FileNotFoundError(f"config.weights names {config.weights}, which is no file.")
    train, _ = _images(config)
    if total_steps(config) < 1:
        raise ValueError(
            f"{config.epochs} epochs of {len(train)} images do not fill a batch of "
            f"{config.batch_size}; make it smaller."
        )


def check_started(config: Any) -> None:
    """Finds what only the connected hosts can know, before anything is written.

    Args:
      config: the experiment's config.

    Raises:
      ValueError: if a batch does not divide by the devices, or the hosts do not see the same data
        or have different numbers of devices.
    """
    train, valid = _images(config)
    agree(
        {
            "training images": len(train),
            "validation images": len(valid),
            "devices of the host": jax.local_device_count(),
        }
    )
    check_devices(config, jax.device_count())


def total_steps(config: Any) -> int:
    """Steps of the run: epochs times images over the batch size, rounded down.

    Args:
      config: the experiment's config.

    Returns:
      Optimiser steps.
    """
    return config.epochs * len(_images(config)[0]) // config.batch_size


def run(config: Any, workdir: Path, bar: Any) -> dict[str, Any]:
    """Fine-tunes and evaluates; the first host writes checkpoints, metrics and the result.

    Args:
      config: see train/configs/imagenet.py.
      workdir: the run's directory; used on the first host only.
      bar: progress bar over :func:`total_steps`.

    Returns:
      The last evaluation: accuracies in %, cross-entropy, number of images.
    """
    train, valid = _images(config)
    share = Share(
        jax.process_index(), jax.process_count(), config.data.threads, config.data.workers
    )
    batches = TrainBatches(
        train,
        config.batch_size,
        config.data.size,
        seed=config.seed,
        share=share,
        max_skipped=config.data.max_skipped,
    )
    evaluate = functools.partial(
        evaluate_on, config, eval_program(config), valid, share, batches.skipped
    )
    kept: dict[str, Any] = {}
    steps = total_steps(config)
    hosts = AllHosts(config.host_timeout)
    try:
        fit(
            initial_state(config, len(train)),
            train_program(config, len(train)),
            Schedule(
                steps,
                log_every=config.log_every,
                eval_every=max(1, config.eval_every_epochs * len(train) // config.batch_size),
                checkpoint_every=config.checkpoint_every,
            ),
            keep=Keep(workdir, config),
            batches=batches,
            evaluate=lambda state: kept.update(evaluate(state)) or kept,
            bar=bar if hosts.main else False,
            name="imagenet",
            hosts=hosts,
            clock=Clock(config.batch_size / jax.device_count()),
        )
    finally:
        batches.close()
    if not hosts.main:
        return kept
    result = kept or _last_evaluation(workdir)
    report(config, result, workdir)
    return result


def evaluate_on(config, program, images: Images, share: Share, skipped, state) -> dict[str, float]:
    """Accuracy over a whole part, every image counted once.

    Args:
      config: eval_batch_size, data.
      program: from :func:`train.imagenet.model.eval_program`.
      images: the part.
      share: this host's part of every batch.
      skipped: the training input's counter, reported beside the accuracies.
      state: replicated TrainState.

    Returns:
      "eval_accuracy" and "eval_accuracy_maps" in %, "eval_cross_entropy", "eval_count",
      "train_images_skipped" (of this host, since it started).
    """
    sums = dict.fromkeys(("count", "correct", "correct_maps", "cross_entropy"), 0.0)
    for batch in eval_batches(
        images,
        config.eval_batch_size,
        config.data.size,
        share=share,
        max_skipped=config.data.max_skipped,
    ):
        counts = program(state.params, state.model_state, shard_batch(batch))
        for key in sums:
            sums[key] += float(np.asarray(counts[key].addressable_shards[0].data)[0])
    count = max(sums["count"], 1)
    return {
        "eval_accuracy": 100 * sums["correct"] / count,
        "eval_accuracy_maps": 100 * sums["correct_maps"] / count,
        "eval_cross_entropy": sums["cross_entropy"] / count,
        "eval_count": sums["count"],
        "train_images_skipped": float(skipped.count),
    }


def report(config: Any, result: dict[str, Any], workdir: Path) -> None:
    """Writes imagenet.md, .csv and .json.

    Args:
      config: the experiment's config.
      result: of the last evaluation.
      workdir: where to.
    """
    table = Table(
        ["network", "images", "output %", "maps %", "cross-entropy"],
        "Accuracy of the output layer and of the maps' total activation",
    )
    model = config.model
    table.add(
        f"ResNet-{model.depth}, width {model.width}, {model.maps} maps",
        f"{result['eval_count']:.0f}",
        f"{result['eval_accuracy']:.2f}",
        f"{result['eval_accuracy_maps']:.2f}",
        f"{result['eval_cross_entropy']:.4f}",
    )
    table.write(workdir, "imagenet", provenance(config))
    write_atomically(workdir / "imagenet.json", json.dumps(result, indent=2) + "\n")


def _last_evaluation(workdir: Path) -> dict[str, Any]:
    """Of a run that was finished before: from its metrics."""
    from monojax.training import read_metrics

    lines = [line for line in read_metrics(workdir) if "eval_count" in line]
    return {key: value for key, value in lines[-1].items() if key != "step"}


def _images(config: Any) -> tuple[Images, Images]:
    """The training and the validation part."""
    data, num = config.data, config.model.num_classes
    train = _open(data.source, "train", data.dir, data.fake, num)
    return train, _open(data.source, "validation", data.dir, data.fake, num)


@functools.lru_cache(maxsize=4)
def _open(source: str, split: str, data_dir: str, fake: int, num_classes: int) -> Images:
    return open_images(source, split, data_dir, fake=fake, num_classes=num_classes)
