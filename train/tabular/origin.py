"""A work directory belongs to the contents of the files that it was made from."""

import hashlib
import json
from pathlib import Path

from monojax.training import write_atomically
from monojax.training.workdir import WorkdirError

NOTE = "input.json"


def same_inputs(workdir: Path, files: dict[str, str]) -> str:
    """Notes the digests of files in a new directory; refuses one that was made from others.

    Args:
      workdir: the run's directory.
      files: what each is to its path; "" for none.

    Returns:
      Hexadecimal text, of all of them.

    Raises:
      WorkdirError: if a file has changed since.
    """
    found = {}
    for name, path in files.items():
        data = Path(path).read_bytes() if path else b""
        found[name] = hashlib.sha256(data).hexdigest()
    note = workdir / NOTE
    if note.exists():
        stored = json.loads(note.read_text())
        for name, path in files.items():
            if stored.get(name) != found[name]:
                raise WorkdirError(
                    f"{path or name} has changed since {workdir} was made from it; give another "
                    "--workdir."
                )
    else:
        write_atomically(note, json.dumps(found, indent=1) + "\n")
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
