"""What a function is made of, before it is split."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from monojax.splitting.modes import SplitMode
from monojax.splitting.notes import Note
from monojax.splitting.pair import Pair
from monojax.splitting.sites import Site
from monojax.splitting.transform import check_options, trace
from monojax.splitting.walk import Walk


@dataclasses.dataclass(frozen=True)
class SplitReport:
    """Places, primitives, and what is missing or not convex. `print` shows it as a table."""

    layers: tuple[Site, ...]
    """Places where maps can be read, by number."""
    primitives: dict[str, int]
    """How often each primitive meets a value that depends on the input."""
    missing: tuple[Note, ...]
    """Primitives without a rule: split would raise."""
    not_dc: tuple[Note, ...]
    """Parts that are exact, but not convex."""
    local: tuple[Note, ...]
    """Parts that hold near the input only."""
    rules: tuple[Note, ...] = ()
    """Functions with a derivative rule of their own, of which the split takes the values alone."""

    @property
    def kind(self) -> str:
        """ "dc", "exact", "local" or "missing", the worst of all parts."""
        if self.missing:
            return "missing"
        return "local" if self.local else "exact" if self.not_dc else "dc"

    def __str__(self) -> str:
        """The report as text."""
        met = ", ".join(f"{name} {num}" for name, num in sorted(self.primitives.items()))
        lines = [f"kind: {self.kind}", f"primitives: {met}", "places (index, kind, shape, path):"]
        lines += [f"  {site}" for site in self.layers]
        for title, notes in (
            ("without a rule", self.missing),
            ("exact, not convex", self.not_dc),
            ("local", self.local),
            ("own derivative rules, not followed", self.rules),
        ):
            lines += [f"{title}:"] if notes else []
            lines += [f"  {n.primitive} in {n.path or '(no name)'}: {n.reason}" for n in notes]
        return "\n".join(lines)


def split_report(
    fn: Callable[..., Any],
    x: Any,
    *args: Any,
    pool: str = "full",
    recentre: Any = "full",
    freeze: Any = (),
) -> SplitReport:
    """Lists the primitives a split meets, those without a rule, and all places for maps.

    Nothing is computed: the function is traced with shapes.

    Args:
      fn: as in :func:`monojax.split`.
      x: input, or its shape as a `jax.ShapeDtypeStruct`.
      *args: as in :func:`monojax.split`.
      pool: "full" or "wta".
      recentre: as in :func:`monojax.split`.
      freeze: as in :func:`monojax.split`.

    Returns:
      SplitReport. Behind a primitive without a rule values are held, so that the rest is seen.

    Raises:
      ValueError: on an unknown option.
      TypeError: if x is not floating point.

    Example:
      >>> report = split_report(lambda x: jnp.exp(jnp.abs(x)), jnp.ones(3))
      >>> report.kind, report.primitives["abs"], [note.primitive for note in report.missing]
      ('missing', 1, ['exp'])
    """
    strategy, _ = check_options(pool, recentre)
    walks: list[Walk] = []

    def survey(x):
        traced = trace(fn, x, args)
        walk = Walk(SplitMode(pool, strategy, freeze=freeze), lenient=True)
        traced.run(walk, [Pair(leaf, jnp.abs(leaf)) for leaf in traced.leaves])
        walks.append(walk)
        return ()

    jax.eval_shape(survey, x)
    (walk,) = walks
    notes = lambda status: tuple(dict.fromkeys(n for n in walk.notes if n.status == status))
    return SplitReport(
        tuple(walk.sites),
        walk.counts,
        *map(notes, ("missing", "exact", "local", "rule")),
    )
