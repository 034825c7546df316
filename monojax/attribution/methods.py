"""The table of methods. Every public function of a method is made from its row.

A row holds the recipe (what the walk carries, and the map made of what is read), the method's own
options with their defaults, and its text. What an option means is told once, in `OPTIONS`; the
functions' docstrings are put together from both.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import jax

from monojax.attribution.cam import grad_cam_map, grad_cam_pp_map, layer_cam_map
from monojax.attribution.common import Recipe, read_at
from monojax.attribution.gradients import (
    gradient_recipe,
    gradient_x_input_recipe,
    guided_recipe,
    integrated,
)
from monojax.attribution.lrp import lrp_recipe, split_lrp_recipe
from monojax.attribution.splits import split_cam_recipe, split_grad_recipe
from monojax.attribution.texts import describe
from monojax.base.checks import one_of
from monojax.splitting.modes import Mode
from monojax.splitting.shift import ALPHA

Explain = Callable[..., jax.Array]


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to explain."""

    recipe: Callable[[Any, Any], Recipe]
    """Of the options and the example."""
    options: Mapping[str, Any]
    """Its own, with defaults."""
    spatial: bool = False
    """Whether no layer means the last convolution over positions, instead of the input."""
    whole: Callable[..., jax.Array] | None = None
    """In place of a reading: a method that is defined at the input only."""


def _cam(formula: Callable[..., jax.Array]) -> Method:
    def recipe(o, x):
        return Recipe(Mode(o.freeze), lambda at: formula(at, o.rectify))

    return Method(recipe, {"rectify": True, "freeze": ()}, spatial=True)


_SUM: dict[str, Any] = {"reduce": "sum", "freeze": ()}
_MEAN: dict[str, Any] = {"reduce": "mean", "freeze": ()}
_SPLIT: dict[str, Any] = {
    "alpha": ALPHA, "shift_at": "module", "pool": "full", "recentre": "full", "part": "g",
    "stream": "+",
}  # fmt: skip
_RELEVANCE: dict[str, Any] = {"epsilon": 1e-6, "gamma": 0.25}
_LINE: dict[str, Any] = {"baseline": 0.0, "steps": 50, "batch_size": 16}
_STREAMS: dict[str, Any] = {"pool": "wta", "recentre": "scale", "epsilon": 1e-6}

METHODS: dict[str, Method] = {
    "gradient": Method(gradient_recipe, _MEAN),
    "gradient_x_input": Method(gradient_x_input_recipe, _SUM),
    "guided_backprop": Method(guided_recipe, _SUM),
    "integrated_gradients": Method(gradient_recipe, _LINE | _SUM, whole=integrated),
    "grad_cam": _cam(grad_cam_map),
    "grad_cam_pp": _cam(grad_cam_pp_map),
    "layer_cam": _cam(layer_cam_map),
    "lrp": Method(lrp_recipe, {"rule": "epsilon"} | _RELEVANCE | _SUM),
    "split_grad": Method(split_grad_recipe, _SPLIT | _MEAN),
    "split_cam": Method(split_cam_recipe, _SPLIT | {"rectify": False, "freeze": ()}, spatial=True),
    "split_lrp": Method(split_lrp_recipe, _STREAMS | _SUM),
}
LAYERED = tuple(name for name, method in METHODS.items() if method.whole is None)
"""Those that can be read at any layer."""
_OLD_NAMES = {f"lrp_{rule}": rule for rule in ("epsilon", "gamma", "zplus")}


def public(name: str) -> Explain:
    """The public function of a method.

    Args:
      name: a key of `METHODS`.

    Returns:
      ``f(fn, x, target, *, args, layer, channel_axis, ...)``, with its signature and docstring.
    """
    method = METHODS[name]

    def explained(fn, x, target, *, args=(), layer=None, channel_axis=None, **options):
        o = _filled(name, options)
        if method.whole is not None:
            return method.whole(fn, x, target, args, layer, channel_axis, o)
        recipe = method.recipe(o, x)
        given = (fn, x, target, args, [layer], recipe, channel_axis, method.spatial)
        return recipe.formula(read_at(*given)[0])

    shared = {"args": (), "layer": None, "channel_axis": None}
    signature = _signature({**shared, **method.options})
    explained.__signature__ = signature  # type: ignore[attr-defined]
    explained.__name__ = explained.__qualname__ = name
    explained.__doc__ = describe(name, method.options, method.spatial)
    explained.__module__ = "monojax.attribution"
    return explained


def at_layers(
    fn: Callable[..., Any],
    x: Any,
    target: Any,
    method: str,
    layers: Sequence[Any],
    *,
    args: tuple = (),
    channel_axis: Any = None,
    **options: Any,
) -> list[jax.Array]:
    """Maps of one method at several layers, from one forward and one backward pass.

    Args:
      fn: maps ONE example (and args) to `[c]` or a scalar.
      x: one example.
      target: the class, an integer.
      method: the name of a method's function, such as "lrp" or "split_cam"; all but
        "integrated_gradients", which is defined at the input only.
      layers: places as the method's own function takes them; None means what it means there.
      args: further arguments of fn, such as weights.
      channel_axis: as in the method's own function, for all layers.
      **options: of the method, with the defaults of its own function.

    Returns:
      One map per layer, `[h, w]` at the layer's own size.

    Raises:
      ValueError: as the method's own function does.
      TypeError: on an option that the method does not have.
    """
    if method in _OLD_NAMES:
        rule = _OLD_NAMES[method]
        raise ValueError(f'method={method!r} is spelt method="lrp", rule={rule!r} now.')
    one = METHODS[one_of(method, LAYERED, "method")]
    recipe = one.recipe(_filled(method, options), x)
    readings = read_at(fn, x, target, args, layers, recipe, channel_axis, one.spatial)
    return [recipe.formula(at) for at in readings]


def _filled(name: str, options: Mapping[str, Any]) -> SimpleNamespace:
    """The method's options, those that were not given at their defaults."""
    known = METHODS[name].options
    for key in options.keys() - known.keys():
        raise TypeError(f"{name} has no option {key!r}; its options are {', '.join(known)}.")
    return SimpleNamespace(**{**known, **options})


def _signature(options: Mapping[str, Any]) -> inspect.Signature:
    kind = inspect.Parameter
    names = [kind(name, kind.POSITIONAL_OR_KEYWORD) for name in ("fn", "x", "target")]
    more = [kind(name, kind.KEYWORD_ONLY, default=value) for name, value in options.items()]
    return inspect.Signature([*names, *more], return_annotation=jax.Array)


gradient = public("gradient")
gradient_x_input = public("gradient_x_input")
guided_backprop = public("guided_backprop")
integrated_gradients = public("integrated_gradients")
grad_cam = public("grad_cam")
grad_cam_pp = public("grad_cam_pp")
layer_cam = public("layer_cam")
lrp = public("lrp")
split_grad = public("split_grad")
split_cam = public("split_cam")
split_lrp = public("split_lrp")
