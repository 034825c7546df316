"""Data sets for experiments and tests: read, checked, split and scaled; numpy arrays out.

Two small sets travel inside the package; the others are read from a folder that the user has,
``data_dir=`` or the environment variable ``MONOJAX_DATA``. Nothing is ever downloaded. Importing
this package costs numpy and the standard library only.
"""

from monojax.data.images import ImageSplits, cifar10, fashion_mnist, mnist, notmnist
from monojax.data.locate import MissingDataError, embedded_csv
from monojax.data.synthetic import SyntheticData, additive_monotone, additive_target
from monojax.data.tabular import TABULAR_SETS, TabularData, load_tabular
from monojax.data.text import snli, stsb

__all__ = [
    "TABULAR_SETS",
    "ImageSplits",
    "MissingDataError",
    "SyntheticData",
    "TabularData",
    "additive_monotone",
    "additive_target",
    "cifar10",
    "embedded_csv",
    "fashion_mnist",
    "load_tabular",
    "mnist",
    "notmnist",
    "snli",
    "stsb",
]
