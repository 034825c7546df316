"""Checkpoints by orbax: atomic, checked when read, with a way back when one is damaged."""

import json
import os
import shutil
import warnings
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checksum import tree_checksum
from monojax.base.extras import require
from monojax.base.paths import check_path, is_local
from monojax.base.trees import check_leaf, leaf_names, shapes


class CheckpointError(RuntimeError):
    """No checkpoint of a directory could be read."""


class Checkpoints:
    """The latest few states of a run, each with a checksum and the loop's own bookkeeping.

    Orbax writes in the background into a temporary directory and renames it when it is
    complete, so a crash leaves the previous checkpoint as the latest.

    Args:
      directory: where to keep them, on this machine or by an address such as "gs://bucket/run".
      keep: how many to keep (None: all). Two or more leave a way back from a damaged file.

    Raises:
      ValueError: if the path is one that orbax could not read again; nothing is written then.
    """

    def __init__(self, directory: str | os.PathLike, keep: int | None = 2):
        """See the class."""
        # Imported here, not with monojax: orbax costs half a second.
        self._ocp = require("orbax.checkpoint")
        self.directory = check_path(directory, "the directory of checkpoints")
        self._unread: dict[int, Any] = {}  # saved in the background, not read back yet
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

    def save(self, step: int, state: Any, meta: dict[str, Any] | None = None) -> Any:
        """Writes the state of ``step``; returns before the disk is done (see :meth:`wait`).

        Args:
          step: steps taken.
          state: pytree of arrays; PRNG keys are allowed.
          meta: JSON-able bookkeeping of the loop.

        Returns:
          The checkpoint's directory.

        Raises:
          CheckpointError: if the state holds what no checkpoint can, or the one before was not
            written as it was given.
        """
        check_state(state)
        self.wait()  # orbax would, too; and the one before is read back
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
        tree = _fill_empty(host)
        self._manager.save(
            step,
            args=args.Composite(state=args.StandardSave(tree), meta=args.JsonSave(record)),
            force=True,
        )
        self._unread[step] = shapes(tree)
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
          CheckpointError: if there are checkpoints and none can be read, or ``like`` is a state
            that no checkpoint can hold.
        """
        check_state(like)
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
        self.wait()
        for step in set(self._manager.all_steps()) - steps:
            self._manager.delete(step)

    def steps(self) -> list[int]:
        """Steps that are complete on disk, in order."""
        return sorted(self._manager.all_steps())

    def wait(self) -> None:
        """Returns when everything saved so far is on disk, and its metadata was read back.

        Raises:
          CheckpointError: if it is not what was given.
        """
        self._manager.wait_until_finished()
        for step in sorted(self._unread):
            wrote = self._unread.pop(step)
            try:
                found = self._manager.item_metadata(step)["state"]
                same = shapes(getattr(found, "tree", found)) == wrote
            except Exception as error:  # whatever orbax raises where it finds nothing
                raise CheckpointError(
                    f"{self.directory / str(step)} cannot be read back ({_first_line(error)})."
                ) from error
            if not same:
                raise CheckpointError(f"{self.directory / str(step)} is not what was saved.")

    def close(self) -> None:
        """Waits and releases orbax's threads."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def _read(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        args = self._ocp.args
        template = _template(like)
        found = self._manager.restore(
            step,
            args=args.Composite(
                state=args.StandardRestore(_fill_empty(template)), meta=args.JsonRestore()
            ),
        )
        state = jax.tree.map(
            lambda leaf, model: leaf if model.size else model, found["state"], template
        )
        _check_like(state, template)
        loop = found["meta"]["loop"]
        if _record_checksum(state, loop) != found["meta"]["checksum"]:
            raise ValueError("its checksum does not agree with its content")
        return _from_host(state, like), loop

    def _set_aside(self, steps: list[int]) -> None:
        for step in steps:
            path = self.directory / str(step)
            target = path.with_name(f"{step}.damaged")
            if target.exists():
                _remove(target)
            path.rename(target)
        if steps:
            self._manager.reload()


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def check_state(state: Any) -> None:
    """Raises if a state holds what no checkpoint can: to be called before the first step.

    Args:
      state: pytree.

    Raises:
      CheckpointError: on a leaf that is no array, two leaves of one name, or no leaf at all.
    """
    try:
        names = leaf_names(state)
        for name, leaf in names.items():
            check_leaf(leaf, f"the state's {name}")
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"this state cannot be saved: {error}") from None
    if not names:
        raise CheckpointError("this state cannot be saved: it holds no arrays.")


def _template(like: Any) -> Any:
    """Host arrays of the shapes and dtypes of a state, whose own memory may be donated already."""

    def empty(leaf):
        if _is_key(leaf):
            leaf = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
        elif not isinstance(leaf, jax.Array):
            leaf = _native(np.asarray(leaf))
        return np.zeros(leaf.shape, leaf.dtype)

    return jax.tree.map(empty, like)


def _fill_empty(tree: Any) -> Any:
    """Orbax refuses arrays without elements: one zero stands for them."""
    return jax.tree.map(lambda leaf: leaf if leaf.size else np.zeros(1, np.uint8), tree)


def _native(array: np.ndarray) -> np.ndarray:
    """In this machine's byte order, which is what a file gives back."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _remove(path: Any) -> None:
    """Deletes a folder, here or in a store."""
    if is_local(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.rmtree()


def _to_host(tree: Any) -> Any:
    """Host arrays; PRNG keys as their raw data, which is what a file can hold."""
    raw = jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)
    # An array of its own, so that a donated buffer cannot change under the background writer.
    return jax.tree.map(lambda leaf: np.array(_native(np.asarray(jax.device_get(leaf)))), raw)


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
