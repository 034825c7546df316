"""What every result carries, and how pictures are made and written."""

import io
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from monojax.training import write_atomically
from monojax.training.workdir import machine


def provenance(config: Any) -> str:
    """Command, mode, date and machine of a result, for the foot of a table.

    Args:
      config: the experiment's config.

    Returns:
      One line.
    """
    command = " ".join(["python -m train", *map(shlex.quote, sys.argv[1:])])
    day = time.strftime("%Y-%m-%d", time.gmtime())
    return f"`{command}` (mode {config.mode}), {day}, {machine()}."


def figure(
    rows: int, columns: int, size: tuple[float, float], layout: Any = "constrained", **options: Any
) -> tuple[Any, Any]:
    """A figure with its axes, drawn without a screen and without pyplot's global state.

    Args:
      rows: of axes.
      columns: of axes.
      size: width and height in inches.
      layout: matplotlib's.
      **options: for `subplots`: sharex, width_ratios, ...

    Returns:
      ``(figure, axes [rows, columns])``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=size, layout=layout)
    FigureCanvasAgg(drawn)
    return drawn, drawn.subplots(rows, columns, squeeze=False, **options)


def save_figure(drawn: Any, path: str | Path, dpi: int = 110) -> None:
    """Writes a picture whole, as an optimised PNG.

    Args:
      drawn: from :func:`figure`.
      path: the PNG.
      dpi: dots per inch.
    """
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=dpi, pil_kwargs={"optimize": True})
    write_atomically(path, buffer.getvalue())
