"""Occlusion by class activation maps: Table 4's protocol."""

from train.occlusion.experiment import check, run, total_steps

__all__ = ["check", "run", "total_steps"]
