"""Result tables as Markdown and CSV."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monojax.base.paths import as_directory
from monojax.training.workdir import write_atomically


class Table:
    """Rows of strings under a header; numbers are formatted by the caller.

    Args:
      header: column names.
      title: one line above the table.
    """

    def __init__(self, header: Sequence[str], title: str = ""):
        """See the class."""
        self.header, self.title = list(header), title
        self.rows: list[list[str]] = []

    def add(self, *cells: Any) -> None:
        """Adds a row.

        Args:
          *cells: one per column.

        Raises:
          ValueError: if there are more or fewer cells than columns.
        """
        if len(cells) != len(self.header):
            raise ValueError(f"a row needs {len(self.header)} cells, got {len(cells)}.")
        self.rows.append([str(cell) for cell in cells])

    def markdown(self) -> str:
        """The table in Markdown, columns aligned for reading as plain text."""
        rows = [self.header, *self.rows]
        widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(self.header))]
        lines = [_line(row, widths) for row in rows]
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        title = f"**{self.title}**\n\n" if self.title else ""
        return title + "\n".join(lines) + "\n"

    def csv(self) -> str:
        """The table as comma-separated values with a header."""
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([self.header, *self.rows])
        return out.getvalue()

    def write(self, directory: str | os.PathLike, name: str, note: str = "") -> Path:
        """Writes NAME.md and NAME.csv, each atomically.

        Args:
          directory: where to.
          name: file name without ending.
          note: text below the Markdown table: the command, the date, the machine.

        Returns:
          The path of the Markdown file.
        """
        place = as_directory(directory)
        write_atomically(place / f"{name}.csv", self.csv())
        text = self.markdown() + (f"\n{note}\n" if note else "")
        return write_atomically(place / f"{name}.md", text)


def interval(values: Any) -> tuple[float, float]:
    """Mean and half-width of the 95% interval over runs, as the paper reports them.

    Args:
      values: one number per run, shape `[runs]`.

    Returns:
      ``(mean, 1.96 * population standard deviation / sqrt(runs))``: 95% for many runs; too narrow
      for few (at 3 runs about 75%).
    """
    values = np.asarray(values, np.float64)
    return float(values.mean()), float(1.96 * values.std() / np.sqrt(values.size))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "| " + " | ".join(padded) + " |"
