"""What a run is told: when what happens, and what is kept where."""

import dataclasses
import os
from typing import Any, Literal

from monojax.base.checks import check_width, one_of


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When what happens, in steps.

    Args:
      num_steps: total number of steps.
      steps_per_call: steps that one call of the step function takes; every other number must be a
        multiple of it.
      log_every: steps between lines of metrics.
      eval_every: steps between evaluations; 0 means at the end only.
      checkpoint_every: steps between checkpoints; 0 means at the end only.
      patience: stop at the first evaluation that lies so many steps or more after the best one;
        None goes on to ``num_steps``. Needs :class:`Keep`'s ``best``.

    Raises:
      ValueError: if the parts do not fit together.
    """

    num_steps: int
    steps_per_call: int = 1
    log_every: int = 1
    eval_every: int = 0
    checkpoint_every: int = 0
    patience: int | None = None

    def __post_init__(self) -> None:
        """Checks that the parts fit together."""
        for name in ("num_steps", "steps_per_call", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("num_steps", "log_every", "eval_every", "checkpoint_every"):
            value = getattr(self, name)
            if value < 0 or value % self.steps_per_call:
                raise ValueError(
                    f"{name} = {value} must be a multiple of steps_per_call = "
                    f"{self.steps_per_call}, since one call takes that many steps."
                )
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience must be at least 1 step, got {self.patience}.")

    def due(self, name: Literal["log", "eval", "checkpoint"], step: int) -> bool:
        """Whether something is to happen after a step.

        Args:
          name: "log", "eval" or "checkpoint".
          step: steps taken.

        Returns:
          True at its multiples and at the end.
        """
        every = getattr(self, f"{name}_every")
        return step == self.num_steps or (every > 0 and step % every == 0)


@dataclasses.dataclass(frozen=True)
class Keep:
    """What a run leaves on disk, and what identifies it.

    In ``workdir`` go ``config.json``, ``metrics.jsonl``, ``tensorboard/``, ``checkpoints/`` and
    ``best/``.

    Args:
      workdir: directory of the run, local or an address such as "gs://bucket/run"; None keeps
        nothing on disk.
      config: what identifies the run; a directory made with another one is refused. Needed where
        there is a workdir.
      best: (metric of the evaluation, "min" or "max"): keep that state in ``best/``, too.
      keep: number of checkpoints kept, the latest ones.
      tensorboard: write TensorBoard files as well.

    Raises:
      ValueError: on a workdir without a config, another rule than "min" or "max", or keep < 1.
    """

    workdir: str | os.PathLike | None = None
    config: Any = None
    best: tuple[str, Literal["min", "max"]] | None = None
    keep: int = 2
    tensorboard: bool = True

    def __post_init__(self) -> None:
        """Checks the parts."""
        check_width(self.keep, "keep")
        if self.best is not None:
            one_of(self.best[1], ("min", "max"), "best[1]")
        if self.workdir is not None and self.config is None:
            raise ValueError(
                "a workdir needs a config, by which another run's directory is refused."
            )
