"""Knowing what is unfamiliar: DUQ with and without a bi-Lipschitz network."""

from train.uncertainty.experiment import check, run, total_steps

__all__ = ["check", "run", "total_steps"]
