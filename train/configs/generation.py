r"""Monotone latent factors on rendered scenes: a base and a monotone model, and their knobs.

python -m train --config generation[:reduced|:quick] [--workdir DIR]

Results, with date, command and machine, are in train/results/generation. Run again with the same
work directory, all tables and pictures are made from the checkpoints: nothing is trained.

Modes: "full" (all five models, five seeds, the field's widths: some hours on a GPU), "reduced" (all
five, three seeds, narrower: 30 CPU minutes, or those of --config.run="('base','monotone')") and
"quick" (a smoke run, whose numbers mean nothing).

The sources do not say which network carried the penalty, nor any of these numbers: all are ours.
"""

import ml_collections

MODELS = dict(
    base=dict(title="base", kind="pairs", gamma=0.0, path=0.0, beta=1.0, squash=True),
    monotone=dict(title="monotone", kind="pairs", gamma=1.0, path=0.0, beta=1.0, squash=True),
    # The same penalty with a margin. Without one it is 0 from step 240: to tell factors apart,
    # the comparator's outputs rise in their own distances anyway.
    margin=dict(
        title="monotone, margin",
        kind="pairs",
        gamma=1.0,
        margin=10.0,
        path=0.0,
        beta=1.0,
        squash=True,
    ),
    # The ablation: the decoder carries the penalty.
    path=dict(title="monotone path", kind="pairs", gamma=0.0, path=100.0, beta=1.0, squash=True),
    # Without supervision: single pictures, a stronger pull to the prior.
    beta_vae=dict(title="beta-VAE", kind="single", gamma=0.0, path=0.0, beta=4.0, squash=False),
)


def get_config(mode="full"):
    c = ml_collections.ConfigDict()
    c.experiment, c.mode = "generation", mode
    c.seeds = (0, 1, 2, 3, 4)
    c.models = {name: dict(options) for name, options in MODELS.items()}
    c.run = tuple(MODELS)  # which of them
    c.values = "grid"  # factors from the published set's values, or "continuous"
    c.source = "rendered"  # or "published", from tensorflow-datasets
    c.data_dir = ""  # of the published set
    c.likelihood = "bernoulli"  # or "gaussian"
    c.widths = (32, 32, 64, 64)  # channels of the convolutions
    c.hidden = 256
    c.head = (64, 64)  # hidden layers of the comparator
    # Weight of the comparator's cross-entropy. At 1 it is small beside thousands of nats of
    # reconstruction, and so would be any effect of the penalty on the encoder. Not tuned.
    c.comparator = 30.0
    c.penalty_points = 256
    c.steps = 50_000  # of every model alike
    c.pairs = 64  # per step; beta-VAE takes twice as many single pictures
    c.lr = 1e-3  # Adam, with a cosine to 0
    c.regressor = dict(widths=(16, 32, 32, 64), hidden=128, steps=5_000, images=64, lr=1e-3)
    c.test = dict(
        images=500,  # for reconstruction, sweeps and rank correlations
        codes=3_000,  # for the disentanglement scores, a third of them held out
        sweep=50,  # values of the floor's hue, as in the paper
        turns=15,  # values of each latent when the decoded factors are measured
        turned=100,  # images whose latents are swept
    )
    if mode == "reduced":
        c.seeds = (0, 1, 2)
        c.widths, c.hidden, c.steps, c.pairs = (16, 32, 32, 64), 128, 3_000, 16
        c.regressor.steps, c.regressor.images = 1_000, 32
    elif mode == "quick":
        c.seeds, c.run = (0,), ("base", "monotone")
        c.widths, c.hidden, c.steps, c.pairs, c.head = (4, 4, 4, 8), 16, 4, 4, (8,)
        c.penalty_points = 8
        c.regressor = dict(widths=(4, 4, 4, 8), hidden=16, steps=4, images=8, lr=1e-3)
        c.test = dict(images=8, codes=60, sweep=6, turns=5, turned=4)
    elif mode != "full":
        raise ValueError(f"unknown mode {mode!r}; generation.py has 'full', 'reduced', 'quick'.")
    return c
