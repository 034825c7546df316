r"""Group monotonicity: MNIST and CIFAR-10 with and without the penalty.

python -m train --config train/configs/groups.py[:MODE] [--workdir RUN]

Modes: "mnist" (the default: the paper's settings, 3 seeds), "select" (gamma, mu and form of
MNIST compared on the validation part), "cifar10" (the paper's schedule for Table 3: needs an
accelerator), "cifar10_small" (a small network and few iterations at 10%, which runs on two
cores), "convolution" (MNIST, one seed: the gradient form at the last convolution's output, before
norm and ReLU; "cifar10_small" has such rows, too) and "quick", a smoke run.
MNIST, Fashion-MNIST, notMNIST and CIFAR-10 are read from MONOJAX_DATA, or with
--config.source=tfds by tensorflow-datasets.
"""

import ml_collections

MODES = ("mnist", "select", "convolution", "cifar10", "cifar10_small", "quick")
PLAIN = dict(gamma=0.0, mu=1.0, form="gradient")
# The gradient at the last convolution's output, with the paper's weights for CIFAR-10 and ImageNet.
AT_CONVOLUTION = {
    f"convolution {gamma:g} {mu:g}": dict(gamma=gamma, mu=mu, form="gradient", at="convolution")
    for gamma, mu in ((1.0, 50.0), (5.0, 10.0))
}


def get_config(mode="mnist"):
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; groups.py has {', '.join(MODES)}.")
    c = ml_collections.ConfigDict()
    c.experiment, c.mode = "groups", mode
    c.data, c.source, c.data_dir = "mnist", "files", ""
    c.seeds = (0, 1, 2)
    c.shares = (1.0,)  # of the training data, balanced over the classes
    c.valid, c.split_seed = 5_000, 0  # rows of the training set kept for validation
    c.train_limit = c.test_limit = 0  # 0: all rows
    # 20 epochs, batch 64, Adadelta with rate 1 are published; network, gamma and mu are not.
    c.epochs, c.batch_size = 20.0, 64
    c.optimizer = dict(
        name="adadelta", lr=1.0, momentum=0.9, weight_decay=0.0, drops=(), factor=1.0
    )
    c.model = dict(name="mnist_cnn", maps=20, widths=(8, 16), depth=0, width=0, dropout=0.0)
    c.penalties = dict(
        plain=PLAIN,
        gradient=dict(gamma=50.0, mu=1.0, form="gradient"),
        activation=dict(gamma=5.0, mu=10.0, form="activation"),
    )
    c.unfamiliar = ("fashion_mnist", "notmnist", "noise", "inversions", "blends", "pgd")
    c.checkpoint_every = 0  # steps; 0: every epoch
    if mode == "select":
        c.seeds, c.epochs, c.unfamiliar = (0,), 4.0, ()
        c.model.update(maps=40, widths=(16, 32))
        c.penalties = {"plain": PLAIN} | {
            f"{form} {gamma:g} {mu:g}": dict(gamma=gamma, mu=mu, form=form)
            for form, gamma, mu in (
                ("gradient", 1.0, 50.0),  # the paper's for CIFAR-10
                ("gradient", 5.0, 10.0),  # and for ImageNet
                ("gradient", 1.0, 10.0),
                ("activation", 1.0, 50.0),
                ("activation", 5.0, 10.0),
            )
        }
    elif mode == "convolution":
        c.seeds, c.unfamiliar = (0,), ()
        c.penalties = {"plain": PLAIN} | AT_CONVOLUTION
    elif mode.startswith("cifar10"):
        _cifar10(c)
        if mode == "cifar10_small":
            c.shares, c.seeds, c.epochs = (0.1,), (0,), 1.0  # 10 passes over the 5,000 images
            c.optimizer.drops, c.checkpoint_every = (0.5, 0.8), 50
            # 64 maps do not divide by 10: an added convolution of 80.
            c.model.update(depth=10, width=1, dropout=0.0, maps=80)
            c.penalties.activation = dict(gamma=5.0, mu=10.0, form="activation")  # MNIST's
            c.penalties.update(AT_CONVOLUTION)
    elif mode == "quick":
        c.seeds, c.epochs, c.valid = (0, 1), 2.0, 200
        c.train_limit, c.test_limit, c.batch_size = 512, 200, 32
        c.model.update(maps=20, widths=(4, 8))
        c.penalties = dict(plain=PLAIN, group=dict(gamma=5.0, mu=10.0, form="gradient"))
    return c


def _cifar10(c):
    """Table 3's runs; depth, width and dropout are not in the paper."""
    c.data, c.valid, c.shares = "cifar10", 0, (0.1, 0.3, 0.6, 1.0)
    c.epochs = 600.0  # of the whole set; with a share of the data as many iterations
    c.optimizer = dict(
        name="sgd", lr=0.1, momentum=0.9, weight_decay=1e-4, drops=(10, 150, 250, 350), factor=0.1
    )
    c.model = dict(name="wide_resnet", maps=0, widths=(), depth=28, width=10, dropout=0.3)
    c.penalties = dict(plain=PLAIN, group=dict(gamma=1.0, mu=50.0, form="gradient"))
    c.unfamiliar = ("noise", "inversions", "blends", "pgd")
