"""The hidden way: a trained ReLU network is already a difference of two monotone convex ones."""

from monojax.base.tags import tag
from monojax.splitting.freeze import FREEZE
from monojax.splitting.modes import Mode, SplitMode
from monojax.splitting.notes import Note
from monojax.splitting.pair import Frozen, Pair, SplitError, SplitPair, both, convex_of
from monojax.splitting.report import SplitReport, split_report
from monojax.splitting.rules import RULES, register_rule
from monojax.splitting.sensitivities import Sensitivities, sensitivities
from monojax.splitting.sites import Site
from monojax.splitting.transform import Shifts, SplitFunction, calibrate, split
from monojax.splitting.walk import Walk

__all__ = [
    "FREEZE",
    "RULES",
    "Frozen",
    "Mode",
    "Note",
    "Pair",
    "Sensitivities",
    "Shifts",
    "Site",
    "SplitError",
    "SplitFunction",
    "SplitMode",
    "SplitPair",
    "SplitReport",
    "Walk",
    "both",
    "calibrate",
    "convex_of",
    "register_rule",
    "sensitivities",
    "split",
    "split_report",
    "tag",
]

_RENAMED = {"Split": "Pair"}


def __getattr__(name: str) -> object:
    if name in _RENAMED:
        raise AttributeError(f"monojax.splitting.{name} is named {_RENAMED[name]} now.")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
