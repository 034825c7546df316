"""Where the time of a run goes: steps, images, waiting for data."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Throughput between lines of the log.

    The first call of the step is left out, since it holds the compilation; so is what is spent
    under :meth:`pause` (evaluations, checkpoints).

    Args:
      images_per_step: images of a step on one device.
    """

    def __init__(self, images_per_step: float):
        """See the class."""
        self._images, self._steps, self._waited, self._paused = images_per_step, 0, 0.0, 0.0
        self._began: float | None = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around a wait for data."""
        begin = time.monotonic()
        yield
        if self._began is not None:
            self._waited += time.monotonic() - begin

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Around what is no step."""
        begin = time.monotonic()
        yield
        if self._began is not None:
            self._paused += time.monotonic() - begin

    def step(self, steps: int) -> None:
        """Counts steps; the first ones start the clock.

        Args:
          steps: how many one call took.
        """
        if self._began is None:
            self._began = time.monotonic()
        else:
            self._steps += steps

    def read(self) -> dict[str, float]:
        """Figures since the last reading, and starts anew.

        Returns:
          "step_seconds", "images_per_second_per_device" and "wait_share" (of the time, spent
          waiting for data); empty if no step was taken.
        """
        if self._began is None or not self._steps:
            return {}
        now = time.monotonic()
        spent = max(now - self._began - self._paused, 1e-9)
        figures = {
            "step_seconds": spent / self._steps,
            "images_per_second_per_device": self._images * self._steps / spent,
            "wait_share": min(1.0, self._waited / spent),
        }
        self._began, self._steps, self._waited, self._paused = now, 0, 0.0, 0.0
        return figures
