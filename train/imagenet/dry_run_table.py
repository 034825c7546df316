"""Gathers the reports of dry runs into one table, and reckons how the step scales.

python -m train.imagenet.dry_run_table WORKDIR/dry_run [OUT]

The scaling rows are the reports that have equally many images per chip on slices of one family.
"""

import json
import sys
from pathlib import Path
from typing import Any

from monojax.training import Table
from train.imagenet.dry_run import slice_table

HOP_S = 1e-6  # a message from chip to chip; assumed, no vendor's figure
ORDER = ("v5e", "v4", "v5p", "v6e")


def efficiency(small: dict[str, Any], large: dict[str, Any]) -> dict[str, float]:
    """Throughput per chip on a large slice over that on a small one, images per chip equal.

    Args:
      small: report of `train.imagenet.dry_run.price`.
      large: another, of more chips.

    Returns:
      Ratios of step times under three readings: "overlapped" (arithmetic, memory and links at
      once), "in_turn" (links after the rest), "with_latency" (and each collective waits for
      messages to cross the torus and come back, `HOP_S` a hop).
    """
    readings = (
        ("overlapped", lambda r: max(r["compute_s"], r["memory_s"], r["links_s"])),
        ("in_turn", _in_turn),
        ("with_latency", lambda r: _in_turn(r) + latency(r)),
    )
    return {name: time(small) / time(large) for name, time in readings}


def latency(report: dict[str, Any]) -> float:
    """Seconds that the collectives of a step wait for the farthest chip of a torus.

    Args:
      report: of `train.imagenet.dry_run.price`.

    Returns:
      Collectives times twice the hops to the farthest chip times `HOP_S`.
    """
    sides = [int(side) for side in report["target"].split(":")[1].split("x")]
    count = sum(entry["count"] for entry in report["collectives"].values())
    return count * 2 * sum(side // 2 for side in sides) * HOP_S


def scaling_table(reports: list[dict[str, Any]]) -> Table | None:
    """FLOPs and bytes per chip on growing slices of one family.

    Args:
      reports: of `train.imagenet.dry_run.price`.

    Returns:
      Table, or None if fewer than two reports have equally many images per chip.
    """
    groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for report in reports:
        key = report["target"].split(":")[0], report["compiled_batch"] / report["chips"]
        groups.setdefault(key, []).append(report)
    (family, rows), group = max(groups.items(), key=lambda item: len(item[1]))
    if len(group) < 2:
        return None
    header = ["chips", "TFLOP", "collectives MB", "count", "rest ms", "links ms", "latency ms"]
    header += ["overlapped", "in turn", "with latency"]
    table = Table(
        header, f"Per chip of {family} at {rows:g} images a chip; efficiencies of the last"
    )
    group.sort(key=lambda report: report["chips"])
    for report in group:
        found = efficiency(group[0], report)
        table.add(
            report["chips"],
            f"{report['flops'] / 1e12:.4f}",
            f"{report['collective_bytes'] / 1e6:.1f}",
            sum(entry["count"] for entry in report["collectives"].values()),
            f"{1e3 * max(report['compute_s'], report['memory_s']):.2f}",
            f"{1e3 * report['links_s']:.2f}",
            f"{1e3 * latency(report):.2f}",
            *(f"{100 * found[name]:.1f}%" for name in ("overlapped", "in_turn", "with_latency")),
        )
    return table


def _in_turn(report: dict[str, Any]) -> float:
    return max(report["compute_s"], report["memory_s"]) + report["links_s"]


def _place(report: dict[str, Any]) -> tuple[int, int, int]:
    return ORDER.index(report["target"].split(":")[0]), report["chips"], report["batch_size"]


def main(source: Path, out: Path) -> int:
    """Writes slices.md and .csv, scaling.md and .csv.

    Args:
      source: folder of reports.
      out: where to.

    Returns:
      0, or 1 if there is no report.
    """
    found = [json.loads(path.read_text()) for path in source.glob("v*.json")]
    if not found:
        print(f"train: no report in {source}", file=sys.stderr)
        return 1
    reports = sorted(found, key=_place)
    out.mkdir(parents=True, exist_ok=True)
    table = slice_table(reports)
    table.write(out, "slices")
    print(table.markdown())
    scaling = scaling_table(reports)
    if scaling is not None:
        scaling.write(out, "scaling")
        print(scaling.markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else sys.argv[1])))
