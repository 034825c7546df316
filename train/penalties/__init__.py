"""Penalties on tabular and synthetic data: Tables 1 and 2 of Monteiro et al. (2022)."""

from train.penalties.experiment import check, run, total_steps

__all__ = ["check", "run", "total_steps"]
