"""Maps of one picture, the split's two parts, the sweep, and how faithful each map is."""

import functools
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax import attribution
from monojax.attribution import metrics
from monojax.attribution.together import ALL, Explainer
from monojax.splitting.modes import Mode
from monojax.splitting.reading import prepare
from monojax.splitting.shift import BALANCED
from train.explain.photo.models import Classifier
from train.explain.photo.pictures import Picture

CONTROLS = ("random", "centre")
"""Maps that do not look at the picture: noise, and a bump in the middle."""
PATCH = 8


class Study:
    """Compiled programs of one network.

    Args:
      net: the network.
      config: see train/configs/explain_photo.py.
    """

    def __init__(self, net: Classifier, config: Any):
        """See the class."""
        self.net, self.config = net, config
        methods = "all" if "all" in config.methods else tuple(config.methods)
        self.explainer = Explainer(net.fn, (net.variables,), methods=methods, layer=config.layer)
        self._parts = jax.jit(self._both_parts, static_argnums=3)
        self._swept = jax.jit(self._alphas, static_argnums=(3, 4))
        self._judged = jax.jit(self._removed)

    def __call__(self, picture: Picture, target: int | None, mask: Any, bar: Any) -> dict[str, Any]:
        """Everything about one picture, as arrays for an npz file.

        Args:
          picture: what is explained.
          target: the class; None takes the network's first choice.
          mask: where the object is, or None.
          bar: progress bar; advances by one for the maps and one for every map judged.

        Returns:
          "pixels", "logits", "target", "maps/METHOD" (at the picture's size), "layers" (JSON),
          "split/PART", "sweep/ALPHA", "patches/METHOD" and "flips/METHOD" (curves of the class's
          probability), "inside/METHOD" (with a mask).
        """
        x = self.net.prepare(picture.pixels)
        found = self.explainer(x, target, alpha=self.config.alpha)
        size = picture.pixels.shape[:2]
        sized = lambda a: np.asarray(attribution.resize(jnp.asarray(a), size, stretch=True))
        maps = {name: sized(a) for name, a in found.maps.items()} | controls(size)
        out: dict[str, Any] = {"pixels": picture.pixels, "logits": found.logits}
        out |= {"target": np.asarray(found.target), "layers": json.dumps(dict(found.layers))}
        out |= {"left_out": json.dumps(dict(found.left_out)), "note": picture.note}
        deep = self._deep(found)
        place, where = self._sweep_place(x)
        out |= {"deep": str(deep or "input"), "swept": where}
        for name, part in self._parts(x, self.net.variables, found.target, deep).items():
            out[f"split/{name}"] = sized(part)
        for alpha in self.config.alphas:
            word, number = (alpha, 0.0) if alpha == BALANCED else ("", alpha)
            part = self._swept(x, self.net.variables, found.target, place, word, number)
            out[f"sweep/{alpha}"] = sized(part)
        bar.update(1)
        for name, each in maps.items():
            out[f"maps/{name}"] = each
            out |= self._judge(name, x, found.target, each, mask)
            bar.update(1)
        return out

    def _judge(self, name, x, target, found, mask) -> dict[str, Any]:
        # A CAM that is zero everywhere says nothing; its order is that of the pixels.
        patches, flips = self._judged(x, self.net.variables, target, jnp.asarray(found))
        out = {f"patches/{name}": np.asarray(patches), f"flips/{name}": np.asarray(flips)}
        if mask is not None:
            out[f"inside/{name}"] = np.asarray(
                metrics.attribution_localisation(np.maximum(found, 0), mask)
            )
        return out

    def _deep(self, found) -> Any:
        """Where the split is looked at inside the network: the CAMs' place or the given one."""
        if self.config.layer is not None:
            return self.config.layer
        cams = [place for name, place in found.layers.items() if "cam" in name]
        return cams[0] if cams else None

    def _sweep_place(self, x) -> tuple[Any, str]:
        """Three quarters of the way through: at the last convolution gradients may be constant."""
        if self.config.layer is not None:
            return self.config.layer, str(self.config.layer)
        ready = prepare(self.net.fn, x, (self.net.variables,), Mode(), None)
        spatial = [
            site
            for site in ready.sites
            if site.kind == "conv" and site.layout is not None and not site.steps
        ]
        if not spatial:
            return None, "input"
        site = spatial[int(0.75 * (len(spatial) - 1))]
        return site.index, site.path or str(site.index)

    def _both_parts(self, x, v, target, deep):
        """SplitGrad and SplitCAM of g and of h."""
        out = {}
        options = {"args": (v,), "alpha": self.config.alpha}
        for part in ("g", "h"):
            at = functools.partial(attribution.at_layers, self.net.fn, x, target, part=part)
            out[f"SplitGrad of {part}"] = at("split_grad", [None], **options)[0]
            if deep is not None:
                out[f"SplitCAM of {part}"] = at("split_cam", [deep], **options)[0]
        return out

    def _alphas(self, x, v, target, deep, word, number):
        """SplitGrad inside the network, for one alpha."""
        options = {"args": (v,), "alpha": word or number}
        return attribution.at_layers(self.net.fn, x, target, "split_grad", [deep], **options)[0]

    def _removed(self, x, v, target, found):
        """The class's probability as patches, and pixels, are removed; the most relevant first."""
        high, wide = found.shape
        patches = math.ceil(high / PATCH) * math.ceil(wide / PATCH)
        some = math.ceil(patches / self.config.patch_steps)
        each = math.ceil(high * wide / self.config.pixel_steps) * x.shape[-1]
        shared: Any = {"args": (v,), "batch_size": self.config.batch_size, "channel_axis": -1}
        judge = functools.partial(metrics.selectivity, self.net.fn, x, target, found, **shared)
        flip = functools.partial(metrics.pixel_flipping, self.net.fn, x, target, found, **shared)
        # The probability before anything is removed stands first.
        whole = jax.nn.softmax(self.net.fn(x, v))[target][None]
        curves = judge(patches_in_step=some).scores, flip(features_in_step=each).scores
        return tuple(jnp.concatenate([whole, scores]) for scores in curves)


def controls(size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Maps that know nothing of the picture.

    Args:
      size: of the maps.

    Returns:
      Name to map.
    """
    y, x = (np.linspace(-1, 1, n) for n in size)
    bump = np.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / 0.5).astype(np.float32)
    noise = np.random.default_rng(0).random(size).astype(np.float32)
    return {"random": noise, "centre": bump}


def num_maps(config: Any) -> int:
    """How many maps are judged on one picture, at most.

    Args:
      config: see train/configs/explain_photo.py.

    Returns:
      Their number, controls included.
    """
    return len(CONTROLS) + (len(ALL) if "all" in config.methods else len(set(config.methods)))


def scores(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """What is left of the class's probability on the way, per map; lower is better.

    Args:
      found: arrays of one picture.

    Returns:
      Map to ``{"patches", "flips", "rank"}`` and "inside" with a mask; the first two as mean
      probability over the steps, rank as the mean of the two ranks among the methods.
    """
    names = [key.removeprefix("maps/") for key in found if key.startswith("maps/")]
    mean = lambda kind, name: float(np.mean(found[f"{kind}/{name}"][1:]))
    out = {name: {kind: mean(kind, name) for kind in ("patches", "flips")} for name in names}
    judged = [name for name in names if name not in CONTROLS]
    near = lambda kind, name: round(out[name][kind], 3)  # less is a tie
    for name in names:
        if f"inside/{name}" in found:
            out[name]["inside"] = float(found[f"inside/{name}"])
        ranks = [
            1 + sum(near(kind, other) < near(kind, name) for other in judged)
            for kind in ("patches", "flips")
        ]
        out[name]["rank"] = float(np.mean(ranks))
    return out
