"""`--config csv`: a person's own table, from a file to a chosen model, certificates and a page.

Every model is judged alike: k folds of the training part decide, a held-out test part is looked at
once, and differences are drawn on the same test rows. `--config csv:predict` scores new rows.
"""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from monojax.base.extras import require
from monojax.data.locate import embedded_bytes
from monojax.data.tabular_sets import BY_NAME
from monojax.training import Cells, write_atomically
from train.checks import above, at_least, choice, same_inputs
from train.tabular import judging, learners, page, scoring
from train.tabular.dialect import DECIMALS, DELIMITERS, Sheet, parse_sheet, read_sheet
from train.tabular.measured import measure
from train.tabular.table import TASKS, Schema, Table, build_table, seen

FEWEST_ROWS = 40
"""Below this nothing could be held out that says something."""


def check(config: Any) -> None:
    """Finds mistakes in the config and in the table before anything is trained or written.

    Args:
      config: see train/configs/csv.py.

    Raises:
      ValueError: naming the first one.
    """
    if config.mode == "predict":
        scoring.check(config)
        return
    choice(config, learners.METHODS, "methods")
    choice(config, DECIMALS, "decimal")
    choice(config, ("auto", *DELIMITERS), "delimiter")
    choice(config, TASKS, "task")
    at_least(config, 1, "methods", "max_epochs", "members", "certify_budget", "bootstrap_draws")
    at_least(config, 2, "folds")
    above(config, 0, "test_share")
    if not config.test_share < 0.9:
        raise ValueError(f"config.test_share must be below 0.9, got {config.test_share!r}.")
    require("sklearn", "sklearn")
    table = load(config)[1]
    smallest = len(table.y)
    if table.schema.task == "classification":
        smallest = int(min(np.bincount(table.y.astype(int), minlength=2)))
        if smallest < 2 * config.folds:
            raise ValueError(
                f"the smaller class of {table.schema.target!r} has {smallest} rows; "
                f"{config.folds} folds and a test part need {2 * config.folds}."
            )
    if len(table.y) < FEWEST_ROWS:
        raise ValueError(
            f"the table has {len(table.y)} rows with a target; at least {FEWEST_ROWS} are needed "
            "to hold out a test part and to choose on the rest."
        )


def total_steps(config: Any) -> int:
    """Units of work, for the progress bar: models, or 1 for a prediction."""
    return 1 if config.mode == "predict" else len(learners.names(config))


def run(config: Any, workdir: Path, bar: Any) -> Any:
    """Tries every model, chooses, certifies, and writes all of it.

    Args:
      config: see train/configs/csv.py.
      workdir: the run's directory.
      bar: progress bar over :func:`total_steps`.

    Returns:
      ``{model: (numbers, arrays)}``, or what `scoring.run` returns.
    """
    if config.mode == "predict":
        return scoring.run(config, workdir, bar)
    sheet, table = load(config)
    digest = same_inputs(workdir, {"file": config.file})
    cells, results = Cells(workdir), {}
    train, test = judging.split(table.y, table.schema.task, config.test_share, config.seed)
    for name in learners.names(config):
        bar.set_postfix_str(name)
        compute = functools.partial(measure, name, table, train, test, config, workdir)
        results[name] = cells.get(name, _inputs(name, digest, config), compute)
        bar.update(1)
    chosen = choose(results)
    schema = seen(table.schema, table.x[train])
    keep_model(chosen, schema, results, config, workdir)
    page.write(sheet, table, (train, test), results, chosen, config, workdir)
    return results


def load(config: Any) -> tuple[Sheet, Table]:
    """The cells and the table of ``config.file``; Auto MPG of the package if it is "".

    Args:
      config: file, encoding, delimiter, and what :func:`build_table` takes.

    Returns:
      ``(sheet, table)``.

    Raises:
      CsvError: see `train.tabular.dialect` and `train.tabular.table`.
    """
    if config.file:
        sheet = read_sheet(config.file, config.encoding, config.delimiter)
        return sheet, build_table(sheet, config, Path(config.file).name)
    spec = BY_NAME["auto_mpg"]
    sheet = parse_sheet(embedded_bytes(spec.file, spec.sha256), spec.file)
    options = dict(config.items()) | AUTO_MPG | {k: config[k] for k in AUTO_MPG if config[k]}
    import ml_collections

    return sheet, build_table(sheet, ml_collections.ConfigDict(options), spec.file)


AUTO_MPG = {
    "target": "mpg",
    "decreasing": "displacement,horsepower,weight",
    "categorical": "origin",
    "ignore": "car_name,split",
}
"""What is asked of the package's own table where the config says nothing."""


def choose(results: dict[str, Any]) -> str:
    """The model that is saved: the best by cross-validation of those that keep the promise.

    Args:
      results: name to (numbers, arrays).

    Returns:
      A name; without a certificate that says "proved", the best of the methods.
    """
    ours = [name for name in results if name in learners.METHODS]
    proved = [name for name in ours if results[name][0]["status"] == "proved"]
    return min(proved or ours, key=lambda name: np.mean(results[name][0]["folds"]))


def keep_model(
    chosen: str, schema: Schema, results: dict[str, Any], config: Any, workdir: Path
) -> None:
    """Writes what `csv:predict` reads: model.joblib, model.json, and the certificate.

    Args:
      chosen: name of the model.
      schema: of the rows that were learnt from.
      results: of all models.
      config: file, for the record.
      workdir: the run's directory.
    """
    write_atomically(
        workdir / "model.joblib", (workdir / "models" / f"{chosen}.joblib").read_bytes()
    )
    numbers = results[chosen][0]
    record = {
        "format": scoring.FORMAT,
        "model": chosen,
        "schema": schema.to_dict(),
        "status": numbers["status"],
        "file": config.file,
    }
    write_atomically(workdir / "model.json", json.dumps(record, indent=1) + "\n")
    if numbers["certificate"]:
        write_atomically(workdir / "certificate.json", numbers["certificate"] + "\n")


def _inputs(name: str, digest: str, config: Any) -> dict[str, Any]:
    """What a model's numbers depend on."""
    options = config.to_dict()
    for key in ("methods", "peers", "file", "mode"):
        options.pop(key)
    return {"model": name, "sha256": digest, "options": options}
