r"""Unfamiliar inputs: DUQ with and without bi-Lipschitz features, on two moons and on images.

python -m train --config train/configs/uncertainty.py[:MODE] [--workdir RUN]

Modes: "full" (everything, as published: hours), "reduced" (two moons whole; FashionMNIST at 14x14
with one seed), "moons", "certificate" and "images" for one part each, and "quick", a smoke run.
FashionMNIST, MNIST and notMNIST are read from MONOJAX_DATA. The file has 20,000 of the 60,000
training images; all are used with --config.images.source=idx --config.images.data_dir=DIR, which
holds the four IDX files of its authors (Debian's package dataset-fashion-mnist).
"""

import ml_collections

MODES = ("full", "reduced", "moons", "certificate", "images", "quick")


def get_config(mode="full"):
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; uncertainty.py has {', '.join(MODES)}.")
    c = ml_collections.ConfigDict()
    c.experiment, c.mode = "uncertainty", mode
    c.parts = (
        ("moons", "certificate", "images") if mode in ("full", "reduced", "quick") else (mode,)
    )
    c.seed, c.seeds = 0, 5
    c.reuse = ""  # another work directory whose finished cells are taken over
    c.moons = dict(
        # DUQ's own code: 1500 points, noise 0.1, 2-20-20-20, 10 dimensions, sigma 0.3. Its test set
        # has 200 points; ours 1000, for five times less noise in the accuracy.
        train=1500,
        test=1000,
        noise=0.1,
        hidden=(20, 20, 20),
        embedding=10,
        length_scale=0.3,
        momentum=0.99,
        penalty=1.0,
        epochs=30,
        batch_size=64,
        lr=0.01,
        members=5,
        ensemble_epochs=50,
        ensemble_train=1000,
        # Ours: the paper names neither the convex core nor where f stands.
        core=(32, 32),
        sharpness=10.0,
        lift=8,
        identity_scale=1.0,  # without a map the features cannot be drawn together
        adam_lr=0.01,
        # extractor, head, optimiser; there are "mlp_f" and the head "identity", too.
        variants=("f_mlp linear sgd", "lifted linear adam", "f linear adam"),
        alphas=(0.0, 1.0, 2.0, 5.0),  # Table 2
        betas=(0.1, 1.0, 2.0, 3.0, 4.0, 5.0),
    )
    c.certificate = dict(
        # (variant, alpha, beta), each with one seed; plain DUQ is attacked beside them.
        cases=(("lifted identity adam", 0.5, 20.0), ("lifted linear adam", 1.0, 3.0)),
        # Of 0.6, 1 and 1.5 the best accuracy of the identity head, on one seed's test points.
        identity_scale=0.6,
        threshold=0.5,
        attacks=1000,
        steps=100,
        radii=(0.0, 0.05, 0.1, 0.2, 0.4),
    )
    c.images = dict(
        source="files",
        data_dir="",
        others_dir="",  # of MNIST and notMNIST, if not the same
        sizes=(14,),
        valid=1000,
        train_limit=0,  # 0: all rows
        test_limit=0,
        # Further sets: "cifar10_grey", and test images "rotated" by angles (degrees) and "noisy" by
        # deviations (grey levels); classes that are held out of training, such as (5, 7).
        extra=(),
        angles=(15.0, 30.0, 60.0, 90.0, 180.0),
        noises=(10.0, 25.0, 50.0, 100.0),
        held_out=(),
        # With radii (l2, in the network's units), this many images of MNIST and notMNIST are moved
        # within them towards certainty, in so many steps; f alone has a guarantee beside.
        radii=(),
        attacked=500,
        attack_steps=50,
        # (extractor, head, alpha, beta); Table 3 has (0.2, 0.4), Table 4 (0, 3).
        rows=(("mlp", "linear", 0.0, 1.0), ("f_mlp", "linear", 0.2, 0.4)),
        core=(128, 128),
        sharpness=10.0,
        hidden=(256, 256, 256),
        channels=(32, 64, 64),
        embedding=256,
        length_scale=0.1,
        identity_scale=0.3,
        momentum=0.99,
        kernel_scale=0.05,
        penalty=0.0,
        duq_penalty=0.05,  # of the rows without f
        epochs=10,
        batch_size=128,
        lr=0.001,  # Adam's, along a cosine
        seeds=5,
    )
    if mode == "full":
        c.images.sizes = (14, 28)
        c.images.extra = ("cifar10_grey", "rotated", "noisy")
    if mode == "reduced":
        c.images.seeds = 1
    if mode == "quick":
        c.seeds = 2
        c.moons.update(
            train=96,
            test=40,
            epochs=1,
            ensemble_epochs=1,
            ensemble_train=96,
            core=(4,),
            hidden=(6, 6),
            lift=3,
            alphas=(0.0, 1.0),
            betas=(1.0, 4.0),
            variants=("f_mlp linear sgd", "lifted identity adam"),
        )
        c.certificate.update(
            cases=(("lifted identity adam", 0.5, 4.0),), attacks=8, steps=3, radii=(0.0, 0.1)
        )
        c.images.update(
            seeds=1,
            valid=64,
            train_limit=256,
            test_limit=64,
            core=(8,),
            hidden=(16, 16),
            embedding=8,
            epochs=1,
        )
    return c
