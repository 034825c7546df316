"""Pictures made by turning one knob: autoencoders whose latents move a scene's factors."""

from train.generation.experiment import check, run, total_steps

__all__ = ["check", "run", "total_steps"]
