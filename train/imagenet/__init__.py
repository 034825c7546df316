"""Fine-tuning on ImageNet over TPU and GPU hosts, and its dry run."""

from train.imagenet.experiment import check, check_started, run, total_steps

__all__ = ["check", "check_started", "run", "total_steps"]
