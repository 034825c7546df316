"""Explanations of transformers by tokens."""

from train.tokens.experiment import check, run, total_steps

__all__ = ["check", "run", "total_steps"]
