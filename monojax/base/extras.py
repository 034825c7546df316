"""Imports of packages that cost time or are optional; the error says how to install them."""

import importlib
from types import ModuleType


def require(module: str, extra: str | None = None) -> ModuleType:
    """Imports ``module``, or says how to get it.

    Args:
      module: dotted module name.
      extra: the extra in pyproject.toml that installs it; None for what monojax itself depends
        on or no extra brings.

    Returns:
      The module.

    Raises:
      ImportError: if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = _PACKAGES.get(module.split(".")[0], module.split(".")[0])
        how = f"pip install {name}"
        if extra is not None:
            how = f"pip install 'monojax[{extra}]' (in a clone: pip install -e '.[{extra}]')"
        raise ImportError(f"this needs the package '{module}' ({error}); {how}.") from error


_PACKAGES = {"faiss": "faiss-cpu", "orbax": "orbax-checkpoint", "PIL": "pillow"}
"""Packages whose name is not that of the module."""
