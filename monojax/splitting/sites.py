"""Places inside a network where a map can be read: inputs of contractions, and tags."""

import dataclasses
import difflib
import operator
from collections.abc import Sequence
from typing import Any

from monojax.base.checks import is_concrete

INPUT = -1
"""Number of the place before everything: the input itself."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which axis of a value is what; axes that are not named here have length 1."""

    batch: int
    """Of examples, or -1."""
    feature: int
    """Of channels, or -1 (a grey image)."""
    spatial: tuple[int, ...]
    """Of positions, in the order in which a map has them."""


@dataclasses.dataclass(frozen=True)
class Site:
    """One place, numbered in the order of computation."""

    index: int
    kind: str
    """"conv", "dot", "tag" or "input"."""
    path: str
    """Module path for linen, class name for Equinox, the tag's name for a tag."""
    shape: tuple[int, ...]
    dtype: Any
    layout: Layout | None = None
    steps: tuple[int, ...] = ()
    """Lengths of the scans around it, outermost first."""
    hidden: bool = False
    """Inside a function whose own derivative rule is followed: no map can be read there."""

    @property
    def scope(self) -> tuple[str, ...]:
        """The path's parts."""
        return tuple(part for part in self.path.split("/") if part)

    def __str__(self) -> str:
        """One line for reports and messages."""
        times = "".join(f" x{n}" for n in self.steps)
        return f"{self.index:4d} {self.kind:5s} {self.shape!s:20s}{times} {self.path}"


def find_site(sites: Sequence[Site], layer: Any) -> tuple[int, int | None]:
    """The place a user means.

    Args:
      sites: all places of the function.
      layer: None or "input" for the input; a number; a tag; a module path or its end (the
        first place inside that module is meant); or ``(layer, step)`` inside a scan.

    Returns:
      ``(index, step)``; ``step`` is None outside scans.

    Raises:
      ValueError: if there is no such place, with near matches, or if a step is missing.
    """
    layer, step = layer if isinstance(layer, tuple) and len(layer) == 2 else (layer, None)
    if layer is None or layer == "input":
        return INPUT, None
    if isinstance(layer, str):
        site = _named(sites, layer)
    elif hasattr(layer, "__index__") and is_concrete(layer) and not isinstance(layer, bool):
        layer = operator.index(layer)
        if not 0 <= layer < len(sites):
            raise ValueError(
                f"layer {layer} does not exist: fn has {len(sites)} places, 0 to {len(sites) - 1}; "
                "print monojax.split_report(fn, x) to see them."
            )
        site = sites[layer]
    else:
        raise TypeError(f"layer must be a name, a number or None, got {layer!r}.")
    _check_step(site, step)
    return site.index, step


def _check_step(site: Site, step: Any) -> None:
    if bool(site.steps) != (step is not None):
        need = (
            f"runs {site.steps} times in a scan; ask for layer=({site.path!r}, step)"
            if site.steps
            else f"is not inside a scan; ask for layer={site.path!r} without a step"
        )
        raise ValueError(f"layer {site.path or site.index!r} {need}.")
    if step is None:
        return
    if len(site.steps) > 1:
        raise ValueError(
            f"layer {site.path!r} lies in nested scans {site.steps}: put a tag outside."
        )
    if not 0 <= step < site.steps[0]:
        raise ValueError(f"step {step} of layer {site.path!r}: it runs {site.steps[0]} times.")


def _named(sites: Sequence[Site], name: str) -> Site:
    for site in sites:
        if site.kind == "tag" and site.path == name:
            return site
    want = tuple(part for part in name.split("/") if part)
    positions = [(_position(site.scope, want), site.index) for site in sites if site.kind != "tag"]
    found = [(place, index) for place, index in positions if place is not None]
    if want and found:
        # Nearest to the root first: "Conv_1" means the outermost module of that name.
        return sites[min(found)[1]]
    names = list(dict.fromkeys(site.path for site in sites if site.path))
    short = [path.split("/", 1)[-1] for path in names]
    near = difflib.get_close_matches(name, names + short, n=4, cutoff=0.4)
    listed = ", ".join(map(repr, near or names[:8])) or "none: fn's parts have no names"
    raise ValueError(
        f"no layer is called {name!r}; {'near matches' if near else 'known names'}: {listed}. "
        "monojax.split_report(fn, x) lists all places with their numbers, and "
        "monojax.tag(value, name) names one."
    )


def _position(scope: tuple[str, ...], want: tuple[str, ...]) -> int | None:
    """Where ``want`` begins inside ``scope``."""
    for start in range(len(scope) - len(want) + 1):
        if scope[start : start + len(want)] == want:
            return start
    return None
