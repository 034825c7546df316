"""`python -m train`: runs an experiment from a config; without arguments, the main job."""

import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).parent / "configs"
EXPERIMENTS = (
    "difference",
    "explain",
    "groups",
    "imagenet",
    "lipschitz_fits",
    "minilm_golden",
    "monocon",
    "occlusion",
    "penalties",
    "sphere",
    "tokens",
)


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and runs the experiment.

    Args:
      argv: arguments without the program's name; defaults to `sys.argv[1:]`.

    Returns:
      The exit code: 0, 2 for a mistake in the command, 1 for a run that failed.
    """
    from train.arguments import UsageError, parse_command

    try:
        command = parse_command(sys.argv[1:] if argv is None else argv, CONFIGS)
    except UsageError as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    from jax.errors import JaxRuntimeError

    from monojax.training import CheckpointError, WorkdirError
    from train.hosts import Several

    several = Several()
    try:
        if command.dry_run:
            return dry_run(command.config, command.workdir, command.dry_run)
        return run(command.config, command.workdir, several, command.hosts)
    except (WorkdirError, CheckpointError, FloatingPointError, ImportError, OSError) as error:
        print(f"train: {error}", file=sys.stderr)
    except JaxRuntimeError as error:
        if not several.connected:
            raise
        several.lost(error)
    except ValueError as error:
        if os.environ.get("MONOJAX_TRACEBACK"):
            raise
        print(f"train: {error} (MONOJAX_TRACEBACK=1 shows where.)", file=sys.stderr)
    except KeyboardInterrupt:
        print("train: interrupted; run the same command again to go on.", file=sys.stderr)
        return 130
    several.leave(1)
    return 1


def run(config: Any, workdir: Path, several: Any = None, hosts: tuple = ("", None, None)) -> int:
    """Runs the experiment that ``config.experiment`` names, in its work directory.

    Args:
      config: a locked ConfigDict.
      workdir: created, or resumed if the config agrees; on several hosts the first one's.
      several: connects the hosts; None runs on one.
      hosts: coordinator, number of hosts, which one this is, of the command line.

    Returns:
      0.
    """
    from monojax.training import open_workdir
    from monojax.training.writers import progress_bar

    start = time.monotonic()
    experiment = _experiment(config)
    experiment.check(config)  # before anything is written
    if several is not None:
        several.connect(experiment, config, *hosts)
    if hasattr(experiment, "check_started"):
        experiment.check_started(config)
    if several is not None and not several.first:
        experiment.run(config, workdir, False)
        return 0
    workdir = open_workdir(workdir, config)
    print(f"train: {config.experiment} ({config.mode}), results in {workdir}", flush=True)
    bar = progress_bar(experiment.total_steps(config), config.experiment)
    try:
        experiment.run(config, workdir, bar)
    finally:
        bar.close()
    files = sorted(p.name for p in workdir.iterdir() if p.suffix in (".md", ".csv", ".png"))
    print(f"train: done in {time.monotonic() - start:.0f} s; {workdir} has {', '.join(files)}")
    return 0


def dry_run(config: Any, workdir: Path, target: str) -> int:
    """Compiles an experiment's step for devices that are not there, and writes what it costs.

    Args:
      config: a locked ConfigDict.
      workdir: reports go to its folder ``dry_run``.
      target: a slice such as "v5e:16x16", or "cuda".

    Returns:
      0, or 1 if the step does not fit.
    """
    experiment = _experiment(config)
    if not hasattr(experiment, "DRY_RUN"):
        raise ValueError(f"experiment {config.experiment!r} has no dry run; imagenet has.")
    paper = importlib.import_module("train.imagenet.dry_run")
    return paper.run(config, Path(workdir) / "dry_run", target)


def _experiment(config: Any) -> Any:
    """The experiment's module."""
    from train.checks import near

    if config.experiment not in EXPERIMENTS:
        hint = near(config.experiment, list(EXPERIMENTS))
        raise ValueError(f"unknown experiment {config.experiment!r}; {hint}")
    return importlib.import_module(f"train.{config.experiment}")


if __name__ == "__main__":
    sys.exit(main())
