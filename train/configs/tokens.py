r"""Which tokens matter: rollout, gradients and the split on a ViT and on MiniLM, by deletion.

MONOJAX_DATA=DIR python -m train --config tokens [--workdir runs/tokens]

Needs MNIST and STS-B in the data folder and MiniLM's files (see minilm_golden); the ViT trains
in about two minutes on two cores. Results in train/results/tokens. ":quick" is a smoke run on
scikit-learn's digits alone.
"""

import ml_collections
from ml_collections import config_dict


def get_config(mode="full"):
    c = ml_collections.ConfigDict()
    c.experiment, c.mode = "tokens", mode
    c.problems = ("vit", "minilm")
    c.methods = (
        "random order",
        "attention rollout",
        "gradient x input",
        "gradient x input, frozen",
        "LRP gamma, frozen",
        "SplitGrad",
        "SplitCAM",
        "SplitLRP",
    )
    c.validation, c.test = 16, 120  # examples: choice of settings, report
    c.steps = 10  # the deleted share grows by 1/10
    c.batch_size = 8  # examples at once
    c.vit = ml_collections.ConfigDict()
    c.vit.data, c.vit.data_dir, c.vit.seed = "mnist", config_dict.placeholder(str), 0
    c.vit.model = ml_collections.ConfigDict(
        dict(patch=4, width=32, depth=3, heads=4, activation="gelu", reduce="cls")
    )
    c.vit.steps, c.vit.batch_size, c.vit.lr = 800, 128, 3e-3
    c.vit.layers = ("tokens_0", "tokens_1", "tokens_2")
    c.vit.alphas = (0.35, 0.4, 0.45, 0.48, 0.49, 0.495, 0.499)
    c.minilm = ml_collections.ConfigDict()
    c.minilm.data_dir, c.minilm.folder = config_dict.placeholder(str), config_dict.placeholder(str)
    c.minilm.seed = 0
    c.minilm.min_tokens, c.minilm.max_tokens, c.minilm.min_score = 9, 24, 3.0
    c.minilm.layers = ("tokens_0", "tokens_3")
    # 31 contractions follow each other, so only alphas near 0.5 leave the mass in check.
    c.minilm.alphas = (0.45, 0.48, 0.49, 0.495, 0.499)
    if mode == "quick":
        c.problems = ("vit",)
        c.validation, c.test, c.steps, c.batch_size = 3, 5, 4, 4
        c.vit.data, c.vit.steps = "digits", 6
        c.vit.model = ml_collections.ConfigDict(
            dict(patch=2, width=8, depth=2, heads=2, activation="gelu", reduce="cls")
        )
        c.vit.layers, c.vit.alphas = ("tokens_1",), (0.4, 0.49)
    elif mode != "full":
        raise ValueError(f"unknown mode {mode!r}; tokens.py has 'full' and 'quick'.")
    return c
