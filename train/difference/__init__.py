"""Difference networks on digits: what the two streams mark."""

from train.difference.experiment import check, run, total_steps

__all__ = ["check", "run", "total_steps"]
