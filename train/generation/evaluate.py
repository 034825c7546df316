"""All numbers of one trained model: pictures, codes, and what each knob does."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.data.shapes3d import FACTORS
from monojax.metrics import dci, mig, sap, spearman
from monojax.models.vae import reconstruction_loss, traverse
from train.generation.data import factors, grid_places, images_of
from train.generation.measures import PATCHES, best_cut, hue_of, hue_order, patch_of, value_order
from train.generation.training import Model

HUES = tuple(PATCHES)
READ = ("scale", "orientation")
TOLERANCES = (0.0, 1.0)
"""Degrees of hue that a sweep may go back."""
BACK = {"scale": 0.01, "orientation": 1.2}
"""How far a sweep may go back in what the reader reads: a fiftieth of the range."""
BATCH = 50


def numbers(config: Any, model: Model, read: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Everything that the tables hold of one model, and the curves of the figures.

    Args:
      config: see train/configs/generation.py.
      model: a trained one.
      read: from `train.generation.regressor`.

    Returns:
      ``(numbers, curves)`` for `monojax.training.Cells`.
    """
    rows = np.asarray(factors(jax.random.key(9), config.test.codes, "grid"))
    images = images_of(config)
    codes, squared, nats = [], [], []
    for start in range(0, len(rows), BATCH):
        x = images(rows[start : start + BATCH])
        codes.append(np.asarray(model.codes(x)))
        if start < config.test.images:
            decoded = np.asarray(model.decode(codes[-1]))
            logits = jnp.log(decoded / (1 - decoded + 1e-7) + 1e-7)
            squared.append(((decoded - np.asarray(x)) ** 2).mean((1, 2, 3)))
            nats.append(np.asarray(reconstruction_loss(logits, jnp.asarray(x))))
    z, places = np.concatenate(codes), grid_places(rows)
    found: dict[str, Any] = {
        "squared": float(np.concatenate(squared).mean()),
        "nats": float(np.concatenate(nats).mean()),
        "seconds": model.seconds,
    }
    scores = dci(z, places)
    found |= {"mig": mig(z, places), "sap": sap(z, places)}
    found |= {key: float(getattr(scores, key)) for key in scores._fields[:3]}
    own = owners(model, scores.importance)
    found["owners"] = own
    few = slice(config.test.images)
    for k, name in enumerate(FACTORS):
        latent = z[few, own[k]]
        found[f"rank {name}"] = abs(spearman(latent, rows[few, k]))
        if name in HUES:
            rank = lambda values, latent=latent: spearman(latent, values)
            found[f"cut {name}"] = best_cut(rank, places[few, k], 10)
    curves = floor_sweep(config, model, z[few], own[0])
    for i, tolerance in enumerate(TOLERANCES):
        order = hue_order(curves["hue"], curves["saturation"], tolerance)
        found[f"sorted {i}"] = float(order.sorted.mean())
        found["hue span"] = float(order.span.mean())
        found["one way"] = float(order.share.mean())
    found |= turned(config, model, z[: config.test.turned], own, read)
    return found, {**curves, "importance": scores.importance}


def owners(model: Model, importance: np.ndarray) -> list[int]:
    """The latent of each factor: its own where training named it, else the most important one.

    Args:
      model: a trained one.
      importance: `[latents, factors]`, of DCI.

    Returns:
      A latent per factor.
    """
    if model.module.squash:
        return list(range(len(FACTORS)))
    return importance.argmax(0).tolist()


def ends(model: Model, z: np.ndarray, index: int) -> tuple[float, float]:
    """Where a sweep of a latent begins and ends: 0 and 1, or the spread of codes without bounds.

    Args:
      model: a trained one.
      z: codes of images, `[n, latents]`.
      index: of the latent.

    Returns:
      Two numbers.
    """
    if model.module.squash:
        return 0.0, 1.0
    low, high = np.quantile(z[:, index], (0.02, 0.98))
    return float(low), float(high)


def floor_sweep(config: Any, model: Model, z: np.ndarray, index: int) -> dict[str, np.ndarray]:
    """The paper's sweep: the floor's latent from end to end, and the hue of the bottom left.

    Args:
      config: test.sweep values.
      model: a trained one.
      z: codes of images, `[n, latents]`.
      index: the floor's latent.

    Returns:
      hue in degrees and saturation, `[n, sweep]`; patches of the first ones, uint8
      `[8, sweep, 10, 10, 3]`.
    """
    values = np.linspace(*ends(model, z, index), config.test.sweep, dtype=np.float32)
    hues, colours = [], []
    patches: list[np.ndarray] = []
    for code in z:
        decoded = model.decode(traverse(jnp.asarray(code), index, jnp.asarray(values)))
        patch = patch_of(decoded, "floor hue")
        angle, saturation = hue_of(patch)
        hues.append(angle)
        colours.append(saturation)
        if len(patches) < 8:
            patches.append(np.round(255 * patch).astype(np.uint8))
    return {"hue": np.array(hues), "saturation": np.array(colours), "patches": np.array(patches)}


def turned(config: Any, model: Model, z: np.ndarray, own: list[int], read: Any) -> dict[str, float]:
    """How the decoded factor goes along its own latent: in order or not, how far, which rank.

    Args:
      config: test.turns values.
      model: a trained one.
      z: codes of images, `[n, latents]`.
      own: the latent of each factor.
      read: from `train.generation.regressor`.

    Returns:
      "turned FACTOR", "span FACTOR" and, but for hues, "along FACTOR": shares, spans and the mean
      size of the rank correlation along a sweep; "shapes": shapes met in a sweep of the shape.
    """
    found = {}
    for k, name in enumerate(FACTORS):
        values = np.linspace(*ends(model, z, own[k]), config.test.turns, dtype=np.float32)
        sweep = [
            np.asarray(model.decode(traverse(jnp.asarray(code), own[k], jnp.asarray(values))))
            for code in z
        ]
        if name in HUES:
            order = hue_order(*hue_of(patch_of(np.stack(sweep), name)), TOLERANCES[-1])
        else:
            seen = np.stack([read(pictures)[name] for pictures in sweep])
            if name == "shape":
                found["shapes"] = float(np.mean([len(np.unique(row)) for row in seen]))
                continue
            order = value_order(seen, BACK[name])
            found[f"along {name}"] = float(np.mean([abs(spearman(values, row)) for row in seen]))
        found[f"turned {name}"] = float(order.sorted.mean())
        found[f"span {name}"] = float(order.span.mean())
    return found
