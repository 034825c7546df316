r"""MonoCon on pairs of Fashion-MNIST, 100 classes, a convolutional encoder trained end to end.

MONOJAX_DATA=DIR python -m train --config monocon_fashion[:MODE] [--workdir RUN]

Modes: "full" (9 trainings, about 10 CPU minutes; results in train/results/monocon_fashion) and
"quick" (a smoke run). Does the encoder adapt to a monotone head, or does the head alone make frozen
features compact? The columns are the paper's: 5-NN, d_eff, robustness to cuts, recall@k.
"""

from train.configs import monocon_digits


def get_config(mode="full"):
    c = monocon_digits.get_config()
    c.mode, c.problem = mode, "articles"
    c.once = ()
    c.data = dict(
        train=8000,  # pairs of 87% of the 20,000 training articles
        valid=1000,
        test=2000,
        watch=1000,
        noise=0.1,
        split_seed=0,
        channels=(16, 32),
        features=128,  # d; the head is 2 d wide
    )
    c.recipe.update(epochs=30, patience=15, validate_every=3)  # of 31 steps
    if mode == "quick":
        c.seeds, c.cut, c.snapshots, c.embed_batch_size = (42,), (4,), (0, 1), 100
        c.data.update(train=200, valid=60, test=100, watch=60, channels=(4, 4), features=16)
        c.recipe.update(batch_size=64, epochs=2, warmup_epochs=1, patience=2, validate_every=1)
    elif mode != "full":
        raise ValueError(f"unknown mode {mode!r}; monocon_fashion.py has 'full' and 'quick'.")
    return c
