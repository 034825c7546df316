r"""SplitGrad and SplitCAM: maps made of the stabilised sensitivities of the split."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from monojax.attribution.common import explain, to_map
from monojax.splitting.modes import SplitMode
from monojax.splitting.reading import Reading
from monojax.splitting.shift import ALPHA, check_alpha
from monojax.splitting.transform import check_options

Fn = Callable[..., Any]
SEEDS = {"g": (0.5, 0.5), "h": (-0.5, 0.5)}
"""Derivatives of either part on the output's value and mass."""
STREAMS = ("+", "-")


def _reading(
    fn: Fn, x: Any, target: Any, args: tuple, layer: Any, alpha: Any, shift_at: str,
    pool: str, recentre: Any, part: str, spatial: bool, freeze: Any,
) -> Reading:  # fmt: skip
    """The pair at the layer and one part's derivative on it, from a single backward pass."""
    if part not in SEEDS:
        raise ValueError(f"part must be 'g' or 'h', got {part!r}.")
    strategy, shifts = check_options(pool, recentre)
    mode = SplitMode(pool, strategy, check_alpha(alpha, shift_at), freeze, shift_at)
    reading, _ = explain(
        fn, x, target, args, layer, mode, seed=SEEDS[part], shifts=shifts, spatial=spatial
    )
    return reading


def split_grad(
    fn: Fn,
    x: Any,
    target: Any,
    *,
    args: tuple = (),
    layer: Any = None,
    alpha: Any = ALPHA,
    shift_at: str = "module",
    pool: str = "full",
    recentre: Any = "full",
    part: str = "g",
    stream: str = "+",
    reduce: str = "mean",
    freeze: Any = (),
) -> jax.Array:
    r"""SplitGrad: the stabilised sensitivity of one part on one stream, averaged over channels.

    At alpha = 0.5 it is half the ordinary gradient, at 0 the raw gradient of the monotone part.

    Args:
      fn: maps ONE example (and args) to `[c]` or a scalar.
      x: one example.
      target: the class, an integer.
      args: further arguments of fn, such as weights.
      layer: where: a module path or its end, a tag, a number of split_report, None for the input.
      alpha: backward shift in [0, 0.5]; 0.3 to 0.4 are usual, nearer 0.5 for early layers. The
        smaller, the more the map grows from layer to layer (1e21 for a ResNet18 at 0): networks of
        a hundred layers overflow float32 (NaN) below 0.4; take float64 or a larger alpha there.
      pool: "full" or "wta" (winner takes all).
      recentre: as in :func:`monojax.split`; it does not change this map.
      part: "g" or "h".
      stream: "+" or "-".
      reduce: over channels, "mean", "sum" or "none".
      freeze: what is held at its forward value, as in :func:`monojax.split`: attention, layer norm.

    Returns:
      `[h, w]` at the layer's own size.

    Raises:
      ValueError: on a wrong layer, target or option, a batch, NaN, a primitive without a rule.

    Reference:
      Zimmermann, Loho, "Hidden Monotonicity", CVPR 2026, arXiv 2601.07700.
    """
    if stream not in STREAMS:
        raise ValueError(f"stream must be one of {STREAMS}, got {stream!r}.")
    reading = _reading(
        fn, x, target, args, layer, alpha, shift_at, pool, recentre, part, False, freeze
    )
    slope = reading.slope[0]
    both = slope.t + slope.f if stream == "+" else slope.t - slope.f
    return to_map(both, reading.layout, reduce)


def split_cam(
    fn: Fn,
    x: Any,
    target: Any,
    *,
    args: tuple = (),
    layer: Any = None,
    alpha: Any = ALPHA,
    shift_at: str = "module",
    pool: str = "full",
    recentre: Any = "full",
    part: str = "g",
    stream: str = "+",
    rectify: bool = False,
    freeze: Any = (),
) -> jax.Array:
    r"""SplitCAM: stabilised sensitivities times the stream's activations, summed over channels.

    With recentre "full" at alpha = 0.5 it is half of gradient times activation, where that is
    positive. The re-centring changes stream values and so belongs to the method: report it with
    alpha, layer and pool.

    Args:
      fn: maps ONE example (and args) to `[c]` or a scalar.
      x: one example.
      target: the class, an integer.
      args: further arguments of fn.
      layer: where: a module path or its end, a tag, a number of split_report; None for the input
        of the last convolution that sees more than one position.
      alpha: backward shift in [0, 0.5]; small ones overflow float32 as in :func:`split_grad`.
      pool: "full" or "wta".
      recentre: "full", "scale", "none", or the result of calibrate.
      part: "g" or "h".
      stream: "+" or "-", or "both" for the sum of the two products, which is for activations of
        either sign (the tokens of a transformer): at alpha = 0.5 half of gradient times activation.
      rectify: negative values become 0.
      freeze: as in :func:`split_grad`.

    Returns:
      `[h, w]` at the layer's own size.

    Raises:
      ValueError: as :func:`split_grad`.

    Reference:
      Zimmermann, Loho, "Hidden Monotonicity", CVPR 2026, arXiv 2601.07700.
    """
    if stream not in (*STREAMS, "both"):
        raise ValueError(f"stream must be '+', '-' or 'both', got {stream!r}.")
    reading = _reading(
        fn, x, target, args, layer, alpha, shift_at, pool, recentre, part, True, freeze
    )
    slope, value = reading.slope[0], reading.value
    parts = {
        "+": (slope.t + slope.f) * value.p,
        "-": (slope.t - slope.f) * value.n,
        "both": slope.t * value.t + slope.f * value.f,
    }
    cam = to_map(parts[stream], reading.layout, "sum")
    return jnp.maximum(cam, 0) if rectify else cam
