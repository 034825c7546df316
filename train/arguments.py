"""The command line of `python -m train`: a config file, its mode, overrides, a work directory."""

import argparse
import ast
import dataclasses
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train import renamed
from train.checks import near


class UsageError(ValueError):
    """A mistake in the command; the message says what was found and what there is."""


@dataclasses.dataclass(frozen=True)
class Command:
    """What a command line asks for."""

    config: Any
    """A locked ml_collections.ConfigDict."""
    workdir: str
    """The directory of the run, or an address such as gs://bucket/run."""
    dry_run: str = ""
    """A slice such as "v5e:16x16", or "cuda", to compile for; "" runs."""
    hosts: tuple[str, int | None, int | None] = ("", None, None)
    """Coordinator, number of hosts, which one this is; unset ones are "" or None."""
    typed: str = ""
    """The config as it was typed."""


def parse(argv: list[str], configs: Path) -> tuple[Any, str]:
    """Reads the command line of a run on one host.

    Args:
      argv: arguments without the program's name.
      configs: the folder of config files, for names and near matches.

    Returns:
      ``(config, workdir)``: a locked ml_collections.ConfigDict and the directory to use.

    Raises:
      UsageError: on an unknown file, mode, key or flag, or on a value of another type.
    """
    command = parse_command(argv, configs)
    return command.config, command.workdir


def parse_command(argv: list[str], configs: Path) -> Command:
    """Reads the command line.

    Args:
      argv: arguments without the program's name.
      configs: the folder of config files, for names and near matches.

    Returns:
      Command.

    Raises:
      UsageError: on an unknown file, mode, key or flag, or on a value of another type.
    """
    parser = argparse.ArgumentParser(
        prog="python -m train",
        description="Runs an experiment. Without arguments: the main job.",
        epilog="--config.KEY=VALUE changes a value of the config; nested keys are joined by "
        f"dots.\n\n{list_configs(configs)}",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", default="main", help="FILE.py[:mode], or its name in configs/")
    parser.add_argument("--workdir", default=None, help="directory of the run (runs/NAME)")
    parser.add_argument(
        "--dry_run", default="", metavar="SLICE", help="compile for v5e:16x16, ... or cuda; no run"
    )
    parser.add_argument(
        "--coordinator", default="", help="several hosts: HOST:PORT of the first, or auto"
    )
    parser.add_argument("--num_hosts", type=int, default=None, help="several hosts: how many")
    parser.add_argument("--host", type=int, default=None, help="several hosts: this one, from 0")
    known, rest = parser.parse_known_args(argv)
    file, _, mode = known.config.partition(":")
    config = load_config(_find(file, configs), mode)
    for text in _joined(rest):
        _override(config, text)
    name = Path(file).stem + (f"-{mode}" if mode else "")
    workdir = known.workdir or str(Path("runs") / name)
    hosts = known.coordinator, known.num_hosts, known.host
    return Command(config, workdir, known.dry_run, hosts, known.config)


def load_config(path: Path, mode: str = "") -> Any:
    """Runs a config file's `get_config`.

    Args:
      path: the file.
      mode: passed to `get_config` if not empty.

    Returns:
      A locked ConfigDict.

    Raises:
      UsageError: if the file has no `get_config`, or does not know the mode.
    """
    spec = importlib.util.spec_from_file_location(f"train_config_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UsageError(f"{path} has no function get_config; is it a config file?")
    try:
        config = module.get_config(mode) if mode else module.get_config()
    except ValueError as error:
        raise UsageError(str(error)) from error
    for old, new in renamed.old_keys(config.get("experiment", ""), config):
        raise UsageError(f"{path}: config.{old} is named config.{new} now.")
    return config.lock()


def list_configs(configs: Path) -> str:
    """Every config with the first line of its text.

    Args:
      configs: the folder of config files.

    Returns:
      Lines for the help.
    """
    lines = ["configs, to be given by name:"]
    for path in sorted(configs.glob("*.py")):
        about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if path.stem != "__init__":
            lines.append(f"  {path.stem:<20} {about.partition(chr(10))[0]}")
    return "\n".join(lines)


def _find(name: str, configs: Path) -> Path:
    """The config file: a path, or a name in the folder of configs."""
    for path in (Path(name), configs / name, configs / f"{name}.py"):
        if path.is_file():
            return path
    known = sorted(path.stem for path in configs.glob("*.py") if path.stem != "__init__")
    stem = Path(name).stem
    family = [other for other in known if stem and other.startswith(stem)]
    hint = f"did you mean {' or '.join(family)}?" if family else near(stem, known)
    raise UsageError(f"no config {name!r}; {hint}")


def _joined(rest: list[str]) -> Iterator[str]:
    """The overrides; "--config.KEY VALUE" counts as "--config.KEY=VALUE"."""
    words = iter(rest)
    for text in words:
        if text.startswith("--config.") and "=" not in text:
            if (value := next(words, "--")).startswith("--"):
                raise UsageError(f"{text} has no value; write {text}=VALUE.")
            text = f"{text}={value}"
        yield text


def _override(config: Any, text: str) -> None:
    """Applies one --config.KEY=VALUE."""
    if not text.startswith("--config."):
        flags = ["--config", "--workdir", "--config.KEY=VALUE", "--help", "--dry_run"]
        flags += ["--coordinator", "--num_hosts", "--host"]
        raise UsageError(f"unknown argument {text!r}; {near(text.split('=')[0], flags)}")
    key, _, value = text.removeprefix("--config.").partition("=")
    if (new := renamed.new_key(config.get("experiment", ""), key)) is not None:
        raise UsageError(f"config.{key} is named config.{new} now.")
    node = config
    *parents, last = key.split(".")
    for i, part in enumerate([*parents, last]):
        if not hasattr(node, "keys") or part not in node:
            where = ".".join(["config", *parents[:i]])
            raise UsageError(f"{where} has no key {part!r}; {_hint(config, node, part)}")
        if i < len(parents):
            node = node[part]
    _assign(node, last, value, key)


def _hint(config: Any, node: Any, part: str) -> str:
    """Where in the config a key of that name is, or what is near to it."""
    found = list(_places(config, part))
    if found:
        more = ", ..." if len(found) > 4 else ""
        return f"there is {', '.join('config.' + place for place in found[:4])}{more}."
    return near(part, sorted(node.keys()) if hasattr(node, "keys") else [])


def _places(node: Any, name: str, at: str = "") -> Iterator[str]:
    """Dotted keys that end in a name."""
    for key in node:
        if key == name:
            yield at + key
        if hasattr(node[key], "keys"):
            yield from _places(node[key], name, f"{at}{key}.")


def _assign(node: Any, name: str, value: str, key: str) -> None:
    """Sets a value, converted to the type that the config has there."""
    old = node[name]
    if hasattr(old, "keys"):
        raise UsageError(f"config.{key} is a group; set one of {', '.join(sorted(old.keys()))}.")
    try:
        new = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        new = value
    if isinstance(old, str) and not isinstance(new, str):
        new = value  # a text may look like a number or a tuple: 2024, or 'a','b'
    if isinstance(old, float) and isinstance(new, int) and not isinstance(new, bool):
        new = float(new)
    if isinstance(old, tuple) and isinstance(new, list):
        new = tuple(new)
    if old is not None and type(new) is not type(old):
        raise UsageError(
            f"--config.{key} takes a {type(old).__name__} (now {old!r}), "
            f"got {value!r}, a {type(new).__name__}."
        )
    node[name] = new
