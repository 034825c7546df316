"""What a compiled step costs on a chip: limits of the chips, collectives in HLO, roofline bound."""

import dataclasses
import re
from typing import Any

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """A vendor's figures for one chip (cloud.google.com/tpu/docs, pages of the families; 2026-11).

    For v6e the pages have given 1640 and 1600 GB/s of memory at different times.
    """

    flops: float
    """bfloat16 FLOP/s."""
    memory_bandwidth: float
    """Bytes/s of the main memory."""
    memory: float
    """Bytes of the main memory."""
    link_bandwidth: float
    """Bytes/s that a chip sends over all its links to other chips, one way."""
    max_chips: int
    """Largest slice that this program compiles for."""


CHIPS = {
    "v4": Chip(275e12, 1.228e12, 32 * GIB, 300e9, 512),
    "v5e": Chip(197e12, 0.819e12, 16 * GIB, 200e9, 256),
    "v5p": Chip(459e12, 2.765e12, 95 * GIB, 600e9, 512),
    "v6e": Chip(918e12, 1.640e12, 32 * GIB, 400e9, 256),
}

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4}
_BYTES |= {"f32": 4, "s64": 8, "u64": 8, "f64": 8}
_OPS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_LINE = re.compile(rf"= (.*?) ({'|'.join(_OPS)})(-start)?\(")
_ARRAY = re.compile(rf"({'|'.join(_BYTES)})\[([\d,]*)\]")


def parse_slice(name: str) -> tuple[str, int]:
    """Family and number of chips of a slice.

    Args:
      name: such as "v5e:16x16".

    Returns:
      ``(family, chips)``.

    Raises:
      ValueError: if the name has another form, or the slice is larger than the family has.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)+)", name)
    if match is None or match[1] not in CHIPS:
        raise ValueError(
            f"{name!r} is no slice; give FAMILY:AxB or FAMILY:AxBxC with a family of "
            f"{', '.join(CHIPS)}, such as v5e:16x16 or v4:4x4x4; or cuda."
        )
    family, chips = match[1], 1
    for side in match[2].split("x"):
        chips *= int(side)
    if not 1 <= chips <= CHIPS[family].max_chips:
        raise ValueError(
            f"{name} has {chips} chips; slices of {family} are compiled up to "
            f"{CHIPS[family].max_chips} chips."
        )
    return family, chips


def collectives(hlo: str) -> dict[str, dict[str, int]]:
    """Collective operations of a compiled program.

    Args:
      hlo: `compiled.as_text()`.

    Returns:
      Operation to ``{"count", "bytes"}``; bytes are of the results on one device, the larger of
      operand and result for the asynchronous form, which lists both.
    """
    found: dict[str, dict[str, int]] = {}
    for line in hlo.splitlines():
        match = _LINE.search(line)
        if match is None:
            continue
        sizes = [_size(kind, dims) for kind, dims in _ARRAY.findall(match[1])]
        paired = match[3] and match[2] != "all-reduce"  # (operands, results, ...)
        entry = found.setdefault(match[2], {"count": 0, "bytes": 0})
        entry["count"] += 1
        entry["bytes"] += max(sizes, default=0) if paired else sum(sizes)
    return found


def _size(kind: str, dims: str) -> int:
    size = _BYTES[kind]
    for dim in filter(None, dims.split(",")):
        size *= int(dim)
    return size


def roofline(costs: dict[str, Any], family: str, chips: int, images: int) -> dict[str, Any]:
    """Bounds on the time of a step, from one device's costs and the chip's figures.

    A ring all-reduce of B bytes over n devices sends 2 (n - 1) / n B from each, every other
    collective at most B. The bound assumes that arithmetic, memory and links work at their peak
    and at the same time. XLA's bytes include those that stay in the chip's own memory, so where
    memory decides, a step may be faster than this.

    Args:
      costs: of one device: "flops", "bytes_accessed", "collectives", "devices".
      family: a key of `CHIPS`.
      chips: of the slice.
      images: global batch.

    Returns:
      Per chip "flops", "bytes_accessed", "collective_bytes", "wire_bytes"; seconds
      "compute_s", "memory_s", "links_s", their maximum "step_s", what it is bound by, and
      "images_per_second" of the slice at that bound.
    """
    chip, devices = CHIPS[family], costs["devices"]
    cores = devices / chips
    ring = 2 * (devices - 1) / devices
    moved = {op: entry["bytes"] for op, entry in costs["collectives"].items()}
    wire = sum(size * (ring if op == "all-reduce" else 1) for op, size in moved.items())
    flops, accessed = cores * costs["flops"], cores * costs["bytes_accessed"]
    # Cores of one chip share its links, and both take part in the ring.
    seconds = {
        "arithmetic": flops / chip.flops,
        "memory": accessed / chip.memory_bandwidth,
        "links": cores * wire / chip.link_bandwidth,
    }
    bound = max(seconds, key=lambda name: seconds[name])
    return {
        "flops": flops,
        "bytes_accessed": accessed,
        "collective_bytes": cores * sum(moved.values()),
        "wire_bytes": cores * wire,
        "compute_s": seconds["arithmetic"],
        "memory_s": seconds["memory"],
        "links_s": seconds["links"],
        "step_s": seconds[bound],
        "bound": bound,
        "images_per_second": images / seconds[bound],
    }
