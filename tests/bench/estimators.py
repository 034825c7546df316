r"""Estimators on Auto MPG: five-fold cross-validation of the training rows, and the time of a fit.

PYTHONPATH=. python tests/bench/estimators.py [--repeats 2] [--methods mlp lmn penalty]

First the time of a fit with the default method, compilation included, and of a second fit of the
same shape. Then the mean squared error in mpg^2 of every method, as one network and as eight, and
of XGBoost with the constraints in two settings, where it is installed; mean and standard error over
folds. The test rows are not looked at.
"""

import argparse
import importlib.util
import time

import numpy as np

from monojax.data import load_tabular
from monojax.estimators import MonotoneRegressor

FOLDS = 5
TREES = (dict(n_estimators=200, max_depth=4), dict(n_estimators=300, max_depth=3))


def training_rows():
    """Columns and targets in their own units, and the directions."""
    table = load_tabular("auto_mpg")
    x = np.concatenate([table.raw(table.x_train), table.raw(table.x_valid)])
    low, high = table.target_scale
    y = np.concatenate([table.y_train, table.y_valid]) * (high - low) + low
    return x, y, table.directions.tolist()


def cross_validated(make, x, y, repeats):
    """Mean squared errors of ``make(seed)``, one per fold."""
    errors = []
    for repeat in range(repeats):
        order = np.random.default_rng(repeat).permutation(len(x))
        for i, held in enumerate(np.array_split(order, FOLDS)):
            rest = np.setdiff1d(order, held)
            model = make(repeat * FOLDS + i).fit(x[rest], y[rest])
            errors.append(float(np.mean((model.predict(x[held]) - y[held]) ** 2)))
    return np.asarray(errors)


def models(methods, directions):
    """Name and maker, from a seed, of everything that is compared."""
    for method in methods:
        for members in (1, 8):
            yield (
                f"{method}, {members}",
                lambda seed, m=method, k=members: MonotoneRegressor(
                    directions, method=m, members=k, random_state=seed
                ),
            )
    if importlib.util.find_spec("xgboost") is None:
        return
    import xgboost

    for trees in TREES:
        yield (
            f"XGBoost, {trees['n_estimators']} trees of depth {trees['max_depth']}",
            lambda seed, t=trees: xgboost.XGBRegressor(
                monotone_constraints=tuple(directions),
                learning_rate=0.05,
                subsample=0.8,
                n_jobs=1,
                random_state=seed,
                **t,
            ),
        )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--methods", nargs="*", default=["mlp", "lmn", "penalty"])
    options = parser.parse_args(argv)
    x, y, directions = training_rows()
    for which in ("first", "second"):
        start, cpu = time.perf_counter(), time.process_time()
        MonotoneRegressor(directions, random_state=0).fit(x, y)
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        print(f"{which} fit: {wall:.1f} s, {cpu:.1f} CPU s", flush=True)
    print("\n| model | mean squared error | standard error |\n| --- | --- | --- |")
    for name, make in models(options.methods, directions):
        errors = cross_validated(make, x, y, options.repeats)
        print(
            f"| {name} | {errors.mean():.2f} | {errors.std() / len(errors) ** 0.5:.2f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
