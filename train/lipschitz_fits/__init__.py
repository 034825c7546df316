"""Bi-Lipschitz fits: Table 1 and the figures of Kinoshita and Toyoizumi (2024)."""

from train.lipschitz_fits.experiment import check, run, total_steps

__all__ = ["check", "run", "total_steps"]
