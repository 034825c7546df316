"""Regression problems of the penalty experiments, in one shape."""

import dataclasses
from typing import Any

import numpy as np

from monojax.data.synthetic import additive_monotone
from monojax.data.tabular import TABULAR_SETS, load_tabular


@dataclasses.dataclass(frozen=True)
class Problem:
    """A data set scaled to [0, 1], with its directions and what the scaled numbers mean."""

    name: str
    title: str
    arrays: dict[str, np.ndarray]
    """x_train, y_train, x_valid, y_valid, x_test, y_test; float32."""
    directions: np.ndarray
    columns: list[str]
    target: str
    """Name of the target with its unit."""
    low: np.ndarray
    """What 0 means for each input, in raw units."""
    high: np.ndarray
    target_low: float = 0.0
    target_scale: float = 1.0
    """Raw units per scaled unit of the target; errors are multiplied by it."""

    @property
    def monotone(self) -> list[int]:
        """Indices of the monotone inputs."""
        return np.flatnonzero(self.directions).tolist()


def load_problem(name: str, config: Any) -> Problem:
    """Builds the problem that a config describes.

    Args:
      name: the problem's name in the config.
      config: "data" ("synthetic" or a regression set of `TABULAR_SETS`) and its options.

    Returns:
      Problem.

    Raises:
      ValueError: on an unknown data set, or one that is no regression.
    """
    if config.data == "synthetic":
        return _synthetic(name, config)
    data = load_tabular(config.data, data_dir=config.get("data_dir"), seed=config.get("seed", 0))
    if data.task != "regression":
        regressions = "synthetic, auto_mpg, blog_feedback"
        raise ValueError(
            f"{name}: {config.data!r} is a {data.task} set; this experiment takes regressions "
            f"({regressions}) out of {', '.join(TABULAR_SETS)}."
        )
    low, high = data.target_scale
    monotone = [data.columns[i] for i in np.flatnonzero(data.directions)]
    return Problem(
        name=name,
        title=f"{config.data} (RMSE in {data.target_unit}; monotone: {', '.join(monotone)})",
        arrays={key: getattr(data, key) for key in ARRAYS},
        directions=np.asarray(data.directions),
        columns=[_with_unit(c, data.units.get(c, "")) for c in data.columns],
        target=_with_unit(data.target, data.target_unit),
        low=np.asarray(data.feature_low),
        high=np.asarray(data.feature_high),
        target_low=float(low),
        target_scale=float(high - low),
    )


ARRAYS = ("x_train", "y_train", "x_valid", "y_valid", "x_test", "y_test")


def _with_unit(name: str, unit: str) -> str:
    return f"{name} [{unit}]" if unit else name


def _synthetic(name: str, config: Any) -> Problem:
    data = additive_monotone(
        config.get("seed", 0),
        config.num_inputs,
        config.num_monotone,
        shift=config.shift,
        num_trainval=config.num_trainval,
        num_test=config.num_test,
    )
    width = config.num_inputs
    return Problem(
        name=name,
        title=f"synthetic |M|/D = {config.num_monotone}/{width}, shift {config.shift!r} "
        "(RMSE in scaled target units)",
        arrays={key: getattr(data, key) for key in ARRAYS},
        directions=np.asarray(data.directions),
        columns=[f"x{i}" for i in range(width)],
        target="f",
        low=np.zeros(width),
        high=np.ones(width),
    )
