"""What a run writes: its latest states, its best one, its metrics."""

import base64
from pathlib import Path
from typing import Any

from monojax.training.checkpoints import Checkpoints
from monojax.training.schedule import Keep
from monojax.training.workdir import open_workdir
from monojax.training.writers import MetricsWriter


class Disk:
    """The work directory of a running loop; without one, every method does nothing.

    Args:
      keep: what is kept where.
      main: False on a host that has no directory of its own.
    """

    def __init__(self, keep: Keep, main: bool = True):
        """See the class."""
        self.workdir: Path | None = None
        self._latest: Checkpoints | None = None
        self._best: Checkpoints | None = None
        self._writer: MetricsWriter | None = None
        self._named_best = -1  # the best step that the newest checkpoint on disk names
        self._tensorboard = keep.tensorboard
        if keep.workdir is not None and main:
            self.workdir = open_workdir(keep.workdir, keep.config)
            self._latest = Checkpoints(self.workdir / "checkpoints", keep.keep)
            if keep.best is not None:
                self._best = Checkpoints(self.workdir / "best", keep=None)

    def restore(self, like: Any) -> Any:
        """``(step, state, meta)`` of the newest checkpoint that can be read, or None."""
        return None if self._latest is None else self._latest.restore(like)

    def start(self, step: int, best: dict[str, Any] | None) -> None:
        """Opens the metrics, once it is known where the run goes on."""
        if best is not None:
            self._named_best = best["step"]
        if self.workdir is not None:
            self._writer = MetricsWriter(self.workdir, step, self._tensorboard)

    def write(self, step: int, metrics: Any) -> None:
        """A line of metrics."""
        if self._writer is not None:
            self._writer.write(step, metrics)

    @property
    def writes(self) -> bool:
        """Whether metrics go anywhere."""
        return self._writer is not None

    @property
    def saves(self) -> bool:
        """Whether states go anywhere."""
        return self._latest is not None

    def last(self) -> Path | None:
        """The newest checkpoint that is complete."""
        if self._latest is None or not (steps := self._latest.steps()):
            return None
        return self._latest.directory / str(steps[-1])

    def save_best(self, state: Any, best: dict[str, Any]) -> None:
        """Keeps the best state so far."""
        if self._best is not None:
            self._best.save(best["step"], state, best)

    def save(self, step: int, state: Any, best: dict[str, Any] | None, position: Any) -> Path:
        """Writes the latest state; returns before the disk is done (see :meth:`finish`)."""
        assert self._latest is not None
        if self._writer is not None:
            self._writer.flush()  # a run that resumes here must find the lines up to here
        if self._best is not None:
            # "latest" must not name a best that is not on disk yet, nor lose the one that the
            # previous "latest" names while this one is being written.
            self._latest.wait()
            keep = {best["step"]} if best is not None else set()
            self._best.keep_only(keep | {self._named_best})
            self._named_best = best["step"] if best is not None else -1
        meta = {"best": best, "batches": encode_position(position)}
        return self._latest.save(step, state, meta)

    def finish(self, best: dict[str, Any] | None) -> None:
        """Waits until everything is on disk; the best that is not the best any more goes."""
        if self._latest is not None:
            self._latest.wait()
        if self._best is not None and best is not None:
            self._best.keep_only({best["step"]})

    def close(self) -> None:
        """Closes the files and releases orbax's threads, all of them even if one fails."""
        parts = [part for part in (self._writer, self._latest, self._best) if part is not None]
        error: BaseException | None = None
        for part in parts:
            try:
                part.close()
            except BaseException as failure:
                error = error or failure
        if error is not None:
            raise error


def encode_position(position: Any) -> Any:
    """A data position as JSON; grain's may be bytes.

    Args:
      position: JSON-able data or bytes.

    Returns:
      JSON-able data.
    """
    if isinstance(position, bytes):
        return {"$bytes": base64.b64encode(position).decode()}
    return position


def decode_position(position: Any) -> Any:
    """The inverse of :func:`encode_position`.

    Args:
      position: JSON-able data.

    Returns:
      What was encoded.
    """
    if isinstance(position, dict) and set(position) == {"$bytes"}:
        return base64.b64decode(position["$bytes"])
    return position
