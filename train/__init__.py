"""Experiments: one file each, one config each. Run with `python -m train`."""
