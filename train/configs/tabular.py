r"""Table 5 of Kinoshita and Toyoizumi (2024): partially monotone tables, every kind of model.

python -m train --config train/configs/tabular.py[:MODE] [--workdir RUN]

Modes: "full" (10 seeds, not run yet), "reduced" (fewer epochs; what train/results/tabular
holds), "quick" for a smoke run on Auto MPG whose numbers mean nothing. Data beside Auto MPG are
read from MONOJAX_DATA; rows whose package (xgboost, lightgbm, mononet) is absent are left out.
"""

import ml_collections

from train.tabular.experiment import ROWS


def get_config(mode="full"):
    c = ml_collections.ConfigDict()
    c.experiment, c.mode = "tabular", mode
    c.seed = 0
    c.rows = ROWS
    c.certify_budget = 2000  # boxes, for networks that are not monotone by form
    c.bootstrap_draws = 2000  # over test rows
    c.reuse = ""  # another run's directory, whose finished cells with the same inputs are taken
    c.problems = dict(
        auto_mpg=problem("Auto MPG (mpg^2)", 10, 600, 200, 300, 64),
        heart=problem("Heart disease, the benchmark's variant", 10, 200, 60, 100, 64),
        compas=problem("COMPAS", 10, 100, 20, 60, 256),
        # The papers' rows (targets above the 90th percentile are gone), features and scaling.
        blog_feedback=problem(
            "BlogFeedback, the benchmark's rows", 5, 40, 4, 20, 1024, "benchmark", squash=True
        ),
        lending_club=problem(
            "Lending Club 2007-2011 (stands in for LoanDefaulter, not comparable)",
            *(5, 30, 4, 15, 1024),
            squash=True,
        ),
    )
    if mode == "reduced":
        c.certify_budget = 500
        c.problems.auto_mpg.update(peer_epochs=150)
        c.problems.heart.update(epochs=100, solved_epochs=30, peer_epochs=40)
        c.problems.compas.update(epochs=50, solved_epochs=4, peer_epochs=20)
        # A third of the rows or less, three folds, fewer trees.
        c.problems.lending_club.update(epochs=30, solved_epochs=2, peer_epochs=8)
        c.problems.blog_feedback.update(seeds=3, epochs=30, solved_epochs=2, peer_epochs=8)
        for name in ("lending_club", "blog_feedback"):
            c.problems[name].update(max_rows=12_000, batch_size=512, folds=3, trees=200)
    elif mode == "quick":
        c.problems = dict(auto_mpg=problem("Auto MPG (mpg^2)", 2, 2, 1, 1, 64))
        c.rows = ("mlp", "mixup", "lmn", "histgb", "histgb_constrained")
        c.problems.auto_mpg.update(folds=2, trees=6)
        c.certify_budget, c.bootstrap_draws = 20, 50
    elif mode != "full":
        raise ValueError(f"unknown mode {mode!r}; tabular.py has 'full', 'reduced' and 'quick'.")
    return c


def problem(
    title, seeds, epochs, solved_epochs, peer_epochs, batch_size, protocol="clean", squash=False
):
    return dict(
        title=title,
        protocol=protocol,  # how `monojax.data` prepares the rows
        data_dir="",  # "" for MONOJAX_DATA
        max_rows=0,  # of the training part; 0 takes all
        squash=squash,  # asinh of the standardised features, where their tails are long
        skip=(),  # rows that are left out on this set
        seeds=seeds,
        folds=5,  # of the training part, by which candidates and epochs are chosen
        trees=400,  # at most; the number is chosen like epochs
        epochs=epochs,  # at most; the number is chosen
        solved_epochs=solved_epochs,  # of networks with an inner solve
        peer_epochs=peer_epochs,  # of mononet, which is trained run by run
        batch_size=batch_size,
        points=batch_size,  # of the penalty, in every step
        gamma=100.0,  # the penalty's weight, on the standardised target
    )
