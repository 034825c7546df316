"""Tables: the partially monotone benchmark, and a person's own CSV (`train.tabular.own`)."""

from train.tabular.experiment import check, run, total_steps

__all__ = ["check", "run", "total_steps"]
