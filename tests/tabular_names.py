"""Names of the tabular sets: in the package, and read from files."""

from monojax.data import TABULAR_SETS

EMBEDDED = ("auto_mpg", "heart_cleveland")
EXTERNAL = tuple(name for name in TABULAR_SETS if name not in EMBEDDED)
