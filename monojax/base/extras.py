"""Imports of optional dependencies, with an error that names the extra to install."""

import importlib
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Imports ``module``, or says which extra of monojax brings it.

    Args:
      module: dotted module name.
      extra: the extra in pyproject.toml that installs it.

    Returns:
      The module.

    Raises:
      ImportError: if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"this needs the package '{module}' ({error}); install it with "
            f"pip install 'monojax[{extra}]' (in a clone: pip install -e '.[{extra}]')."
        ) from error
