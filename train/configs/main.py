r"""The main job: Auto MPG and the synthetic set at |M|/D = 20/100, four models, ten seeds.

python -m train [--workdir runs/main] [--config.seeds=5]

All of it is the papers' recipe; ":quick" is a smoke run whose numbers mean nothing.
"""

import ml_collections


def get_config(mode="full"):
    c = ml_collections.ConfigDict()
    c.experiment, c.mode = "penalties", mode
    c.seed, c.seeds = 0, 10
    c.seeds_at_once = 5  # seeds side by side; 4 or 5 was fastest on 2 cores (tests/bench/seeds.py)
    c.kinds = ("none", "random", "train", "mixup")
    # Reference recipe for Tables 1-2: worst violation of 1,024 points, weight 1e4.
    c.penalty = dict(reduce="max", gamma=1e4, margin=0.0, points=1024, radius=0.5)
    # Slope that the rows "random_margin" and "mixup_margin" ask for, if they are among the kinds.
    c.penalty["row_margin"] = 1e-4
    c.checkpoint_every_epochs = 10
    c.problems = dict(auto_mpg=auto_mpg(), synthetic_100=synthetic(100, 20))
    if mode == "quick":
        c.seeds, c.penalty.points, c.checkpoint_every_epochs = 2, 64, 1
        for problem in c.problems.values():
            problem.epochs, problem.steps_per_epoch = 2, 2
        c.problems.synthetic_100.update(num_trainval=1000, num_test=200)
    elif mode != "full":
        raise ValueError(f"unknown mode {mode!r}; main.py has 'full' and 'quick'.")
    return c


def auto_mpg():
    # 251 training rows make 3 batches of 64; 200 epochs = 600 steps, past most runs' best epoch.
    # Widths as in the authors' tabular runs.
    return dict(
        data="auto_mpg",
        epochs=200,
        batch_size=64,
        steps_per_epoch=3,
        lr=5e-3,
        hidden=100,
        bottleneck=10,
    )


def synthetic(num_inputs, num_monotone):
    # Adam 5e-3, batch 256, 50 epochs of the 8,000 training rows; bottleneck 0 means d // 2.
    return dict(
        data="synthetic",
        num_inputs=num_inputs,
        num_monotone=num_monotone,
        shift="code",  # the shift that matches the published tables; "paper" is the formula
        num_trainval=10_000,
        num_test=2_000,
        epochs=50,
        batch_size=256,
        steps_per_epoch=31,
        lr=5e-3,
        hidden=100,
        bottleneck=0,
    )
