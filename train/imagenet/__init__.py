"""Fine-tuning on ImageNet over TPU and GPU hosts, and its dry run."""

from train.imagenet.experiment import DRY_RUN, SEVERAL_HOSTS, check, check_started, run, total_steps

__all__ = ["DRY_RUN", "SEVERAL_HOSTS", "check", "check_started", "run", "total_steps"]
