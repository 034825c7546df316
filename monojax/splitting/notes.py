"""What a walk writes down on its way: parts that are not exact-and-DC, and what has no rule."""

import dataclasses
from typing import Any

from monojax.splitting.pair import SplitError

HELP = (
    "Write that part with monotone convex pieces, hold it constant with jax.lax.stop_gradient "
    "outside fn, or add a rule with monojax.splitting.register_rule; monojax.split_report(fn, x) "
    "lists all such places."
)


@dataclasses.dataclass(frozen=True)
class Note:
    """Something met on the way that is not exact-and-DC."""

    status: str
    """"exact" (g - h = fn, but not convex), "local", "rule" (a derivative of its own that the split
    does not follow), or "missing" (no rule)."""
    primitive: str
    path: str
    reason: str


@dataclasses.dataclass
class Notebook:
    """Where a walk is, and what it has noted."""

    mode: Any
    """The `monojax.splitting.modes.Mode` of the walk."""
    lenient: bool = False
    """Go on past primitives without a rule, and note them."""
    notes: list[Note] = dataclasses.field(default_factory=list)
    path: tuple[str, ...] = ()
    holds: int = 0
    """How often `freeze` has held something."""

    @property
    def where(self) -> str:
        """The module path of what is being evaluated."""
        return "/".join(self.path)

    def note(self, status: str, primitive: str, reason: str) -> None:
        """Remembers a part that is not exact-and-DC."""
        self.notes.append(Note(status, primitive, self.where, reason))

    def fail(
        self, primitive: str, reason: str, path: str | None = None, group: str | None = None
    ) -> None:
        """Raises, or in a lenient walk notes, that a primitive has no rule here.

        ``group`` names what `freeze` would have to hold, if that would help.
        """
        path = self.where if path is None else path
        if group:
            reason += f" (freeze={group!r} or freeze=True would hold it: a local split)"
        if self.lenient:
            self.notes.append(Note("missing", primitive, path, reason))
            return
        raise SplitError(
            f"cannot split the primitive {primitive!r} {place(path)}: {reason}. {HELP}"
        )


def place(path: str) -> str:
    """A module path in words, for messages."""
    return f"in {path!r}" if path else "outside any named module"
