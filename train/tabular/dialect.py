"""Reading a person's CSV: encoding, delimiter and decimal sign are found out, or refused.

A number that could be read in two ways is never guessed: the error says which option decides.
"""

import csv
import dataclasses
import io
import re
from collections.abc import Iterable
from pathlib import Path

DELIMITERS = (",", ";", "\t", "|")
DECIMALS = ("auto", ".", ",")
MISSING = ("", "na", "n/a", "nan", "null", "none", "?", "-", "#n/a", ".")
"""Cells without a value, in any case; of a column of texts, only the first five are."""
MISSING_TEXT = MISSING[:5]

PLAIN = {
    sign: re.compile(rf"[+-]?([0-9]+([{sign}][0-9]*)?|[{sign}][0-9]+)([eE][+-]?[0-9]+)?")
    for sign in ".,"
}
GROUPED = {
    ".": re.compile(r"[+-]?[1-9][0-9]{0,2}(,[0-9]{3})+(\.[0-9]+)?"),
    ",": re.compile(r"[+-]?[1-9][0-9]{0,2}(\.[0-9]{3})+(,[0-9]+)?"),
}
"""Numbers with thousands separated, by the decimal sign."""


class CsvError(ValueError):
    """The table cannot be read; the message says where and what to do."""


@dataclasses.dataclass(frozen=True)
class Sheet:
    """The cells of a file, as text."""

    names: tuple[str, ...]
    columns: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]
    """The line of the file that each row starts on, from 1."""
    encoding: str
    delimiter: str
    notes: tuple[str, ...] = ()
    """What was left out."""

    def column(self, name: str) -> tuple[str, ...]:
        """The cells of a column."""
        return self.columns[self.names.index(name)]


def read_sheet(path: str | Path, encoding: str = "auto", delimiter: str = "auto") -> Sheet:
    """Reads a CSV file.

    Args:
      path: the file.
      encoding: "auto" takes a byte order mark, UTF-8, or else cp1252.
      delimiter: "auto" takes the one that splits the lines alike.

    Returns:
      Sheet.

    Raises:
      CsvError: if there is no file, no header, no row; on lines of another length, on names that
        are there twice, on bytes that are no text.
    """
    place = Path(path)
    if not place.is_file():
        raise CsvError(f"there is no file {str(path)!r}; give --config.file=FILE.csv.")
    return parse_sheet(place.read_bytes(), place.name, encoding, delimiter)


def parse_sheet(data: bytes, name: str, encoding: str = "auto", delimiter: str = "auto") -> Sheet:
    """The same of a file's bytes; ``name`` is for messages."""
    text, encoding = decode(data, name, encoding)
    if not text.strip():
        raise CsvError(f"{name} is empty; it needs a line of column names and rows below it.")
    found = find_delimiter(text) if delimiter == "auto" else delimiter
    rows, lines = _rows(text, found, name)
    names, rows, notes = _header(rows, lines, found, name)
    if not rows:
        raise CsvError(f"{name} has column names and no row below them.")
    columns = tuple(zip(*rows, strict=True))
    return Sheet(names, columns, tuple(lines[1:]), encoding, found, notes)


def decode(data: bytes, name: str, encoding: str = "auto") -> tuple[str, str]:
    """A file's text and its encoding.

    Args:
      data: the file's bytes.
      name: for messages.
      encoding: "auto", or a name that Python knows.

    Returns:
      ``(text, encoding)``.

    Raises:
      CsvError: on an unknown encoding, or bytes that are no text in it.
    """
    marks = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
    if data[:4] == b"PK\x03\x04":
        raise CsvError(f"{name} is a spreadsheet (xlsx) or a zip; save it as CSV first.")
    known = [found for mark, found in marks if data.startswith(mark)]
    tried = known or (["utf-8", "cp1252"] if encoding == "auto" else [encoding])
    for candidate in tried:
        try:
            text = data.decode(candidate)
        except LookupError:
            raise CsvError(f"unknown encoding {encoding!r}; try utf-8, cp1252 or utf-16.") from None
        except UnicodeDecodeError:
            continue
        if "\0" in text:
            raise CsvError(f"{name} holds bytes of 0: it is no text; save the table as CSV.")
        return text, candidate
    raise CsvError(f"{name} is no text in {' or '.join(tried)}; give --config.encoding=NAME.")


def find_delimiter(text: str) -> str:
    """The delimiter by which most lines have the header's number of cells, and more than one."""
    best, found = (0.0, 1), ","
    for sign in DELIMITERS:
        reader = csv.reader(io.StringIO(text), delimiter=sign, skipinitialspace=True)
        widths = [len(row) for row, _ in zip(reader, range(500), strict=False) if any(row)]
        if not widths or widths[0] < 2:
            continue
        alike = sum(width == widths[0] for width in widths) / len(widths)
        if (alike, widths[0]) > best:
            best, found = (alike, widths[0]), sign
    return found


def _rows(text: str, delimiter: str, name: str) -> tuple[list[list[str]], list[int]]:
    """Rows with a cell, stripped, and the line each starts on."""
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
    )
    rows, lines, before = [], [], 0
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append([cell.strip() for cell in row])
                lines.append(before + 1)
            before = reader.line_num
    except csv.Error as error:
        raise CsvError(f"{name}, line {reader.line_num}: {error}.") from None
    return rows, lines


def _header(
    rows: list[list[str]], lines: list[int], delimiter: str, name: str
) -> tuple[tuple[str, ...], list[list[str]], tuple[str, ...]]:
    """Names, the rows below them, and what was left out."""
    names, below = rows[0], rows[1:]
    for row, line in zip(below, lines[1:], strict=True):
        if len(row) != len(names):
            raise CsvError(
                f"{name}, line {line}: {len(row)} cells where the header has {len(names)} "
                f"(split at {delimiter!r}); mend the line, quote cells that hold {delimiter!r}, or "
                "give --config.delimiter."
            )
    twice = sorted({column for column in names if column and names.count(column) > 1})
    if twice:
        raise CsvError(f"{name} has two columns named {twice[0]!r}; rename one.")
    kept = [i for i, column in enumerate(names) if column]
    notes = tuple(
        f"column {i + 1} has no name and is left out" for i, c in enumerate(names) if not c
    )
    if len(kept) < 2:
        raise CsvError(
            f"{name} has {len(kept)} named column(s) when split at {delimiter!r}; a table needs a "
            "target and an input. Give --config.delimiter if it is another one."
        )
    return tuple(names[i] for i in kept), [[row[i] for i in kept] for row in below], notes


def find_decimal(cells: Iterable[tuple[str, str]], name: str, delimiter: str = ",") -> str:
    """The decimal sign of a file's numbers.

    Args:
      cells: (where, text) of cells.
      name: for messages.
      delimiter: of the file: where it is ";", a lone "1.234" may be thousands as well.

    Returns:
      "." or ",".

    Raises:
      CsvError: if some cells need one sign and some the other, or if all that would tell could be
        thousands ("1,234").
    """
    only: dict[str, str] = {}
    doubtful = ""
    for where, text in cells:
        reads = [s for s in ".," if PLAIN[s].fullmatch(text) or GROUPED[s].fullmatch(text)]
        if len(reads) == 1:
            only.setdefault(reads[0], f"{text!r} in {where}")
        elif len(reads) == 2 and ("," in text or ("." in text and delimiter == ";")):
            doubtful = doubtful or f"{text!r} in {where}"
    if len(only) == 2:
        raise CsvError(
            f"{name}: {only['.']} has a decimal point and {only[',']} a decimal comma; write all "
            "numbers in one way, or give --config.decimal (cells of the other way are texts then)."
        )
    if doubtful and not only:
        raise CsvError(
            f"{name}: {doubtful} may hold a decimal sign or a separator of thousands, and no other "
            "number tells; give --config.decimal=, (comma) or --config.decimal=. (point)."
        )
    return next(iter(only), ".")


def number(text: str, decimal: str) -> float | None:
    """A cell as a number, None where it is none.

    Args:
      text: the cell.
      decimal: "." or ",".
    """
    if PLAIN[decimal].fullmatch(text):
        return float(text.replace(",", ".") if decimal == "," else text)
    if GROUPED[decimal].fullmatch(text):
        other = "." if decimal == "," else ","
        return float(text.replace(other, "").replace(decimal, "."))
    return None


def split_names(text: str) -> list[str]:
    """Names of an option, separated by commas; one that holds a comma stands in quotes."""
    rows = list(csv.reader([text], skipinitialspace=True))
    return [name.strip() for name in (rows[0] if rows else []) if name.strip()]
