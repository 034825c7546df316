"""The loop of every experiment: advance, watch, measure, checkpoint, resume."""

import base64
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from monojax.training.batches import Batches
from monojax.training.checkpoints import Checkpoints
from monojax.training.clock import Clock
from monojax.training.hosts import OneHost
from monojax.training.interrupts import Interrupts
from monojax.training.workdir import WorkdirError, open_workdir
from monojax.training.writers import MetricsWriter, progress_bar

Metrics = Mapping[str, Any]
Advance = Callable[[Any, Any], tuple[Any, Metrics]]


@dataclasses.dataclass(frozen=True)
class Run:
    """What a call of :func:`fit` left."""

    state: Any
    """The state after the last step."""
    steps: int
    """Steps taken in all, earlier processes included."""
    resumed_from: int
    """The step at which this process took over; 0 for a run of its own."""
    best: dict[str, Any] | None
    """``{"step", "value"}`` of the best evaluation, if one was asked for."""
    stopped_early: bool = False
    """True if the patience ran out before ``num_steps``."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When what happens, in steps."""

    num_steps: int
    steps_per_call: int = 1
    log_every: int = 1
    eval_every: int = 0
    checkpoint_every: int = 0

    def __post_init__(self):
        """Checks that the parts fit together."""
        for name in ("num_steps", "steps_per_call", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("num_steps", "log_every", "eval_every", "checkpoint_every"):
            value = getattr(self, name)
            if value % self.steps_per_call:
                raise ValueError(
                    f"{name} = {value} must be a multiple of steps_per_call = "
                    f"{self.steps_per_call}, since one call takes that many steps."
                )

    def due(self, name: str, step: int) -> bool:
        """True if ``name`` ("log", "eval", "checkpoint") is to happen after ``step``."""
        every = getattr(self, f"{name}_every")
        return step == self.num_steps or (every > 0 and step % every == 0)


def fit(
    state: Any,
    advance: Advance,
    *,
    num_steps: int,
    workdir: str | Path | None = None,
    config: Any = None,
    batches: Batches | None = None,
    evaluate: Callable[[Any], Metrics] | None = None,
    best: tuple[str, Literal["min", "max"]] | None = None,
    patience: int | None = None,
    steps_per_call: int = 1,
    log_every: int = 1,
    eval_every: int = 0,
    checkpoint_every: int = 0,
    keep: int = 2,
    tensorboard: bool = True,
    bar: Any = None,
    name: str = "train",
    hosts: OneHost | None = None,
    clock: Clock | None = None,
) -> Run:
    """Trains ``state`` to ``num_steps``, resuming from ``workdir`` if it holds a part of the run.

    In ``workdir`` go ``config.json``, ``metrics.jsonl``, ``tensorboard/``, ``checkpoints/`` (the
    latest ``keep``) and ``best/``. A run killed at any point and started again ends with the
    same bits as an unbroken one, provided that ``advance`` and ``batches`` are deterministic.

    Args:
      state: initial pytree; its memory may be donated by ``advance``.
      advance: ``(state, batch) -> (state, metrics)``, compiled; takes ``steps_per_call`` steps.
        ``metrics["loss"]`` is checked; with several steps a call its first axis is steps.
      num_steps: total number of steps.
      workdir: directory of the run; None keeps nothing on disk.
      config: what identifies the run; a directory made with another one is refused.
      batches: source of batches with `__next__`, `get_state`, `set_state`; None passes None.
      evaluate: ``state -> metrics``, called every ``eval_every`` steps and at the end.
      best: (metric of ``evaluate``, "min" or "max"): keep that state in ``best/``, too.
      patience: stop at the first evaluation that lies so many steps or more after the best one;
        None goes on to ``num_steps``. Needs ``best``.
      steps_per_call: steps that one call of ``advance`` takes.
      log_every: steps between lines of metrics.
      eval_every: steps between evaluations; 0 means at the end only.
      checkpoint_every: steps between checkpoints; 0 means at the end only.
      keep: number of checkpoints kept.
      tensorboard: write TensorBoard files as well.
      bar: a progress bar to advance; None makes one, False shows none.
      name: shown in the bar and in messages.
      hosts: :class:`AllHosts` for a `pmap` step over all devices; ``state`` is one copy then,
        and ``workdir`` matters on the first host only.
      clock: adds step time, throughput and the share of waiting for data to the metrics.

    Returns:
      Run.

    Raises:
      FloatingPointError: at a non-finite loss or "grad_norm", naming the step; parameters that
        are not finite are never saved.
      WorkdirError: if the directory belongs to another config.
      CheckpointError: if there are checkpoints and none can be read.
      SystemExit: after Ctrl-C (code 130) or SIGTERM (143), with the state saved.
    """
    schedule = Schedule(num_steps, steps_per_call, log_every, eval_every, checkpoint_every)
    hosts = hosts or OneHost()
    if patience is not None and (best is None or evaluate is None or patience < 1):
        raise ValueError(
            f"patience = {patience} must be at least 1 step, and needs best and evaluate."
        )
    if workdir is not None and config is None:
        raise ValueError("a workdir needs a config, by which another run's directory is refused.")
    with (
        Interrupts() as interrupts,
        _Loop(
            state, schedule, workdir, config, batches, best, keep, tensorboard, name, hosts, clock
        ) as loop,
    ):
        with _bar(bar, schedule, loop.step, name) as show:
            while loop.step < num_steps and not loop.out_of(patience):
                loop.advance(advance, interrupts.received is not None)
                show(steps_per_call)
                if loop.due("log") or loop.due("eval") or loop.due("checkpoint"):
                    loop.log()
                if evaluate is not None and loop.due("eval"):
                    loop.evaluate(evaluate)
                if loop.due("checkpoint") or loop.out_of(patience):
                    loop.save()
                if hosts.stopping(interrupts.received is not None, loop.checked):
                    loop.stop(interrupts)
        loop.finish()
        if interrupts.received is not None:
            loop.stop(interrupts)
        early = loop.step < num_steps
        return Run(hosts.pack(loop.state), loop.step, loop.resumed_from, loop.best, early)


class _Loop:
    """State of a running loop and what it writes."""

    def __init__(
        self,
        state,
        schedule,
        workdir,
        config,
        batches,
        best,
        keep,
        tensorboard,
        name,
        hosts,
        clock,
    ):
        self.schedule, self.batches, self.name = schedule, batches, name
        self.hosts, self.timed, self.clock = hosts, clock is not None, clock or Clock(0)
        self.step, self.best, self._best_rule, self.resumed_from = 0, None, best, 0
        self._pending: list[tuple[int, Metrics]] = []
        self.checked: Metrics | None = None  # the newest metrics that were looked at
        self._named_best = -1  # the best step that the newest checkpoint on disk names
        self.workdir: Path | None = None
        self._latest: Checkpoints | None = None
        self._best: Checkpoints | None = None
        self._writer: MetricsWriter | None = None
        if workdir is not None and hosts.main:
            self.workdir = open_workdir(workdir, config)
            self._latest = Checkpoints(self.workdir / "checkpoints", keep)
            if best is not None:
                self._best = Checkpoints(self.workdir / "best", keep=None)
        self.state = hosts.unpack(self._resume(state))
        if self.workdir is not None:
            self._writer = MetricsWriter(self.workdir, self.step, tensorboard)

    def _resume(self, state: Any) -> Any:
        """The state to start from: the newest checkpoint's, or the given one."""
        found = None if self._latest is None else self._latest.restore(state)
        found = self.hosts.share(found, state)
        if found is None:
            return state
        self.step, state, meta = found
        self.resumed_from, self.best = self.step, meta["best"]
        if self.best is not None:
            self._named_best = self.best["step"]
        if self.step > self.schedule.num_steps:
            raise WorkdirError(
                f"{self.workdir} is at step {self.step}, past num_steps = "
                f"{self.schedule.num_steps}; ask for more steps or choose another directory."
            )
        if self.batches is not None:
            self.batches.set_state(_decode(meta["batches"]))
        return state

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for part in (self._writer, self._latest, self._best):
            if part is not None:
                part.close()

    def due(self, what: str) -> bool:
        return self.schedule.due(what, self.step)

    def out_of(self, patience: int | None) -> bool:
        """True right after an evaluation that found nothing better for so long."""
        if patience is None or self.best is None or not self.due("eval"):
            return False
        return self.step - self.best["step"] >= patience

    def advance(self, advance: Advance, asked_to_stop: bool):
        with self.clock.waiting():
            batch = None if self.batches is None else next(self.batches)
        self.state, metrics = advance(self.state, self.hosts.send(batch, asked_to_stop))
        self.step += self.schedule.steps_per_call
        self._pending.append((self.step, metrics))
        # One call behind, so that the device is never waited for while it has work.
        if len(self._pending) > 1:
            self._check(*self._pending[-2])
            self.checked = self._pending[-2][1]
            del self._pending[:-1]
        self.clock.step(self.schedule.steps_per_call)
        self.hosts.beat()

    def _check(self, step: int, metrics: Metrics):
        """Raises at the first step whose loss or gradient norm is not finite."""
        for what, key in (("loss", "loss"), ("gradient", "grad_norm")):
            if key not in metrics:
                continue
            values = self.hosts.read(metrics[key])
            if np.isfinite(values).all():
                continue
            first = step - self.schedule.steps_per_call + 1
            if self.schedule.steps_per_call > 1:
                bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
                first += int(np.argmax(bad))
            self._not_finite(what, first)

    def _state_to_keep(self) -> Any:
        """The state, packed; one that is not finite is never written."""
        state = self.hosts.pack(self.state)
        leaves = jax.tree.leaves(state)
        floats = [leaf for leaf in leaves if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
        watched = getattr(state, "params", floats)  # best values of seeds may start at inf
        if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(watched)):
            self._not_finite("parameters", self.step)
        return state

    def _not_finite(self, what: str, step: int):
        kept = ""
        if self._latest is not None and (saved := self._latest.steps()):
            kept = f" The last good state is {self._latest.directory / str(saved[-1])}."
        raise FloatingPointError(
            f"{self.name}: the {what} is not finite at step {step}; lower the learning rate or the "
            f"penalty's weight, or check the data.{kept}"
        )

    def log(self):
        step, metrics = self._pending[-1]
        self._check(step, metrics)
        if self._writer is not None:
            values: dict[str, Any] = {key: self.hosts.read(value) for key, value in metrics.items()}
            if self.schedule.steps_per_call > 1:  # the mean over the steps of the call
                values = {key: np.asarray(value).mean(axis=0) for key, value in values.items()}
            if self.timed:
                values |= self.clock.read()
            self._writer.write(step, values)

    def evaluate(self, evaluate):
        self.hosts.rest()
        with self.clock.pause():
            metrics = jax.device_get(dict(evaluate(self.state)))
        if self._writer is not None:
            self._writer.write(self.step, metrics)
        if self._best_rule is None:
            return
        key, rule = self._best_rule
        if key not in metrics:
            raise ValueError(f"best asks for {key!r}, but evaluate gave {sorted(metrics)}.")
        value = float(metrics[key])
        sign = 1 if rule == "min" else -1
        if not np.isfinite(value):
            return
        if self.best is None or sign * value < sign * self.best["value"]:
            self.best = {"step": self.step, "value": value}
            if self._best is not None:
                self._best.save(self.step, self._state_to_keep(), self.best)

    def save(self) -> Path | None:
        if self._latest is None:
            return None
        self.hosts.rest()
        state = self._state_to_keep()
        position = None if self.batches is None else _encode(self.batches.get_state())
        if self._best is not None:
            # "latest" must not name a best that is not on disk yet, nor lose the one that the
            # previous "latest" names while this one is being written.
            self._latest.wait()
            keep = {self.best["step"]} if self.best is not None else set()
            self._best.keep_only(keep | {self._named_best})
            self._named_best = self.best["step"] if self.best is not None else -1
        return self._latest.save(self.step, state, {"best": self.best, "batches": position})

    def finish(self):
        """Waits until everything is on disk; the best that is not the best any more goes."""
        if self._latest is not None:
            self._latest.wait()
        if self._best is not None and self.best is not None:
            self._best.keep_only({self.best["step"]})

    def stop(self, interrupts: Interrupts):
        if self._pending:
            self._check(*self._pending[-1])
        path = self.save()
        self.finish()
        where = "nothing was kept (no workdir)" if self.hosts.main else "the first host saves"
        print(
            f"\n{self.name}: interrupted at step {self.step}; "
            + (
                f"{where}."
                if path is None
                else f"saved {path}. Run the same command again to go on."
            ),
            file=sys.stderr,
        )
        raise SystemExit(interrupts.exit_code)


@contextmanager
def _bar(bar: Any, schedule: Schedule, done: int, name: str) -> Iterator[Callable[[int], Any]]:
    """A function to call with the number of steps taken; shows the bar it is given or its own."""
    if bar is False:
        yield lambda steps: None
    elif bar is not None:
        bar.set_postfix_str(name)
        if done:
            bar.update(done)
        yield bar.update
    else:
        own = progress_bar(schedule.num_steps, name)
        own.update(done)
        try:
            yield own.update
        finally:
            own.close()


def _encode(position: Any) -> Any:
    """A data position as JSON; grain's may be bytes."""
    if isinstance(position, bytes):
        return {"$bytes": base64.b64encode(position).decode()}
    return position


def _decode(position: Any) -> Any:
    """The inverse of :func:`_encode`."""
    if isinstance(position, dict) and set(position) == {"$bytes"}:
        return base64.b64decode(position["$bytes"])
    return position
