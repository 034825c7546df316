"""Group monotonicity: classes read off the maps."""

from train.groups.experiment import check, run, total_steps

__all__ = ["check", "run", "total_steps"]
