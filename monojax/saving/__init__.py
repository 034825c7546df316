"""A trained model as one folder: the module's fields as JSON, its variables by orbax. No pickle."""

from monojax.saving.folder import load, save

__all__ = ["load", "save"]
