"""Classifiers that are a difference of two convex or two monotone networks, on MNIST.

Zimmermann and Loho (CVPR 2026) train such networks as a proof of concept; widths, initialisation
and accuracy are not published. Here: accuracy over seeds, the guarantees tried on the trained
networks, and what the gradients of the two streams mark (`train.difference.maps`).
"""

import functools
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from monojax.base.compat import enable_x64
from monojax.layers import DCNetwork
from monojax.training import (
    ArrayBatches,
    Cells,
    Keep,
    Schedule,
    Table,
    create_state,
    fit,
    jit_step,
)
from train.checks import above, at_least, choice
from train.difference import maps as difference_maps
from train.difference.data import CLASSES, TRAINING, Images, load
from train.renamed import translated
from train.reporting import provenance


def check(config: Any) -> None:
    """Finds mistakes in the values of a config before anything is trained or written.

    Args:
      config: the experiment's config.

    Raises:
      ValueError: naming the first one.
    """
    choice(config, TRAINING, "data")
    at_least(config, 1, "epochs", "batch_size", "pairs", "seeds", "networks")
    at_least(config, 1, "maps.images", "maps.examples")
    for name, options in config.networks.items():
        build(config, options)
        above(options, 0, "lr", at=f"config.networks.{name}")
        at_least(options, 0, "decay", at=f"config.networks.{name}")
    choice(config, config.networks, "maps.networks")


def total_steps(config: Any) -> int:
    """Optimiser steps of all networks and seeds, for the progress bar.

    Args:
      config: the experiment's config.

    Returns:
      The number.
    """
    return len(config.networks) * len(config.seeds) * steps(config, TRAINING[config.data])


def steps(config: Any, rows: int) -> int:
    """Steps of one training on so many images."""
    return config.epochs * (rows // config.batch_size)


def run(config: Any, workdir: Path, bar: Any) -> dict[str, list[dict[str, float]]]:
    """Trains every network with every seed; writes the tables and the pictures.

    Args:
      config: see train/configs/difference.py.
      workdir: the directory of the experiment.
      bar: progress bar over :func:`total_steps`.

    Returns:
      Network to a list of figures, one dictionary per seed.
    """
    data, cells = load(config), Cells(workdir)
    results: dict[str, list[dict[str, float]]] = {}
    shown: dict[str, tuple[DCNetwork, list[Any]]] = {}
    for name, options in config.networks.items():
        net, results[name] = build(config, options), []
        trained = []
        for seed in config.seeds:
            place = Path(workdir) / name / str(seed)
            params, seconds = train(net, config, options, data, seed, place, bar)
            trained.append(params)
            inputs = [identity(config, options, seed), config.pairs]
            compute = functools.partial(_figures, net, params, data, config, seconds, place)
            numbers, _ = cells.get(f"{name}-{seed}", inputs, compute)
            results[name].append(numbers)
        if name in config.maps.networks:
            shown[name] = net, trained
    accuracy_table(config, results, workdir)
    if shown:
        difference_maps.report(config, shown, data, workdir)
    return results


def build(config: Any, options: Any) -> DCNetwork:
    """The network of one row of the config.

    Args:
      config: widths, weight_map.
      options: kind, inverted, spread, centred; weight_map and activation, if not the common
        ones.

    Returns:
      A linen module, rows of pixels to logits.
    """
    return DCNetwork(
        (*config.widths, CLASSES),
        kind=options.kind,
        inverted=options.inverted,
        weight_map=options.get("weight_map", config.weight_map),
        spread=options.spread,
        activation=options.get("activation"),
        # MNIST's mean and variance over all pixels; without, the biases start at the wrong place.
        input_mean=0.13 if options.centred else 0.0,
        input_variance=0.095,
    )


def identity(config: Any, options: Any, seed: int) -> dict[str, Any]:
    """What decides a training.

    Args:
      config: see train/configs/difference.py.
      options: of one network.
      seed: of the parameters and of the order of the batches.

    Returns:
      JSON-able.
    """
    shared = {key: config[key] for key in ("data", "widths", "epochs", "batch_size", "weight_map")}
    return {**shared, "network": options.to_dict(), "seed": seed}


def _figures(
    net: DCNetwork, params: Any, data: Images, config: Any, seconds: float, place: Path
) -> tuple[dict[str, float], dict[str, Any]]:
    """A trained network's numbers: measured now, or what version 0.1.0 has left."""
    file = place / "figures.json"
    if file.exists():
        return json.loads(file.read_text()), {}
    return {**measure(net, params, data, config.pairs), "seconds": seconds}, {}


def train(
    net: DCNetwork, config: Any, options: Any, data: Images, seed: int, place: Path | None, bar: Any
) -> tuple[Any, float]:
    """Trains one network, or takes what ``place`` holds.

    Args:
      net: from :func:`build`.
      config: epochs, batch_size and what identifies the run.
      options: lr, decay.
      data: images.
      seed: of the parameters and of the order of the batches.
      place: the run's directory, where an unfinished run is resumed; None keeps nothing.
      bar: progress bar.

    Returns:
      ``(variables, seconds)``; the seconds are NaN for a run that was resumed.
    """
    num_steps = steps(config, len(data.x_train))
    kernels = lambda params: jax.tree_util.tree_map_with_path(
        lambda path, _: "kernel" in path[-1].key, params
    )
    rate = optax.cosine_decay_schedule(options.lr, num_steps)
    optimizer = optax.adamw(rate, weight_decay=options.decay, mask=kernels)
    key_params, key_run = jax.random.split(jax.random.key(seed))
    params = jax.jit(net.init)(key_params, data.x_train[:1])
    state = create_state(key_run, params, optimizer)
    kept = translated("difference", identity(config, options, seed))
    begin = time.monotonic()
    done = fit(
        state,
        jit_step(functools.partial(_loss, net), optimizer),
        Schedule(
            num_steps,
            log_every=max(num_steps // 50, 1),
            checkpoint_every=max(num_steps // 2, 1),
        ),
        keep=Keep(place, kept, tensorboard=False),
        batches=ArrayBatches({"x": data.x_train, "y": data.y_train}, config.batch_size, seed=seed),
        bar=bar,
        name=f"{options.title}/{seed}",
    )
    # A resumed run knows the time of its last part only.
    seconds = time.monotonic() - begin if done.resumed_from == 0 else float("nan")
    return done.state.params, seconds


def _loss(net, params, model_state, batch, key, axis_name):
    logits = net.apply(params, batch["x"])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()
    return loss, (model_state, {})


def measure(net: DCNetwork, params: Any, data: Images, pairs: int) -> dict[str, float]:
    """Accuracy, size, and the number of pairs on which a guarantee fails.

    The guarantee is tried in float64 on both streams: order of each output on ``pairs`` random
    ordered pairs of the monotone kind, convexity at the midpoint of ``pairs`` random segments
    of the convex kind.

    Args:
      net: the network.
      params: its trained variables, float32.
      data: the test part is used.
      pairs: number of pairs.

    Returns:
      accuracy, parameters, violations.
    """
    logits = jax.jit(net.apply)(params, data.x_test)
    return {
        "accuracy": float((logits.argmax(-1) == data.y_test).mean()),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "violations": violations(net, params, data.x_test, pairs),
    }


def violations(net: DCNetwork, params: Any, images: np.ndarray, pairs: int, seed: int = 0) -> int:
    """How many of so many random pairs break the order, or the convexity, of a stream's output.

    Args:
      net: the network.
      params: its variables.
      images: points to start from, `[n, d]`.
      pairs: number of pairs.
      seed: of the draw.

    Returns:
      The count; an outcome counts if it is wrong by more than 1e-9 of the largest output, which
      is a million times the rounding of float64.
    """
    rng = np.random.default_rng(seed)
    low = images[rng.integers(len(images), size=pairs)].astype(np.float64)
    # A random share of the pixels goes up by a random part of what is left to 1.
    up = rng.random((pairs, 1)) > rng.random(low.shape)
    high = low + (1 - low) * rng.random(low.shape) * up
    with enable_x64():
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.float64(leaf)), params)
        # Both streams at the same point, each as a function of its own input.
        streams: Any = functools.partial(net.apply, wide, method="streams")
        both = jax.jit(lambda x: jnp.stack(streams(x, x)))
        at_low, at_high = np.asarray(both(low)), np.asarray(both(high))
        if net.kind == "monotone":
            gain = at_high - at_low
        else:
            gain = (at_low + at_high) / 2 - np.asarray(both((low + high) / 2))
    wrong = gain < -1e-9 * np.abs(at_low).max()
    return int(wrong.any(axis=(0, 2)).sum())


def accuracy_table(config: Any, results: dict[str, list[dict[str, float]]], workdir: Path) -> None:
    """Writes the table of accuracies, with the provenance below.

    Args:
      config: the experiment's config.
      results: from :func:`run`.
      workdir: where to.
    """
    header = [
        "network",
        "accuracy, mean",
        "min",
        "max",
        "parameters",
        "seconds per training",
        f"violations in {config.pairs} pairs",
    ]
    runs = f"{config.epochs} epochs, {len(config.seeds)} seeds"
    table = Table(header, f"Test part of {config.data}, {runs}")
    for name, rows in results.items():
        values = np.asarray([row["accuracy"] for row in rows])
        table.add(
            config.networks[name].title,
            *(f"{v:.4f}" for v in (values.mean(), values.min(), values.max())),
            int(rows[0]["parameters"]),
            f"{np.mean([row['seconds'] for row in rows]):.0f}",
            int(sum(row["violations"] for row in rows)),
        )
    table.write(workdir, "accuracy", provenance(config))
    print("\n" + table.markdown(), flush=True)
