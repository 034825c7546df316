r"""Stabilised sensitivities of g and h at places inside a network.

With :math:`u, v` the derivatives of one stream's output on :math:`(p, n)`, the paper shifts both
by :math:`\alpha (u + v)` after every module. In the form :math:`d = (u - v)/2,\ s = u + v` the
backward pass of a contraction and the ReLU behind it is

.. math:: d \leftarrow W^T [M d - \tfrac12 (1 - M) s], \quad s \leftarrow \lambda |W|^T s,

with :math:`\lambda = (1 - 2\alpha)^2` for those two modules (`monojax.splitting.shift`): ordinary
backpropagation in which every inactive ReLU leaks :math:`-s/2`. Since d is linear in (grad, s) for
given :math:`\lambda`, three arrays (the gradient, s, and q, the response of d to s alone) give all
four maps.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from monojax.splitting.modes import SplitMode
from monojax.splitting.reading import prepare, read
from monojax.splitting.shift import ALPHA, check_alpha
from monojax.splitting.sites import INPUT, find_site
from monojax.splitting.transform import check_options


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sensitivities:
    """Four maps at one place, shaped as the value there."""

    grad: jax.Array
    """Ordinary gradient of fn's target (of what fn computes, as :func:`monojax.split` says)."""
    s: jax.Array
    """Sum of a stream's two sensitivities; the same for g and h."""
    q: jax.Array
    """Response of d to s alone."""

    @property
    def g_p(self) -> jax.Array:
        """dg/dp, the default map (+, g)."""
        return self.s / 2 + (self.grad / 2 + self.q)

    @property
    def g_n(self) -> jax.Array:
        """dg/dn."""
        return self.s / 2 - (self.grad / 2 + self.q)

    @property
    def h_p(self) -> jax.Array:
        """dh/dp."""
        return self.s / 2 + (-self.grad / 2 + self.q)

    @property
    def h_n(self) -> jax.Array:
        """dh/dn."""
        return self.s / 2 - (-self.grad / 2 + self.q)


def sensitivities(
    fn: Callable[..., Any],
    x: jax.Array,
    target: Any,
    *,
    args: tuple[Any, ...] = (),
    layers: Sequence[Any] | None = None,
    alpha: Any = ALPHA,
    shift_at: str = "module",
    pool: str = "full",
    recentre: Any = "full",
    freeze: Any = (),
) -> dict[int, Sensitivities]:
    r"""All stabilised sensitivities of one class, from one forward and two backward passes.

    At alpha = 0.5 s vanishes and every map is half the gradient or its negative; at alpha = 0 all
    four maps are non-negative. Always g_p - h_p = grad, and g_p + g_n = h_p + h_n = s.

    Args:
      fn: maps ONE example (and args) to `[c]` or a scalar.
      x: one example, any shape.
      target: the class, an integer.
      args: further arguments of fn.
      layers: places (names, tags or numbers); None for all.
      alpha: backward shift in [0, 0.5], or "balanced": as much mass as gradient in every layer.
      shift_at: where alpha counts: after every "module" as in the paper (a factor of
        :math:`(1 - 2\alpha)^2` per contraction), or once per "contraction" (:math:`1 - 2\alpha`).
      pool: "full" or "wta".
      recentre: as in :func:`monojax.split`; it does not change these maps.
      freeze: as in :func:`monojax.split`; "gradient" is then that of the frozen network.

    Returns:
      Sensitivities by number of place (as in split_report); -1 is the input.

    Raises:
      ValueError: on bad options, layers, targets, NaN in x, or a primitive without a rule.
    """
    strategy, shifts = check_options(pool, recentre)
    mode = SplitMode(pool, strategy, check_alpha(alpha, shift_at), freeze, shift_at)
    ready = prepare(fn, x, args, mode, shifts)
    if layers is None:
        indices = [INPUT, *(site.index for site in ready.sites)]
    else:
        indices = list(dict.fromkeys(_index(ready.sites, layer) for layer in layers))
    readings, _ = read(ready, indices, [(1.0, 0.0), (0.0, 0.5)], target)
    found = {}
    for i, reading in readings.items():
        ordinary, mass = reading.slope
        found[i] = Sensitivities(ordinary.f, 2 * mass.t, mass.f)
    return found


def _index(sites: Any, layer: Any) -> int:
    if isinstance(layer, tuple):
        raise ValueError(f"sensitivities come for all steps of a scan: ask for layer {layer[0]!r}.")
    plain = [dataclasses.replace(site, steps=()) for site in sites]
    return find_site(plain, layer)[0]
