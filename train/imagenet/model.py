"""The model, the loss and the compiled steps of the ImageNet fine-tuning.

One definition for the run, the tests and the dry run: :func:`train_program` builds the step over
the devices that it is given, present or not.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from monojax.data.crops import normalise
from monojax.groups import activation_classifier, group_penalty
from monojax.models.pretrained import load_pretrained
from monojax.models.resnet import ResNet
from monojax.training import TrainState, create_state, pmap_step

AXIS = "batch"
DTYPES = ("bfloat16", "float32")


def build_model(config: Any, axis_name: str | None = AXIS) -> ResNet:
    """The network with its added convolution.

    Args:
      config: its group ``model``.
      axis_name: axis over which batch statistics are taken.

    Returns:
      ResNet; computes in ``model.dtype``, its parameters and statistics are float32.
    """
    model = config.model
    return ResNet(
        num_classes=model.num_classes,
        width=model.width,
        depth=model.depth,
        maps=model.maps,
        dtype=jnp.dtype(model.dtype),
        axis_name=axis_name,
    )


def loss_fn(model, config, params, model_state, batch, key, axis_name):
    """Cross-entropy plus the weighted group penalty of one device's part of the batch.

    Args:
      model: ResNet.
      config: model.num_classes, gamma, mu, form.
      params: its parameters.
      model_state: its batch statistics.
      batch: "image" uint8 `[b, h, w, 3]`, "label" int32 `[b]`, "stop" `[]`.
      key: unused; the crops are drawn by the input.
      axis_name: unused; the model knows it.

    Returns:
      ``(loss, (batch statistics, metrics))``; accuracies are of the output layer and of the maps.
    """
    del key, axis_name
    images = normalise(batch["image"], model.dtype)
    labels, num = batch["label"], config.model.num_classes
    variables = {"params": params, **model_state}
    maps, new_state = model.apply(
        variables, images, True, method="features", mutable=["batch_stats"]
    )
    head = lambda a: model.apply({"params": params}, a, method="head").astype(jnp.float32)
    logits = head(maps)
    error = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    options = {"head": head} if config.form == "gradient" else {}
    penalty = group_penalty(maps, labels, num, config.mu, form=config.form, **options)
    metrics = {
        "cross_entropy": error,
        "penalty": penalty,
        "accuracy": jnp.mean(jnp.argmax(logits, axis=1) == labels),
        "accuracy_maps": jnp.mean(activation_classifier(maps, num).labels == labels),
        "stop": batch["stop"],
    }
    return error + config.gamma * penalty, (new_state, metrics)


def eval_counts(model, params, model_state, batch) -> dict[str, jax.Array]:
    """Exact counts over the batches of all devices; rows of mask 0 do not count.

    Args:
      model: ResNet.
      params: its parameters.
      model_state: its batch statistics.
      batch: "image", "label", "mask" of this device.

    Returns:
      Sums over all devices: "count", "correct", "correct_maps", "cross_entropy".
    """
    images = normalise(batch["image"], model.dtype)
    labels, mask = batch["label"], batch["mask"]
    variables = {"params": params, **model_state}
    maps = model.apply(variables, images, method="features")
    logits = model.apply(variables, maps, method="head").astype(jnp.float32)
    read = activation_classifier(maps, model.num_classes).labels
    error = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    counts = {
        "count": mask.sum(),
        "correct": (mask * (jnp.argmax(logits, axis=1) == labels)).sum(),
        "correct_maps": (mask * (read == labels)).sum(),
        "cross_entropy": (mask * error).sum(),
    }
    return jax.lax.psum(counts, AXIS)


def learning_rate(config: Any, num_images: int) -> optax.Schedule:
    """The rate by step: divided by ``lr_factor`` at the end of every epoch in ``lr_drops``.

    Args:
      config: lr, lr_drops, lr_factor, lr_scaling, batch_size.
      num_images: of the training part.

    Returns:
      Step to rate.
    """
    scale = config.batch_size / 256 if config.lr_scaling == "linear" else 1.0
    drops = {
        epoch * num_images // config.batch_size: 1 / config.lr_factor for epoch in config.lr_drops
    }
    return optax.piecewise_constant_schedule(config.lr * scale, drops)


def make_optimizer(config: Any, num_images: int) -> optax.GradientTransformation:
    """SGD with momentum; the decay is added to the gradient of every parameter, as in PyTorch.

    Args:
      config: momentum, weight_decay and what :func:`learning_rate` takes.
      num_images: of the training part.

    Returns:
      optax transformation.
    """
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        optax.sgd(learning_rate(config, num_images), momentum=config.momentum),
    )


def initial_state(config: Any, num_images: int, traced: bool = False) -> TrainState:
    """A fresh state, with published weights where the config names a file.

    Args:
      config: the experiment's config.
      num_images: of the training part.
      traced: for `jax.eval_shape`, which some versions of jax give no compiler options.

    Returns:
      TrainState, one copy.
    """
    key_params, key_run = jax.random.split(jax.random.key(config.seed))
    images = jnp.zeros((1, config.data.size, config.data.size, 3))
    # Run once: LLVM's optimiser would take minutes for the drawing of the weights.
    plain = traced or jax.default_backend() != "cpu"
    quickly = None if plain else {"xla_backend_optimization_level": 0}
    init = jax.jit(build_model(config, None).init, compiler_options=quickly)
    variables = init(key_params, images)
    if config.weights:
        _, published = load_pretrained(f"resnet{config.model.depth}", config.weights)
        variables = take_over(variables, published)
    optimizer = make_optimizer(config, num_images)
    model_state = {"batch_stats": variables["batch_stats"]}
    return create_state(key_run, variables["params"], optimizer, model_state)


def take_over(fresh: Any, published: Any) -> dict[str, Any]:
    """Published variables, with the new last convolution and the output layer above it fresh.

    Args:
      fresh: variables of the network with its added convolution.
      published: variables of the published one.

    Returns:
      Variables with the structure of ``fresh``.

    Raises:
      ValueError: if the published file has other parts, or a part of another shape.
    """
    shapes = lambda tree: jax.tree.map(lambda leaf: tuple(leaf.shape), tree)
    taken: dict[str, Any] = {}
    for kind in ("params", "batch_stats"):
        taken[kind] = dict(fresh[kind])
        for part in taken[kind].keys() - {"extra", "fc"}:
            if part not in published[kind] or shapes(published[kind][part]) != shapes(
                fresh[kind][part]
            ):
                raise ValueError(
                    f"config.weights has no {kind}/{part} of the model's shape; is config.model "
                    "the published network's depth and width?"
                )
            taken[kind][part] = published[kind][part]
    return taken


def train_program(config: Any, num_images: int, devices: Sequence[Any] | None = None) -> Any:
    """The training step over all devices, as `pmap` compiles it.

    Args:
      config: the experiment's config.
      num_images: of the training part.
      devices: defaults to all devices of all hosts; descriptions of absent ones for a dry run.

    Returns:
      ``step(state, batch) -> (state, metrics)`` on replicated states and split batches.
    """
    loss = functools.partial(loss_fn, build_model(config), config)
    return pmap_step(loss, make_optimizer(config, num_images), axis_name=AXIS, devices=devices)


def eval_program(config: Any) -> Any:
    """The counting step over all devices.

    Args:
      config: the experiment's config.

    Returns:
      ``count(params, model_state, batch) -> counts`` on replicated variables and split batches.
    """
    return jax.pmap(functools.partial(eval_counts, build_model(config)), axis_name=AXIS)


def abstract_inputs(config: Any, num_images: int, num_devices: int) -> tuple[Any, Any]:
    """Shapes of the step's arguments, for compiling without data.

    Args:
      config: the experiment's config.
      num_images: of the training part.
      num_devices: over all hosts.

    Returns:
      ``(state, batch)`` of `jax.ShapeDtypeStruct` with a leading axis of devices.

    Raises:
      ValueError: if the batch does not divide by the devices.
    """
    check_devices(config, num_devices, ("batch_size",))
    rows, size = config.batch_size // num_devices, config.data.size
    # What identifies the weights does not matter for shapes; no file is read.
    state = jax.eval_shape(functools.partial(_fresh_state, config, num_images))
    add = lambda leaf: jax.ShapeDtypeStruct((num_devices, *leaf.shape), leaf.dtype)
    shape = functools.partial(jax.ShapeDtypeStruct)
    batch = {
        "image": shape((num_devices, rows, size, size, 3), jnp.uint8),
        "label": shape((num_devices, rows), jnp.int32),
        "stop": shape((num_devices,), jnp.float32),
    }
    return jax.tree.map(add, state), batch


def check_devices(
    config: Any, num_devices: int, names: Sequence[str] = ("batch_size", "eval_batch_size")
) -> None:
    """Raises unless the batches divide by the devices.

    Args:
      config: batch_size, eval_batch_size.
      num_devices: over all hosts.
      names: of the batch sizes to look at.

    Raises:
      ValueError: with the nearest batch that does.
    """
    for name in names:
        if config[name] % num_devices:
            near = max(1, round(config[name] / num_devices)) * num_devices
            raise ValueError(
                f"config.{name} = {config[name]} does not divide by {num_devices} devices; "
                f"use for example {near}."
            )


def _fresh_state(config: Any, num_images: int) -> TrainState:
    with config.unlocked():
        plain = config.copy_and_resolve_references()
    plain.weights = ""
    return initial_state(plain, num_images, traced=True)
