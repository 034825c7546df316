r"""Layer-wise relevance propagation, as gradients with rescaled derivatives.

Where relevance is :math:`R = z \, G` with a modified gradient G, each rule is a change of the
derivative behind an affine map: epsilon multiplies it by :math:`z / (z + \epsilon)`, z+ and gamma
exchange the map's derivative for that of its positive part or of a mixture.
"""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.attribution.common import SEED_G, Recipe, to_map
from monojax.attribution.gradients import product_map
from monojax.base.checks import is_concrete, one_of
from monojax.splitting.modes import Mode, SplitMode, recentred
from monojax.splitting.pair import Pair, with_slope, with_value
from monojax.splitting.reading import Reading
from monojax.splitting.transform import check_options

RULES = ("epsilon", "gamma", "zplus")


def _stable(z: jax.Array, epsilon: float) -> jax.Array:
    return z + jnp.where(z >= 0, epsilon, -epsilon)


def _unresolved(total: jax.Array) -> jax.Array | float:
    """What rounding leaves of a positive part that is 0, in half precision: noise, not a part.

    The quotient by it left float16's range and was multiplied by a slope of 0. Other dtypes have
    the range for it.
    """
    info = jnp.finfo(total.dtype)
    return float(info.eps) * total if info.bits < 32 else 0.0


class LRP(Mode):
    """Relevance rules; the mass |W| |x| + |b| gives the positive and negative parts."""

    ordinary = False
    peels = True  # a constant start state counts as a bias in its first step, and as nothing else

    def __init__(self, rule: str, epsilon: float, gamma: float, freeze: Any = ()):
        """Takes one of `RULES` and its constants."""
        super().__init__(freeze)
        self.rule, self.epsilon, self.gamma = rule, epsilon, gamma
        self._parts = rule != "epsilon"

    def constant(self, value: Any) -> Pair:
        """Biases take part in the parts' sums."""
        return Pair(value, jnp.abs(value) if self._parts else None)

    def leave(self, x: Pair, size: Any = None) -> Pair:
        """The parts of a map begin at |x|, with its true derivative."""
        return Pair(x.f, jnp.abs(x.f) if self._parts else None)

    def contract(self, apply: Callable[[Any, Any], Any], x: Pair, weights: Any) -> Pair:
        """The rule is applied behind the affine map, when its bias is in."""
        out = super().contract(apply, x, weights)
        return Pair(out.f, out.t, pending=True)

    def settle(self, x: Pair) -> Pair:
        """Applies the rule."""
        if not x.pending:
            return dataclasses.replace(x, t=None)  # the parts of the next map begin at |x|
        f = x.f
        if self.rule == "epsilon":
            below = f
        elif self.rule == "zplus":
            below = (x.t + f) / 2
        else:  # gamma favours the part of the output's own sign
            positive, negative = f + self.gamma * (x.t + f) / 2, f - self.gamma * (x.t - f) / 2
            below = jnp.where(f > 0, positive, negative)
        divisor = _stable(below, self.epsilon)
        if self.rule == "zplus":
            divisor = jnp.maximum(divisor, _unresolved(x.t))
        out = with_slope(below, jax.lax.stop_gradient(f / divisor))
        return Pair(with_value(out, jax.lax.stop_gradient(f)))


def lrp_recipe(o: Any, x: Any) -> Recipe:
    """One rule in all affine layers."""
    one_of(o.rule, RULES, "rule")
    for name in ("epsilon", "gamma"):
        value = getattr(o, name)
        if is_concrete(value) and not float(np.asarray(value)) >= 0:
            raise ValueError(f"{name} must be >= 0, got {value}.")
    return Recipe(LRP(o.rule, o.epsilon, o.gamma, o.freeze), lambda at: product_map(at, o.reduce))


class SplitLRP(SplitMode):
    """epsilon-LRP through both streams; re-centring passes relevance on unchanged."""

    def __init__(self, pool: str, recentre: str, epsilon: float, freeze: Any = ()):
        """Takes the options of the split and the denominators' constant."""
        super().__init__(pool, recentre, freeze=freeze)
        self.epsilon = epsilon

    def enter(self, x: Pair, shift: Any) -> tuple[Pair, Any]:
        """Re-centres; the derivative on p is multiplied by (p - k) / p, likewise on n."""
        new, k = recentred(x, self.recentre, shift)
        if self.recentre == "none" and shift is None:
            return new, k
        return _rescaled(x, new, lambda old, now: now / jnp.where(old == 0, 1, old)), k

    def contract(self, apply: Callable[[Any, Any], Any], x: Pair, weights: Any) -> Pair:
        """The rule is applied behind the affine map, when its bias is in."""
        out = super().contract(apply, x, weights)
        return Pair(out.f, out.t, pending=True)

    def settle(self, x: Pair) -> Pair:
        """Applies epsilon to each stream."""
        if not x.pending:
            return x
        return _rescaled(x, Pair(x.f, x.t), lambda old, _: old / _stable(old, self.epsilon))


def _rescaled(x: Pair, values: Pair, factor: Callable[[Any, Any], Any]) -> Pair:
    """``values`` with the derivatives of x's streams, each multiplied by its factor."""
    fixed = jax.lax.stop_gradient
    p = with_slope(x.p, fixed(factor(x.p, values.p)))
    n = with_slope(x.n, fixed(factor(x.n, values.n)))
    return Pair(with_value(p - n, fixed(values.f)), with_value(p + n, fixed(values.t)))


def split_lrp_recipe(o: Any, x: Any) -> Recipe:
    """Both streams at once."""
    strategy, shifts = check_options(o.pool, o.recentre)
    if strategy == "full":
        warnings.warn(
            "split_lrp with recentre='full' is the z+ rule of the original network; report it so.",
            stacklevel=3,
        )
    else:
        check_precision(x, strategy)
    formula = lambda at: to_map(relevance_of(at), at.layout, o.reduce)
    return Recipe(SplitLRP(o.pool, strategy, o.epsilon, o.freeze), formula, SEED_G, shifts)


def relevance_of(reading: Reading) -> jax.Array:
    """R+ - R- from the pair and its derivatives at a place."""
    slope, value = reading.slope[0], reading.value
    return value.p * (slope.t + slope.f) - value.n * (slope.t - slope.f)


def check_precision(x: Any, strategy: str = "scale") -> None:
    """Raises unless ``x`` is float64, which SplitLRP needs without full re-centring.

    Args:
      x: the example.
      strategy: the re-centring, for the message.

    Raises:
      ValueError: on another dtype.
    """
    if jnp.asarray(x).dtype != jnp.float64:
        raise ValueError(
            f"split_lrp with recentre={strategy!r} needs float64, got {jnp.asarray(x).dtype}: "
            "enable it with jax.config.update('jax_enable_x64', True) and convert x and weights, "
            "or use recentre='full', which is the z+ rule."
        )
