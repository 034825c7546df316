"""A progress bar whose estimate leaves compilation out."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from monojax.base.extras import require
from monojax.training.schedule import Schedule


@contextmanager
def progress(bar: Any, schedule: Schedule, done: int, name: str) -> Iterator[Callable[[int], Any]]:
    """Shows how far a run is.

    The first call of a run compiles: its steps are shown as done, and neither they nor its time
    count in the rate, from which the estimate of what is left comes.

    Args:
      bar: a bar to advance, with `update` and `set_postfix_str`; None makes one, False shows none.
      schedule: of the run.
      done: steps that an earlier process took.
      name: of the run.

    Yields:
      A function to call with the number of steps taken.
    """
    if bar is False:
        yield lambda steps: None
        return
    own = progress_bar(schedule.num_steps, name) if bar is None else None
    shown = bar if own is None else own
    if own is None:
        shown.set_postfix_str(name)
    _leave_out(shown, done, 0.0)
    began, first = time.time(), schedule.num_steps - done > schedule.steps_per_call

    def show(steps: int) -> None:
        nonlocal first
        if first:
            first = False
            _leave_out(shown, steps, time.time() - began)
        else:
            shown.update(steps)

    try:
        yield show
    finally:
        if own is not None:
            own.close()


def _leave_out(bar: Any, steps: int, seconds: float) -> None:
    """Advances a bar by steps that say nothing of its rate."""
    if not steps:
        return
    if not hasattr(bar, "start_t"):  # no bar of tqdm's, or one that shows nothing
        bar.update(steps)
        return
    bar.n += steps
    bar.initial += steps
    bar.start_t += seconds
    bar.last_print_n, bar.last_print_t = bar.n, time.time()
    bar.refresh()


def progress_bar(total: int, description: str, unit: str = "step") -> Any:
    """A tqdm bar on standard error; on a pipe it prints a line every ten seconds at most.

    Args:
      total: units of work in all.
      description: what is being done.
      unit: name of one unit.

    Returns:
      The bar; call `update(n)` and `close()`.
    """
    tqdm = require("tqdm", "train").tqdm
    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(total=total, desc=description, unit=unit, mininterval=interval, dynamic_ncols=True)
