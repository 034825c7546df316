"""What every result carries, and how pictures are written."""

import sys
import time
from typing import Any

from monojax.training.workdir import machine


def provenance(config: Any) -> str:
    """Command, mode, date and machine of a result, for the foot of a table.

    Args:
      config: the experiment's config.

    Returns:
      One line.
    """
    command = " ".join(["python -m train", *sys.argv[1:]])
    day = time.strftime("%Y-%m-%d", time.gmtime())
    return f"`{command}` (mode {config.mode}), {day}, {machine()}."
