r"""What can be proved of penalty-trained networks of real tables, and boxes a second.

PYTHONPATH=. MONOJAX_DATA=DIR python tests/bench/certified_share.py [--budget 2000] [--rounds 5]

The estimators' "penalty" (32-32, one network) on the training rows of Auto MPG, Heart and COMPAS,
as it is trained by default and as it is trained towards a certificate (``certify_rounds``). First
the answer on the whole box of the training rows, where a category is one corner; then the share of
500 boxes around training rows, a hundredth and a tenth of each number's range wide, on which all
directions are proved by one bound ("backward"). Error: mean squared (mpg^2) or share of wrong
classes, on the test rows.
"""

import argparse
import os
import time

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.compat import enable_x64
from monojax.base.extras import require
from monojax.certify.compiled import compiled_bounds
from monojax.certify.program import gradient_program
from monojax.data.locate import data_directory
from monojax.estimators import MonotoneClassifier, MonotoneRegressor

SETS = {
    "auto_mpg": ("mpg", dict(displacement=-1, horsepower=-1, weight=-1), ("origin",)),
    "heart": ("target", dict(trestbps=1, chol=1), ("cp", "restecg", "slope", "thal")),
    "compas": (
        "two_year_recid",
        dict(priors_count=1, juv_fel_count=1, juv_misd_count=1, juv_other_count=1),
        ("race", "sex"),
    ),
}
"""Target, directions, categories."""
BOXES, WIDTHS = 500, (0.01, 0.1)


def parts(name):
    """Columns and target of the training rows, then of the test rows."""
    pandas = require("pandas", "sklearn")
    path = f"tabular/{name}.csv"
    table = pandas.read_csv(data_directory(None, path, "The tables.") / path)
    target, _, categories = SETS[name]
    for column in categories:
        table[column] = table[column].astype("category")
    x = table.drop(columns=[target, "split", "car_name"], errors="ignore")
    for part in ("train", "test"):
        rows = table["split"] == part
        yield x[rows], table.loc[rows, target]


def error_of(model, x, y):
    """Mean squared, or the share of wrong classes."""
    guess, y = model.predict(x), np.asarray(y)
    return (
        np.mean((guess - y) ** 2) if isinstance(model, MonotoneRegressor) else np.mean(guess != y)
    )


def shares(model, x):
    """Share of boxes around rows on which all directions are proved, by width; boxes a second."""
    columns, signs = model.columns_, np.asarray(model.columns_.directions)
    rows = columns.inputs(x.to_numpy(object))
    rows = rows[np.random.default_rng(0).choice(len(rows), BOXES)]
    proved = []
    with enable_x64():
        width = jax.ShapeDtypeStruct(rows.shape[1:], jnp.float64)
        bounds = compiled_bounds(gradient_program(model.certified_function(), width), "backward")
        for share in WIDTHS:
            half = np.where(columns.number, share / 2 * (columns.high - columns.low), 0)
            ends = rows - half, rows + half
            bounds(*ends)  # compiles
            begin = time.perf_counter()
            low, high = map(np.asarray, bounds(*ends))
            seconds = time.perf_counter() - begin
            right = (low[:, signs > 0] >= 0).all(axis=1) & (high[:, signs < 0] <= 0).all(axis=1)
            proved.append(right.mean())
    return proved, BOXES / seconds


def measured(name, rounds, budget):
    """One row of the table."""
    (x, y), (x_test, y_test) = parts(name)
    make = MonotoneRegressor if name == "auto_mpg" else MonotoneClassifier
    model = make(
        SETS[name][1],
        method="penalty",
        certify_rounds=rounds,
        certify_budget=budget,
        random_state=0,
    )
    begin = time.perf_counter()
    model.fit(x, y)
    fit = time.perf_counter() - begin
    begin = time.perf_counter()
    found = model.certify(budget=budget)
    wall = time.perf_counter() - begin
    proved, speed = shares(model, x)
    title = f"{name}, {rounds} rounds" if rounds else name
    print(
        f"| {title} | {len(model.certified_inputs_)} | {error_of(model, x_test, y_test):.3g} "
        f"| {fit:.1f} | {found.status} ({found.stage}) | {found.boxes} | {wall:.1f} "
        f"| {' | '.join(f'{100 * p:.1f}' for p in proved)} | {speed:,.0f} |",
        flush=True,
    )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS))
    options = parser.parse_args(argv)
    print(f"jax {jax.__version__}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    widths = " | ".join(f"proved %, {width:.0%} wide" for width in WIDTHS)
    print(f"| network | inputs | error | fit s | whole box | boxes | s | {widths} | boxes/s |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in options.sets:
        for rounds in (0, options.rounds):
            measured(name, rounds, options.budget)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
