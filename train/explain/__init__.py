"""The photo study: every method's maps, judged."""

from train.explain.experiment import check, run, total_steps

__all__ = ["check", "run", "total_steps"]
