r"""SplitGrad and SplitCAM: maps made of the stabilised sensitivities of the split."""

from typing import Any

import jax

from monojax.attribution.common import SEED_G, Recipe, positive, to_map
from monojax.base.checks import one_of
from monojax.splitting.modes import SplitMode
from monojax.splitting.reading import Reading
from monojax.splitting.shift import check_alpha
from monojax.splitting.transform import check_options

SEEDS = {"g": SEED_G, "h": (-0.5, 0.5)}
"""Derivatives of either part on the output's value and mass."""
STREAMS = ("+", "-")


def split_grad_recipe(o: Any, x: Any) -> Recipe:
    """The sensitivity of one part on one stream."""
    one_of(o.stream, STREAMS, "stream")
    return _recipe(o, lambda at: to_map(_sensitivity(at, o.stream), at.layout, o.reduce))


def split_cam_recipe(o: Any, x: Any) -> Recipe:
    """Sensitivities times the streams themselves."""
    one_of(o.stream, (*STREAMS, "both"), "stream")

    def formula(at):
        if o.stream == "both":
            cam = at.slope[0].t * at.value.t + at.slope[0].f * at.value.f
        else:
            stream = at.value.p if o.stream == "+" else at.value.n
            cam = _sensitivity(at, o.stream) * stream
        return positive(to_map(cam, at.layout, "sum"), o.rectify)

    return _recipe(o, formula)


def _recipe(o: Any, formula: Any) -> Recipe:
    one_of(o.part, SEEDS, "part")
    strategy, shifts = check_options(o.pool, o.recentre)
    alpha = check_alpha(o.alpha, o.shift_at)
    mode = SplitMode(o.pool, strategy, alpha, o.freeze, o.shift_at)
    return Recipe(mode, formula, SEEDS[o.part], shifts)


def _sensitivity(at: Reading, stream: str) -> jax.Array:
    slope = at.slope[0]
    return slope.t + slope.f if stream == "+" else slope.t - slope.f
