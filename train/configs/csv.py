r"""A person's own table: a monotone model with a certificate, against what one would pick instead.

python -m train --config csv --config.file=F.csv --config.target=NAME \
  --config.increasing=A,B --config.decreasing=C [--workdir RUN]
python -m train --config csv:predict --config.model=RUN --config.file=NEW.csv

Modes: "full"; "quick", a smoke run whose numbers mean nothing; "predict", which scores new rows.
Without a file it is Auto MPG from the package.
"""

import ml_collections


def get_config(mode="full"):
    c = ml_collections.ConfigDict()
    c.experiment, c.mode = "csv", mode
    c.file = ""  # a CSV with a line of column names; "" for Auto MPG (predict: must be given)
    c.encoding = "auto"  # or utf-8, cp1252, utf-16, ...
    c.delimiter = "auto"  # or , ; | or a tab
    c.decimal = "auto"  # or . or ,
    if mode == "predict":
        c.model = ""  # work directory of a finished run
        return c
    c.target = ""  # column to predict: numbers, or two classes
    c.increasing = ""  # columns with which the target must not fall, separated by commas
    c.decreasing = ""  # ... must not rise; a name that holds a comma stands in "..."
    c.categorical = ""  # numbers that are codes without an order; texts are categories anyway
    c.ignore = ""  # columns to leave out
    c.missing = ""  # further texts that stand for no value, beside NA, NaN, null, ?, -, empty
    c.task = "auto"  # or regression, classification: two different values are classes
    c.positive = ""  # the class that directions speak of; "" for the larger or later one
    c.seed = 0
    c.test_share = 0.2  # of the rows, looked at once
    c.folds = 5  # of the rest; they choose the model
    c.methods = ("lmn", "mlp", "bilipschitz", "penalty")  # of monojax.estimators
    c.peers = True  # XGBoost and HistGradientBoosting, where installed
    c.hidden = (32, 32)
    c.members = 8  # networks averaged in each model; the method "penalty" has one
    c.max_epochs = 200  # a tenth of the rows, held out, stops before
    c.certify_budget = 2000  # boxes, for the method "penalty"
    c.bootstrap_draws = 2000
    if mode == "quick":
        c.methods, c.folds, c.max_epochs, c.hidden = ("lmn", "penalty"), 2, 2, (4, 4)
        c.certify_budget, c.bootstrap_draws, c.members = 10, 50, 1
    elif mode != "full":
        raise ValueError(f"unknown mode {mode!r}; csv.py has 'full', 'quick' and 'predict'.")
    return c
