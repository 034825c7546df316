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
    TITLES,
    Judge,
    Setting,
    candidates,
    located,
    signed,
)
from train.explain.networks import DATA, NETWORKS, Images, Network, images, network, targets
from train.explain.selection import asked, mask_of, parts
from train.explain.summary import Summary
from train.explain.sweeps import localised, sweep
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
    localising: dict[str, dict[str, Setting]] = {}
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
            settings = screen(config, study, judge, data, cells, bar)
            chosen[study.network], localising[study.network] = settings
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
            tuned = localising[study.network]
            summary.tuned(study.network, tuned, localised(config, study, judge, data, tuned, cells))
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


def screen(
    config: Any, study: Any, judge: Judge, data: Images, cells: Cells, bar: Any
) -> tuple[dict[str, Setting], dict[str, Setting]]:
    """The setting of each method, chosen on validation images: by all measures, by localisation.

    Args:
      config: see train/configs/explain.py.
      study: one of its studies.
      judge: programs of the network.
      data: images with masks.
      cells: finished parts.
      bar: progress bar.

    Returns:
      Method to setting, twice; a setting kept from an earlier run's table is in both.
    """
    which, _ = parts(config, data)
    inputs = judge.net.prepare(data.pixels[which])
    labels, _ = targets(judge.net, inputs, [data.choices[i] for i in which])
    known = explain_tables.stored_settings(config.settings_from, data.name, study.network)
    chosen, localising = {}, {}
    for method in config.methods:
        settings = candidates(method, judge.net, config.alphas)
        if len(settings) == 1 or method in known:
            chosen[method] = localising[method] = known.get(method, settings[0])
            bar.update(len(which))
            continue
        needs = asked(study, judge, data, which, method, config)
        needs |= {"settings": list(map(str, settings)), "samples": config.screen_samples}
        needs |= {"steps": config.screen_steps}

        def compute(method=method, settings=settings):
            rows = []
            for x, target, i in zip(inputs, labels, which, strict=True):
                mask = mask_of(data, i)
                rows.append(_screened(config, judge, method, settings, x, target, mask, i))
                bar.update(1)
            return {k: [row[k] for row in rows] for k in SCREENED}, {}

        name = f"screen-{study.network}-{method}"
        found, _ = cells.get(name, needs, compute, lambda: bar.update(len(which)))
        chosen[method] = settings[best_setting(found)]
        localising[method] = settings[best_setting(found, ("localisation",))]
    return chosen, localising


def best_setting(found: dict[str, Any], measures: Sequence[str] = tuple(SCREENED)) -> int:
    """The setting with the best mean rank over measures.

    A setting is out if a measure is not finite on some image, or if its maps never change under
    noise: constant maps would point everywhere and be perfectly robust.

    Args:
      found: measure to values `[images, settings]`; all of `SCREENED`.
      measures: those that choose.

    Returns:
      Its number.
    """
    means = np.array([np.mean(found[k], axis=0) * s for k, s in SCREENED.items()])
    constant = np.max(found["sensitivity"], axis=0) == 0
    means[:, constant | ~np.isfinite(means).all(0)] = np.inf
    means = means[[list(SCREENED).index(measure) for measure in measures]]
    better = (means[:, :, None] > means[:, None, :]).sum(2)
    ties = (means[:, :, None] == means[:, None, :]).sum(2) - 1
    return int((better + ties / 2).mean(0).argmin())


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
            needs = asked(study, judge, data, [which[i] for i in some], method, config)
            needs |= {"setting": str(setting), "samples": study.samples}
            sensitive = study.get("sensitive", study.images)
            needs |= {"sensitive": sensitive} if "sensitive" in study else {}
            removed = study.get("removed", study.images)
            needs |= {"removed": removed} if "removed" in study else {}

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
            found, _ = cells.get(name, needs, compute, functools.partial(bar.update, count))
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
