"""`--config csv:predict`: new rows of a person's table scored by the model of a run."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from monojax.base.extras import require
from monojax.training import write_atomically
from train.checks import choice, near, same_inputs
from train.tabular.dialect import DECIMALS, DELIMITERS, CsvError, Sheet, find_decimal, read_sheet
from train.tabular.table import Column, Schema, numbers, text_of

FORMAT = "monojax csv model 1"
SHOWN = 5
"""Rows with a remark that are printed."""


def check(config: Any) -> None:
    """Finds mistakes before anything is written.

    Args:
      config: model, file, encoding, delimiter, decimal.

    Raises:
      ValueError: naming the first one: no model, no file, missing columns.
    """
    choice(config, DECIMALS, "decimal")
    choice(config, ("auto", *DELIMITERS), "delimiter")
    require("sklearn", "sklearn")
    if not config.model:
        raise ValueError("give --config.model=RUN, the work directory of a run of --config csv.")
    if not config.file:
        raise ValueError("give --config.file=NEW.csv, the rows to score.")
    schema = load_model(config.model)[0]
    columns_there(read_sheet(config.file, config.encoding, config.delimiter), schema, config)


def load_model(place: str) -> tuple[Schema, dict[str, Any]]:
    """What a run kept of its table.

    Args:
      place: the run's work directory.

    Returns:
      ``(schema, record)``.

    Raises:
      ValueError: if it is no such directory.
    """
    file = Path(place) / "model.json"
    if not file.is_file() or not (Path(place) / "model.joblib").is_file():
        raise ValueError(
            f"config.model: {place} holds no model.json and model.joblib; give the work directory "
            "of a finished run of --config csv."
        )
    record = json.loads(file.read_text())
    if record.get("format") != FORMAT:
        raise ValueError(f"config.model: {file} is of another version ({record.get('format')!r}).")
    return Schema.from_dict(record["schema"]), record


def columns_there(sheet: Sheet, schema: Schema, config: Any) -> None:
    """Raises CsvError unless every column that the model reads is there."""
    lost = [column.name for column in schema.columns if column.name not in sheet.names]
    if lost:
        hints = "; ".join(f"{name!r}: {near(name, sheet.names)}" for name in lost[:3])
        raise CsvError(
            f"{config.file} lacks {len(lost)} column(s) that the model reads: {', '.join(lost)} "
            f"({hints})"
        )


def run(config: Any, workdir: Path, bar: Any) -> dict[str, Any]:
    """Scores the rows; writes predictions.csv with a remark where a row was not scored.

    Args:
      config: model, file, encoding, delimiter, decimal.
      workdir: where to; a finished one is left as it is.
      bar: progress bar of 1.

    Returns:
      ``{"rows", "scored", "remarks"}``.

    Raises:
      CsvError: see `train.tabular.dialect`.
    """
    same_inputs(workdir, {"file": config.file, "model": str(Path(config.model) / "model.joblib")})
    schema, record = load_model(config.model)
    sheet = read_sheet(config.file, config.encoding, config.delimiter)
    decimal = config.decimal if config.decimal != "auto" else _decimal(sheet, schema, config.file)
    x, remarks, good = new_rows(sheet, schema, decimal)
    values = np.full(len(x), np.nan)
    if good.any():
        values[good] = predictions(config.model, schema, x[good])
    write_atomically(workdir / "predictions.csv", as_csv(sheet, schema, values, remarks, decimal))
    bar.update(1)
    extra = [n for n in sheet.names if n not in {c.name for c in schema.columns}]
    bar.write(
        f"{int(good.sum())} of {len(x)} rows scored by {record['model']} "
        f"(monotone: {record['status'] or 'not certified'}); {workdir / 'predictions.csv'}"
    )
    if extra:
        bar.write(f"columns that the model does not read: {', '.join(extra)}")
    told = [(line, text) for line, text in zip(sheet.lines, remarks, strict=True) if text]
    for line, text in told[:SHOWN]:
        bar.write(f"line {line}: {text}")
    if len(told) > SHOWN:
        bar.write(f"... and {len(told) - SHOWN} more rows with a remark in the file")
    return {"rows": len(x), "scored": int(good.sum()), "remarks": remarks}


def new_rows(
    sheet: Sheet, schema: Schema, decimal: str
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """The rows as the model reads them.

    Args:
      sheet: the new file's cells.
      schema: of the table that was learnt from.
      decimal: "." or ",".

    Returns:
      ``(x [n, columns] of objects, a remark per row, which rows can be scored)``.
    """
    count = len(sheet.lines)
    remarks: list[list[str]] = [[] for _ in range(count)]
    good, values = np.ones(count, bool), []
    for column in schema.columns:
        read = _categories if column.levels is not None else _numbers
        found, bad, told = read(column, sheet.column(column.name), decimal, schema.missing)
        values.append(found)
        good[sorted(bad)] = False
        for row, text in (bad | told).items():
            remarks[row].append(text)
    return np.stack(values, axis=1), ["; ".join(texts) for texts in remarks], good


def _decimal(sheet: Sheet, schema: Schema, file: str) -> str:
    """Found in this file; the first file's where no number tells."""
    cells = [
        (f"column {column.name!r}, line {line}", text)
        for column in schema.columns
        if column.levels is None
        for line, text in zip(sheet.lines, sheet.column(column.name), strict=True)
    ]
    if not any("." in text or "," in text for _, text in cells):
        return schema.decimal
    return find_decimal(cells, Path(file).name, sheet.delimiter)


def _numbers(
    column: Column, cells: tuple[str, ...], decimal: str, missing: tuple[str, ...]
) -> tuple[np.ndarray, dict[int, str], dict[int, str]]:
    """Values, rows that cannot be scored, rows with a remark."""
    found = numbers(cells, decimal, missing)
    bad = {
        i: f"{cells[i]!r} in {column.name!r} is no number"
        for i, value in enumerate(found)
        if value is None
    }
    values = np.asarray([np.nan if value is None else value for value in found], float)
    if not column.gaps:
        for i in np.flatnonzero(np.isnan(values)):
            bad.setdefault(int(i), f"{column.name!r} is missing, as in no row that was learnt from")
    told = {
        int(i): f"{column.name!r} lies outside of {column.low:g} to {column.high:g}"
        for i in np.flatnonzero((values < column.low) | (values > column.high))
    }
    return values.astype(object), bad, told


def _categories(
    column: Column, cells: tuple[str, ...], decimal: str, missing: tuple[str, ...]
) -> tuple[np.ndarray, dict[int, str], dict[int, str]]:
    """Likewise of texts."""
    values = np.asarray([text_of(cell, missing) for cell in cells], object)
    bad = {}
    for i, value in enumerate(values):
        if value is None and not column.gaps:
            bad[i] = f"{column.name!r} is missing, as in no row that was learnt from"
        elif value is not None and value not in (column.levels or ()):
            bad[i] = f"unknown category {value!r} in {column.name!r}"
    return values, bad, {}


def predictions(place: str, schema: Schema, x: np.ndarray) -> np.ndarray:
    """Targets, or probabilities of class 1, of rows that can be scored, `[n]`."""
    import joblib

    # joblib runs what the file holds: it is a file of the person's own run.
    model = joblib.load(Path(place) / "model.joblib")
    if schema.task == "classification":
        return np.asarray(model.predict_proba(x)[:, 1], np.float64)
    return np.asarray(model.predict(x), np.float64)


def as_csv(
    sheet: Sheet, schema: Schema, values: np.ndarray, remarks: list[str], decimal: str = "."
) -> str:
    """The file's own columns with the prediction and the remark behind them.

    Args:
      sheet: of the new file.
      schema: of the table that was learnt from.
      values: NaN where a row is not scored.
      remarks: per row.
      decimal: sign of the new file.

    Returns:
      Text, in the new file's delimiter.
    """
    classes = schema.task == "classification"
    name = f"probability of {schema.target}={schema.classes[1]}" if classes else schema.target
    head = [_free(f"predicted {name}" if not classes else name, sheet), _free("remark", sheet)]
    out = io.StringIO()
    writer = csv.writer(out, delimiter=sheet.delimiter, lineterminator="\n")
    writer.writerow([*sheet.names, *head])
    for i, row in enumerate(zip(*sheet.columns, strict=True)):
        shown = "" if np.isnan(values[i]) else f"{values[i]:.6g}".replace(".", decimal)
        writer.writerow([*row, shown, remarks[i]])
    return out.getvalue()


def _free(name: str, sheet: Sheet) -> str:
    """A column name that the file does not have."""
    while name in sheet.names:
        name += " (model)"
    return name
