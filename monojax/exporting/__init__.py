"""Models to take elsewhere: one file that jax alone runs, on CPU, CUDA and TPU."""

from monojax.exporting.file import export
from monojax.exporting.loaded import Exported, load_exported

__all__ = ["Exported", "export", "load_exported"]
