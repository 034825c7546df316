"""Checkpoints by orbax: atomic, checked when read, with a way back when one is damaged."""

import json
import os
import shutil
import warnings
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checksum import tree_checksum
from monojax.base.extras import require


class CheckpointError(RuntimeError):
    """No checkpoint of a directory could be read."""


class Checkpoints:
    """The latest few states of a run, each with a checksum and the loop's own bookkeeping.

    Orbax writes in the background into a temporary directory and renames it when it is
    complete, so a crash leaves the previous checkpoint as the latest.

    Args:
      directory: where to keep them; made absolute, as orbax asks.
      keep: how many to keep (None: all). Two or more leave a way back from a damaged file.
    """

    def __init__(self, directory: str | os.PathLike, keep: int | None = 2):
        """See the class."""
        # Imported here, not with monojax: orbax costs half a second.
        self._ocp = require("orbax.checkpoint")
        self.directory = Path(directory).absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        # This process alone, also where there are several: orbax would wait for the others.
        process = jax.process_index()
        alone = self._ocp.options.MultiprocessingOptions(
            primary_host=process,
            active_processes={process} if jax.process_count() > 1 else None,
            barrier_sync_key_prefix=self.directory.name,
        )
        options = self._ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=False, multiprocessing_options=alone
        )
        self._manager = self._ocp.CheckpointManager(self.directory, options=options)

    def save(self, step: int, state: Any, meta: dict[str, Any] | None = None) -> Path:
        """Writes the state of ``step``; returns before the disk is done (see :meth:`wait`).

        Args:
          step: steps taken.
          state: pytree of arrays; PRNG keys are allowed.
          meta: JSON-able bookkeeping of the loop.

        Returns:
          The checkpoint's directory.
        """
        host = _to_host(state)
        loop = json.loads(json.dumps(meta or {}))
        record = {"checksum": _record_checksum(host, loop), "loop": loop}
        if step in self._manager.all_steps():
            # The same run reached the same step again: the first copy stays unless it is bad.
            try:
                if self._read(step, state)[1] == loop:
                    return self.directory / str(step)
            except Exception:
                pass
            self._manager.delete(step)
        args = self._ocp.args
        self._manager.save(
            step,
            args=args.Composite(state=args.StandardSave(host), meta=args.JsonSave(record)),
            force=True,
        )
        return self.directory / str(step)

    def restore(self, like: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """The newest checkpoint that can be read; damaged ones are named and passed over.

        A damaged checkpoint is moved aside (its name gets the ending ``.damaged``), never
        deleted.

        Args:
          like: a state of the same structure, shapes and dtypes.

        Returns:
          ``(step, state, meta)``, or None if there is no checkpoint at all.

        Raises:
          CheckpointError: if there are checkpoints and none can be read.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        failures = []
        for step in steps:
            try:
                state, meta = self._read(step, like)
            except Exception as error:  # whatever orbax raises on a damaged file
                failures.append(f"{self.directory / str(step)} ({_first_line(error)})")
                continue
            for failure in failures:
                warnings.warn(
                    f"checkpoint {failure} is damaged; going on from step {step}.", stacklevel=2
                )
            self._set_aside([s for s in steps if s > step])
            return step, state, meta
        if failures:
            raise CheckpointError(
                "no checkpoint can be read: "
                + "; ".join(failures)
                + ". Nothing was changed; to start again choose another work directory."
            )
        return None

    def keep_only(self, steps: set[int]) -> None:
        """Deletes all other checkpoints, after waiting for what is being written.

        Args:
          steps: what to keep.
        """
        self._manager.wait_until_finished()
        for step in set(self._manager.all_steps()) - steps:
            self._manager.delete(step)

    def steps(self) -> list[int]:
        """Steps that are complete on disk, in order."""
        return sorted(self._manager.all_steps())

    def wait(self) -> None:
        """Returns when everything saved so far is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and releases orbax's threads."""
        self._manager.wait_until_finished()
        self._manager.close()

    def _read(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        args = self._ocp.args
        template = _to_host(like)
        found = self._manager.restore(
            step,
            args=args.Composite(state=args.StandardRestore(template), meta=args.JsonRestore()),
        )
        _check_like(found["state"], template)
        loop = found["meta"]["loop"]
        if _record_checksum(found["state"], loop) != found["meta"]["checksum"]:
            raise ValueError("its checksum does not agree with its content")
        return _from_host(found["state"], like), loop

    def _set_aside(self, steps: list[int]) -> None:
        for step in steps:
            path = self.directory / str(step)
            target = path.with_name(f"{step}.damaged")
            shutil.rmtree(target, ignore_errors=True)
            os.replace(path, target)
        if steps:
            self._manager.reload()


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_host(tree: Any) -> Any:
    """Host arrays; PRNG keys as their raw data, which is what a file can hold."""
    raw = jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)
    # An array of its own, so that a donated buffer cannot change under the background writer.
    return jax.tree.map(lambda leaf: np.array(jax.device_get(leaf)), raw)


def _from_host(tree: Any, like: Any) -> Any:
    """Device arrays again, with the structure and the key types of ``like``."""

    def put(leaf, model):
        if _is_key(model):
            return jax.random.wrap_key_data(jnp.asarray(leaf), impl=jax.random.key_impl(model))
        return jnp.asarray(leaf)

    leaves = map(put, jax.tree.leaves(tree), jax.tree.leaves(like))
    return jax.tree.unflatten(jax.tree.structure(like), list(leaves))


def _check_like(found: Any, template: Any) -> None:
    """Raises if a leaf has another shape or dtype than the running program's."""
    leaves = jax.tree_util.tree_leaves_with_path(found)
    for (path, leaf), model in zip(leaves, jax.tree.leaves(template), strict=True):
        if leaf.shape != model.shape or leaf.dtype != model.dtype:
            raise ValueError(
                f"{jax.tree_util.keystr(path)} is {leaf.dtype}{list(leaf.shape)} there and "
                f"{model.dtype}{list(model.shape)} in this program"
            )


def _record_checksum(state: Any, loop: dict[str, Any]) -> int:
    """Over the state and the loop's bookkeeping."""
    text = json.dumps(loop, sort_keys=True).encode()
    return zlib.crc32(text, tree_checksum(state))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
