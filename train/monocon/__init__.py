"""Compact embeddings with a monotone contrastive head."""

from train.monocon.experiment import check, run, total_steps

__all__ = ["check", "run", "total_steps"]
