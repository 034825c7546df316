"""Explanations of real photographs: every method, screened alike, judged on other images.

Setting by setting (layer, alpha, absolute values) a method is screened on validation images; the
setting with the best mean rank over pointing, localisation, pixel flipping and max-sensitivity is
then judged on all other images, for the baselines as for the split methods.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from monojax.splitting.shift import BALANCED
from monojax.training import Cells
from train.checks import at_least, choice
from train.explain import scenes
from train.explain import tables as explain_tables
from train.explain.judge import (
    CONTROLS,
    METHODS,
    SPLIT,
    TITLES,
    Judge,
    Setting,
    candidates,
    located,
    shown,
    signed,
)
from train.explain.networks import DATA, NETWORKS, Images, Network, images, network, targets
from train.explain.summary import Summary
from train.explain.tables import SCREENED, studies

CHUNK = 5  # images per cell
SIZES = {"coco128": 79, "imagenet": 250}  # for the progress bar


def check(config: Any) -> None:
    """Finds mistakes in the values of a config before anything is computed.

    Args:
      config: see train/configs/explain.py.

    Raises:
      ValueError: naming the first one.
    """
    choice(config, config.study, "studies")
    choice(config, METHODS, "methods")
    for name in config.studies:
        study, at = config.study[name], f"config.study.{name}"
        choice(study, (*NETWORKS, *scenes.NETWORKS), "network", at=at)
        choice(study, (*DATA, scenes.DATA), "data", at=at)
        if (study.network in scenes.NETWORKS) != (study.data == scenes.DATA):
            raise ValueError(f"{at}: networks of scenes are judged on {scenes.DATA} and no other.")
        counts = ("images", "samples", "pixel_steps", "pixels_in_step", "patches_in_step")
        at_least(study, 1, *counts, at=at)
    at_least(config, 1, "batch_size")
    for alpha in (*config.alphas, *config.sweep.alphas):
        if alpha != BALANCED and not (isinstance(alpha, float | int) and 0 <= alpha <= 0.5):
            raise ValueError(f"an alpha must lie in [0, 0.5] or be {BALANCED!r}, got {alpha!r}.")
    if not 1 <= config.validation <= 30:
        raise ValueError(f"config.validation must lie in [1, 30], got {config.validation}.")


def total_steps(config: Any) -> int:
    """Method-image pairs of all studies (an upper bound: sets can have fewer images).

    Args:
      config: see train/configs/explain.py.

    Returns:
      The number.
    """
    screens = len({s.network for s in studies(config)}) * len(config.methods) * config.validation
    judged = sum(min(s.images, SIZES.get(s.data, s.images)) for s in studies(config))
    judged *= len(config.methods)
    swept = [s for s in studies(config) if s.network in scenes.NETWORKS]
    sweeps = sum(len(scenes.SWEPT[scenes.parsed(s.network)[0]]) for s in swept) or 1
    trained = len(swept) * config.scenes.steps if swept else 0
    return trained + screens + judged + sweeps * len(config.sweep.alphas) * config.sweep.images


def run(config: Any, workdir: Path, bar: Any) -> None:
    """Screens, judges, and writes tables and figures after every study.

    Args:
      config: see train/configs/explain.py.
      workdir: where to; finished cells are in its folder ``cells``.
      bar: progress bar over :func:`total_steps`.
    """
    cells = Cells(workdir, config.reuse)
    results: list[dict[str, Any]] = []
    chosen: dict[str, dict[str, Setting]] = {}
    swept, summary = False, Summary()
    judges: dict[Any, Judge] = {}
    for study in studies(config):
        net, data = _prepared(config, study, workdir, bar)
        steps = study.pixel_steps, study.pixels_in_step, study.patches_in_step
        # Networks of one kind differ in their weights alone, and share what was compiled.
        kind = study.network.partition("_scenes_")[0], steps
        if kind not in judges:
            judges[kind] = Judge(net, *steps, config.batch_size, config.screen_steps)
        judge = judges[kind].of(net)
        if study.network not in chosen:
            if data.masks is None:
                raise ValueError(
                    f"settings of {study.network} are chosen on images with masks: put a study "
                    "on coco128 or imagenet_s before the one on imagenet."
                )
            chosen[study.network] = screen(config, study, judge, data, cells, bar)
        found = judged(config, study, judge, data, chosen[study.network], cells, bar)
        results.append(found)
        explain_tables.study(found, config, workdir)
        explain_tables.overview(results, config, workdir)
        pictures(config, judge, data, found, workdir)
        if study.data == scenes.DATA:
            for layer in scenes.SWEPT[scenes.parsed(study.network)[0]]:
                name = f"alpha_sweep_{study.network}_{layer.replace('/', '_')}"
                at = (config, study, judge, data, chosen[study.network], cells, workdir, bar)
                curves = sweep(*at, layer=layer, name=name)
                summary.add(study.network, layer, curves)
            summary.judged(study.network, found)
            summary.write(config, workdir)
        elif not swept and data.masks is not None:
            sweep(config, study, judge, data, chosen[study.network], cells, workdir, bar)
            swept = True


def _prepared(config: Any, study: Any, workdir: Path, bar: Any) -> tuple[Network, Images]:
    """A study's network and images: given ones, or trained here on rendered scenes."""
    if study.network not in scenes.NETWORKS:
        net = network(study.network, config.weights.get(study.network, ""))
        return net, images(study.data, config.imagenet_s)
    net, right = scenes.network(config.scenes, study.network, workdir, bar)
    print(f"{net.title}: {right:.1%} of new scenes right", flush=True)
    return net, scenes.images(config.validation + study.images)


def parts(config: Any, data: Images) -> tuple[list[int], list[int]]:
    """Validation images and the others, by a draw that depends on the data set's size alone.

    Args:
      config: its ``validation`` and ``seed``.
      data: images.

    Returns:
      ``(validation, rest)``, indices; a set without masks has no validation part.
    """
    order = np.random.default_rng(config.seed).permutation(len(data.pixels)).tolist()
    if data.masks is None:
        return [], order
    held = min(config.validation, len(order) // 2)
    return sorted(order[:held]), sorted(order[held:])


def _mask(data: Images, i: int) -> np.ndarray:
    assert data.masks is not None
    return data.masks[i]


def screen(
    config: Any, study: Any, judge: Judge, data: Images, cells: Cells, bar: Any
) -> dict[str, Setting]:
    """The setting of each method, chosen on validation images.

    Args:
      config: see train/configs/explain.py.
      study: one of its studies.
      judge: programs of the network.
      data: images with masks.
      cells: finished parts.
      bar: progress bar.

    Returns:
      Method to setting.
    """
    which, _ = parts(config, data)
    inputs = judge.net.prepare(data.pixels[which])
    labels, _ = targets(judge.net, inputs, [data.choices[i] for i in which])
    known = explain_tables.stored_settings(config.settings_from, data.name, study.network)
    chosen = {}
    for method in config.methods:
        settings = candidates(method, judge.net, config.alphas)
        if len(settings) == 1 or method in known:
            chosen[method] = known.get(method, settings[0])
            bar.update(len(which))
            continue
        asked = _asked(study, judge, data, which, method, config)
        asked |= {"settings": list(map(str, settings)), "samples": config.screen_samples}
        asked |= {"steps": config.screen_steps}

        def compute(method=method, settings=settings):
            rows = []
            for x, target, i in zip(inputs, labels, which, strict=True):
                mask = _mask(data, i)
                rows.append(_screened(config, judge, method, settings, x, target, mask, i))
                bar.update(1)
            return {k: [row[k] for row in rows] for k in SCREENED}, {}

        name = f"screen-{study.network}-{method}"
        found, _ = cells.get(name, asked, compute, lambda: bar.update(len(which)))
        chosen[method] = settings[best_setting(found)]
    return chosen


def best_setting(found: dict[str, Any]) -> int:
    """The setting with the best mean rank over the measures.

    A setting is out if a measure is not finite on some image, or if its maps never change under
    noise: constant maps would point everywhere and be perfectly robust.

    Args:
      found: measure to values `[images, settings]`.

    Returns:
      Its number.
    """
    means = np.array([np.mean(found[k], axis=0) * s for k, s in SCREENED.items()])
    constant = np.max(found["sensitivity"], axis=0) == 0
    means[:, constant | ~np.isfinite(means).all(0)] = np.inf
    better = (means[:, :, None] > means[:, None, :]).sum(2)
    ties = (means[:, :, None] == means[:, None, :]).sum(2) - 1
    return int((better + ties / 2).mean(0).argmin())


def _asked(
    study: Any, judge: Judge, data: Images, which: Sequence[int], method: str, config: Any
) -> dict[str, Any]:
    """What a cell depends on."""
    return {
        "network": judge.net.name,
        "data": data.name,
        "ids": [data.ids[i] for i in which],
        "method": method,
        "seed": config.seed,
        "removal": [study.pixel_steps, study.pixels_in_step, study.patches_in_step],
        # Not of the others, whose cells stay what they are.
        **({"shift_at": "module"} if method in SPLIT else {}),
    }


def _screened(
    config: Any, judge: Judge, method: str, settings: list[Setting], x: Any, target: int,
    mask: np.ndarray, number: int,
) -> dict[str, list[float]]:  # fmt: skip
    """The measures of all settings on one image."""
    layers = list(dict.fromkeys(s.layer for s in settings))
    key = jax.random.fold_in(jax.random.key(config.seed), number)
    by_alpha = {
        alpha: judge.explained(method, layers, x, target, alpha, key, config.screen_samples)
        for alpha in dict.fromkeys(s.alpha for s in settings)
    }
    found, sensitivity = [], []
    for s in settings:
        maps, noise = by_alpha[s.alpha]
        at = layers.index(s.layer)
        found.append(np.asarray(signed(maps[at], s.absolute)))
        sensitivity.append(float(noise[at, int(s.absolute)]))
    stack = np.stack(found)
    pointing, share = located(stack, mask)
    return {
        "pointing": pointing.tolist(),
        "localisation": share.tolist(),
        "flipping": judge.flipped(x, target, stack).tolist(),
        "sensitivity": sensitivity,
    }


def judged(
    config: Any, study: Any, judge: Judge, data: Images, chosen: dict[str, Setting], cells: Cells,
    bar: Any,
) -> dict[str, Any]:  # fmt: skip
    """All measures of each method's setting on the images that chose nothing.

    Returns:
      ``{"study", "settings", "which", "right", "values": {method: {measure: [n]}}}``.
    """
    _, rest = parts(config, data)
    which = rest[: study.images]
    inputs = judge.net.prepare(data.pixels[which])
    labels, right = targets(judge.net, inputs, [data.choices[i] for i in which])
    expected = min(study.images, SIZES.get(data.name, study.images))
    bar.update(len(config.methods) * (expected - len(which)))
    values: dict[str, dict[str, list[float]]] = {method: {} for method in config.methods}
    for start in range(0, len(which), CHUNK):
        for method in config.methods:
            some = range(start, min(start + CHUNK, len(which)))
            setting = chosen[method]
            asked = _asked(study, judge, data, [which[i] for i in some], method, config)
            asked |= {"setting": str(setting), "samples": study.samples}
            sensitive = study.get("sensitive", study.images)
            asked |= {"sensitive": sensitive} if "sensitive" in study else {}
            removed = study.get("removed", study.images)
            asked |= {"removed": removed} if "removed" in study else {}

            def compute(
                some=some, method=method, setting=setting, sensitive=sensitive, removed=removed
            ):
                rows = []
                for i in some:
                    mask = None if data.masks is None else data.masks[which[i]]
                    key = jax.random.fold_in(jax.random.key(config.seed), 1000 + which[i])
                    samples = study.samples if i < sensitive else 1
                    row = _measured(
                        judge, method, setting, inputs[i], labels[i], mask, key, samples,
                        i < removed,
                    )  # fmt: skip
                    if i >= sensitive:
                        row["sensitivity"] = float("nan")
                    rows.append(row)
                    bar.update(1)
                return {k: [row[k] for row in rows] for k in rows[0]}, {}

            name = f"{data.name}-{judge.net.name}-{method}-{start}"
            count = len(some)
            found, _ = cells.get(name, asked, compute, functools.partial(bar.update, count))
            if "pointing" in found:  # a map with nothing inside the mask is no hit, ties or not
                pairs = zip(found["pointing"], found["localisation"], strict=True)
                found["pointing"] = [hit if share > 0 else 0.0 for hit, share in pairs]
            for key, numbers in found.items():
                values[method].setdefault(key, []).extend(numbers)
    return {
        "study": study,
        "title": judge.net.title,
        "data": data.name,
        "settings": {m: chosen[m] for m in config.methods},
        "screened": {m: len(candidates(m, judge.net, config.alphas)) for m in config.methods},
        "which": which,
        "labels": labels,
        "right": right,
        "values": values,
    }


def _measured(
    judge: Judge, method: str, setting: Setting, x: Any, target: int, mask: np.ndarray | None,
    key: Any, samples: int, remove: bool,
) -> dict[str, float]:  # fmt: skip
    """All measures of one map; those by removal are NaN if it is not asked for."""
    alpha = setting.alpha
    maps, noise = judge.explained(method, [setting.layer], x, target, alpha, key, samples)
    found = np.asarray(signed(maps[0], setting.absolute))
    patches, pixels = judge.removed(x, target, found)[:2] if remove else (np.nan, np.nan)
    row = {
        "selectivity": float(patches),
        "flipping": float(pixels),
        "sensitivity": float(noise[0, int(setting.absolute)]),
    }
    if mask is not None:
        pointing, share = located(found[None], mask)
        row |= {"pointing": float(pointing[0]), "localisation": float(share[0])}
    return row


def sweep(
    config: Any, study: Any, judge: Judge, data: Images, chosen: dict[str, Setting], cells: Cells,
    workdir: Path, bar: Any, *, layer: str | None = None, name: str = "alpha_sweep",
) -> dict[str, Any]:  # fmt: skip
    """The poster's sweep: SplitGrad and SplitCAM at one layer against alpha.

    Returns:
      "METHOD at LAYER" to the measures of each alpha, image by image.
    """
    _, rest = parts(config, data)
    which = rest[: config.sweep.images]
    inputs = judge.net.prepare(data.pixels[which])
    labels, _ = targets(judge.net, inputs, [data.choices[i] for i in which])
    curves: dict[str, Any] = {}
    swept = [m for m in SPLIT if m in config.methods]
    for method in swept:
        at = layer or config.sweep.layer or chosen[method].layer
        for alpha in config.sweep.alphas:
            setting = Setting(at, alpha, False)
            asked = _asked(study, judge, data, which, method, config)
            asked |= {"setting": str(setting), "samples": config.sweep.samples}
            asked |= {"sweep": config.screen_steps}

            def compute(method=method, setting=setting):
                rows = [
                    _swept(config, judge, method, setting, x, label, _mask(data, i), i)
                    for x, label, i in zip(inputs, labels, which, strict=True)
                ]
                return {k: [row[k] for row in rows] for k in rows[0]}, {}

            found, _ = cells.get(
                f"sweep-{judge.net.name}-{method}-{shown(alpha)}".replace(" ", ""), asked, compute
            )
            curves.setdefault(f"{method} at {at or 'input'}", []).append(found)
            bar.update(len(which) / len(swept))
    explain_tables.sweep(curves, config, judge.net.title, len(which), workdir, data.name, name)
    return curves


def _swept(
    config: Any, judge: Judge, method: str, setting: Setting, x: Any, target: int,
    mask: np.ndarray, number: int,
) -> dict[str, float]:  # fmt: skip
    key = jax.random.fold_in(jax.random.key(config.seed), 2000 + number)
    samples = config.sweep.samples
    maps, noise = judge.explained(method, [setting.layer], x, target, setting.alpha, key, samples)
    pointing, share = located(maps, mask)
    return {
        "pointing": float(pointing[0]),
        "localisation": float(share[0]),
        "sensitivity": float(noise[0, 0]),
        "flipping": float(judge.flipped(x, target, maps)[0]),
    }


def pictures(config: Any, judge: Judge, data: Images, found: dict[str, Any], workdir: Path) -> None:
    """The grid of maps of the first images, one column per method, those of a table too."""
    rows, which = [], found["which"][: config.pictures]
    inputs = judge.net.prepare(data.pixels[which])
    stored = explain_tables.stored_settings(config.settings_from, data.name, judge.net.name)
    found = found | {"settings": stored | found["settings"]}
    methods = [m for m in TITLES if m in found["settings"] and m not in CONTROLS]
    for x, target in zip(inputs, found["labels"], strict=False):
        row = []
        for method in methods:
            s = found["settings"][method]
            key = jax.random.key(0)
            maps, _ = judge.explained(method, [s.layer], x, target, s.alpha, key, 1)
            row.append(np.asarray(signed(maps[0], s.absolute)))
        rows.append(row)
    explain_tables.grid(data.pixels[which], rows, methods, found, workdir)
