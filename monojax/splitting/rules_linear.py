"""Rules of linear primitives: moving numbers about, sums, constant factors, contractions."""

from typing import Any

import jax.numpy as jnp

from monojax.splitting.freeze import factors, hold
from monojax.splitting.pair import Frozen, Pair, affine, both, negative, value_of
from monojax.splitting.rules import named_call, register_rule
from monojax.splitting.sites import Layout

# Linear with weights 0 and 1: the same on value and mass.
_SAME = (
    "broadcast_in_dim", "copy", "copy_p", "cumsum", "expand_dims",
    "psum", "real", "reduce_precision", "reduce_sum", "reduce_window_sum", "reshape", "rev",
    "sharding_constraint", "slice", "split", "squeeze", "stop_gradient", "tile",
    "transpose", "unstack",
)  # fmt: skip
# Primitives with several data operands, then operands that say where.
_PLACED = {
    "concatenate": None,
    "dynamic_slice": (0,),
    "dynamic_update_slice": (0, 1),
    "gather": (0,),
    "pad": None,
    "scatter": (0, 2),
    "scatter-add": (0, 2),
    "scatter_add": (0, 2),
    "stack": None,
}


@register_rule(*_SAME, affine=True)
def same(walk: Any, eqn: Any, x: Pair, *rest: Any) -> Any:
    """The same map on both streams."""
    if not eqn.primitive.multiple_results:
        return both(lambda a: walk.bind(eqn, a, *rest), x)
    parts = range(len(eqn.outvars))
    return [both(lambda a, i=i: walk.bind(eqn, a, *rest)[i], x) for i in parts]


@register_rule("optimization_barrier")
def barrier(walk: Any, eqn: Any, *args: Any) -> list[Any]:
    """Nothing: it only orders computations."""
    return list(args)


@register_rule(*_PLACED)
def placed(walk: Any, eqn: Any, *args: Any) -> Pair:
    """Joins and places data; what is constant becomes a pair by its sign."""
    name = eqn.primitive.name
    data = _PLACED[name] or tuple(range(len(args)))
    return choose(walk, eqn, args, data)


@register_rule("select_n")
def select(walk: Any, eqn: Any, which: Any, *cases: Any) -> Pair:
    """Chooses between pairs."""
    return choose(walk, eqn, (which, *cases), tuple(range(1, len(cases) + 1)))


def choose(walk: Any, eqn: Any, args: Any, data: tuple[int, ...]) -> Pair:
    """The equation on both streams of its data operands, all others as they are.

    Args:
      walk: the walk.
      eqn: the equation.
      args: its arguments.
      data: which of them hold data.

    Returns:
      Pair; noted as exact but not convex if the choice depends on the input.
    """
    name = eqn.primitive.name
    where = [arg for i, arg in enumerate(args) if i not in data]
    if any(isinstance(arg, Pair | Frozen) for arg in where):
        walk.note("exact", name, "chooses by values that depend on the input")
    pairs = {i: walk.pair(args[i], name) for i in data}

    def bind(*streams):
        values = [value_of(arg) for arg in args]
        for i, stream in zip(data, streams, strict=True):
            values[i] = jnp.asarray(stream, value_of(args[i]).dtype)
        return walk.bind(eqn, *values)

    return both(bind, *pairs.values())


@register_rule("convert_element_type", affine=True)
def convert(walk: Any, eqn: Any, x: Pair) -> Pair | Frozen:
    """Changes the precision; conversion to integers holds the value; complex ones have no order."""
    new = eqn.params["new_dtype"]
    if jnp.issubdtype(new, jnp.complexfloating) and not walk.mode.ordinary:
        return walk.missing(eqn, (x,), "complex values have no order, so no monotone parts")
    if jnp.issubdtype(new, jnp.inexact):
        return both(lambda a: walk.bind(eqn, a), x)
    walk.note("exact", "convert_element_type", "rounds to integers")
    return Frozen(walk.bind(eqn, x.f))


@register_rule("neg", affine=True)
def neg(walk: Any, eqn: Any, x: Pair) -> Pair:
    """Swaps the streams."""
    return negative(x)


@register_rule("add", "add_any", affine=True)
def add(walk: Any, eqn: Any, x: Any, y: Any) -> Pair:
    """Adds pairs; a constant goes to one stream by its sign."""
    if isinstance(x, Pair) and isinstance(y, Pair):
        return both(lambda a, b: a + b, x, y)
    x, y = (x, y) if isinstance(x, Pair) else (y, x)
    constant = walk.pair(y, "add")
    shape = eqn.outvars[0].aval.shape
    out = affine(x, lambda f: f + constant.f, lambda t: t + constant.t)
    assert out.f.shape == shape, (out.f.shape, shape)
    return out


@register_rule("sub", affine=True)
def sub(walk: Any, eqn: Any, x: Any, y: Any) -> Pair:
    """Adds the swapped pair."""
    y = negative(y) if isinstance(y, Pair) else _negated(y)
    return add(walk, eqn, x if isinstance(x, Pair | Frozen) else jnp.asarray(x), y)


def _negated(y: Any) -> Any:
    return Frozen(-y.value) if isinstance(y, Frozen) else -jnp.asarray(y)


@register_rule("mul", affine=True)
def mul(walk: Any, eqn: Any, x: Any, y: Any) -> Any:
    """Multiplies by a constant; a negative one swaps the streams."""
    if isinstance(x, Pair) and isinstance(y, Pair):
        reason = "it multiplies two values that both depend on the input"
        operands = factors(walk, "mul", x, y)
        if operands is None:
            return walk.missing(eqn, (x, y), reason, "product")
        x, y = operands
    x, y = (x, y) if isinstance(x, Pair) else (y, x)
    k = _factor(walk, "mul", y)
    return affine(x, lambda f: f * k, lambda t: t * jnp.abs(k))


@register_rule("div", affine=True)
def div(walk: Any, eqn: Any, x: Any, y: Any) -> Any:
    """Divides by a constant."""
    if isinstance(y, Pair):
        if "normalizer" not in walk.mode.freeze:
            reason = "it divides by a value that depends on the input"
            return walk.missing(eqn, (x, y), reason, "normalizer")
        y = hold(walk, y.f, "normalizer", "div")
        if not isinstance(x, Pair):
            return walk.held(eqn, (x, y))
    k = _factor(walk, "div", y)
    return affine(x, lambda f: f / k, lambda t: t / jnp.abs(k))


def _factor(walk: Any, name: str, k: Any) -> Any:
    if isinstance(k, Frozen) and not k.kind:  # what freeze holds was noted there
        walk.note("local", name, "a factor that depends on the input is held at its forward value")
    return value_of(k)


@register_rule("conv_general_dilated", "dot_general")
def contraction(walk: Any, eqn: Any, x: Any, y: Any) -> Any:
    """A convolution or matrix product with constant weights: W on the value, |W| on the mass."""
    name = eqn.primitive.name
    if isinstance(x, Pair) and isinstance(y, Pair):
        operands = factors(walk, name, x, y)
        if operands is None:
            return walk.missing(eqn, (x, y), "both of its operands depend on the input", "product")
        x, y = operands
    left = isinstance(x, Pair)
    data, weights = (x, y) if left else (y, x)
    data = walk.enter(
        data,
        "conv" if name.startswith("conv") else "dot",
        walk.where,
        _layout(eqn, left) or walk.layout(eqn.invars[0 if left else 1]),
    )
    if isinstance(weights, Frozen):
        walk.mode.mix(walk, eqn, weights, left)
    weights = _factor(walk, name, weights)
    bind = lambda a, w: walk.bind(eqn, *((a, w) if left else (w, a)))
    return walk.mode.contract(bind, data, weights)


@named_call("monojax_depthwise_conv")
def depthwise(walk: Any, eqn: Any, x: Pair, weights: Any) -> Pair:
    """A depthwise convolution written as shifts and sums: one contraction all the same."""
    data = walk.enter(walk.mode.settle(x), "conv", walk.where, Layout(0, 3, (1, 2)))
    return walk.mode.contract(lambda a, w: walk.bind(eqn, a, w)[0], data, weights)


def _layout(eqn: Any, left: bool) -> Layout | None:
    numbers = eqn.params["dimension_numbers"]
    if not left or not hasattr(numbers, "lhs_spec"):
        return None
    batch, feature, *spatial = numbers.lhs_spec
    return Layout(batch, feature, tuple(spatial))


@register_rule("name", affine=True)
def named(walk: Any, eqn: Any, x: Pair) -> Pair:
    """A tag: a place with a name."""
    return walk.enter(x, "tag", eqn.params["name"], walk.layout(eqn.invars[0]))
