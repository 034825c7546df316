"""Heads on given embeddings, trained by the contrastive loss on what belongs together."""

from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from monojax.compact import supcon_loss
from monojax.layers import MonotoneHead
from monojax.metrics.neighbours import nearest, unit_rows
from train.monocon.embeddings.data import Parts, Rows
from train.monocon.embeddings.measures import hits, neighbours_of

KINDS = {"standard": False, "monocon": True}
"""Head to whether it is monotone."""
MOST_ANCHORS = 10_000
MOST_VALID = 500


class Compressor(nn.Module):
    """A head on standardised embeddings; a positive factor per feature keeps what is monotone."""

    dim: int
    """Of the embeddings, and of the result."""
    monotone: bool
    """MonoCon's head, or the standard one of its ablation."""

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """Maps `[b, d]` to `[b, d]`."""
        mean = self.variable("statistics", "mean", jnp.zeros, (self.dim,))
        scale = self.variable("statistics", "scale", jnp.ones, (self.dim,))
        x = (z - mean.value[None, :]) / scale.value[None, :]
        return MonotoneHead(self.dim, monotone=self.monotone, name="head")(x)


def trained(
    rows: Rows, parts: Parts, kind: str, config: Any, tick: Callable[[int], None]
) -> tuple[Compressor, Any, dict[str, Any]]:
    """A head, trained until what is held out for it gets no better.

    Args:
      rows: embeddings and what belongs together.
      parts: of the rows; the last one is not looked at.
      kind: a key of `KINDS`.
      config: see train/configs/compress_embeddings.py.
      tick: called with steps done.

    Returns:
      ``(module, variables of the best validation, {"steps", "score"})``.
    """
    recipe, dim = config.recipe, rows.z.shape[1]
    module = Compressor(dim, KINDS[kind])
    z = rows.z[parts.train]
    spread = z.std(axis=0)
    statistics = {"mean": z.mean(axis=0), "scale": np.where(spread > 1e-12, spread, 1)}
    statistics = {k: jnp.asarray(v, jnp.float32) for k, v in statistics.items()}
    params = module.init(jax.random.key(config.seed), z[:1])["params"]
    rate = optax.cosine_decay_schedule(recipe.learning_rate, recipe.steps)
    rule = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=recipe.weight_decay)
    )

    @jax.jit
    def step(params, state, z, labels):
        def loss(p):
            y: Any = module.apply({"params": p, "statistics": statistics}, z)
            return supcon_loss(y, labels, recipe.temperature)

        updates, state = rule.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    measure = _validation(rows, parts, config)
    embed = jax.jit(lambda p, z: module.apply({"params": p, "statistics": statistics}, z))
    best, state, at, waited = (-1.0, params), rule.init(params), 0, 0
    for at, (z, labels) in enumerate(_batches(rows, parts, config), start=1):
        params, state = step(params, state, z, labels)
        if at % recipe.validate_every == 0 or at == recipe.steps:
            tick(recipe.validate_every if at % recipe.validate_every == 0 else at % 100)
            score = measure(lambda z, p=params: np.asarray(embed(p, z)))
            waited = 0 if score > best[0] else waited + 1
            best = (score, params) if score > best[0] else best
            if waited >= recipe.patience:
                break
    variables = {"params": jax.device_get(best[1]), "statistics": jax.device_get(statistics)}
    return module, variables, {"steps": at, "score": best[0]}


def _batches(rows: Rows, parts: Parts, config: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Embeddings and labels, equal for positives."""
    rng, recipe = np.random.default_rng(config.seed), config.recipe
    half = recipe.batch_size // 2
    if rows.kind == "labels":
        assert rows.group is not None
        for _ in range(recipe.steps):
            some = rng.choice(parts.train, min(recipe.batch_size, len(parts.train)), replace=False)
            yield rows.z[some], rows.group[some].astype(np.int32)
        return
    if rows.kind == "pairs":
        assert rows.pairs is not None and rows.group is not None
        pairs = rows.pairs[np.isin(rows.pairs, parts.train).all(axis=1)]
        for _ in range(recipe.steps):
            some = pairs[rng.choice(len(pairs), min(half, len(pairs)), replace=False)].T.reshape(-1)
            yield rows.z[some], rows.group[some].astype(np.int32)
        return
    anchors = rng.permutation(parts.train)[:MOST_ANCHORS]
    near = parts.train[neighbours_of(rows.z, anchors, parts.train, recipe.neighbours)]
    for _ in range(recipe.steps):
        some = rng.choice(len(anchors), min(half, len(anchors)), replace=False)
        other = near[some, rng.integers(0, near.shape[1], len(some))]
        number = np.arange(len(some), dtype=np.int32)
        yield rows.z[np.concatenate([anchors[some], other])], np.concatenate([number, number])


def _validation(rows: Rows, parts: Parts, config: Any) -> Callable[[Any], float]:
    """Mean recall of rows that are not trained on among some that are."""
    rng = np.random.default_rng(config.seed)
    query = rng.permutation(parts.valid)[:MOST_VALID]
    gallery = np.sort(rng.permutation(parts.train)[:MOST_ANCHORS])
    if rows.kind == "pairs":  # partners are held out together
        gallery = np.concatenate([parts.valid, gallery])
    most = min(max(config.recall), len(gallery) - 1)
    truth = None
    if rows.kind == "neighbours":
        truth = neighbours_of(rows.z, query, gallery, most)
    own = query[:, None] == gallery[None, :]

    def measure(embed: Any) -> float:
        q, g = unit_rows(embed(rows.z[query])), unit_rows(embed(rows.z[gallery]))
        found = nearest(q, g, most + 1).indices
        kept = np.stack([row[~own[i, row]][:most] for i, row in enumerate(found)])
        scored = [hits(rows, query, gallery, kept, truth, k) for k in config.recall if k <= most]
        return float(np.mean(scored))

    return measure
