"""A scene rendered here and a small network trained for it: the command runs on a bare machine."""

import hashlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from train.explain.photo.models import Classifier
from train.explain.photo.pictures import Picture

SHAPES = ("circle", "square", "triangle", "cross")


class SceneNet(nn.Module):
    """Convolutions and ReLU, a mean over positions, a linear map."""

    features: tuple[int, ...]
    """Channels; the image is halved by every convolution but the last."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b, h, w, 3]` to logits `[b, 4]`."""
        last = len(self.features) - 1
        for i, width in enumerate(self.features):
            stride = 1 if i == last else 2
            x = nn.relu(nn.Conv(width, (5, 5), (stride, stride), name=f"conv{i + 1}")(x))
        # The largest value of each map: where it stands is where the shape is.
        return nn.Dense(len(SHAPES), name="output")(x.max((1, 2)))


def render(rng: np.random.Generator, shape: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """One shape of any hue, somewhere on a ground of smooth colours, with grains of noise.

    Args:
      rng: draws place, size, turn, hues and noise.
      shape: a number in `SHAPES`.
      size: pixels per side.

    Returns:
      ``(uint8 [size, size, 3], bool [size, size])``: the image, and where the shape is.
    """
    radius = rng.uniform(0.14, 0.22) * size
    centre = rng.uniform(1.5 * radius, size - 1.5 * radius, 2)
    turn = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size] + 0.5
    across, along = x - centre[1], y - centre[0]
    u = (np.cos(turn) * across + np.sin(turn) * along) / radius
    v = (-np.sin(turn) * across + np.cos(turn) * along) / radius
    mask = {
        "circle": u**2 + v**2 < 1,
        "square": np.maximum(abs(u), abs(v)) < 0.89,
        "triangle": (v > -0.6) & (v + 1.732 * abs(u) < 1.2),
        "cross": (np.minimum(abs(u), abs(v)) < 0.33) & (np.maximum(abs(u), abs(v)) < 1.1),
    }[SHAPES[shape]]
    corners = rng.uniform(0.15, 0.85, (2, 2, 3))
    s, t = (x / size)[..., None], (y / size)[..., None]
    top = corners[0, 0] * (1 - s) + corners[0, 1] * s
    ground = top * (1 - t) + (corners[1, 0] * (1 - s) + corners[1, 1] * s) * t
    hue = ground[int(centre[0]), int(centre[1])]
    colour = np.where(hue > 0.5, hue - rng.uniform(0.3, 0.5, 3), hue + rng.uniform(0.3, 0.5, 3))
    image = np.where(mask[..., None], colour, ground) + rng.normal(0, 0.03, (size, size, 3))
    return (255 * np.clip(image, 0, 1)).round().astype(np.uint8), mask


def scene(config: Any) -> tuple[Picture, np.ndarray]:
    """The picture that is explained, and where its shape is.

    Args:
      config: see train/configs/explain_photo.py.

    Returns:
      ``(picture, mask)``.
    """
    rng = np.random.default_rng(1_000_003 + config.seed)
    pixels, mask = render(rng, int(rng.integers(len(SHAPES))), config.scene.size)
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    return Picture("scene", pixels, "a scene rendered here", digest), mask


def trained(config: Any) -> tuple[Classifier, float]:
    """A small network for such scenes, and its accuracy on others.

    Args:
      config: see train/configs/explain_photo.py.

    Returns:
      ``(classifier, accuracy on 200 scenes that it was not trained on)``.
    """
    c, rng = config.scene, np.random.default_rng(config.seed)
    labels = rng.integers(0, len(SHAPES), c.train + 200)
    pixels = np.stack([render(rng, label, c.size)[0] for label in labels])
    x = np.asarray(_input(pixels))
    module = SceneNet(tuple(c.features))
    key = jax.random.key(config.seed)
    params = jax.jit(module.init)(key, x[:1])
    rule = optax.adam(optax.cosine_decay_schedule(c.learning_rate, c.steps))

    @jax.jit
    def step(params, state, x, y):
        def loss(p):
            logits: Any = module.apply(p, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        updates, state = rule.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = rule.init(params)
    for _ in range(c.steps):
        rows = rng.integers(0, c.train, c.batch_size)
        params, state = step(params, state, x[rows], labels[rows])
    apply: Any = jax.jit(module.apply)
    right = np.asarray(apply(params, x[c.train :])).argmax(-1) == labels[c.train :]
    fn = lambda x, v: module.apply(v, x[None])[0]
    digest = hashlib.sha256(repr((c.to_dict(), config.seed)).encode()).hexdigest()
    title = "a small network trained on rendered shapes"
    return Classifier(title, fn, params, _input, c.size, SHAPES, digest), float(right.mean())


def _input(pixels: Any) -> jax.Array:
    return jnp.asarray(pixels, jnp.float32) / 127.5 - 1
