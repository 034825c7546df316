r"""Damages weights files at random: every one must be read as arrays, or end in a ValueError.

python tests/fuzz_weights.py [NUMBER] [SEED]

A few hundred run in tests/models/test_weights_files.py; thousands before a release. A file fails if
another kind of error comes out, if its name is not in the message, if more memory than its size
allows is asked for, or if something in it is run.
"""

import collections
import io
import json
import struct
import sys
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np

from monojax.models.tensor_files import read_tensors

ARRAYS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(4, 3, 2),
    "conv.bias": np.arange(4, dtype=np.float16),
    "steps": np.array(7, np.int64),
}
ENDINGS = (".npz", ".safetensors", ".pth")
MOST_MEMORY = 32 * 2**20
STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage"}


def text(value: str) -> bytes:
    """BINUNICODE."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    """BININT, or LONG1 where it is too large."""
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(10, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def numbers(values) -> bytes:
    """A tuple of integers."""
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(key: str, kind: str, size, stride, count: int, offset: int = 0) -> bytes:
    """What torch.save writes for one tensor."""
    storage = text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu")
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n((" + storage + number(count) + b"tQ" + number(offset)
        + numbers(size) + numbers(stride) + b"\x89ccollections\nOrderedDict\n)RtR"
    )  # fmt: skip


def dictionary(entries: dict[str, bytes]) -> bytes:
    """A dict whose values are pickled already."""
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def state_dict(arrays=ARRAYS, prefix: str = "") -> bytes:
    """A pickled dict of tensors, contiguous, each with its own storage."""
    entries = {}
    for i, (name, a) in enumerate(arrays.items()):
        stride = [s // a.itemsize for s in a.strides]
        kind = STORAGES[str(a.dtype)]
        entries[prefix + name] = tensor(str(i), kind, a.shape, stride, a.size)
    return dictionary(entries)


def write_pth(path: Path, body: bytes | None = None, arrays=ARRAYS) -> Path:
    """Writes the format of torch.save without torch."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + (body or state_dict(arrays)) + b".")
        for i, a in enumerate(arrays.values()):
            archive.writestr(f"archive/data/{i}", np.ascontiguousarray(a).tobytes())
    return path


def write_safetensors(path: Path, arrays=ARRAYS) -> Path:
    """Writes the format by its definition."""
    header, start = {}, 0
    kinds = {"f4": "F32", "f2": "F16", "i8": "I64", "u2": "U16", "u4": "U32", "u8": "U64"}
    for name, a in arrays.items():
        span = [start, start + a.nbytes]
        header[name] = {"dtype": kinds[a.dtype.str[1:]], "shape": a.shape, "data_offsets": span}
        start += a.nbytes
    head = json.dumps(header).encode()
    body = b"".join(a.tobytes() for a in arrays.values())
    path.write_bytes(len(head).to_bytes(8, "little") + head + body)
    return path


def write(path: Path) -> Path:
    """A good file of the kind that the path's ending names."""
    if path.suffix == ".npz":
        np.savez_compressed(path, **ARRAYS)
    elif path.suffix == ".safetensors":
        write_safetensors(path)
    else:
        write_pth(path)
    return path


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, cut out, put in, repeated, or the end missing."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        if not data:
            break
        at, length = int(rng.integers(len(data))), int(rng.integers(1, 12))
        kind = rng.integers(6)
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[at : at + length] = rng.integers(256, size=length, dtype=np.uint8).tobytes()
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = bytes(data[at : at + length]) * int(rng.integers(1, 50))
        elif kind == 4:
            data[at : at + length] = rng.choice([b"\xff", b"\x00", b"9"]).item() * length
        else:
            del data[at:]
    return bytes(data)


def mutated_inside(content: bytes, rng: np.random.Generator) -> bytes:
    """A member of an archive changed, and its checksum made right: the reader meets the content."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        chosen = names[int(rng.integers(len(names)))] if rng.random() < 0.5 else names[0]
        for name in names:
            member = old.read(name)
            new.writestr(name, mutated(member, rng) if name == chosen else member)
    return out.getvalue()


def fault(path: Path) -> str:
    """What is wrong with how a file is read; "" if nothing is."""
    tracemalloc.start()
    try:
        found = read_tensors(path)
        if not all(isinstance(array, np.ndarray) for array in found.values()):
            return "not arrays"
        if sum(array.nbytes for array in found.values()) > MOST_MEMORY:
            return "arrays larger than the file"
    except ValueError as error:
        if path.name not in str(error):
            return f"no name: {error}"
        if "MemoryError" in str(error):
            return str(error)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return f"{peak} bytes were asked for" if peak > MOST_MEMORY else ""


def fuzz(count: int, seed: int, folder: Path) -> tuple[collections.Counter, list[str]]:
    """Reads damaged files.

    Args:
      count: of files.
      seed: of the damage.
      folder: to write them in.

    Returns:
      ``(how many of each kind were read or refused, faults)``.
    """
    rng = np.random.default_rng(seed)
    good = {ending: write(folder / f"good{ending}").read_bytes() for ending in ENDINGS}
    outcomes: collections.Counter = collections.Counter()
    faults = []
    for i in range(count):
        ending = ENDINGS[i % len(ENDINGS)]
        inside = ending != ".safetensors" and rng.random() < 0.6
        content = (mutated_inside if inside else mutated)(good[ending], rng)
        path = folder / f"damaged{ending}"
        path.write_bytes(content)
        wrong = fault(path)
        outcomes[ending, "wrong" if wrong else "right"] += 1
        if wrong:
            faults.append(f"seed {seed}, file {i}{ending}: {wrong}")
    return outcomes, faults


def main() -> int:
    """Runs, prints, and returns 1 if a file was handled wrongly."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 12_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with tempfile.TemporaryDirectory() as folder:
        outcomes, faults = fuzz(count, seed, Path(folder))
    print("\n".join(faults[:20]))
    print(", ".join(f"{ending} {what}: {n}" for (ending, what), n in sorted(outcomes.items())))
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
