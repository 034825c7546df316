"""One training loop for every experiment: steps, loop, checkpoints, metrics, work directories."""

from monojax.training.batches import ArrayBatches, Batches
from monojax.training.cells import Cells
from monojax.training.checkpoints import CheckpointError, Checkpoints
from monojax.training.clock import Clock
from monojax.training.hosts import AllHosts, HostOptions, OneHost, agree, start_hosts
from monojax.training.interrupts import Interrupts
from monojax.training.loop import Run, fit
from monojax.training.schedule import Keep, Schedule
from monojax.training.seeds import over_seeds
from monojax.training.steps import (
    TrainState,
    create_state,
    jit_step,
    pmap_step,
    replicate,
    shard_batch,
    train_step,
    unreplicate,
)
from monojax.training.tables import Table, interval
from monojax.training.workdir import WorkdirError, open_workdir, write_atomically
from monojax.training.writers import MetricsWriter, read_metrics

__all__ = [
    "AllHosts",
    "ArrayBatches",
    "Batches",
    "Cells",
    "CheckpointError",
    "Checkpoints",
    "Clock",
    "HostOptions",
    "Interrupts",
    "Keep",
    "MetricsWriter",
    "OneHost",
    "Run",
    "Schedule",
    "Table",
    "TrainState",
    "WorkdirError",
    "agree",
    "create_state",
    "fit",
    "interval",
    "jit_step",
    "open_workdir",
    "over_seeds",
    "pmap_step",
    "read_metrics",
    "replicate",
    "shard_batch",
    "start_hosts",
    "train_step",
    "unreplicate",
    "write_atomically",
]
