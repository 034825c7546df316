"""One method at many layers at once: choosing a layer costs one pass, not one per layer."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from monojax.attribution.cam import grad_cam_of, grad_cam_pp_of, layer_cam_of
from monojax.attribution.common import to_map
from monojax.attribution.gradients import Guided
from monojax.attribution.lrp import LRP, SEED_G, SplitLRP, check_precision, relevance_of
from monojax.splitting.modes import Mode, SplitMode
from monojax.splitting.reading import Reading, at_step, prepare, read
from monojax.splitting.shift import ALPHA, check_alpha
from monojax.splitting.sites import INPUT, find_site

Fn = Callable[..., Any]


class _Recipe(NamedTuple):
    mode: Mode
    seed: tuple[float, float]
    formula: Callable[[Reading], jax.Array]


def _slope(reduce: str) -> Callable[[Reading], jax.Array]:
    return lambda at: to_map(at.slope[0].f, at.layout, reduce)


def _product(at: Reading) -> jax.Array:
    return to_map(at.slope[0].f * at.value.f, at.layout, "sum")


def _split_grad(at: Reading) -> jax.Array:
    return to_map(at.slope[0].t + at.slope[0].f, at.layout, "mean")


def _split_cam(at: Reading) -> jax.Array:
    return to_map((at.slope[0].t + at.slope[0].f) * at.value.p, at.layout, "sum")


def _relevance(at: Reading) -> jax.Array:
    return to_map(relevance_of(at), at.layout, "sum")


def _recipe(
    method: str, alpha: Any, shift_at: str, pool: str, epsilon: float, gamma: float, freeze: Any
) -> _Recipe:
    plain = (1.0, 0.0)
    recipes: dict[str, Callable[[], _Recipe]] = {
        "gradient": lambda: _Recipe(Mode(freeze), plain, _slope("mean")),
        "gradient_x_input": lambda: _Recipe(Mode(freeze), plain, _product),
        "guided_backprop": lambda: _Recipe(Guided(freeze), plain, _slope("sum")),
        "grad_cam": lambda: _Recipe(Mode(freeze), plain, grad_cam_of),
        "grad_cam_pp": lambda: _Recipe(Mode(freeze), plain, grad_cam_pp_of),
        "layer_cam": lambda: _Recipe(Mode(freeze), plain, layer_cam_of),
        "lrp_epsilon": lambda: _Recipe(LRP("epsilon", epsilon, gamma, freeze), plain, _product),
        "lrp_gamma": lambda: _Recipe(LRP("gamma", epsilon, gamma, freeze), plain, _product),
        "lrp_zplus": lambda: _Recipe(LRP("zplus", epsilon, gamma, freeze), plain, _product),
        "split_grad": lambda: _Recipe(
            SplitMode(pool, "full", alpha, freeze, shift_at), SEED_G, _split_grad
        ),
        "split_cam": lambda: _Recipe(
            SplitMode(pool, "full", alpha, freeze, shift_at), SEED_G, _split_cam
        ),
        "split_lrp": lambda: _Recipe(SplitLRP("wta", "scale", epsilon, freeze), SEED_G, _relevance),
    }
    if method not in recipes:
        raise ValueError(f"unknown method {method!r}; there is {', '.join(recipes)}.")
    return recipes[method]()


def at_layers(
    fn: Fn,
    x: Any,
    target: Any,
    method: str,
    layers: Sequence[Any],
    *,
    args: tuple = (),
    alpha: Any = ALPHA,
    shift_at: str = "module",
    pool: str = "full",
    epsilon: float = 1e-6,
    gamma: float = 0.25,
    freeze: Any = (),
) -> list[jax.Array]:
    """Maps of one method at several layers, from one forward and one backward pass.

    Args:
      fn: maps ONE example (and args) to `[c]` or a scalar.
      x: one example.
      target: the class, an integer.
      method: "gradient", "gradient_x_input", "guided_backprop", "grad_cam", "grad_cam_pp",
        "layer_cam", "lrp_epsilon", "lrp_gamma", "lrp_zplus", "split_grad", "split_cam" or
        "split_lrp" (float64), each with the defaults of its own function.
      layers: places: names, tags, numbers of split_report, or None for the input, for the CAMs
        too (alone, they take None as the last spatial convolution).
      args: further arguments of fn, such as weights.
      alpha: backward shift of the split methods, in [0, 0.5]; may be traced.
      pool: "full" or "wta", of split_grad and split_cam; split_lrp is "wta".
      epsilon: of LRP.
      gamma: of LRP's rule gamma.
      freeze: what is held at its forward value, as in :func:`monojax.split`.

    Returns:
      One map per layer, `[h, w]` at the layer's own size.

    Raises:
      ValueError: as the methods' own functions do.
    """
    recipe = _recipe(method, check_alpha(alpha, shift_at), shift_at, pool, epsilon, gamma, freeze)
    if method == "split_lrp":
        check_precision(x)
    ready = prepare(fn, x, args, recipe.mode)
    places = [find_site(ready.sites, layer) for layer in layers]
    indices = list(dict.fromkeys(index for index, _ in places)) or [INPUT]
    readings, _ = read(ready, indices, [recipe.seed], target)
    return [recipe.formula(at_step(readings[index], step)) for index, step in places]
