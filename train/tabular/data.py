"""The partially monotone data sets in one shape: a training part, a test part, folds."""

import dataclasses
from typing import Any

import numpy as np

from monojax.data.tabular import load_tabular


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A data set, its features standardised by the training part, its target for training too."""

    name: str
    title: str
    task: str
    """"regression" or "classification"."""
    x: np.ndarray
    """Training part, float32 `[n, d]`."""
    y: np.ndarray
    """What is trained on: standardised, or 0 and 1; float32 `[n]`."""
    x_test: np.ndarray
    y_test: np.ndarray
    directions: np.ndarray
    columns: tuple[str, ...]
    metric: str
    """"MSE", "RMSE" or "accuracy %"."""
    unit: float
    """Units of the metric per unit of the standardised target."""
    caution: str = ""

    @property
    def low(self) -> np.ndarray:
        """Lower corner of the training part's box, float32 `[d]`."""
        return self.x.min(axis=0)

    @property
    def high(self) -> np.ndarray:
        """Upper corner, float32 `[d]`."""
        return self.x.max(axis=0)

    def score(self, values: np.ndarray, y: np.ndarray, threshold: float = 0.0) -> np.ndarray:
        """The metric of predictions.

        Args:
          values: predictions in training units (logits for classes), `[..., n]`.
          y: truth in training units, `[n]`.
          threshold: of the logit.

        Returns:
          `[...]`.
        """
        losses = self.losses(values, y, threshold).mean(axis=-1)
        return np.sqrt(losses) if self.metric == "RMSE" else losses

    def losses(self, values: np.ndarray, y: np.ndarray, threshold: float = 0.0) -> np.ndarray:
        """What :meth:`score` is the mean of (its root for RMSE), `[..., n]`."""
        values = np.asarray(values, np.float64)
        if self.task == "classification":
            return 100.0 * ((values > threshold) == (np.asarray(y) > 0.5))
        return np.square(self.unit * (values - y))

    @property
    def sign(self) -> int:
        """+1 where a larger metric is better, -1 otherwise."""
        return 1 if self.task == "classification" else -1


METRICS = {"auto_mpg": "MSE", "blog_feedback": "RMSE"}


def load_problem(name: str, options: Any) -> Problem:
    """Reads a data set of `monojax.data`; training and validation rows are one part again.

    Args:
      name: of the set.
      options: protocol (of the files' preparation), squash, data_dir; max_rows 0 takes all rows.

    Returns:
      Problem.

    Raises:
      MissingDataError: if the set is not there.
    """
    data = load_tabular(name, protocol=options.protocol, data_dir=options.get("data_dir") or None)
    x = np.concatenate([data.x_train, data.x_valid]).astype(np.float64)
    y = np.concatenate([data.y_train, data.y_valid]).astype(np.float64)
    if options.max_rows and options.max_rows < len(x):
        kept = np.random.default_rng(0).permutation(len(x))[: options.max_rows]
        x, y = x[kept], y[kept]
    mean, spread = x.mean(axis=0), x.std(axis=0)
    varies = spread > 0  # clean: a column that is constant on the training part says nothing
    squash = np.arcsinh if options.squash else lambda z: z

    def scaled(rows: np.ndarray) -> np.ndarray:
        return squash((rows[:, varies] - mean[varies]) / spread[varies]).astype(np.float32)

    metric = METRICS.get(name, "accuracy %")
    centre, unit = (float(y.mean()), float(y.std())) if metric != "accuracy %" else (0.0, 1.0)
    low, high = data.target_scale
    # Auto MPG in mpg^2; BlogFeedback on the target scaled to [0, 1], as the papers have it.
    raw = unit * (high - low) if name == "auto_mpg" else unit
    return Problem(
        name=name,
        title=options.title,
        task=data.task,
        x=scaled(x),
        y=((y - centre) / unit).astype(np.float32),
        x_test=scaled(np.asarray(data.x_test, np.float64)),
        y_test=((data.y_test - centre) / unit).astype(np.float32),
        directions=np.asarray(data.directions)[varies],
        columns=tuple(c for c, kept in zip(data.columns, varies, strict=True) if kept),
        metric=metric,
        unit=raw,
        caution=data.caution,
    )


def folds(count: int, parts: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of k folds of one size; what does not divide is trained on in every fold.

    Args:
      count: rows.
      parts: k.
      seed: of the order.

    Returns:
      ``(train [k, count - v], valid [k, v])``, v = count // k.
    """
    order = np.random.default_rng(seed).permutation(count)
    size = count // parts
    valid = order[: parts * size].reshape(parts, size)
    train = np.stack([np.setdiff1d(order, rows, assume_unique=True) for rows in valid])
    return train, valid
