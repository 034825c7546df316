r"""Layer-wise relevance propagation, as gradients with rescaled derivatives.

Where relevance is :math:`R = z \, G` with a modified gradient G, each rule is a change of the
derivative behind an affine map: epsilon multiplies it by :math:`z / (z + \epsilon)`, z+ and gamma
exchange the map's derivative for that of its positive part or of a mixture.
"""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from monojax.attribution.common import explain, to_map
from monojax.splitting.modes import Mode, SplitMode, recentred
from monojax.splitting.pair import Split, with_slope, with_value
from monojax.splitting.reading import Reading
from monojax.splitting.transform import check_options

Fn = Callable[..., Any]
RULES = ("epsilon", "gamma", "zplus")
SEED_G = (0.5, 0.5)
"""Derivatives of g on the output's value and mass."""


def _stable(z: jax.Array, epsilon: float) -> jax.Array:
    return z + jnp.where(z >= 0, epsilon, -epsilon)


class LRP(Mode):
    """Relevance rules; the mass |W| |x| + |b| gives the positive and negative parts."""

    ordinary = False

    def __init__(self, rule: str, epsilon: float, gamma: float, freeze: Any = ()):
        """Takes one of `RULES` and its constants."""
        super().__init__(freeze)
        self.rule, self.epsilon, self.gamma = rule, epsilon, gamma
        self._parts = rule != "epsilon"

    def constant(self, value: Any) -> Split:
        """Biases take part in the parts' sums."""
        return Split(value, jnp.abs(value) if self._parts else None)

    def leave(self, x: Split, size: Any = None) -> Split:
        """The parts of a map begin at |x|, with its true derivative."""
        return Split(x.f, jnp.abs(x.f) if self._parts else None)

    def contract(self, apply: Callable[[Any, Any], Any], x: Split, weights: Any) -> Split:
        """The rule is applied behind the affine map, when its bias is in."""
        out = super().contract(apply, x, weights)
        return Split(out.f, out.t, pending=True)

    def settle(self, x: Split) -> Split:
        """Applies the rule."""
        if not x.pending:
            return x
        f = x.f
        if self.rule == "epsilon":
            below = f
        elif self.rule == "zplus":
            below = (x.t + f) / 2
        else:  # gamma favours the part of the output's own sign
            positive, negative = f + self.gamma * (x.t + f) / 2, f - self.gamma * (x.t - f) / 2
            below = jnp.where(f > 0, positive, negative)
        out = with_slope(below, jax.lax.stop_gradient(f / _stable(below, self.epsilon)))
        return Split(with_value(out, jax.lax.stop_gradient(f)))


def lrp(
    fn: Fn,
    x: Any,
    target: Any,
    *,
    args: tuple = (),
    layer: Any = None,
    rule: str = "epsilon",
    epsilon: float = 1e-6,
    gamma: float = 0.25,
    reduce: str = "sum",
    freeze: Any = (),
) -> jax.Array:
    r"""Layer-wise relevance propagation with one rule in all affine layers.

    Batch norm counts as part of the contraction before it, biases absorb their share, max-pooling
    passes relevance to the winner, sums in proportion to their terms.

    Args:
      fn: maps ONE example (and args) to `[c]` or a scalar.
      x: one example.
      target: the class, whose output is the relevance to start from.
      args: further arguments of fn.
      layer: where: a module path or its end, a tag, a number of split_report, None for the input.
      rule: "epsilon"; "gamma" (the generalised rule for inputs of both signs); "zplus".
      epsilon: added to denominators with their sign.
      gamma: weight of the positive part in the rule "gamma".
      reduce: over channels, "sum", "mean" or "none".
      freeze: what is held at its forward value, as in :func:`monojax.split`: with True the rules of
        Ali et al. (2022) for attention and layer norm.

    Returns:
      `[h, w]`, relevance at the layer's own size.

    Raises:
      ValueError: on a wrong rule, layer or target, a batch, NaN, a primitive without a rule.

    Reference:
      Bach et al., 2015; Montavon et al., "Layer-Wise Relevance Propagation: An Overview", 2019.
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {RULES}, got {rule!r}.")
    if epsilon < 0 or gamma < 0:
        raise ValueError(f"epsilon and gamma must be >= 0, got {epsilon} and {gamma}.")
    reading, _ = explain(fn, x, target, args, layer, LRP(rule, epsilon, gamma, freeze))
    return to_map(reading.slope[0].f * reading.value.f, reading.layout, reduce)


class SplitLRP(SplitMode):
    """epsilon-LRP through both streams; re-centring passes relevance on unchanged."""

    def __init__(self, pool: str, recentre: str, epsilon: float, freeze: Any = ()):
        """Takes the options of the split and the denominators' constant."""
        super().__init__(pool, recentre, freeze=freeze)
        self.epsilon = epsilon

    def enter(self, x: Split, shift: Any) -> tuple[Split, Any]:
        """Re-centres; the derivative on p is multiplied by (p - k) / p, likewise on n."""
        new, k = recentred(x, self.recentre, shift)
        if self.recentre == "none" and shift is None:
            return new, k
        return _rescaled(x, new, lambda old, now: now / jnp.where(old == 0, 1, old)), k

    def contract(self, apply: Callable[[Any, Any], Any], x: Split, weights: Any) -> Split:
        """The rule is applied behind the affine map, when its bias is in."""
        out = super().contract(apply, x, weights)
        return Split(out.f, out.t, pending=True)

    def settle(self, x: Split) -> Split:
        """Applies epsilon to each stream."""
        if not x.pending:
            return x
        return _rescaled(x, Split(x.f, x.t), lambda old, _: old / _stable(old, self.epsilon))


def _rescaled(x: Split, values: Split, factor: Callable[[Any, Any], Any]) -> Split:
    """``values`` with the derivatives of x's streams, each multiplied by its factor."""
    fixed = jax.lax.stop_gradient
    p = with_slope(x.p, fixed(factor(x.p, values.p)))
    n = with_slope(x.n, fixed(factor(x.n, values.n)))
    return Split(with_value(p - n, fixed(values.f)), with_value(p + n, fixed(values.t)))


def split_lrp(
    fn: Fn,
    x: Any,
    target: Any,
    *,
    args: tuple = (),
    layer: Any = None,
    pool: str = "wta",
    recentre: Any = "scale",
    epsilon: float = 1e-6,
    reduce: str = "sum",
    freeze: Any = (),
) -> jax.Array:
    r"""SplitLRP: epsilon-LRP through the positive and the negative stream at once, R+ - R-.

    Relevance starts as g at the target. How much of R- survives is decided by the re-centring:
    with "none" :math:`R` is stream times raw stream gradient; with "full" nothing is left of R-
    and **the result is the z+ rule (LRP alpha1-beta0) of the original network, not a new
    method** (up to how sums of branches share): a warning says so; report such a map as z+.

    Args:
      fn: maps ONE example (and args) to `[c]` or a scalar.
      x: one example; float64 unless recentre is "full".
      target: the class.
      args: further arguments of fn.
      layer: where: a module path or its end, a tag, a number of split_report, None for the input.
      pool: "wta" (relevance to the winner of each stream) or "full".
      recentre: "scale" (default), "none", "full", or the result of calibrate.
      epsilon: added to denominators.
      reduce: over channels, "sum", "mean" or "none".
      freeze: as in :func:`monojax.split`.

    Returns:
      `[h, w]`.

    Raises:
      ValueError: if x is not float64 with a recentre other than "full" (streams reach 1e11 and
        more, of which float32 keeps no difference); on a wrong layer or target, a batch, NaN.

    Reference:
      Zimmermann, Loho, "Hidden Monotonicity", CVPR 2026; formulas derived in the split's own terms.
    """
    strategy, shifts = check_options(pool, recentre)
    if strategy == "full":
        warnings.warn(
            "split_lrp with recentre='full' is the z+ rule of the original network; report it so.",
            stacklevel=2,
        )
    else:
        check_precision(x, strategy)
    mode = SplitLRP(pool, strategy, epsilon, freeze)
    reading, _ = explain(fn, x, target, args, layer, mode, seed=SEED_G, shifts=shifts)
    return to_map(relevance_of(reading), reading.layout, reduce)


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
