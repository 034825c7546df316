r"""Tables 1 and 2 of Monteiro et al. (UAI 2022): D = 100, 200, 400, 500, 20 seeds, 95% intervals.

python -m train --config train/configs/penalties_synthetic.py --workdir RUN

Modes: "full"; "d100", "d200", "d400", "d500" for one width each; "quick" for a smoke run;
"margin400" and "margin500": rows that ask for slopes of at least `penalty.row_margin`, to stand
beside the paper's recipe, whose single seeds can end with slopes a hair below 0 nearly everywhere.
One training takes about 25 CPU seconds at D = 400.
"""

import ml_collections

from train.configs.main import get_config as main_config
from train.configs.main import synthetic

SIZES = {100: 20, 200: 40, 400: 80, 500: 100}


def get_config(mode="full"):
    c = main_config("full")
    c.mode, c.seeds = mode, 20
    c.seeds_at_once = 1  # the least memory at D = 500
    modes = {"full": tuple(SIZES), "quick": (100,)} | {f"d{d}": (d,) for d in SIZES}
    modes |= {f"margin{d}": (d,) for d in (400, 500)}
    if mode not in modes:
        raise ValueError(f"unknown mode {mode!r}; penalties_synthetic.py has {', '.join(modes)}.")
    c.problems = ml_collections.ConfigDict(
        {f"synthetic_{d}": synthetic(d, SIZES[d]) for d in modes[mode]}
    )
    c.checkpoint_every_epochs = 5
    if mode.startswith("margin"):
        c.kinds = ("random_margin", "mixup_margin")
    if mode == "quick":
        c.seeds, c.penalty.points = 2, 64
        c.problems.synthetic_100.update(
            epochs=2, steps_per_epoch=2, num_trainval=1000, num_test=200
        )
    return c
