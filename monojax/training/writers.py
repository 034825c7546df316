"""Metrics as JSON lines and TensorBoard."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from monojax.base.extras import require
from monojax.training.workdir import write_atomically

METRICS = "metrics.jsonl"


class MetricsWriter:
    """Appends one JSON line per call, and the same scalars for TensorBoard.

    Arrays (one value per seed) are lists in the JSON lines; TensorBoard gets their mean.

    Args:
      workdir: where ``metrics.jsonl`` and ``tensorboard/`` go.
      resume_step: lines past this step are dropped (they will be computed again), as is a
        line that a crash cut in half.
      tensorboard: False to leave TensorBoard out.
    """

    def __init__(self, workdir: str | os.PathLike, resume_step: int = 0, tensorboard: bool = True):
        """See the class."""
        path = Path(workdir) / METRICS
        if path.exists():
            kept = [line for line in read_metrics(workdir) if line["step"] <= resume_step]
            write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")
        self._board = None
        if tensorboard:
            board = require("tensorboardX", "train")
            self._board = board.SummaryWriter(
                str(Path(workdir) / "tensorboard"), purge_step=resume_step + 1
            )

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes the metrics of one step.

        Args:
          step: steps taken so far.
          metrics: name to scalar or array.
        """
        values = {name: np.asarray(value) for name, value in metrics.items()}
        line = {name: value.tolist() for name, value in values.items()} | {"step": step}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, float(value.mean()), step)

    def flush(self) -> None:
        """Returns when all lines written so far are where a resumed run finds them."""
        self._file.flush()

    def close(self) -> None:
        """Flushes and closes the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``; a last line cut by a crash is left out.

    Args:
      workdir: the run's directory.

    Returns:
      One dictionary per line, each with "step".
    """
    lines = (Path(workdir) / METRICS).read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    try:
        return [json.loads(line) for line in whole]
    except ValueError as error:
        path = Path(workdir) / METRICS
        raise ValueError(f"{path} is damaged ({error}); move it away to go on.") from error
