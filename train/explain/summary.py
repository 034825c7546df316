"""The question of the scenes: is there a sweet spot, is balance better, does the split localise?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monojax.metrics.intervals import mean_interval
from monojax.splitting.shift import BALANCED
from monojax.training import Table
from train.explain.judge import TITLES, Setting
from train.explain.scenes import parsed
from train.reporting import provenance

SPOT = (0.3, 0.45)
"""Where the poster has the sweet spot, in its meaning of alpha."""
RIVALS = ("layer_cam", "guided_backprop", "lrp_gamma", "centre")
OURS = ("split_grad", "split_cam", "split_lrp")
KEY = "localisation"
NOTE = (
    "Localisation. A difference is the mean [95% bootstrap interval] over scenes, of the mean over "
    "the networks of a kind; behind it each network's own mean."
)


class Summary:
    """Sweeps and judgements of several networks of each kind, compared image by image.

    Networks of a kind are judged on the same scenes, so a scene counts once: its difference is the
    mean over networks.
    """

    def __init__(self):
        """See the class."""
        self._curves: dict[tuple[str, str, str], list[np.ndarray]] = {}
        self._judged: dict[str, list[dict[str, Any]]] = {}
        self._tuned: dict[str, list[dict[str, Any]]] = {}
        self._settings: dict[str, list[dict[str, Setting]]] = {}

    def add(self, network: str, layer: str, curves: dict[str, Any]) -> None:
        """A sweep over alpha.

        Args:
          network: its name.
          layer: where.
          curves: from `train.explain.sweeps.sweep`.
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
        values = {method: rows[KEY] for method, rows in found["values"].items()}
        self._judged.setdefault(parsed(network)[0], []).append(values)

    def tuned(
        self, network: str, settings: dict[str, Setting], found: dict[str, list[float]]
    ) -> None:
        """Methods at the settings that localise best on other scenes.

        Args:
          network: its name.
          settings: of the methods.
          found: from `train.explain.sweeps.localised`.
        """
        self._tuned.setdefault(parsed(network)[0], []).append(found)
        self._settings.setdefault(parsed(network)[0], []).append(settings)

    def write(self, config: Any, workdir: Path) -> None:
        """Writes sweet_spot, localisation and localisation_tuned over the networks that are there.

        Args:
          config: see train/configs/explain.py.
          workdir: where to.
        """
        foot = f"{NOTE} {provenance(config)}"
        halves = (
            "Alphas of a difference are chosen on every second scene and compared on the others, "
            f"both ways round; the best alpha named is that of all scenes. {foot}"
        )
        _sweet_spot(self._curves, list(config.sweep.alphas)).write(workdir, "sweet_spot", halves)
        title = "Does the split localise, at settings chosen by all measures?"
        _against(self._judged, title).write(workdir, "localisation", foot)
        title = "Does the split localise, every method tuned for localisation on other scenes?"
        _against(self._tuned, title).write(workdir, "localisation_tuned", foot)
        _reached(self._tuned, self._settings).write(workdir, "localisation_settings", foot)


def _sweet_spot(curves: dict[tuple[str, str, str], list[np.ndarray]], alphas: list[Any]) -> Table:
    numbers = [i for i, alpha in enumerate(alphas) if alpha != BALANCED]
    inside = [i for i in numbers if SPOT[0] <= alphas[i] <= SPOT[1]]
    ends = [min(numbers, key=alphas.__getitem__), max(numbers, key=alphas.__getitem__)]
    table = Table(
        ["network", "layer", "method", "networks", "best alpha", "its value", "ends", "balanced"]
        + [f"best in {SPOT} less the better end", "balanced less the best fixed"],
        "Is there a sweet spot?",
    )
    for (kind, layer, method), networks in curves.items():
        values = np.stack(networks)  # [networks, alphas, images]
        means = values.mean((0, 2))
        best = max(numbers, key=means.__getitem__)
        at = [alphas.index(BALANCED)] if BALANCED in alphas else []
        cells = [f"{alphas[best]:g}", f"{means[best]:.3f}"]
        cells.append(" and ".join(f"{means[i]:.3f}" for i in ends))
        cells.append(f"{means[at[0]]:.3f}" if at else "")
        cells.append(_difference(_gap(values, inside, ends)) if inside else "")
        cells.append(_difference(_gap(values, at, numbers)) if at else "")
        table.add(kind, layer, TITLES[method], len(networks), *cells)
    return table


def _gap(values: np.ndarray, ours: Sequence[int], theirs: Sequence[int]) -> np.ndarray:
    """The best of some alphas less the best of others, on scenes that did not choose them."""
    found = np.empty((values.shape[0], values.shape[2]))
    for half in range(2):
        # One scene alone, in a smoke run, chooses for itself.
        chooses = values[:, :, 1 - half :: 2] if values.shape[2] > 1 else values
        means = chooses.mean((0, 2))
        a, b = max(ours, key=means.__getitem__), max(theirs, key=means.__getitem__)
        found[:, half::2] = values[:, a, half::2] - values[:, b, half::2]
    return found


def _against(found: dict[str, list[dict[str, Any]]], title: str) -> Table:
    table = Table(["network", "method", "against", "networks", "difference"], title)
    for kind, networks in found.items():
        for ours in OURS:
            for rival in RIVALS:
                if ours in networks[0] and rival in networks[0]:
                    gaps = [np.subtract(values[ours], values[rival]) for values in networks]
                    names = TITLES[ours], TITLES[rival]
                    table.add(kind, *names, len(networks), _difference(np.stack(gaps)))
    return table


def _reached(
    found: dict[str, list[dict[str, Any]]], settings: dict[str, list[dict[str, Setting]]]
) -> Table:
    table = Table(
        ["network", "method", "settings", "localisation"],
        "Every method tuned for localisation on other scenes: setting of each network, and value",
    )
    for kind, networks in found.items():
        for method in networks[0]:
            names = "; ".join(str(chosen[method]) for chosen in settings[kind])
            value = _difference(np.stack([values[method] for values in networks]), sign="")
            table.add(kind, TITLES[method], names, value)
    return table


def _difference(gaps: np.ndarray, sign: str = "+") -> str:
    """Mean and interval over scenes of `[networks, scenes]`, and each network's mean."""
    shown = lambda number: f"{number:{sign}.3f}"
    mean, low, high = map(shown, mean_interval(gaps.mean(0)))
    alone = ", ".join(shown(row.mean()) for row in gaps)
    return f"{mean} [{low}, {high}]" + (f" ({alone})" if len(gaps) > 1 else "")
