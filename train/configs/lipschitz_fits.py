r"""How tight, flexible and easy to steer Lipschitz networks are, in one dimension (and two).

python -m train --config train/configs/lipschitz_fits.py[:MODE] [--workdir RUN]

Modes: "full", one experiment ("init", "tightness", "overestimation", "sweep", "annealing"), and
"quick", a smoke run of all five whose numbers mean nothing. Numbers below are those of
Kinoshita and Toyoizumi (arXiv 2404.09821) and of their code, where those say them.
"""

import ml_collections

PARTS = ("init", "tightness", "overestimation", "sweep", "annealing")
BASELINES = ("sn", "aol", "orthogonal", "sll", "sandwich", "lmn", "bilipnet")

SMOOTH = dict(
    features=(64, 64),
    sharpness=10.0,  # tau of the softplus at the start of training,
    sharpness_end=10.0,  # and at the end,
    anneal=0.8,  # which is reached, geometrically, after this share of it;
    learn_sharpness=True,  # times a trained factor
    weight_map="clamp",
    z_init="glorot_normal",
    y_scale=1.0,  # factor on the initial input weights and biases of the core
    loss="fenchel_young",  # or "squared"
    lr_scale=6.0,  # times fit.lr
    b2=0.99,
)
PLAIN = dict(sharpness=30.0, sharpness_end=30.0)  # the squared error and the rates of the others


def get_config(mode="full"):
    c = ml_collections.ConfigDict()
    c.experiment, c.mode = "lipschitz_fits", mode
    c.seeds = (123, 43, 13, 7, 365)  # the published code's default, and four of a related one
    c.seeds_at_once = 5  # runs side by side
    c.alpha = 1.0  # smallest slope of the bi-Lipschitz networks
    c.fit = dict(points=300, batch_size=50, epochs=100, lr=0.01)
    c.descent_steps = 300  # "blnn": inner steps in training (published: 500 or 1000)
    c.judge_steps = 1000  # "blnn": inner steps when it is measured
    # Rows beside the published network: a name and options of train.lipschitz_fits.models.smooth.
    c.smooth = dict(
        smooth=dict(title="BLNN smooth (ours)", **SMOOTH),
        squared=dict(title="same settings, squared error", **{**SMOOTH, "loss": "squared"}),
        plain=dict(title="BLNN smooth, sharpness 30, published rates", **PLAIN),
    )
    c.reuse = ""  # another run's directory, whose finished cells with the same inputs are taken
    c.init = dict(
        alpha=4.0,
        betas=101,  # 0.05 + 99.95 j / 100
        layers=(3, 10),
        activations=("softplus", "relu"),
        features=10,  # width; width and pairs are not in the paper but in its code
        points=500,  # the code draws 5000; the pairs are as many
        pairs=5000,
        low=-1.0,
        high=9.0,
        descent_steps=1000,
        nets=100,  # of each histogram
        gap=60.0,  # beta of the histograms
        histogram_layers=3,
        z_inits=("glorot_uniform", "uniform_0_1", "uniform_1_1.1"),
        seed=0,
    )
    c.tightness = dict(
        models=(*BASELINES, "blnn", "plain", "squared", "smooth"),
        constants=(2.0, 5.0, 10.0, 50.0),
        # Where the paper's estimate is taken; the second is the one that matches its 99.9%.
        windows=((-0.5, 0.5), (-0.5, 0.5), (-0.5, 0.5), (-0.2, 0.0)),
        # Once more on points evenly spaced, where the data tell where the jump is.
        even=("sn", "sandwich", "bilipnet", "smooth"),
    )
    c.overestimation = dict(
        models=(*BASELINES, "blnn", "smooth"),
        cases=(("steep", 50.0), ("identity", 50.0), ("identity", 100.0), ("identity", 1000.0)),
        runs=1,  # seeds; the paper shows one
    )
    c.sweep = dict(
        models=("sn", "blnn", "smooth"),
        constants=tuple(float(v) for v in sorted({*range(25, 126, 5), *range(45, 56)})),
        below=0.5,  # "first iteration with a loss below"
        rise=0.5,  # a loss counts as risen when it is so much above the least
    )
    c.annealing = dict(
        models=("sandwich", "blnn", "smooth"),
        start=2.0,  # L at the start; not published
        factor=1.5,
        slack=0.05,
        every=5,  # epochs
        epochs=200,
        runs=1,  # seeds; the figure shows the first
        grid=4001,  # points of the graph that the estimate is read from
    )
    c.parts = PARTS
    if mode in PARTS:
        c.parts = (mode,)
    elif mode == "quick":
        _shrink(c)
    elif mode != "full":
        known = ", ".join(("full", "quick", *PARTS))
        raise ValueError(f"unknown mode {mode!r}; lipschitz_fits.py has {known}.")
    return c


def _shrink(c):
    # The same models, runs and grids in every part: compiling is most of the time.
    models = ("sandwich", "blnn", "smooth")
    c.seeds, c.descent_steps, c.judge_steps = (123, 43), 20, 20
    c.fit.update(points=100, epochs=4)
    c.init.update(betas=8, layers=(3,), points=200, pairs=200, descent_steps=50, nets=8)
    windows = ((-0.5, 0.5), (-0.2, 0.0))
    c.tightness.update(models=models, constants=(2.0, 50.0), windows=windows, even=("smooth",))
    c.overestimation.update(models=models, cases=(("steep", 50.0), ("identity", 1000.0)), runs=2)
    c.sweep.update(models=("sandwich", "smooth"), constants=(40.0, 60.0))
    c.annealing.update(models=("sandwich", "smooth"), epochs=6, runs=2, grid=20001)
