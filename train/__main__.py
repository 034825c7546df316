"""`python -m train`: runs an experiment from a config; without arguments, the main job."""

import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).parent / "configs"
EXPERIMENTS = (
    "explain",
    "lipschitz_fits",
    "monocon",
    "penalties",
    "sentences",
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
    from train.arguments import UsageError, parse

    try:
        config, workdir = parse(sys.argv[1:] if argv is None else argv, CONFIGS)
    except UsageError as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    from monojax.training import CheckpointError, WorkdirError

    try:
        return run(config, workdir)
    except (WorkdirError, CheckpointError, FloatingPointError, ImportError, OSError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        if os.environ.get("MONOJAX_TRACEBACK"):
            raise
        print(f"train: {error} (MONOJAX_TRACEBACK=1 shows where.)", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("train: interrupted; run the same command again to go on.", file=sys.stderr)
        return 130


def run(config: Any, workdir: Path) -> int:
    """Runs the experiment that ``config.experiment`` names, in its work directory.

    Args:
      config: a locked ConfigDict.
      workdir: created, or resumed if the config agrees.

    Returns:
      0.
    """
    from monojax.training import open_workdir
    from monojax.training.writers import progress_bar
    from train.arguments import near

    start = time.monotonic()
    if config.experiment not in EXPERIMENTS:
        hint = near(config.experiment, list(EXPERIMENTS))
        raise ValueError(f"unknown experiment {config.experiment!r}; {hint}")
    experiment = importlib.import_module(f"train.{config.experiment}")
    experiment.check(config)  # before anything is written
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


if __name__ == "__main__":
    sys.exit(main())
