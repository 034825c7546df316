"""Several hosts that train one model: starting them, agreeing, stopping together, watching.

Every host runs the same program on its own devices. The first one (process 0) owns the work
directory: it alone reads and writes checkpoints and metrics, and sends what it restored to the
others, so the directory need not be shared. A signal to any host stops all of them after the same
step. A host that dies is noticed by the others within :attr:`HostOptions.timeout`.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from monojax.training.steps import replicate, shard_batch, unreplicate
from monojax.training.watchdog import Watchdog
from monojax.training.workdir import differences


@dataclasses.dataclass(frozen=True)
class HostOptions:
    """How the hosts of a run find each other; all unset is a run on one host."""

    coordinator: str = ""
    """HOST:PORT of process 0, or "auto" where the machine knows (TPU pods, Slurm)."""
    num_hosts: int | None = None
    """Number of processes."""
    host: int | None = None
    """This process, from 0."""
    timeout: int = 100
    """Seconds after which a silent host counts as lost."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "HostOptions":
        """Reads JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID.

        Args:
          environment: name to value.

        Returns:
          HostOptions; unset where a variable is.

        Raises:
          ValueError: if a number is none.
        """
        numbers: dict[str, Any] = {}
        for field, name in (("num_hosts", "JAX_NUM_PROCESSES"), ("host", "JAX_PROCESS_ID")):
            text = environment.get(name, "")
            if text and not text.isdigit():
                raise ValueError(f"the variable {name} must be a whole number, got {text!r}.")
            numbers[field] = int(text) if text else None
        return cls(environment.get("JAX_COORDINATOR_ADDRESS", ""), **numbers)


def start_hosts(options: HostOptions) -> bool:
    """Connects this process to the others; to be called before any computation.

    Args:
      options: how to find them.

    Returns:
      True if this is a run on several hosts.

    Raises:
      ValueError: if the options are incomplete, or "auto" finds no hosts.
    """
    if not options.coordinator:
        if options.num_hosts is not None or options.host is not None:
            raise ValueError("several hosts need a coordinator, HOST:PORT of the first one.")
        return False
    # Ignored by accelerators; the CPU backend has no collectives between processes otherwise.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would take SIGTERM for itself; the loop's own flag travels with the step.
    jax.config.update("jax_enable_preemption_service", False)
    limits: dict[str, Any] = {
        "heartbeat_timeout_seconds": options.timeout,
        "initialization_timeout": max(300, options.timeout),
        "shutdown_timeout_seconds": options.timeout,
    }
    if options.coordinator == "auto":
        try:
            jax.distributed.initialize(local_device_ids=_all_gpus(os.environ), **limits)
        except ValueError as error:
            if "must be defined" not in str(error) and "should be defined" not in str(error):
                raise
            raise ValueError(
                "the coordinator 'auto' found no hosts: it asks the machine, and only TPU pods, "
                "Slurm and a few others know. Give HOST:PORT of the first host, the number of "
                "hosts and which one this is; or no coordinator, to run on this machine alone."
            ) from error
        return True
    _, colon, port = options.coordinator.rpartition(":")
    if not colon or not port.isdigit():
        raise ValueError(
            f"a coordinator must be HOST:PORT, such as 10.0.0.1:1234, or 'auto'; "
            f"got {options.coordinator!r}."
        )
    num, host = options.num_hosts, options.host
    if num is None or host is None or not 0 <= host < num:
        raise ValueError(
            f"a coordinator needs the number of hosts and which one this is, 0 <= host < "
            f"num_hosts; got host {host} of {num}."
        )
    jax.distributed.initialize(options.coordinator, num, host, **limits)
    return True


def _all_gpus(environment: Mapping[str, str]) -> list[int] | None:
    """Under Slurm with one process a node: all GPUs of the node; JAX would take the first alone."""
    alone = environment.get("SLURM_STEP_NUM_TASKS") == environment.get("SLURM_STEP_NUM_NODES", "")
    gpus = environment.get("SLURM_GPUS_ON_NODE", "")
    if not alone or not gpus.isdigit() or environment.get("JAX_LOCAL_DEVICE_IDS"):
        return None
    return list(range(int(gpus))) or None


def agree(values: Mapping[str, Any]) -> str:
    """Makes sure that all hosts were started with the same values.

    Args:
      values: JSON-able, such as the config.

    Returns:
      The agreed hash, hexadecimal.

    Raises:
      ValueError: on every host, naming what differs between which hosts.
    """
    text = json.dumps(values, sort_keys=True).encode()
    digest = hashlib.sha256(text).digest()
    if jax.process_count() == 1:
        return digest.hex()
    digests = _gather(np.frombuffer(digest, np.uint8))
    if (digests == digests[0]).all():
        return digest.hex()
    lengths = _gather(np.array([len(text)], np.int32))[:, 0]
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(text)] = np.frombuffer(text, np.uint8)
    texts = [bytes(row[:size]) for row, size in zip(_gather(padded), lengths, strict=True)]
    first = json.loads(texts[0])
    found = [
        f"{key}: {mine!r} on host 0, {theirs!r} on host {host}"
        for host, other in enumerate(texts)
        for key, mine, theirs in differences(first, json.loads(other))
    ]
    raise ValueError(
        f"the hosts were started with different settings: {'; '.join(found[:8])}. "
        "Start all of them with the same command."
    )


def _gather(array: np.ndarray) -> np.ndarray:
    """The array of every host, `[hosts, ...]`."""
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array))


class OneHost:
    """What the loop asks of the hosts, where there is one and its state needs no packing."""

    main = True

    def share(self, found: Any, like: Any) -> Any:
        """What the first host restored."""
        return found

    def unpack(self, state: Any) -> Any:
        """A state as the step takes it, from one that a checkpoint holds."""
        return state

    def pack(self, state: Any) -> Any:
        """The inverse of :meth:`unpack`."""
        return state

    def send(self, batch: Any, stop: bool) -> Any:
        """A batch as the step takes it."""
        return batch

    def read(self, value: Any) -> np.ndarray:
        """A metric as a host array."""
        return np.asarray(jax.device_get(value))

    def stopping(self, asked: bool, metrics: Mapping[str, Any] | None) -> bool:
        """True if all hosts are to stop now."""
        return asked

    def beat(self) -> None:
        """A step was completed."""

    def rest(self) -> None:
        """Something is about to happen that may take longer than a step."""


class AllHosts(OneHost):
    """All devices of all hosts, with a `pmap` step.

    The step gets batches with a leading axis of local devices and the entry "stop" `[devices]`,
    whose mean it returns in its metrics: that is how a signal travels. States are replicated.

    Args:
      timeout: seconds without a completed step after which this process ends itself with
        exit status 75; 0 to wait for ever.
    """

    def __init__(self, timeout: float = 0):
        """See the class."""
        self.main = jax.process_index() == 0
        self._watchdog = Watchdog(timeout) if timeout and jax.process_count() > 1 else None
        self._beats = 0

    def share(self, found: Any, like: Any) -> Any:
        """Sends ``(step, state, meta)`` or None from the first host to all.

        Args:
          found: what the first host restored; ignored elsewhere.
          like: a state of the same structure.

        Returns:
          The first host's value.
        """
        if jax.process_count() == 1:
            return found
        keys = jax.tree.map(_is_key, like)
        raw = lambda tree: jax.tree.map(
            lambda leaf, key: np.asarray(jax.random.key_data(leaf) if key else leaf), tree, keys
        )
        header = b"" if found is None else json.dumps([found[0], found[2]]).encode()
        header = _from_first(header)
        if not header:
            return None
        step, meta = json.loads(header)
        leaves = jax.tree.leaves(raw(like if found is None else found[1]))
        blob = _from_first(b"".join(leaf.tobytes() for leaf in leaves))
        state = _split(blob, raw(like))
        state = jax.tree.map(
            lambda leaf, model, key: (
                jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(model)) if key else leaf
            ),
            state,
            like,
            keys,
        )
        return step, state, meta

    def unpack(self, state: Any) -> Any:
        """Copies to all local devices."""
        return replicate(state)

    def pack(self, state: Any) -> Any:
        """The first local device's copy."""
        return unreplicate(state)

    def send(self, batch: Any, stop: bool) -> Any:
        """Split over the local devices, with the wish to stop beside it."""
        num = jax.local_device_count()
        return {**shard_batch(batch, num), "stop": np.full(num, stop, np.float32)}

    def read(self, value: Any) -> np.ndarray:
        """The first local device's copy."""
        return np.asarray(value.addressable_shards[0].data)[0]

    def stopping(self, asked: bool, metrics: Mapping[str, Any] | None) -> bool:
        """True if any host was asked to, before the step that ``metrics`` are of."""
        return metrics is not None and float(self.read(metrics["stop"])) > 0

    def beat(self) -> None:
        """Winds the watchdog up; not in the first two steps, which wait for the compiler."""
        self._beats += 1
        if self._watchdog is not None and self._beats > 2:
            self._watchdog.wind()

    def rest(self) -> None:
        """Stops the watchdog until the next step."""
        if self._watchdog is not None:
            self._watchdog.stop()


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _from_first(data: bytes) -> bytes:
    """The first host's bytes, on every host."""
    from jax.experimental import multihost_utils

    main = jax.process_index() == 0
    size = int(multihost_utils.broadcast_one_to_all(np.array(len(data), np.int32), main))
    buffer = np.zeros(size, np.uint8)
    if main:
        buffer[:] = np.frombuffer(data, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(buffer, main)).tobytes()


def _split(blob: bytes, like: Any) -> Any:
    """Arrays of the shapes and dtypes of ``like``, one after the other in ``blob``."""
    place, leaves = 0, []
    for model in jax.tree.leaves(like):
        leaves.append(
            np.frombuffer(blob, model.dtype, model.size, place).reshape(model.shape).copy()
        )
        place += model.nbytes
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
