"""The progress bar of a run: its estimate, and what a person sees."""

import pytest

from monojax import training
from monojax.training.progress import progress, progress_bar


class Bar:
    """What tqdm's bar has, with the numbers that it counts its rate from."""

    def __init__(self, start):
        self.n, self.initial, self.start_t = 0, 0, start
        self.last_print_n, self.last_print_t = 0, start

    def update(self, steps):
        self.n += steps

    def refresh(self):
        pass

    set_postfix_str = str


@pytest.mark.parametrize("done, compilation", [(0, 600.0), (100, 20.0), (990, 3.0)])
def test_the_bars_estimate_leaves_compilation_out(monkeypatch, done, compilation):
    """1000 steps of 1 s each: after two of them the estimate is what they take, no more."""
    now = [0.0]
    monkeypatch.setattr("monojax.training.progress.time.time", lambda: now[0])
    bar = Bar(now[0])
    with progress(bar, training.Schedule(1000), done, "run") as show:
        now[0] += compilation + 1.0
        show(1)
        for _ in range(2):
            now[0] += 1.0
            show(1)
    rate = (bar.n - bar.initial) / (now[0] - bar.start_t)
    assert bar.n == done + 3 and rate == pytest.approx(1.0)


def test_a_run_of_one_call_is_shown_as_done():
    bar = Bar(0.0)
    with progress(bar, training.Schedule(20, steps_per_call=20, log_every=20), 0, "run") as show:
        show(20)
    assert (bar.n, bar.initial) == (20, 0)


def test_tqdms_own_bar_has_those_numbers(capsys):
    bar = progress_bar(100, "run")
    with progress(bar, training.Schedule(100), 10, "run") as show:
        show(1)
        show(2)
    figures = bar.format_dict
    bar.close()
    assert (figures["n"], figures["initial"]) == (13, 11)
