"""The question of the scenes: is there a sweet spot, is balance better, does the split localise?"""

from pathlib import Path
from typing import Any

import numpy as np

from monojax.metrics.intervals import mean_interval
from monojax.splitting.shift import BALANCED
from monojax.training import Table
from train.explain.judge import TITLES
from train.explain.scenes import parsed
from train.reporting import provenance

SPOT = (0.3, 0.45)
"""Where the poster has the sweet spot, in its meaning of alpha."""
RIVALS = ("layer_cam", "guided_backprop", "lrp_gamma")
OURS = ("split_cam", "split_lrp")
KEY = "localisation"


class Summary:
    """Sweeps and judgements of several networks of each kind, compared image by image."""

    def __init__(self):
        """See the class."""
        self._curves: dict[tuple[str, str, str], list[np.ndarray]] = {}
        self._judged: dict[str, list[dict[str, Any]]] = {}

    def add(self, network: str, layer: str, curves: dict[str, Any]) -> None:
        """A sweep over alpha.

        Args:
          network: its name.
          layer: where.
          curves: from `train.explain.experiment.sweep`.
        """
        for curve, rows in curves.items():
            method = curve.partition(" at ")[0]
            found = np.array([row[KEY] for row in rows])  # [alphas, images]
            self._curves.setdefault((parsed(network)[0], layer, method), []).append(found)

    def judged(self, network: str, found: dict[str, Any]) -> None:
        """All methods, judged.

        Args:
          network: its name.
          found: from `train.explain.experiment.judged`.
        """
        self._judged.setdefault(parsed(network)[0], []).append(found["values"])

    def write(self, config: Any, workdir: Path) -> None:
        """Writes sweet_spot and localisation (.md, .csv) over the networks that are there.

        Args:
          config: see train/configs/explain.py.
          workdir: where to.
        """
        note = (
            "Localisation; mean [95% bootstrap interval] of differences image by image, over all "
            "networks of a kind. The best alphas are chosen on the images that they are shown on, "
            f"so gains over them are too small and gains by them too large. {provenance(config)}"
        )
        self._sweet_spot(config).write(workdir, "sweet_spot", note)
        self._localisation().write(workdir, "localisation", note)

    def _sweet_spot(self, config: Any) -> Table:
        alphas = list(config.sweep.alphas)
        numbers = [i for i, alpha in enumerate(alphas) if alpha != BALANCED]
        inside = [i for i in numbers if SPOT[0] <= alphas[i] <= SPOT[1]]
        ends = [min(numbers, key=alphas.__getitem__), max(numbers, key=alphas.__getitem__)]
        table = Table(
            ["network", "layer", "method", "networks", "best alpha", "its value", "ends"]
            + [f"best in {SPOT} less the better end", "balanced less the best fixed"],
            "Is there a sweet spot?",
        )
        for (kind, layer, method), parts in self._curves.items():
            values = np.concatenate(parts, axis=1)
            means = values.mean(1)
            best = max(numbers, key=means.__getitem__)
            end = max(ends, key=means.__getitem__)
            cells = [f"{alphas[best]:g}", f"{means[best]:.3f}"]
            cells.append(" and ".join(f"{means[i]:.3f}" for i in ends))
            if inside:
                spot = max(inside, key=means.__getitem__)
                cells.append(_difference(values[spot], values[end]))
            else:
                cells.append("")
            at = alphas.index(BALANCED) if BALANCED in alphas else None
            cells.append("" if at is None else _difference(values[at], values[best]))
            table.add(kind, layer, TITLES[method], len(parts), *cells)
        return table

    def _localisation(self) -> Table:
        table = Table(["network", "method", "against", "difference"], "Does the split localise?")
        for kind, parts in self._judged.items():
            for ours in OURS:
                for rival in RIVALS:
                    if ours in parts[0] and rival in parts[0]:
                        a, b = (
                            np.concatenate([values[m][KEY] for values in parts])
                            for m in (ours, rival)
                        )
                        table.add(kind, TITLES[ours], TITLES[rival], _difference(a, b))
        return table


def _difference(a: np.ndarray, b: np.ndarray) -> str:
    mean, low, high = mean_interval(a - b)
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
