"""Ending a process whose partners are gone, in bounded time and with a word."""

import os
import sys
import threading
import time

EXIT_LOST = 75  # EX_TEMPFAIL of sysexits.h: start all hosts again
_RESTART = "Start all hosts again with the same command: the run goes on from its last checkpoint."


class Watchdog:
    """Ends the process when it is not wound up in time: a collective cannot be interrupted.

    Args:
      seconds: from the last :meth:`wind` to the end.
    """

    def __init__(self, seconds: float):
        """See the class."""
        self._seconds, self._deadline = seconds, float("inf")
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    def wind(self) -> None:
        """Starts, or starts again."""
        self._deadline = time.monotonic() + self._seconds

    def stop(self) -> None:
        """Until wound up again."""
        self._deadline = float("inf")

    def _watch(self) -> None:
        while time.monotonic() < self._deadline:
            time.sleep(min(1.0, self._seconds / 4))
        lost(f"no step was completed for {self._seconds:g} s: another host is lost, or stuck")


def lost(reason: str) -> None:
    """Says why and ends this process at once, without waiting for hosts that may be gone.

    Args:
      reason: for the message.
    """
    print(f"train: {reason}. {_RESTART}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(EXIT_LOST)
