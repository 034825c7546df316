r"""Random points of a ball lie at its surface, mixtures do not: Figures 1 and 2 of the penalties.

python -m train --config sphere [--workdir runs/sphere]

15 s on two shared cores; results of 2026-11-22 in train/results/sphere. ":quick" is a smoke run.
"""

import ml_collections


def get_config(mode="full"):
    c = ml_collections.ConfigDict()
    c.experiment, c.mode = "sphere", mode
    c.seed = 0
    c.dims = (2, 3, 10, 100)  # n of Figure 2; the paper's curves are "for various n"
    c.samples = 100_000  # points behind every Monte Carlo mark: standard error at most 0.0016
    c.plane_points = 1_000  # points shown in the plane, Figure 1
    c.plane_radius = 0.5  # of the inner ball, Figure 1
    c.radii = (0.25, 0.5, 0.75, 0.9)  # rows of the table
    if mode == "quick":
        c.dims, c.samples, c.plane_points = (2, 10), 1_000, 100
    elif mode != "full":
        raise ValueError(f"unknown mode {mode!r}; sphere.py has 'full' and 'quick'.")
    return c
