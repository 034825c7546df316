"""Convex, non-decreasing activations with the two derivatives and the constants of each."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import choose

Elementwise = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Activation:
    """An elementwise, convex, non-decreasing function; hashable.

    Args:
      function: the map, elementwise.
      slope_bound: largest first derivative; inf if it has none, None if not known.
      curvature_bound: largest second derivative; inf if it has none, None if not known.
      slopes: map to ``(g', g'')``; None differentiates ``function``.
      piecewise_linear: whether the second derivative is 0 wherever it exists.
      name: for messages only.
      lower_bound: a number that no value is below; None if not known. Of softplus, relu, elu, exp
        and squared_relu it is known without being given.
    """

    function: Elementwise
    slope_bound: float | None = None
    curvature_bound: float | None = None
    slopes: Callable[[jax.Array], tuple[jax.Array, jax.Array]] | None = None
    piecewise_linear: bool = False
    name: str = "custom"
    lower_bound: float | None = None

    def __post_init__(self):
        """Fills in the lower bound of the functions it is known of."""
        if self.lower_bound is None:
            object.__setattr__(self, "lower_bound", _lower_bound(self.function))

    def __call__(self, a: jax.Array) -> jax.Array:
        """Applies the function to an array of any shape."""
        return self.function(a)

    def derivatives(self, a: jax.Array) -> tuple[jax.Array, jax.Array]:
        """First and second derivative at every entry of ``a``, same shape each."""
        if self.slopes is not None:
            return self.slopes(a)
        one = jnp.ones_like(a)
        first = lambda a: jax.jvp(self.function, (a,), (one,))[1]
        return jax.jvp(first, (a,), (one,))

    def jet(self, a: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Value, first and second derivative at every entry of ``a``, same shape each."""
        if isinstance(self.slopes, SoftplusSlopes):
            return self.slopes.with_value(a)
        return self(a), *self.derivatives(a)


@dataclasses.dataclass(frozen=True)
class SoftplusValue:
    """The map of :func:`softplus`: equal sharpness means equal, and it can be saved."""

    sharpness: float

    def __call__(self, a: jax.Array) -> jax.Array:
        """The value at every entry of ``a``, same shape."""
        return jax.nn.softplus(self.sharpness * a) / self.sharpness


@dataclasses.dataclass(frozen=True)
class SoftplusSlopes:
    """The two derivatives of :func:`softplus`."""

    sharpness: float

    def __call__(self, a: jax.Array) -> tuple[jax.Array, jax.Array]:
        """First and second derivative at every entry of ``a``, same shape each."""
        return self.with_value(a)[1:]

    def with_value(self, a: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The value and both derivatives from one exponential, same shape each."""
        t = self.sharpness * a
        small = jnp.exp(-jnp.abs(t))
        value = (jnp.maximum(t, 0) + jnp.log1p(small)) / self.sharpness
        share = 1 / (1 + small)
        # small * share^2 keeps its digits where sigmoid has rounded to 1.
        first = jnp.where(t >= 0, share, small * share)
        return value, first, self.sharpness * small * share * share


def squared_relu(a: jax.Array) -> jax.Array:
    """max(a, 0)^2 at every entry of ``a``, same shape."""
    return jnp.square(jax.nn.relu(a))


def _lower_bound(function: Any) -> float | None:
    """The largest number that no value of a known function is below."""
    non_negative = (jax.nn.softplus, jax.nn.relu, jnp.exp, squared_relu)
    if isinstance(function, SoftplusValue) or any(function is f for f in non_negative):
        return 0.0
    return -1.0 if function is jax.nn.elu else None


def softplus(sharpness: float) -> Activation:
    r"""Softplus :math:`\log(1 + e^{\tau t})/\tau`; curvature at most :math:`\tau/4`.

    Args:
      sharpness: tau > 0. The larger, the closer to relu and the stiffer the inner problem.

    Returns:
      Activation; the same object for the same sharpness.

    Raises:
      ValueError: if ``sharpness`` is not positive.
    """
    if not 0 < sharpness < math.inf:
        raise ValueError(f"sharpness must be positive and finite, got {sharpness}.")
    return _make_softplus(float(sharpness))


@functools.cache
def _make_softplus(sharpness: float) -> Activation:
    return Activation(
        SoftplusValue(sharpness),
        slope_bound=1.0,
        curvature_bound=sharpness / 4,
        slopes=SoftplusSlopes(sharpness),
        name=f"softplus({sharpness:g})",
    )


RELU = Activation(jax.nn.relu, 1.0, math.inf, piecewise_linear=True, name="relu")
ELU = Activation(jax.nn.elu, 1.0, 1.0, name="elu")
SQUARED_RELU = Activation(squared_relu, math.inf, 2.0, name="squared_relu")
_NAMED = {"softplus": softplus(1.0), "relu": RELU, "elu": ELU, "squared_relu": SQUARED_RELU}


def as_activation(activation: Any) -> Activation:
    """Turns a name or a callable into an :class:`Activation`.

    Args:
      activation: an Activation; "softplus" (sharpness 1), "relu", "elu", "squared_relu"; or an
        elementwise callable. `jax.nn.softplus`, `jax.nn.relu` and `jax.nn.elu` are
        recognised; others have no known constants, and are tested on a grid for being convex,
        non-decreasing and not piecewise linear.

    Returns:
      Activation.

    Raises:
      ValueError: on an unknown name, or a callable that is seen to decrease or to be concave.
      TypeError: if it is not callable.
    """
    if isinstance(activation, Activation):
        return activation
    if isinstance(activation, str):
        return choose("activation", activation, _NAMED)
    if activation is jax.nn.softplus:
        return softplus(1.0)
    for known in (RELU, ELU):
        if activation is known.function:
            return known
    if not callable(activation):
        raise TypeError(f"activation must be callable, got {type(activation).__name__}.")
    return _examined(activation)


@functools.lru_cache(maxsize=64)
def _examined(function: Elementwise) -> Activation:
    """Measures convexity and kinks of an unknown function on a grid that misses round numbers."""
    with jax.ensure_compile_time_eval():
        grid = jnp.linspace(-9.87, 10.13, 403)
        found = Activation(function)
        first, second = (np.asarray(a) for a in found.derivatives(grid))
    if first.min() < 0 or np.diff(first).min() < -1e-4 * (1 + np.abs(first).max()):
        raise ValueError(
            f"activation {function} must be convex and non-decreasing, but on [-10, 10] its slope "
            f"falls to {first.min():g} or falls between neighbouring points; use softplus(tau)."
        )
    return dataclasses.replace(found, piecewise_linear=bool((second == 0).all()))
