"""Gradient methods: the gradient, times the input, integrated, and guided."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.attribution.batches import in_batches
from monojax.attribution.common import explain, to_map
from monojax.base.checks import is_concrete
from monojax.splitting.modes import Mode

Fn = Callable[..., Any]


def gradient(
    fn: Fn, x: Any, target: Any, *, args: tuple = (), layer: Any = None, reduce: str = "mean",
    freeze: Any = (),
) -> jax.Array:  # fmt: skip
    """Gradient of the target's output, averaged over channels.

    Args:
      fn: maps ONE example (and args) to `[c]` or a scalar.
      x: one example, `[h, w, c]`, `[c, h, w]` (as fn's first convolution reads it), or any shape.
      target: the class, an integer.
      args: further arguments of fn, such as weights.
      layer: where: a module path or its end, a tag, a number of split_report, None for the input.
      reduce: over channels, "mean" (of which split_grad at alpha = 0.5 is the half), "sum", "none".
      freeze: what is held at its forward value, as in :func:`monojax.split`; by default nothing:
        the gradient is that of fn, whatever primitives it has.

    Returns:
      `[h, w]` at the layer's own size, float.

    Raises:
      ValueError: on a wrong layer, target or option, a batch, NaN.
    """
    reading, _ = explain(fn, x, target, args, layer, Mode(freeze))
    return to_map(reading.slope[0].f, reading.layout, reduce)


def gradient_x_input(
    fn: Fn, x: Any, target: Any, *, args: tuple = (), layer: Any = None, reduce: str = "sum",
    freeze: Any = (),
) -> jax.Array:  # fmt: skip
    """Gradient times value, summed over channels.

    Args:
      fn: as in :func:`gradient`.
      x: one example.
      target: the class.
      args: further arguments of fn.
      layer: where, as in :func:`gradient`.
      reduce: over channels.
      freeze: as in :func:`gradient`.

    Returns:
      `[h, w]`.

    Raises:
      ValueError: as :func:`gradient`.
    """
    reading, _ = explain(fn, x, target, args, layer, Mode(freeze))
    return to_map(reading.slope[0].f * reading.value.f, reading.layout, reduce)


class Guided(Mode):
    """Derivatives that pass a ReLU only where they and its input are positive."""

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


def guided_backprop(
    fn: Fn, x: Any, target: Any, *, args: tuple = (), layer: Any = None, reduce: str = "sum",
    freeze: Any = (),
) -> jax.Array:  # fmt: skip
    """Guided backpropagation: negative derivatives stop at every ReLU (maximum with 0).

    Args:
      fn: as in :func:`gradient`.
      x: one example.
      target: the class.
      args: further arguments of fn.
      layer: where, as in :func:`gradient`.
      reduce: over channels.
      freeze: as in :func:`gradient`.

    Returns:
      `[h, w]`.

    Raises:
      ValueError: as :func:`gradient`.

    Reference:
      Springenberg et al., "Striving for Simplicity", 2015, arXiv 1412.6806.
    """
    reading, _ = explain(fn, x, target, args, layer, Guided(freeze))
    return to_map(reading.slope[0].f, reading.layout, reduce)


def integrated_gradients(
    fn: Fn,
    x: Any,
    target: Any,
    *,
    args: tuple = (),
    layer: Any = None,
    baseline: Any = 0.0,
    steps: int = 50,
    reduce: str = "sum",
    freeze: Any = (),
    batch_size: int = 16,
) -> jax.Array:
    """Integrated gradients along the straight line from a baseline, by Gauss-Legendre quadrature.

    Args:
      fn: as in :func:`gradient`.
      x: one example.
      target: the class.
      args: further arguments of fn.
      layer: None only: the method is defined at the input.
      baseline: where the line begins, a number or shaped as x.
      steps: points on the line; the map sums to fn(x) - fn(baseline) up to the quadrature's error.
      reduce: over channels.
      freeze: as in :func:`gradient`.
      batch_size: points of the line at once.

    Returns:
      `[h, w]`.

    Raises:
      ValueError: as :func:`gradient`; for a layer other than None; for steps < 1.

    Reference:
      Sundararajan, Taly, Yan, "Axiomatic Attribution for Deep Networks", 2017, arXiv 1703.01365.
    """
    if layer not in (None, "input"):
        raise ValueError(f"integrated gradients are taken at the input, got layer={layer!r}.")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    x = jnp.asarray(x)
    start = jnp.broadcast_to(jnp.asarray(baseline, x.dtype), x.shape)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    reading, _ = explain(fn, x, target, args, None, Mode(freeze))  # checks x, and knows its axes

    def slope(node):
        here, _ = explain(fn, start + node * (x - start), target, args, None, Mode(freeze))
        return here.slope[0].f

    slopes = in_batches(slope, jnp.asarray((nodes + 1) / 2, x.dtype), batch_size)
    total = jnp.tensordot(jnp.asarray(weights / 2, x.dtype), slopes, axes=1)
    return to_map(total * (x - start), reading.layout, reduce)
