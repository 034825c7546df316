r"""Predicting a million rows of 13 columns: our estimator beside XGBoost, in one process.

PYTHONPATH=. python tests/bench/predict.py [--rows 1000000] [--rounds 5]

Both are fitted on 2,000 rows: XGBoost with its defaults (100 trees of depth 6, constraints), ours
with each guaranteed method and its default widths, as one network and as the default eight. float32
arrays in, predictions out, all threads; rounds alternate, the table gives medians of wall time.
Goal: at most twice XGBoost's time. Ends with a message where xgboost or scikit-learn is absent.
"""

import argparse
import importlib.util
import os

import jax
import numpy as np
from alternating import race

COLUMNS = 13
CONSTRAINTS = (1, 1, -1, *(0,) * (COLUMNS - 3))


def data(rows, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, COLUMNS)).astype(np.float32)
    y = x[:, 0] + np.tanh(x[:, 1]) - x[:, 2] + np.sin(x[:, 3]) + 0.1 * rng.normal(size=rows)
    return x, y.astype(np.float32)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=["lmn", "mlp"])
    parser.add_argument("--members", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args(argv)
    missing = [m for m in ("xgboost", "sklearn") if importlib.util.find_spec(m) is None]
    if missing:
        print(f"skipped: {' and '.join(missing)} not installed.")
        return 0
    import xgboost

    from monojax.estimators import MonotoneRegressor

    x, y = data(2_000)
    peer = xgboost.XGBRegressor(monotone_constraints=CONSTRAINTS).fit(x, y)
    rows = data(options.rows, 1)[0]
    print(f"jax {jax.__version__}, xgboost {xgboost.__version__}, {os.cpu_count()} cores\n")
    print("| method | members | monojax, s | XGBoost, s | ours / XGBoost | goal |")
    print("| --- | --- | --- | --- | --- | --- |")
    for method in options.methods:
        for members in options.members:
            ours = MonotoneRegressor(
                CONSTRAINTS, method=method, members=members, max_epochs=5, random_state=0
            ).fit(x, y)
            calls = [
                lambda n, m=m: float(sum(m.predict(rows)[0] for _ in range(n)))
                for m in (ours, peer)
            ]
            for call in calls:
                call(1)
            mine, theirs = (ms / 1e3 for ms in race(*calls, options.rounds, 1))
            cells = f"{mine:.3f} | {theirs:.3f} | {mine / theirs:.2f}x | 2x"
            print(f"| {method} | {members} | {cells} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
