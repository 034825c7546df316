"""Finished parts of an experiment on disk, so that nothing is computed twice."""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from monojax.base.paths import as_directory
from monojax.training.workdir import plain_config, write_atomically


class Cells:
    """Finished parts of an experiment: each a JSON file of numbers and an npz file of curves.

    A cell is written whole, the JSON last, and never computed again; so a run that is killed and
    started again computes what is missing and ends with the same numbers. Names carry a digest of
    all that a cell depends on, so cells of another run can be taken over.

    Args:
      workdir: the experiment's directory; the files go to its folder ``cells``.
      reuse: another such directory whose cells are read, too; "" for none.
      older: inputs to what an older version, with other words for them, made names of; cells with
        such names are read, too.
    """

    def __init__(
        self, workdir: Path, reuse: str = "", older: Callable[[Any], Any] = lambda inputs: inputs
    ):
        """See the class."""
        self.directory, self.older = as_directory(workdir) / "cells", older
        self.directory.mkdir(parents=True, exist_ok=True)
        self.places = [self.directory, *([as_directory(reuse) / "cells"] if reuse else [])]

    def get(
        self,
        label: str,
        inputs: Any,
        compute: Callable[[], tuple[dict[str, Any], dict[str, Any]]],
        skipped: Callable[[], Any] = lambda: None,
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The cell of that name and these inputs, computed if it is on no disk.

        Args:
          label: start of the file's name.
          inputs: JSON-able data that decide the result.
          compute: returns ``(numbers, curves)``.
          skipped: called if nothing was to be computed.

        Returns:
          The same two, numbers as lists and curves as arrays.
        """
        inputs = plain_config({"inputs": inputs})["inputs"]
        name, before = _name(label, inputs), _name(label, self.older(inputs))
        for place in self.places:
            for known in dict.fromkeys((name, before)):
                if (place / f"{known}.json").exists():
                    skipped()
                    return _read(place, known)
        found, arrays = compute()
        buffer = io.BytesIO()
        stored: dict[str, Any] = {key: np.asarray(value) for key, value in arrays.items()}
        np.savez_compressed(buffer, **stored)
        write_atomically(self.directory / f"{name}.npz", buffer.getvalue())
        plain = {key: np.asarray(value).tolist() for key, value in found.items()}
        write_atomically(self.directory / f"{name}.json", json.dumps(plain, indent=1) + "\n")
        return _read(self.directory, name)


def _name(label: str, inputs: Any) -> str:
    text = json.dumps({"inputs": inputs}, sort_keys=True)
    return f"{label}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _read(directory: Path, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(io.BytesIO((directory / f"{name}.npz").read_bytes())) as curves:
        return json.loads((directory / f"{name}.json").read_text()), dict(curves)
