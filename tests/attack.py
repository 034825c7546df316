r"""Attacks every promise for some minutes, and prints a table of what held.

python tests/attack.py [--minutes 5] [--seed 0] [--only WORD] [--out TABLE.md]

Every room's promises stand in tests/attacks/ROOM.py, a list `PROMISES`. The judge of an attack is
float64 or numpy, never the code under attack. Exit status 1 if a promise was broken.
"""

import argparse
import importlib
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

import numpy as np  # noqa: E402
from attacks.promise import Promise  # noqa: E402

ROOMS = sorted(
    path.stem
    for path in (Path(__file__).parent / "attacks").glob("*.py")
    if path.stem not in ("__init__", "promise")
)


def promises(only: str = "") -> list[Promise]:
    """All promises whose name contains a word."""
    found = [p for room in ROOMS for p in importlib.import_module(f"attacks.{room}").PROMISES]
    return [p for p in found if only in p.name]


def attack(chosen: list[Promise], minutes: float, seed: int, say=print) -> tuple[str, bool]:
    """Runs the promises in turn until the time is over; every one at least once.

    Returns:
      A Markdown table, and True if all held.
    """
    end = time.monotonic() + 60 * minutes
    seen: dict[int, list] = {i: [] for i in range(len(chosen))}
    for turn in range(1_000_000):
        if turn and time.monotonic() > end:
            break
        for i, promise in enumerate(chosen):
            if turn and time.monotonic() > end:
                break
            attempt = promise.attack(np.random.default_rng([seed, i, turn]))
            seen[i].append(attempt)
            if not attempt.worst <= 1:  # NaN breaks a promise, too
                say(
                    f"BROKEN: {promise.name} ({promise.dtype}): {attempt.worst:.4g} {attempt.where}"
                )
    rows = [
        "| promise | dtype | up to | pairs tried | worst / promised | verdict |",
        "|---" * 6 + "|",
    ]
    good = True
    for i, promise in enumerate(chosen):
        worst = max((a.worst if a.worst == a.worst else np.inf for a in seen[i]), default=0.0)
        held = worst <= 1
        good &= held
        tried = sum(a.tried for a in seen[i])
        rows.append(
            f"| {promise.name} | {promise.dtype} | {promise.rounding} | {tried:,} | {worst:.4f} | "
            f"{'holds' if held else 'BROKEN'} |"
        )
    return "\n".join(rows) + "\n", good


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    table, good = attack(promises(options.only), options.minutes, options.seed)
    print(table)
    if options.out is not None:
        options.out.write_text(table)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
