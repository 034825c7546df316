"""Two transformers and what to explain in them: a ViT's digits, MiniLM's similarities."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from monojax.data.images import mnist
from monojax.data.text import stsb
from monojax.models import ViT
from monojax.models.minilm_text import SentenceEncoder
from monojax.training import ArrayBatches, Keep, Schedule, create_state, fit, jit_step
from train.checks import one_of
from train.renamed import translated


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """Examples made of tokens, a score, and the function of one example to explain."""

    name: str
    title: str
    fn: Callable[..., Any]
    """``fn(x, own, shared)``: one example's score or logits; what methods explain."""
    x: np.ndarray
    """Inputs of fn, floats `[n, ...]`."""
    own: Any
    """Further arguments of each example, leaves `[n, ...]`."""
    shared: Any
    """Weights."""
    targets: np.ndarray | None
    """Class to explain, int `[n]`; None for a scalar score."""
    score: Callable[[Any, Any, Any, Any, Any], jax.Array]
    """``score(x, own, shared, target, keep [t])``: one example's score with some tokens deleted."""
    tokens: np.ndarray
    """Which tokens are there and may be deleted, bool `[n, t]`."""
    query: int | str
    """The row of the attention rollout."""
    skip: int
    """Tokens in front of those of `tokens` at the places maps are read (a class token)."""
    words: list[list[str]] | None
    """The tokens as text."""
    note: str
    """What was trained or loaded, and how good it is."""


def load_images(config: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images `[n, h, w, 1]` in [0, 1] and labels, for training and for testing.

    Args:
      config: `data` ("mnist" or scikit-learn's "digits") and `data_dir`.

    Returns:
      ``(x_train, y_train, x_test, y_test)``.

    Raises:
      ValueError: on another name.
    """
    if config.data == "mnist":
        parts = mnist(config.data_dir)
        scale = lambda x: (x[..., None] / np.float32(255)).astype(np.float32)
        return scale(parts.x_train), parts.y_train, scale(parts.x_test), parts.y_test
    one_of(config.data, ("mnist", "digits"), "config.vit.data")
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    x = (digits.images[order, ..., None] / 16).astype(np.float32)
    y = digits.target[order].astype(np.int32)
    return x[:1300], y[:1300], x[1300:], y[1300:]


def vit_problem(config: Any, num: int, workdir: Path, bar: Any) -> Problem:
    """Trains a ViT, or reads the trained one, and takes test images.

    Args:
      config: see train/configs/tokens.py, group vit.
      num: number of test images.
      workdir: holds the training in vit/.
      bar: progress bar.

    Returns:
      Problem: explain the logit of the predicted class; the score is its probability.
    """
    x_train, y_train, x_test, y_test = load_images(config)
    module = ViT(**config.model)
    params = _train_vit(module, x_train, y_train, config, workdir / "vit", bar)
    logits = jax.jit(lambda x: jnp.asarray(module.apply({"params": params}, x)))
    predicted = np.concatenate(
        [np.asarray(logits(part)).argmax(-1) for part in np.array_split(x_test, 10)]
    )
    accuracy = float((predicted == y_test).mean())
    chosen = np.random.default_rng(config.seed).permutation(len(x_test))[:num]
    patch = config.model["patch"]
    patches = (x_test.shape[1] // patch) * (x_test.shape[2] // patch)

    def apply(x, shared, keep=None):
        return module.apply(shared, x[None], None if keep is None else keep[None])[0]

    def score(x, own, shared, target, keep):
        return jax.nn.softmax(apply(x, shared, keep))[target]

    return Problem(
        name="vit",
        title=f"ViT on {config.data}: probability of the predicted class",
        fn=lambda x, own, shared: apply(x, shared),
        x=x_test[chosen],
        own=(),
        shared={"params": params},
        targets=predicted[chosen].astype(np.int32),
        score=score,
        tokens=np.ones((len(chosen), patches), bool),
        query=0,
        skip=1,
        words=None,
        note=f"ViT {dict(config.model)}, {config.steps} steps, test accuracy {accuracy:.4f}",
    )


def _train_vit(
    module: ViT, x: np.ndarray, y: np.ndarray, config: Any, workdir: Path, bar: Any
) -> Any:
    def loss_fn(params, model_state, batch, key, axis_name):
        logits = jnp.asarray(module.apply({"params": params}, batch["x"]))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
        return losses.mean(), (model_state, {"accuracy": (logits.argmax(-1) == batch["y"]).mean()})

    schedule = optax.warmup_cosine_decay_schedule(0, config.lr, config.steps // 10, config.steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))
    key = jax.random.key(config.seed)
    params = jax.jit(module.init)(key, jnp.asarray(x[:1]))["params"]
    run = fit(
        create_state(key, params, optimizer),
        jit_step(loss_fn, optimizer),
        Schedule(
            config.steps,
            log_every=max(1, config.steps // 20),
            checkpoint_every=max(1, config.steps // 4),
        ),
        keep=Keep(workdir, translated("tokens", config), tensorboard=False),
        batches=ArrayBatches({"x": x, "y": y}, config.batch_size, seed=config.seed),
        bar=bar,
    )
    return run.state.params


def minilm_problem(config: Any, num: int) -> Problem:
    """Pairs of STS-B test sentences that people call similar, the first of which is explained.

    Args:
      config: see train/configs/tokens.py, group minilm.
      num: number of pairs.

    Returns:
      Problem: explain, and score by, the cosine of the two sentences' embeddings. (Against the
      sentence's own embedding the cosine is at its maximum of 1, so every gradient is zero.)
    """
    encoder = SentenceEncoder(config.folder)
    first, second, scores = stsb("test", config.data_dir)
    ids = encoder.tokenizer(first).ids
    lengths = np.array([len(one) for one in ids])
    fits = (lengths >= config.min_tokens) & (lengths <= config.max_tokens)
    usable = np.flatnonzero(fits & (scores >= config.min_score))
    chosen = np.random.default_rng(config.seed).permutation(usable)[:num]
    padded = np.zeros((len(chosen), config.max_tokens), np.int32)
    for row, i in enumerate(chosen):
        padded[row, : lengths[i]] = ids[i]
    there = np.arange(config.max_tokens) < lengths[chosen, None]
    module, variables = encoder.module, encoder.variables
    embed = jax.jit(lambda ids: module.apply(variables, ids, method="embed"))
    words = [encoder.tokenizer.words(first[i]) for i in chosen]
    other = encoder.encode([second[i] for i in chosen], normalise=True).vectors

    def cosine(x, own, shared, keep):
        z = module.apply(shared, x[None], keep[None], method="pooled")[0]
        return z @ own["other"] / jnp.linalg.norm(z)

    inner = there.copy()
    inner[:, 0] = False  # the start and end tokens stay: without them there is no sentence
    inner[np.arange(len(chosen)), lengths[chosen] - 1] = False
    return Problem(
        name="minilm",
        title="MiniLM on STS-B: cosine with the other sentence",
        fn=lambda x, own, shared: cosine(x, own, shared, own["there"]),
        x=np.asarray(embed(padded)),
        own={"other": other, "there": there, "inner": inner},
        shared=variables,
        targets=None,
        score=lambda x, own, shared, target, keep: cosine(
            x, own, shared, own["there"] & (keep | ~own["inner"])
        ),
        tokens=inner,
        query="mean",
        skip=0,
        words=words,
        note=f"all-MiniLM-L6-v2, {len(usable)} pairs of STS-B test have {config.min_tokens} to "
        f"{config.max_tokens} tokens and a score of at least {config.min_score:g}",
    )
