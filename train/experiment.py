"""What an experiment is, and the list of those there are."""

import importlib
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from monojax.base.checks import one_of
from train.renamed import EXPERIMENTS as RENAMED


class Experiment(Protocol):
    """What `python -m train` runs: a module or package of train/ with three functions."""

    def check(self, config: Any) -> None:
        """Raises ValueError at the first wrong value; writes nothing, loads nothing large."""

    def total_steps(self, config: Any) -> int:
        """Units of work of the whole run, for the progress bar."""

    def run(self, config: Any, workdir: Path, bar: Any) -> Any:
        """Computes what the work directory does not hold, and writes tables and pictures."""


class ParallelExperiment(Experiment, Protocol):
    """One that can run on several hosts."""

    def check_started(self, config: Any) -> None:
        """Checks what can only be checked when the hosts are connected: devices, batches."""


class Entry(NamedTuple):
    """What is known of an experiment before its code is imported."""

    about: str
    """What it is, in a few words."""
    several_hosts: bool = False
    """A `ParallelExperiment`."""
    module: str = ""
    """Where it is, if not at ``train.NAME``."""
    dry_run: str = ""
    """Module whose ``run(config, directory, target)`` compiles its step for absent devices."""


EXPERIMENTS = {
    "compress_embeddings": Entry("your embeddings, compressed", module="train.monocon.embeddings"),
    "csv": Entry("a person's own table, and new rows scored", module="train.tabular.own"),
    "difference": Entry("digits by a difference of two convex or two monotone networks"),
    "explain": Entry("every method's maps of photographs, judged"),
    "explain_photo": Entry("your photograph, explained", module="train.explain.photo"),
    "generation": Entry("pictures made by monotone latents, one knob per factor of a scene"),
    "groups": Entry("classes read off the maps alone, and whether unfamiliar inputs are noticed"),
    "imagenet": Entry(
        "ImageNet with the group penalty, on many hosts", True, dry_run="train.imagenet.dry_run"
    ),
    "lipschitz_fits": Entry("fits under a Lipschitz constant, by nine kinds of networks"),
    "minilm_golden": Entry("MiniLM's published numbers", module="train.monocon.minilm_golden"),
    "monocon": Entry("compact embeddings by a monotone contrastive head"),
    "occlusion": Entry("what classifiers see of images covered but for a map"),
    "penalties": Entry("the gradient penalty on tables: regions compared"),
    "sphere": Entry("where random points and their mixtures lie", module="train.penalties.sphere"),
    "tabular": Entry("the partially monotone benchmark: networks against boosted trees"),
    "tokens": Entry("which tokens matter to a transformer"),
    "uncertainty": Entry("whether a classifier knows unfamiliar inputs, and what is guaranteed"),
}


def find(name: str) -> Entry:
    """The entry of an experiment.

    Args:
      name: a key of `EXPERIMENTS`.

    Returns:
      Entry.

    Raises:
      ValueError: on another name; an old one is told the new one.
    """
    if name in RENAMED:
        raise ValueError(f"the experiment {name!r} is named {RENAMED[name]!r} now.")
    return EXPERIMENTS[one_of(name, EXPERIMENTS, "config.experiment")]


def load(name: str) -> Experiment:
    """Imports an experiment.

    Args:
      name: a key of `EXPERIMENTS`.

    Returns:
      Its module.

    Raises:
      ValueError: on another name.
    """
    return cast(Experiment, importlib.import_module(find(name).module or f"train.{name}"))
