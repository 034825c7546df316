"""Connecting the hosts of a run from the command line, and leaving them when one fails."""

import os
import sys
import time
from typing import Any

from monojax.training import HostOptions, agree, start_hosts
from monojax.training.watchdog import lost
from monojax.training.workdir import plain_config
from train.experiment import EXPERIMENTS, Entry


class Several:
    """The hosts of this command; one until :meth:`connect` finds more."""

    def __init__(self, typed: str = "") -> None:
        """Alone.

        Args:
          typed: the config as it was typed, for messages.
        """
        self.typed = typed
        self.connected = False
        self.first = True
        """True on the host that writes."""

    def connect(
        self,
        entry: Entry,
        config: Any,
        coordinator: str = "",
        num_hosts: int | None = None,
        host: int | None = None,
    ) -> None:
        """Connects to the other hosts, if flags or the environment name a coordinator.

        Args:
          entry: of the experiment; it must be one for several hosts.
          config: its config, on which all hosts must agree; ``host_timeout`` is used.
          coordinator: flag; the environment where unset.
          num_hosts: flag; the environment where unset.
          host: flag; the environment where unset.

        Raises:
          ValueError: if the experiment runs on one host only, if the flags are incomplete, or if
            the hosts' configs differ.
        """
        found = HostOptions.from_environment()
        options = HostOptions(
            coordinator or found.coordinator,
            found.num_hosts if num_hosts is None else num_hosts,
            found.host if host is None else host,
            int(config.get("host_timeout", HostOptions.timeout)),
        )
        if options.coordinator and not entry.several_hosts:
            able = ", ".join(name for name, known in EXPERIMENTS.items() if known.several_hosts)
            raise ValueError(
                f"--config {self.typed or config.experiment} runs on one host; on several runs "
                f"only {able}. Leave out --coordinator, --num_hosts and --host, and unset "
                "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID."
            )
        self.connected = start_hosts(options)
        if self.connected:
            import jax

            self.first = jax.process_index() == 0
            agreed = agree({"config": plain_config(config), "jax": jax.__version__})
            if self.first:
                print(
                    f"train: {jax.process_count()} hosts agree on config {agreed[:12]}", flush=True
                )

    def leave(self, code: int) -> None:
        """Ends this process after an error, without waiting for the others; alone: does nothing.

        Args:
          code: exit status.
        """
        if not self.connected:
            return
        sys.stdout.flush()
        sys.stderr.flush()
        if self.first:
            time.sleep(2)  # the others lose their coordinator with it: let them say their error
        os._exit(code)

    def lost(self, error: Exception) -> None:
        """Ends this process after a failed collective.

        Args:
          error: what the computation raised.
        """
        lines = str(error).strip().splitlines()
        lost(f"another host is lost, or the computation failed ({lines[0][:200]})")
