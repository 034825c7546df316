"""Metrics as JSON lines and TensorBoard."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from monojax.base.extras import require
from monojax.base.paths import as_directory, is_local
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
        directory = as_directory(workdir, "workdir")
        path, kept = directory / METRICS, ""
        if path.exists():
            lines = [line for line in read_metrics(directory) if line["step"] <= resume_step]
            kept = "".join(json.dumps(line) + "\n" for line in lines)
            write_atomically(path, kept)
        local = is_local(directory)
        self._file = _LocalLines(path) if local else _StoredLines(path, kept)
        self._board = _Board(directory / "tensorboard", local, resume_step) if tensorboard else None

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes the metrics of one step.

        Args:
          step: steps taken so far.
          metrics: name to scalar or array.
        """
        values = {name: np.asarray(value) for name, value in metrics.items()}
        line = {name: value.tolist() for name, value in values.items()} | {"step": step}
        self._file.write(json.dumps(line) + "\n")
        if self._board is not None:
            self._board.write(step, values)

    def flush(self) -> None:
        """Returns when all lines written so far are where a resumed run finds them."""
        for part in (self._file, self._board):
            if part is not None:
                part.flush()

    def close(self) -> None:
        """Flushes and closes the files."""
        for part in (self._file, self._board):
            if part is not None:
                part.close()


class _LocalLines:
    """Lines appended to a file; each is there at once."""

    def __init__(self, path: Any):
        self._file = path.open("a", encoding="utf-8")

    def write(self, line: str) -> None:
        self._file.write(line)
        self._file.flush()

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class _StoredLines:
    """Lines of an object in a store, which cannot be appended to: it is written anew.

    That happens with every checkpoint, at the end, and at most every half minute between.
    """

    EVERY = 30.0  # seconds

    def __init__(self, path: Any, text: str):
        self._path, self._text, self._at = path, text, time.monotonic()
        self._written: str | None = None

    def write(self, line: str) -> None:
        self._text += line
        if time.monotonic() - self._at > self.EVERY:
            self.flush()

    def flush(self) -> None:
        if self._text != self._written:
            write_atomically(self._path, self._text)
            self._written, self._at = self._text, time.monotonic()

    close = flush


class _Board:
    """TensorBoard's files; for a store they are written here and copied."""

    def __init__(self, directory: Any, local: bool, resume_step: int):
        self._store = None if local else directory
        self._here = Path(directory if local else tempfile.mkdtemp())
        board = require("tensorboardX", "train")
        self._writer = board.SummaryWriter(str(self._here), purge_step=resume_step + 1)

    def write(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, float(value.mean()), step)

    def flush(self) -> None:
        if self._store is None:
            return
        self._writer.flush()
        self._store.mkdir(parents=True, exist_ok=True)
        for file in self._here.iterdir():
            (self._store / file.name).write_bytes(file.read_bytes())

    def close(self) -> None:
        self._writer.close()
        self.flush()
        if self._store is not None:
            shutil.rmtree(self._here, ignore_errors=True)


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``; a last line cut by a crash is left out.

    Args:
      workdir: the run's directory.

    Returns:
      One dictionary per line, each with "step".
    """
    path = as_directory(workdir, "workdir") / METRICS
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    try:
        return [json.loads(line) for line in whole]
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); move it away to go on.") from error
