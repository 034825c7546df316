"""Which images choose settings and which are judged, and what a stored cell depends on."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from train.explain.judge import SPLIT, Judge
from train.explain.networks import Images


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


def mask_of(data: Images, i: int) -> np.ndarray:
    """The mask of image i, of data that have masks."""
    assert data.masks is not None
    return data.masks[i]


def asked(
    study: Any, judge: Judge, data: Images, which: Sequence[int], method: str, config: Any
) -> dict[str, Any]:
    """What a cell depends on.

    Args:
      study: one of the config's studies.
      judge: programs of the network.
      data: images.
      which: indices of the cell's images.
      method: of the cell.
      config: see train/configs/explain.py.

    Returns:
      Plain data, to which the cell's own are added.
    """
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
