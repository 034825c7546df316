"""What the methods and their options mean, told once; docstrings are put together here."""

import textwrap
from collections.abc import Mapping
from typing import Any

WIDTH = 100
_INPUT = "None for the input"
_LAST = (
    "None for the input of the last convolution that sees more than one position, "
    '"input" for that of fn'
)
SHARED = {
    "fn": "maps ONE example (and args) to `[c]` or a scalar; for a batch use `jax.vmap` over the "
    "call.",
    "x": "one example, floating: `[h, w, c]`, `[c, h, w]`, or any shape.",
    "target": "the class, an integer in [0, c); None or 0 for a scalar.",
    "args": "further arguments of fn, such as weights, a tuple.",
    "channel_axis": "the axis of the value at the layer that holds channels, an integer, or "
    '"none" if there are no channels. None takes the one that is known from the convolutions; '
    "where they do not tell, an image needs it.",
}
_LAYER = (
    "where: a module path or its end, a tag, a number of split_report, ``(layer, step)`` in a "
    "scan; {}."
)
OPTIONS = {
    "reduce": 'over channels: "sum", "mean", or "none" for `[h, w, c]`.',
    "freeze": "what is held at its forward value, as in :func:`monojax.split` (attention, layer "
    "norm); by default nothing.",
    "rectify": "whether negative values become 0.",
    "baseline": "where the line begins, a number or shaped as x.",
    "steps": "points on the line; the map sums to fn(x) - fn(baseline) up to the quadrature's "
    "error.",
    "batch_size": "points of the line at once.",
    "rule": '"epsilon"; "gamma" (the generalised rule for inputs of both signs); "zplus".',
    "epsilon": "added to denominators with their sign.",
    "gamma": 'weight of the positive part in the rule "gamma".',
    "alpha": "backward shift. A number in [0, 0.5]: 0 is the raw stream gradient, which hardly "
    'depends on x, 0.5 half the gradient; or "balanced": in every layer as much mass as gradient, '
    "at the cost of one more pass. Small ones overflow float32 (NaN) in networks of a hundred "
    'layers; "balanced" does not.',
    "shift_at": 'what alpha means: "module" as in the paper, whose shift comes after a convolution '
    r"and after its ReLU, so that :math:`(1 - 2\alpha)^2` of the mass's derivative passes each "
    r'contraction; "contraction", once, :math:`1 - 2\alpha`.',
    "pool": 'what maxima do with those that lose: "full" or "wta" (winner takes all).',
    "recentre": '"full", "scale", "none", or the result of calibrate, as in :func:`monojax.split`.',
    "part": '"g" or "h".',
    "stream": '"+" or "-".',
}
_RAISES = "on a wrong layer, target or option, a batch, axes that are not known, NaN{}."
_SPLIT_PAPER = (
    'Zimmermann, Loho, "Hidden Monotonicity: Explaining Deep Neural Networks via their DC '
    'Decomposition", CVPR 2026, arXiv 2601.07700.'
)
METHODS = {
    "gradient": (
        "Gradient of the target's output, averaged over channels.",
        "Of fn as it is, whatever primitives it has.",
        "",
    ),
    "gradient_x_input": ("Gradient times value, summed over channels.", "", ""),
    "guided_backprop": (
        "Guided backpropagation: negative derivatives stop at every ReLU (maximum with 0).",
        "",
        'Springenberg et al., "Striving for Simplicity", 2015, arXiv 1412.6806.',
    ),
    "integrated_gradients": (
        "Integrated gradients along the straight line from a baseline, by Gauss-Legendre "
        "quadrature.",
        "Defined at the input: no other layer is taken.",
        'Sundararajan, Taly, Yan, "Axiomatic Attribution for Deep Networks", 2017, arXiv '
        "1703.01365.",
    ),
    "grad_cam": (
        "Grad-CAM: channels weighted by the mean of their gradient over positions.",
        "",
        'Selvaraju et al., "Grad-CAM", 2017, arXiv 1610.02391.',
    ),
    "grad_cam_pp": (
        "Grad-CAM++: channels weighted by gradients of second and third order.",
        "Derivatives are those of exp(score), whose common factor cancels.",
        'Chattopadhay et al., "Grad-CAM++", 2018, arXiv 1710.11063.',
    ),
    "layer_cam": (
        "LayerCAM: positive gradients times activations, position by position.",
        "",
        'Jiang et al., "LayerCAM", IEEE TIP 2021.',
    ),
    "lrp": (
        "Layer-wise relevance propagation with one rule in all affine layers.",
        "Batch norm counts as part of the contraction before it, biases absorb their share, "
        "max-pooling passes relevance to the winner, sums in proportion to their terms. With "
        "freeze=True the rules of Ali et al. (2022) for attention and layer norm.",
        'Bach et al., 2015; Montavon et al., "Layer-Wise Relevance Propagation: An Overview", '
        "2019.",
    ),
    "split_grad": (
        "SplitGrad: the stabilised sensitivity of one part on one stream, averaged over channels.",
        "At alpha = 0.5 it is half the ordinary gradient, at 0 the raw gradient of the monotone "
        "part. The re-centring does not change this map.",
        _SPLIT_PAPER,
    ),
    "split_cam": (
        "SplitCAM: stabilised sensitivities times the stream's activations, summed over channels.",
        'With recentre "full" at alpha = 0.5 it is half of gradient times activation, where that '
        "is positive. The re-centring changes stream values and so belongs to the method: report "
        'it with alpha, layer and pool. The stream "both" is the sum of the two products, for '
        "activations of either sign (the tokens of a transformer): at alpha = 0.5 half of gradient "
        "times activation.",
        _SPLIT_PAPER,
    ),
    "split_lrp": (
        "SplitLRP: epsilon-LRP through the positive and the negative stream at once, R+ - R-.",
        "Relevance starts as g at the target. How much of R- survives is decided by the "
        're-centring: with "none" R is stream times raw stream gradient; with "full" nothing is '
        "left of R- and **the result is the z+ rule (LRP alpha1-beta0) of the original network, "
        "not a new method** (up to how sums of branches share): a warning says so; report such a "
        'map as z+. Any recentre but "full" needs float64: streams reach 1e11 and more, of which '
        "float32 keeps no difference.",
        _SPLIT_PAPER + " The formulas are derived in the split's own terms.",
    ),
}
"""Name to first line, what else to know, and source."""


def describe(name: str, options: Mapping[str, Any], spatial: bool) -> str:
    """The docstring of a method's function.

    Args:
      name: of the method.
      options: its own.
      spatial: what no layer means.

    Returns:
      Text.
    """
    first, more, source = METHODS[name]
    layer = _LAYER.format(_LAST if spatial else _INPUT)
    if name == "integrated_gradients":
        layer = "None only."
    entries = {**SHARED, "layer": layer} | {key: OPTIONS[key] for key in options}
    if name == "split_cam":
        entries["stream"] = '"+", "-" or "both".'
    order = ("fn", "x", "target", "args", "layer", "channel_axis", *options)
    args = [_filled(f"{key}: {entries[key]}", 2, 4) for key in order]
    exact = ", a primitive without a rule" if name.startswith(("lrp", "split")) else ""
    parts = [first, *([_filled(more)] if more else []), "\n".join(["Args:", *args])]
    parts.append("Returns:\n  The map, `[h, w]` at the layer's own size, floating.")
    parts.append("Raises:\n" + _filled("ValueError: " + _RAISES.format(exact), 2, 4))
    parts += ["Reference:\n" + _filled(source, 2)] if source else []
    return "\n\n".join(parts) + "\n"


def _filled(text: str, indent: int = 0, further: int | None = None) -> str:
    further = indent if further is None else further
    return textwrap.fill(
        text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * further,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
