"""Gradient methods: the gradient, times the input, integrated, and guided."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.attribution.batches import in_batches
from monojax.attribution.common import Recipe, read_at, to_map
from monojax.attribution.counts import count
from monojax.base.checks import is_concrete
from monojax.base.jaxprs import CustomRule, inner_equations
from monojax.splitting.modes import Mode
from monojax.splitting.reading import Reading

_RELU_MADE_OF = frozenset({"broadcast_in_dim", "convert_element_type", "jit", "max", "min", "pjit"})


class Guided(Mode):
    """Derivatives that pass a ReLU only where they and its input are positive."""

    changes = frozenset({"clamp", "max"})

    def opens(self, called: CustomRule) -> bool:
        """A ReLU with a rule of its own, as jax.nn.relu is, is a ReLU all the same."""
        met = {eqn.primitive.name for eqn in inner_equations(called.body)}
        return "max" in met and met <= _RELU_MADE_OF

    def cut(self, f: Any, c: Any) -> Any:
        """ReLU, where c is known to be 0; other bounds as usual."""
        if is_concrete(c) and not np.any(np.asarray(c)):
            return _guided_relu(f)
        return super().cut(f, c)


@jax.custom_vjp
def _guided_relu(f: jax.Array) -> jax.Array:
    return jnp.maximum(f, 0)


def _guided_forward(f):
    return _guided_relu(f), f > 0


def _guided_backward(active, cotangent):
    return (jnp.where(active, jnp.maximum(cotangent, 0), 0),)


_guided_relu.defvjp(_guided_forward, _guided_backward)


def slope_map(at: Reading, reduce: str) -> jax.Array:
    """The derivative as a map."""
    return to_map(at.slope[0].f, at.layout, reduce)


def product_map(at: Reading, reduce: str) -> jax.Array:
    """Derivative times value: with a rescaled derivative, relevance."""
    return to_map(at.slope[0].f * at.value.f, at.layout, reduce)


def gradient_recipe(o: Any, x: Any) -> Recipe:
    """The gradient."""
    return Recipe(Mode(o.freeze), lambda at: slope_map(at, o.reduce))


def gradient_x_input_recipe(o: Any, x: Any) -> Recipe:
    """Gradient times value."""
    return Recipe(Mode(o.freeze), lambda at: product_map(at, o.reduce))


def guided_recipe(o: Any, x: Any) -> Recipe:
    """Guided backpropagation."""
    return Recipe(Guided(o.freeze), lambda at: slope_map(at, o.reduce))


def integrated(
    fn: Callable[..., Any], x: Any, target: Any, args: tuple, layer: Any, channel_axis: Any, o: Any
) -> jax.Array:
    """Integrated gradients: not one reading, but many along a line.

    Args:
      fn: as the public function takes it, like the four below.
      x: one example.
      target: the class.
      args: further arguments.
      layer: None or "input".
      channel_axis: as told.
      o: its options.

    Returns:
      The map.

    Raises:
      ValueError: on another layer, or steps < 1.
    """
    if layer not in (None, "input"):
        raise ValueError(f"integrated gradients are taken at the input, got layer={layer!r}.")
    x = jnp.asarray(x)
    start = jnp.broadcast_to(jnp.asarray(o.baseline, x.dtype), x.shape)
    nodes, weights = np.polynomial.legendre.leggauss(count(o.steps, "steps"))
    recipe = gradient_recipe(o, x)
    at = read_at(fn, x, target, args, [None], recipe, channel_axis)[0]  # checks x; knows its axes

    def slope(node):
        here = start + node * (x - start)
        return read_at(fn, here, target, args, [None], recipe, channel_axis)[0].slope[0].f

    slopes = in_batches(slope, jnp.asarray((nodes + 1) / 2, x.dtype), o.batch_size)
    total = jnp.tensordot(jnp.asarray(weights / 2, x.dtype), slopes, axes=1)
    return to_map(total * (x - start), at.layout, o.reduce)
