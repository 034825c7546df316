"""A person's photograph and network: predicted, explained by every method, judged."""

from train.explain.photo.experiment import check, run, total_steps

__all__ = ["check", "run", "total_steps"]
