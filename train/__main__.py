"""`python -m train`: runs an experiment from a config; without arguments, the main job."""

import importlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from train.experiment import ParallelExperiment

CONFIGS = Path(__file__).parent / "configs"
PACKAGES = {
    "grain": "data",
    "PIL": "data",
    "tensorflow_datasets": "data",
    "importlib_resources": "data",
    "sklearn": "sklearn",
    "tokenizers": "text",
    "safetensors": "weights",
    "libtpu": "tpu",
}
"""Import name to the extra that brings it; any other package is one of the extra "train"."""


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
    except ModuleNotFoundError as error:
        print(f"train: {missing_package(error)}", file=sys.stderr)
        return 1
    from jax.errors import JaxRuntimeError

    from monojax.data import MissingDataError
    from monojax.training import CheckpointError, WorkdirError
    from train.launch.hosts import Several

    several = Several(command.typed)
    try:
        if command.dry_run:
            return dry_run(command.config, command.workdir, command.dry_run)
        return run(command.config, command.workdir, several, command.hosts)
    except ModuleNotFoundError as error:
        print(f"train: {missing_package(error)}", file=sys.stderr)
    except MissingDataError as error:
        print(f"train: {error}{other_source(command.config)}", file=sys.stderr)
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


def run(
    config: Any,
    workdir: str | os.PathLike,
    several: Any = None,
    hosts: tuple[str, int | None, int | None] = ("", None, None),
) -> int:
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
    from monojax.training.progress import progress_bar
    from monojax.training.workdir import WorkdirError, as_directory, is_local
    from train.experiment import find, load
    from train.renamed import translated

    start = time.monotonic()
    entry, experiment = find(config.experiment), load(config.experiment)
    if not is_local(as_directory(workdir)) and not entry.several_hosts:
        raise WorkdirError(
            f"experiment {config.experiment!r} keeps its results on this machine; give a local "
            f"--workdir instead of {workdir} and copy it."
        )
    experiment.check(config)  # before anything is written
    if several is not None:
        several.connect(entry, config, *hosts)
    if entry.several_hosts:
        cast("ParallelExperiment", experiment).check_started(config)
    if several is not None and not several.first:
        experiment.run(config, as_directory(workdir), False)
        return 0
    directory = open_workdir(workdir, translated(config.experiment, config))
    print(f"train: {config.experiment} ({config.mode}), results in {directory}", flush=True)
    bar = progress_bar(experiment.total_steps(config), config.experiment)
    try:
        experiment.run(config, directory, bar)
    finally:
        bar.close()
    files = sorted(p.name for p in directory.iterdir() if p.suffix in (".md", ".csv", ".png"))
    print(f"train: done in {time.monotonic() - start:.0f} s; {directory} has {', '.join(files)}")
    return 0


def dry_run(config: Any, workdir: str | os.PathLike, target: str) -> int:
    """Compiles an experiment's step for devices that are not there, and writes what it costs.

    Args:
      config: a locked ConfigDict.
      workdir: reports go to its folder ``dry_run``.
      target: a slice such as "v5e:16x16", or "cuda".

    Returns:
      0, or 1 if the step does not fit.
    """
    from monojax.training.workdir import WorkdirError, as_directory, is_local
    from train.experiment import EXPERIMENTS, find

    module = find(config.experiment).dry_run
    if not is_local(as_directory(workdir)):
        raise WorkdirError(
            f"a dry run writes to this machine; give a local --workdir, not {workdir}."
        )
    if not module:
        able = ", ".join(name for name, entry in EXPERIMENTS.items() if entry.dry_run)
        raise ValueError(f"experiment {config.experiment!r} has no dry run; {able} has.")
    return importlib.import_module(module).run(config, Path(workdir) / "dry_run", target)


def missing_package(error: ModuleNotFoundError) -> str:
    """What to install for a package that is not there.

    Args:
      error: of the import.

    Returns:
      One sentence, with the extra of monojax that brings it.
    """
    name = str(error.name or "").partition(".")[0]
    extra = PACKAGES.get(name, "train")
    return (
        f"this needs the package {name!r}; install it with pip install -e '.[{extra}]' in the "
        "clone, in the Python that runs this."
    )


def other_source(config: Any) -> str:
    """How else to get data that are missing.

    Args:
      config: of the run that missed them.

    Returns:
      A sentence to follow the error, or "" where there is one source only.
    """
    text = ""
    for at, group in (("", config), ("data.", config.get("data"))):
        source = group.get("source") if hasattr(group, "get") else None
        if isinstance(source, str) and source != "tfds":
            text = f" Or let tensorflow-datasets get them: --config.{at}source=tfds."
        elif source == "tfds" and config.experiment == "imagenet":
            text = (
                " On the command line: --config.data.dir=DIR, --config.data.source=folder, "
                "or, to try without data, --config.data.source=fake."
            )
    return text


if __name__ == "__main__":
    sys.exit(main())
