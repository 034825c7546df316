"""Group monotonicity: classes read off the maps, with and without the penalty.

Monteiro et al. (UAI 2022, arXiv 2205.08247): a classifier is trained with and without the group
penalty; its output layer and its maps alone classify the test set (`monojax.groups`), and both
say how familiar an input is: MNIST against other images, CIFAR-10 with few labels (Table 3).
"""

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import monojax as mj
from monojax.groups import activation_classifier, check_maps, class_report, detection_scores
from monojax.metrics import auroc, detection_rate_at_equal_error
from monojax.models import MNISTNet, WideResNet
from monojax.training import (
    ArrayBatches,
    Cells,
    Keep,
    Schedule,
    create_state,
    fit,
    jit_step,
)
from train.checks import above, at_least, choice
from train.groups.calibrated import ROWS, calibrated_scores
from train.groups.convolution import last_output, layers, tail
from train.groups.data import DATA, Problem, load_problem
from train.groups.report import report
from train.groups.unfamiliar import UNFAMILIAR, pgd, unfamiliar_inputs

MODELS = ("mnist_cnn", "wide_resnet")
OPTIMIZERS = ("adadelta", "sgd")
EVAL_BATCH = 500


def check(config: Any) -> None:
    """Finds mistakes in the values of a config before anything is trained or written.

    Args:
      config: see train/configs/groups.py.

    Raises:
      ValueError: naming the first one.
    """
    choice(config, DATA, "data")
    choice(config, MODELS, "model.name")
    choice(config, OPTIMIZERS, "optimizer.name")
    choice(config, UNFAMILIAR, "unfamiliar")
    for name, penalty in config.penalties.items():
        choice(penalty, ("gradient", "activation"), "form", at=f"config.penalties.{name}")
        at_least(penalty, 0, "gamma", "mu", at=f"config.penalties.{name}")
        if "at" in penalty:
            choice(penalty, ("maps", "convolution"), "at", at=f"config.penalties.{name}")
        if penalty.get("at") == "convolution":
            layers(build(config, 10))
            choice(penalty, ("gradient",), "form", at=f"config.penalties.{name}")
    for share in config.shares:
        if not 0 < share <= 1:
            raise ValueError(f"config.shares must lie in (0, 1], got {share!r}.")
    at_least(config, 1, "seeds", "shares", "penalties", "batch_size")
    above(config, 0, "epochs")
    if config.data != "mnist" and {"fashion_mnist", "notmnist"} & set(config.unfamiliar):
        raise ValueError("fashion_mnist and notmnist are unfamiliar inputs only of mnist.")
    num_maps = build(config, 10).maps or 64 * config.model.width
    check_maps(num_maps, 10)


def total_steps(config: Any) -> int:
    """Optimiser steps of all cells.

    Args:
      config: see train/configs/groups.py.

    Returns:
      The number.
    """
    cells = len(config.penalties) * len(config.seeds) * len(config.shares)
    return cells * num_steps(config)


def num_steps(config: Any) -> int:
    """Steps of one run: the same whatever the share of the data, as in the paper.

    Args:
      config: see train/configs/groups.py.

    Returns:
      Epochs times the steps of an epoch over the whole training set.
    """
    return max(1, round(config.epochs * steps_per_epoch(config)))


def steps_per_epoch(config: Any) -> int:
    """Steps of an epoch over the whole training set.

    Args:
      config: see train/configs/groups.py.

    Returns:
      The number; the last short batch is left out.
    """
    rows = config.train_limit or DATA[config.data].train_rows - config.valid
    return rows // config.batch_size


class Bench(NamedTuple):
    """What all runs of an experiment share."""

    config: Any
    problem: Problem
    model: Any
    predict: Any
    """From :func:`predictor`: one compiled program for all runs."""


class Cell(NamedTuple):
    """One run: a network trained with one penalty, on a share of the data, from one seed."""

    name: str
    """Of the penalty."""
    penalty: Any
    """gamma, mu, form; gamma 0 is the plain network; at "convolution", before norm and ReLU."""
    share: float
    """Of the training data, balanced over the classes."""
    seed: int
    """Of parameters, order, noise, and of what is measured."""

    @property
    def label(self) -> str:
        """Name of its files."""
        return f"{self.name}-{self.share:g}-{self.seed}"


def run(config: Any, workdir: Path, bar: Any) -> dict[Any, Any]:
    """Trains and measures every cell; writes tables and a picture.

    Args:
      config: see train/configs/groups.py.
      workdir: results are in its folder ``cells``, and a folder of checkpoints for each beside.
      bar: progress bar over :func:`total_steps`.

    Returns:
      ``{(penalty, share): [result of each seed]}``.
    """
    problem = load_problem(config)
    model = build(config, problem.num_classes)
    bench = Bench(config, problem, model, predictor(problem, model))
    store = Cells(workdir)
    results: dict[Any, Any] = {}
    for cell in cells(config):
        inputs = [identity(config, cell), list(config.unfamiliar), config.test_limit]
        compute = functools.partial(_result, bench, cell, store.directory / cell.label, bar)
        skipped = functools.partial(bar.update, num_steps(config))
        result, _ = store.get(cell.label, inputs, compute, skipped)
        results.setdefault((cell.name, cell.share), []).append(result)
    report(results, config, Path(workdir))
    return results


def cells(config: Any) -> list[Cell]:
    """All runs, seeds outside, so that a first table of all kinds is there early.

    Args:
      config: penalties, shares, seeds.

    Returns:
      Cells; the plain network before the others.
    """
    names = sorted(config.penalties, key=lambda name: config.penalties[name].gamma > 0)
    return [
        Cell(name, config.penalties[name], share, seed)
        for seed in config.seeds
        for share in config.shares
        for name in names
    ]


def identity(config: Any, cell: Cell) -> dict[str, Any]:
    """What decides a training.

    Args:
      config: see train/configs/groups.py.
      cell: the run.

    Returns:
      JSON-able.
    """
    shared = {key: config[key] for key in ("data", "epochs", "batch_size", "valid", "train_limit")}
    parts = {"model": config.model, "optimizer": config.optimizer, "penalty": cell.penalty}
    plain = {key: value.to_dict() for key, value in parts.items()}
    return {"seed": cell.seed, "share": cell.share, **shared, **plain}


def _result(
    bench: Bench, cell: Cell, directory: Path, bar: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A cell's numbers: trained and measured now, or what version 0.1.0 has left."""
    file = directory / "result.json"
    if file.exists():
        bar.update(num_steps(bench.config))
        return json.loads(file.read_text()), {}
    state = train(bench, cell, directory, bar)
    variables = {"params": state.params, **state.model_state}
    return measure(bench, variables, cell.seed), {}


def build(config: Any, num_classes: int) -> Any:
    """The network of a config.

    Args:
      config: its `model`.
      num_classes: of the data.

    Returns:
      A linen module with methods `features` and `head`.
    """
    options = config.model
    if options.name == "mnist_cnn":
        return MNISTNet(num_classes, options.maps, tuple(options.widths))
    return WideResNet(num_classes, options.depth, options.width, options.dropout, maps=options.maps)


def train(bench: Bench, cell: Cell, directory: Path | None, bar: Any = False) -> Any:
    """Trains the network of one cell.

    Args:
      bench: data, network, and the config's epochs, batch_size, optimizer.
      cell: penalty, share of the data, seed.
      directory: checkpoints and metrics; None keeps nothing.
      bar: progress bar, or False.

    Returns:
      The TrainState after the last step.
    """
    config, problem, model, predict = bench
    rows = problem.subset(cell.share, cell.seed)
    arrays = {"x": problem.x_train[rows], "y": problem.y_train[rows]}
    batches = ArrayBatches(arrays, config.batch_size, seed=cell.seed)
    key_params, key_run = jax.random.split(jax.random.key(cell.seed))
    example = problem.prepare(jnp.asarray(problem.x_train[:1]))
    variables = jax.jit(model.init)(key_params, example)
    optimizer = make_optimizer(config)
    state = create_state(
        key_run, variables["params"], optimizer, {"batch_stats": variables["batch_stats"]}
    )
    step = jit_step(make_loss(problem, model, cell.penalty), optimizer)
    epoch = steps_per_epoch(config)

    def evaluate(state):
        variables = {"params": state.params, **state.model_state}
        logits, totals = predict(variables, problem.x_valid)
        return _accuracies(logits, totals, problem.y_valid, "valid")

    return fit(
        state,
        step,
        Schedule(
            num_steps(config),
            log_every=max(1, epoch // 4),
            eval_every=epoch,
            checkpoint_every=config.checkpoint_every or epoch,
        ),
        keep=Keep(directory, identity(config, cell), tensorboard=False),
        batches=batches,
        evaluate=evaluate if len(problem.y_valid) else None,
        bar=bar,
        name=f"{cell.penalty.form if cell.penalty.gamma else 'plain'}, seed {cell.seed}",
    ).state


def make_loss(problem: Problem, model: Any, penalty: Any) -> Any:
    """Cross-entropy plus the weighted group penalty, as `monojax.training` wants it.

    Args:
      problem: prepares and augments the images.
      model: with methods `features` and `head`.
      penalty: gamma, mu, form, and at (see train/groups/convolution.py).

    Returns:
      A LossFn; its metrics are "cross_entropy" and "penalty".
    """

    def loss_fn(params, model_state, batch, key, axis_name):
        key_augment, key_dropout = jax.random.split(key)
        x = problem.augment(key_augment, problem.prepare(batch["x"]))
        variables, rngs = {"params": params, **model_state}, {"dropout": key_dropout}
        at_convolution = penalty.get("at") == "convolution"
        if at_convolution:
            maps, output, model_state = last_output(model, variables, x, rngs=rngs)
        else:
            maps, model_state = model.apply(
                variables, x, train=True, mutable=["batch_stats"], rngs=rngs, method="features"
            )
        head = lambda a: model.apply({"params": params}, a, method="head")
        entropy = optax.softmax_cross_entropy_with_integer_labels(head(maps), batch["y"]).mean()
        if not penalty.gamma:
            return entropy, (model_state, {"cross_entropy": entropy, "penalty": jnp.zeros(())})
        if at_convolution:
            maps, head = output, tail(model, params, output)
        omega = mj.group_penalty(
            maps,
            batch["y"],
            problem.num_classes,
            penalty.mu,
            head=head if penalty.form == "gradient" else None,
            form=penalty.form,
        )
        metrics = {"cross_entropy": entropy, "penalty": omega}
        return entropy + penalty.gamma * omega, (model_state, metrics)

    return loss_fn


def make_optimizer(config: Any) -> optax.GradientTransformation:
    """Adadelta, or SGD with momentum, L2 decay and a step schedule.

    Args:
      config: its `optimizer`; epochs of drops are counted over the whole training set.

    Returns:
      An optax transformation.
    """
    options = config.optimizer
    if options.name == "adadelta":
        return optax.adadelta(options.lr, rho=0.9, eps=1e-6)  # PyTorch's defaults
    drops = {round(e * steps_per_epoch(config)): options.factor for e in options.drops}
    rate = optax.piecewise_constant_schedule(options.lr, drops)
    decay = optax.add_decayed_weights(options.weight_decay)  # into the gradient, as PyTorch's SGD
    return optax.chain(decay, optax.sgd(rate, options.momentum))


def predictor(problem: Problem, model: Any) -> Any:
    """A function from variables and raw images to logits and total activations.

    Args:
      problem: prepares the images.
      model: with methods `features` and `head`.

    Returns:
      ``predict(variables, images [n, ...]) -> (logits [n, K], totals [n, K])``, numpy.
    """

    @jax.jit
    def one(variables, x):
        maps = model.apply(variables, problem.prepare(x), method="features")
        logits = model.apply(variables, maps, method="head")
        return logits, activation_classifier(maps, problem.num_classes).totals

    def predict(variables, images):
        out = []
        for start in range(0, len(images), EVAL_BATCH):
            x = images[start : start + EVAL_BATCH]
            # A short last batch is filled up: one compiled program for all sizes.
            full = np.concatenate([x, np.repeat(x[-1:], EVAL_BATCH - len(x), axis=0)])
            out.append([np.asarray(part)[: len(x)] for part in one(variables, full)])
        return tuple(np.concatenate(parts) for parts in zip(*out, strict=True))

    return predict


def measure(bench: Bench, variables: Any, seed: int) -> dict[str, Any]:
    """Accuracies, per-class numbers and detection of unfamiliar inputs of one trained network.

    Args:
      bench: data, network, and the config's ``unfamiliar``.
      variables: trained.
      seed: of noise, blends and attacks.

    Returns:
      JSON-able: test_output, test_activation, valid_..., classes, auroc and detected (set to
      score to number).
    """
    config, problem, model, predict = bench
    logits, totals = predict(variables, problem.x_test)
    result: dict[str, Any] = _accuracies(logits, totals, problem.y_test, "test")
    if len(problem.y_valid):
        valid_logits, valid_totals = predict(variables, problem.x_valid)
        result |= _accuracies(valid_logits, valid_totals, problem.y_valid, "valid")
    classes = class_report(jnp.asarray(totals), jnp.asarray(logits), problem.y_test)
    result["classes"] = {k: np.asarray(v).tolist() for k, v in classes._asdict().items()}
    _, train_totals = predict(variables, problem.x_train[:ROWS])
    calibrated = calibrated_scores(train_totals, problem.y_train[:ROWS], problem.num_classes)

    def every(totals, logits):
        found = detection_scores(jnp.asarray(totals), jnp.asarray(logits))
        return found._asdict() | calibrated(totals)

    normal = every(totals, logits)
    result["auroc"], result["detected"] = {}, {}
    sets = unfamiliar_inputs(problem, config, seed)
    if "pgd" in config.unfamiliar:
        logit_fn = lambda x: model.apply(variables, problem.prepare(x))
        sets["pgd"] = pgd(logit_fn, problem, config, seed)
    for name, images in sets.items():
        strange_logits, strange_totals = predict(variables, images)
        strange = every(strange_totals, strange_logits)
        scores = {field: (normal[field], strange[field]) for field in normal}
        result["auroc"][name] = {k: float(auroc(*pair)) for k, pair in scores.items()}
        result["detected"][name] = {
            k: float(detection_rate_at_equal_error(*pair)) for k, pair in scores.items()
        }
    return result


def _accuracies(logits, totals, labels, part: str) -> dict[str, float]:
    return {
        f"{part}_output": float(np.mean(np.argmax(logits, axis=1) == labels)),
        f"{part}_activation": float(np.mean(np.argmax(totals, axis=1) == labels)),
    }
