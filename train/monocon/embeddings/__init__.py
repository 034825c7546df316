"""A person's embeddings, compressed three ways and compared."""

from train.monocon.embeddings.experiment import check, run, total_steps

__all__ = ["check", "run", "total_steps"]
