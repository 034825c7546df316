"""Ctrl-C and SIGTERM as a flag that the loop reads between steps."""

import signal
import threading
from types import FrameType


class Interrupts:
    """Context in which SIGINT and SIGTERM are noted instead of killing the program.

    A second SIGINT raises KeyboardInterrupt at once, for the impatient. Outside the main thread
    signals cannot be caught; the context then does nothing.
    """

    def __init__(self) -> None:
        """Starts with nothing received."""
        self.received: int | None = None
        self._old: dict[int, object] = {}

    def __enter__(self) -> "Interrupts":
        """Installs the handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exc: object) -> None:
        """Puts the previous handlers back."""
        for number, handler in self._old.items():
            # None: the handler before was not Python's (a library's) and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore[arg-type]
        self._old = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    @property
    def exit_code(self) -> int:
        """The shell's convention: 130 after Ctrl-C, 143 after SIGTERM or another host's signal."""
        return 128 + (self.received or signal.SIGTERM)
