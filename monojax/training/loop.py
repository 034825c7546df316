"""The loop of every experiment: advance, watch, measure, checkpoint, resume."""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.renamed import renamed
from monojax.training.batches import Batches
from monojax.training.clock import Clock
from monojax.training.disk import Disk, decode_position
from monojax.training.hosts import OneHost
from monojax.training.interrupts import Interrupts
from monojax.training.progress import progress
from monojax.training.schedule import Keep, Schedule
from monojax.training.workdir import WorkdirError

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


_SCHEDULE = "the schedule takes it now: fit(state, advance, Schedule(num_steps, ...))."
_KEEP = "Keep takes it now: fit(state, advance, schedule, keep=Keep(workdir, config, ...))."


@renamed(
    num_steps=_SCHEDULE,
    steps_per_call=_SCHEDULE,
    log_every=_SCHEDULE,
    eval_every=_SCHEDULE,
    checkpoint_every=_SCHEDULE,
    patience=_SCHEDULE,
    workdir=_KEEP,
    config=_KEEP,
    best=_KEEP,
    tensorboard=_KEEP,
)
def fit(
    state: Any,
    advance: Advance,
    schedule: Schedule,
    *,
    keep: Keep | None = None,
    batches: Batches | None = None,
    evaluate: Callable[[Any], Metrics] | None = None,
    bar: Any = None,
    name: str = "train",
    hosts: OneHost | None = None,
    clock: Clock | None = None,
) -> Run:
    """Trains ``state`` to ``num_steps``, resuming from ``keep.workdir`` if that holds a part.

    A run killed at any point and started again ends with the same bits as an unbroken one,
    provided that ``advance`` and ``batches`` are deterministic.

    Args:
      state: initial pytree; its memory may be donated by ``advance``.
      advance: ``(state, batch) -> (state, metrics)``, compiled; takes ``steps_per_call`` steps.
        ``metrics["loss"]`` is checked; with several steps a call its first axis is steps.
      schedule: when what happens.
      keep: what is kept where; None keeps nothing on disk.
      batches: source of batches with `__next__`, `get_state`, `set_state`; None passes None.
      evaluate: ``state -> metrics``, called every ``eval_every`` steps and at the end.
      bar: a progress bar to advance; None makes one, False shows none.
      name: shown in the bar and in messages.
      hosts: :class:`AllHosts` for a `pmap` step over all devices; ``state`` is one copy then,
        and the work directory matters on the first host only.
      clock: adds step time, throughput and the share of waiting for data to the metrics.

    Returns:
      Run.

    Raises:
      FloatingPointError: at a non-finite loss or "grad_norm", naming the step; parameters that
        are not finite are never saved.
      WorkdirError: if the directory belongs to another config.
      CheckpointError: if there are checkpoints and none can be read, or the state holds what no
        checkpoint can; the latter before the first step.
      SystemExit: after Ctrl-C (code 130) or SIGTERM (143), with the state saved.
    """
    keep, hosts = _checked(schedule, keep, evaluate), hosts or OneHost()
    with (
        Interrupts() as interrupts,
        _Loop(state, schedule, keep, batches, name, hosts, clock) as loop,
    ):
        with progress(bar, schedule, loop.step, name) as show:
            while loop.step < schedule.num_steps and not loop.out_of_patience():
                loop.advance(advance, interrupts.received is not None)
                show(schedule.steps_per_call)
                if loop.due("log") or loop.due("eval") or loop.due("checkpoint"):
                    loop.log()
                if evaluate is not None and loop.due("eval"):
                    loop.evaluate(evaluate)
                if loop.due("checkpoint") or loop.out_of_patience():
                    loop.save()
                if hosts.stopping(interrupts.received is not None, loop.checked):
                    loop.stop(interrupts)
        loop.disk.finish(loop.best)
        if interrupts.received is not None:
            loop.stop(interrupts)
        early = loop.step < schedule.num_steps
        return Run(hosts.pack(loop.state), loop.step, loop.resumed_from, loop.best, early)


def _checked(schedule: Schedule, keep: Keep | None, evaluate: Any) -> Keep:
    """``keep``, if the parts fit together."""
    keep = Keep() if keep is None else keep
    for value, kind in ((schedule, Schedule), (keep, Keep)):
        if not isinstance(value, kind):
            raise TypeError(
                f"fit takes a training.{kind.__name__} there, got {value!r}: "
                "fit(state, advance, Schedule(num_steps, ...), keep=Keep(workdir, config, ...))."
            )
    if schedule.patience is not None and (keep.best is None or evaluate is None):
        raise ValueError(f"patience = {schedule.patience} needs best and evaluate.")
    return keep


class _Loop:
    """State of a running loop."""

    def __init__(self, state, schedule, keep, batches, name, hosts, clock):
        self.schedule, self.batches, self.name = schedule, batches, name
        self.hosts, self.timed, self.clock = hosts, clock is not None, clock or Clock(0)
        self.step, self.best, self._best_rule, self.resumed_from = 0, None, keep.best, 0
        self._pending: list[tuple[int, Metrics]] = []
        self.checked: Metrics | None = None  # the newest metrics that were looked at
        self.disk = Disk(keep, hosts.main)
        try:
            self.state = hosts.unpack(self._resume(state))
            self.disk.start(self.step, self.best)
        except BaseException:
            self.disk.close()
            raise

    def _resume(self, state: Any) -> Any:
        """The state to start from: the newest checkpoint's, or the given one."""
        found = self.hosts.share(self.disk.restore(state), state)
        if found is None:
            return state
        self.step, state, meta = found
        self.resumed_from, self.best = self.step, meta["best"]
        if self.step > self.schedule.num_steps:
            raise WorkdirError(
                f"{self.disk.workdir} is at step {self.step}, past num_steps = "
                f"{self.schedule.num_steps}; ask for more steps or choose another directory."
            )
        if self.batches is not None:
            self.batches.set_state(decode_position(meta["batches"]))
        return state

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.disk.close()

    def due(self, what: str) -> bool:
        return self.schedule.due(what, self.step)

    def out_of_patience(self) -> bool:
        """True right after an evaluation that found nothing better for so long."""
        patience = self.schedule.patience
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
        if (last := self.disk.last()) is not None:
            kept = f" The last good state is {last}."
        raise FloatingPointError(
            f"{self.name}: the {what} is not finite at step {step}; lower the learning rate or the "
            f"penalty's weight, or check the data.{kept}"
        )

    def log(self):
        step, metrics = self._pending[-1]
        self._check(step, metrics)
        if self.disk.writes:
            values: dict[str, Any] = {key: self.hosts.read(value) for key, value in metrics.items()}
            if self.schedule.steps_per_call > 1:  # the mean over the steps of the call
                values = {key: np.asarray(value).mean(axis=0) for key, value in values.items()}
            if self.timed:
                values |= self.clock.read()
            self.disk.write(step, values)

    def evaluate(self, evaluate):
        self.hosts.rest()
        with self.clock.pause():
            metrics = jax.device_get(dict(evaluate(self.state)))
        self.disk.write(self.step, metrics)
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
            self.disk.save_best(self._state_to_keep(), self.best)

    def save(self) -> Any:
        if not self.disk.saves:
            return None
        self.hosts.rest()
        position = None if self.batches is None else self.batches.get_state()
        return self.disk.save(self.step, self._state_to_keep(), self.best, position)

    def stop(self, interrupts: Interrupts):
        if self._pending:
            self._check(*self._pending[-1])
        path = self.save()
        self.disk.finish(self.best)
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
