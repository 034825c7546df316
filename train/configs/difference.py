r"""MNIST by a difference of two convex (DIC) or two monotone networks (DM), and what each marks.

MONOJAX_DATA=DIR python -m train --config difference [--workdir runs/difference]

Results, with their date and machine, are in train/results/difference. ":parametrisation" changes
one thing at a time in the monotone network. ":quick" is a smoke run on drawn bars, without a data
folder; its numbers mean nothing.

Rates, spreads and decays were chosen on the last 5,000 training images (seed 0); the networks of
the table are then trained on all 60,000, and the test images are looked at once.
"""

import ml_collections

# Adam with a cosine to 0; "decay" is decoupled weight decay on kernels, which clears the weights
# of pixels that training does not use out of the maps, and costs accuracy.
MONOTONE = dict(kind="monotone", lr=1e-2, spread=2.0, centred=True)
CONVEX = dict(kind="convex", lr=1e-3, spread=1.0, centred=True)


def get_config(mode="full"):
    c = ml_collections.ConfigDict()
    c.experiment, c.mode = "difference", mode
    c.data, c.data_dir = "mnist", ""  # "" is the environment variable MONOJAX_DATA
    c.seeds = (0, 1, 2)
    c.widths = (256, 256)  # hidden layers of each of the two networks
    c.epochs, c.batch_size = 6, 128
    c.weight_map = "square"
    c.networks = dict(
        dic=dict(title="DIC, h(x)", inverted=False, decay=0.0, **CONVEX),
        dm=dict(title="DM, h(x)", inverted=False, decay=0.0, **MONOTONE),
        dic_inverted=dict(title="DIC, h(1 - x)", inverted=True, decay=0.0, **CONVEX),
        dm_inverted=dict(title="DM, h(1 - x)", inverted=True, decay=0.0, **MONOTONE),
        # For the maps. A convex stream's gradient grows along its own input, so its maps follow
        # the image; with bounded units, which fit better, they need not.
        dic_decay=dict(title="DIC, h(1 - x), decay 0.5", inverted=True, decay=0.5, **CONVEX),
        dm_decay=dict(title="DM, h(1 - x), decay 0.1", inverted=True, decay=0.1, **MONOTONE),
        dm_convex=dict(
            title="DM of convex units, h(1 - x), decay 0.1",
            inverted=True,
            decay=0.1,
            activation="relu",
            **MONOTONE,
        ),
    )
    c.maps = dict(
        networks=(
            "dic_inverted",
            "dic_decay",
            "dm_inverted",
            "dm_decay",
            "dm_convex",
        ),
        kinds=("gradient", "gradient x input"),  # or "smoothed", over noisy images
        images=1_000,  # of the test part, the first ones
        examples=6,  # digits shown
    )
    c.pairs = 10_000  # on which the guarantees are tried, in float64
    if mode == "quick":
        c.data, c.seeds, c.widths, c.epochs, c.batch_size = "bars", (0,), (16, 16), 8, 32
        c.networks = {key: c.networks[key] for key in ("dic_inverted", "dm_inverted")}
        c.maps.networks, c.maps.kinds = ("dm_inverted",), ("gradient",)
        c.pairs, c.maps.images, c.maps.examples = 200, 40, 2
    elif mode == "parametrisation":
        c.data, c.seeds, c.epochs, c.maps.networks = "mnist_valid", (0,), 2, ()
        c.networks = parametrisations()
    elif mode != "full":
        known = "'full', 'parametrisation' and 'quick'"
        raise ValueError(f"unknown mode {mode!r}; difference.py has {known}.")
    return c


def parametrisations():
    start = dict(inverted=False, decay=0.0, weight_map="square", **MONOTONE)
    changes: dict[str, dict] = {
        "square, rate 0.01, spread 2, centred, tanh": dict(),
        "rate 0.001": dict(lr=1e-3),
        "spread 0.65 (that of half-normal weights)": dict(spread=0.65),
        "spread 0.65, rate 0.001": dict(spread=0.65, lr=1e-3),
        "biases not centred": dict(centred=False),
        "hard tanh": dict(activation="hard_tanh"),
        "convex units only": dict(activation="relu"),
        "softplus, rate 0.03": dict(weight_map="softplus", lr=3e-2),
        "exp, rate 0.03": dict(weight_map="exp", lr=3e-2),
        "abs, rate 0.003": dict(weight_map="abs", lr=3e-3),
        "clamp, rate 0.003": dict(weight_map="clamp", lr=3e-3),
    }
    return {
        f"row{i}": {**start, "title": title, **change}
        for i, (title, change) in enumerate(changes.items())
    }
