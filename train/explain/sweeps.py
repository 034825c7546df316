"""Sweeps over alpha at a layer, and what each method reaches when tuned for localisation alone."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.training import Cells
from train.explain import tables as explain_tables
from train.explain.judge import SPLIT, Judge, Setting, located, shown, signed
from train.explain.networks import Images, targets
from train.explain.selection import asked, mask_of, parts

LOCALISED = (
    "split_grad", "split_cam", "split_lrp", "layer_cam", "guided_backprop", "lrp_gamma", "centre",
)  # fmt: skip
"""Methods that are judged when tuned for localisation alone."""


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
            needs = asked(study, judge, data, which, method, config)
            needs |= {"setting": str(setting), "samples": config.sweep.samples}
            needs |= {"sweep": config.screen_steps}

            def compute(method=method, setting=setting):
                rows = [
                    _swept(config, judge, method, setting, x, label, mask_of(data, i), i)
                    for x, label, i in zip(inputs, labels, which, strict=True)
                ]
                return {k: [row[k] for row in rows] for k in rows[0]}, {}

            found, _ = cells.get(
                f"sweep-{judge.net.name}-{method}-{shown(alpha)}".replace(" ", ""), needs, compute
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


def localised(
    config: Any, study: Any, judge: Judge, data: Images, tuned: dict[str, Setting], cells: Cells
) -> dict[str, list[float]]:
    """Localisation of methods at other settings than the judged ones, on the sweep's images.

    Args:
      config: see train/configs/explain.py.
      study: one of its studies.
      judge: programs of the network.
      data: images with masks.
      tuned: method to setting.
      cells: finished parts.

    Returns:
      Method to localisation, image by image.
    """
    _, rest = parts(config, data)
    which = rest[: config.sweep.images]
    inputs = judge.net.prepare(data.pixels[which])
    labels, _ = targets(judge.net, inputs, [data.choices[i] for i in which])
    reached = {}
    for method in (m for m in LOCALISED if m in tuned):
        setting = tuned[method]
        needs = asked(study, judge, data, which, method, config) | {"localised": str(setting)}

        def compute(method=method, setting=setting):
            shares, key = [], jax.random.key(config.seed)
            for x, label, i in zip(inputs, labels, which, strict=True):
                alpha = setting.alpha
                maps, _ = judge.explained(method, [setting.layer], x, label, alpha, key, 1)
                found = np.asarray(signed(jnp.asarray(maps), setting.absolute))
                shares.append(float(located(found, mask_of(data, i))[1][0]))
            return {"localisation": shares}, {}

        found, _ = cells.get(f"localised-{judge.net.name}-{method}", needs, compute)
        reached[method] = found["localisation"]
    return reached
