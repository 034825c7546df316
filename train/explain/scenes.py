"""Scenes whose object is known to the pixel, and networks of the paper's kinds trained on them.

VGG16 and ResNet18 in their full depth, narrow, are trained to name the object's shape; hues, scale,
orientation and light are random and tell nothing. What an explanation should mark is then known.
"""

import functools
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from monojax.data.shapes3d import SHAPES, Scene, object_mask, random_factors, render
from monojax.models import VGG16, ResNet18
from monojax.training import Keep, Schedule, create_state, fit, jit_step
from train.explain.networks import Images, Network

SIZE = 64
DATA = "shapes3d"
LAYERS: dict[str, tuple[str | None, ...]] = {
    "vgg16": (None, "features_5", "features_12", "features_14", "features_26"),
    "resnet18": (None, "layer1_1", "layer2_1", "layer3_1", "layer4_1", "layer4_1/conv2"),
}
SWEPT = {
    "vgg16": ("features_26", "features_12", "features_14"),  # the poster's
    "resnet18": ("layer4_1/conv2", "layer3_1", "layer2_1"),
}
"""Layers of the sweep over alpha."""
NETWORKS = tuple(f"{kind}_scenes_{seed}" for kind in LAYERS for seed in range(3))
SCALE = 0.25
"""Spread of a pixel's values: inputs are divided by it, so that noise of 0.2 means the same as for
the photographs' networks."""


def parsed(name: str) -> tuple[str, int]:
    """Kind and seed of a network: "vgg16_scenes_0" is ("vgg16", 0)."""
    kind, _, seed = name.rpartition("_scenes_")
    return kind, int(seed)


def draw(key: jax.Array, num: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Pictures of random scenes under random lamps.

    Args:
      key: PRNG key.
      num: number of scenes.

    Returns:
      ``(pictures [num, 64, 64, 3], labels [num], factors [num, 6])``; the label is the shape.
    """
    key_factors, key_light = jax.random.split(key)
    rows = random_factors(key_factors, num)
    low, high = jnp.asarray([[-4.0, 5.0, -4.0]]), jnp.asarray([[4.0, 7.0, 0.0]])
    lights = low + (high - low) * jax.random.uniform(key_light, (num, 3))
    one = lambda row, light: render(row, SIZE, scene=Scene(light=light))
    return jax.vmap(one)(rows, lights), rows[:, 4].astype(jnp.int32), rows


def images(num: int, seed: int = 0) -> Images:
    """Scenes that no network has been trained on, with the masks of their objects.

    Args:
      num: number of scenes.
      seed: of the draw.

    Returns:
      Images.
    """
    pictures, labels, rows = jax.jit(draw, static_argnums=1)(jax.random.key(10_000 + seed), num)
    pixels = np.round(255 * np.asarray(pictures)).astype(np.uint8)
    masks = np.asarray(object_mask(np.asarray(rows), SIZE))
    choices: list[tuple[int, ...]] = [(int(label),) for label in labels]
    return Images(DATA, pixels, masks, choices, [f"{seed}-{i}" for i in range(num)])


def build(config: Any, kind: str) -> nn.Module:
    """The network, narrow, in its full depth.

    Args:
      config: width, of the original's channels.
      kind: "vgg16" or "resnet18".

    Returns:
      A linen module.
    """
    if kind == "vgg16":
        return VGG16(len(SHAPES), width=config.width, dense=(128, 128), pooled=2)
    return ResNet18(len(SHAPES), width=max(1, round(64 * config.width)), stem="cifar")


def network(config: Any, name: str, workdir: Path, bar: Any = False) -> tuple[Network, float]:
    """A network of the study, trained or taken from the work directory.

    Args:
      config: ``scenes`` of train/configs/explain.py: width, steps, batch_size, lr.
      name: one of `NETWORKS`.
      workdir: of the experiment.
      bar: progress bar over its steps; False shows none.

    Returns:
      ``(Network, accuracy on 1,000 other scenes)``.
    """
    kind, seed = parsed(name)
    module, optimizer = build(config, kind), _optimizer(config)
    variables = jax.jit(module.init)(jax.random.key(seed), jnp.zeros((1, SIZE, SIZE, 3)))
    if kind == "vgg16":
        variables = _for_relu(variables)
    statistics = {key: value for key, value in variables.items() if key != "params"}
    loss = functools.partial(_loss, module, kind, config.batch_size)
    state = create_state(jax.random.key(1_000 + seed), variables["params"], optimizer, statistics)
    every = max(config.steps // 5, 1)
    done = fit(
        state,
        jit_step(loss, optimizer),
        Schedule(config.steps, log_every=every, checkpoint_every=every),
        keep=Keep(
            Path(workdir) / "networks" / name, {**config.to_dict(), "name": name}, tensorboard=False
        ),
        bar=bar,
        name=name,
    )
    trained = {"params": done.state.params, **done.state.model_state}

    def fn(x, variables):
        return module.apply(variables, x[None])[0]

    prepare = lambda pixels: (jnp.asarray(pixels, jnp.float32) / 255 - 0.5) / SCALE
    title = f"{'VGG16' if kind == 'vgg16' else 'ResNet18'} at {config.width:g} width, seed {seed}"
    net = Network(name, title, fn, trained, prepare, LAYERS[kind])
    return net, accuracy(net)


def accuracy(net: Network, num: int = 1_000) -> float:
    """Share of new scenes whose shape is named.

    Args:
      net: from :func:`network`.
      num: of scenes.

    Returns:
      In [0, 1].
    """
    fn = jax.jit(jax.vmap(net.fn, (0, None)))
    right = []
    for start in range(0, num, 50):
        found = images(50, seed=77 + start)
        labels = np.array([choice[0] for choice in found.choices])
        logits = fn(net.prepare(found.pixels), net.variables)
        right.append(np.asarray(logits).argmax(-1) == labels)
    return float(np.mean(right))


def _optimizer(config: Any) -> optax.GradientTransformation:
    rate = optax.warmup_cosine_decay_schedule(0.0, config.lr, config.steps // 10, config.steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def _for_relu(variables: Any) -> Any:
    """Kernels of twice the variance: sixteen layers with ReLU and no norm lose the signal else."""
    double = lambda path, leaf: leaf * 2**0.5 if path[-1].key == "kernel" else leaf
    return jax.tree_util.tree_map_with_path(double, variables)


def _loss(module, kind, batch_size, params, model_state, batch, key, axis_name):
    pictures, labels, _ = draw(key, batch_size)
    x = (pictures - 0.5) / SCALE
    variables = {"params": params, **model_state}
    if kind == "vgg16":
        logits = module.apply(variables, x)
    else:
        logits, model_state = module.apply(variables, x, train=True, mutable=["batch_stats"])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return loss, (model_state, {"right": (logits.argmax(-1) == labels).mean()})
