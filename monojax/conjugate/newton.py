r"""Damped Newton for smooth convex functions, as an optax gradient transformation.

Like :func:`optax.lbfgs` it takes ``value``, ``grad`` and ``value_fn`` in ``update``, and leaves the
value and gradient at the new point in its state, so that the caller pays for them once.

The line search looks at slopes, not at values: for a convex function the slope along the ray is
monotone, so its sign brackets the minimiser, and in float32 a slope is still right where the
difference of two values is rounding. On nearly polyhedral functions (a sharp softplus) it stops
at the kink that blocks the way, where halving the step would overshoot or creep.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from monojax.base.checks import one_of
from monojax.conjugate.linear import Fn, counted_gradients, dense_solve, varying_like


class Model(NamedTuple):
    """A function with its curvature, for callers that can share work between the two."""

    expand: Callable[[jax.Array], tuple[jax.Array, jax.Array, Any]]
    """Map of y `[d]` to value `[]`, gradient `[d]` and any pytree of terms."""
    hessian: Callable[[Any], jax.Array]
    """Map of the terms to the Hessian `[d, d]`."""
    hvp: Callable[[Any], Fn]
    """Map of the terms to a map of vectors `[d]` to the Hessian times them."""


class NewtonState(NamedTuple):
    """Value and gradient at the current point, and the last step length."""

    value: jax.Array
    """`[]`: the function at the new point."""
    grad: jax.Array
    """`[d]`: its gradient there."""
    step_size: jax.Array
    """`[]`: multiple of the Newton direction that was taken."""
    terms: Any
    """What :class:`Model` needs of the current point; the point itself without a model."""
    evaluations: jax.Array
    """`[]` int: points at which the line searches so far have evaluated the function."""
    products: jax.Array
    """`[]` int: Hessian-vector products so far; 0 for "dense"."""


def newton(
    linear: Literal["dense", "cg"] = "dense",
    *,
    model: Model | None = None,
    cg_steps: int = 100,
    search_steps: int = 20,
    slope_ratio: float = 0.5,
) -> optax.GradientTransformationExtraArgs:
    r"""Newton steps with a slope-bracketing line search, for one vector `[d]`.

    The direction solves :math:`H p = -g`: by Cholesky ("dense"; if the factorisation fails, a
    multiple of the identity is added, ten times more each time), or by conjugate gradients on
    Hessian-vector products ("cg"), stopped at :math:`\|Hp + g\| \le \min(1/2, \sqrt{\|g\|})\|g\|/5`
    or where curvature is not positive.

    ``update`` needs ``value``, ``grad`` and ``value_fn`` as :func:`optax.lbfgs` does. It also
    takes ``active`` (`[]` bool: False costs no inner iterations, for the finished samples of a
    batch). Curvature comes from `jax.hessian` and `jax.linearize`, or from ``model``.

    Args:
      linear: "dense" for small d, "cg" for large.
      model: the function where it can share work between value, gradient and curvature; it must be
        the one minimised. ``value_fn`` is then not used.
      cg_steps: most Hessian-vector products per step; at least 1.
      search_steps: most evaluations per line search, before one at the bracket's lower end.
      slope_ratio: the step is taken when the slope along the ray fell to this share.

    Returns:
      An `optax.GradientTransformationExtraArgs` on arrays of shape `[d]`.

    Raises:
      ValueError: on an unknown ``linear`` or an iteration limit below 1.

    Reference:
      Nocedal and Wright, Numerical Optimization, 2nd ed., chapters 3 and 7.
    """
    one_of(linear, ("dense", "cg"), "linear")
    if cg_steps < 1 or search_steps < 1:
        raise ValueError(f"cg_steps and search_steps must be >= 1, got {cg_steps}, {search_steps}.")

    def init(params: jax.Array) -> NewtonState:
        if getattr(params, "ndim", None) != 1:
            raise ValueError(
                f"newton works on one vector [d], got {jax.tree.map(jnp.shape, params)}."
            )
        zero = jnp.zeros_like(params, shape=())
        none = jnp.zeros_like(zero, dtype=int)
        if model is not None:
            value, grad, terms = model.expand(params)
            zero, none = varying_like((zero, none), value)
            return NewtonState(value, grad, zero, terms, none, none)
        return NewtonState(zero + jnp.inf, jnp.zeros_like(params), zero, params, none, none)

    def update(
        updates,
        state,
        params=None,
        *,
        value=None,
        grad=None,
        value_fn=None,
        active=True,
        **unused,
    ):
        del unused
        if params is None or value is None or (value_fn is None and model is None):
            raise ValueError(
                "newton needs params, value, grad and value_fn in update, as optax.lbfgs does."
            )
        gradient = updates if grad is None else grad
        active = jnp.asarray(active)
        if model is None:
            own, terms = plain_model(value_fn), params
        else:
            own, terms = model, state.terms
        if linear == "dense":
            solution = dense_solve(own.hessian(terms), gradient, active)
            count = jnp.zeros_like(state.products)
        else:
            hvp = own.hvp(terms)
            norm = jnp.linalg.norm(gradient)
            forcing = 0.2 * jnp.minimum(0.5, jnp.sqrt(norm))
            solution, count = counted_gradients(hvp, gradient, forcing, cg_steps, active)
        usable = jnp.isfinite(solution).all() & (solution @ gradient > 0)
        direction = jnp.where(usable, -solution, -gradient)
        here = NewtonState(
            value, gradient, jnp.zeros_like(value), terms, state.evaluations, state.products + count
        )
        new = _search(own.expand, params, here, direction, active, search_steps, slope_ratio)
        return new.step_size * direction, new

    return optax.GradientTransformationExtraArgs(init, update)


def plain_model(value_fn: Fn) -> Model:
    """The model by automatic differentiation of a map from `[d]` to `[]`; its terms are y."""
    evaluate = jax.value_and_grad(value_fn)
    return Model(
        lambda y: (*evaluate(y), y),
        jax.hessian(value_fn),
        lambda y: jax.linearize(jax.grad(value_fn), y)[1],
    )


class _Search(NamedTuple):
    t: jax.Array
    value: jax.Array
    grad: jax.Array
    terms: Any
    low: jax.Array
    slope_low: jax.Array
    high: jax.Array
    slope_high: jax.Array
    trials: jax.Array
    accepted: jax.Array


def _search(expand, y, here, direction, active, max_steps, ratio) -> NewtonState:
    """The state at the accepted step; brackets the zero of the slope along the ray."""
    value, gradient = here.value, here.grad
    slope0 = gradient @ direction
    norm0 = jnp.linalg.norm(gradient)
    slack = 10 * jnp.finfo(y.dtype).eps * jnp.abs(value)

    def accept(t, new, grad, slope):
        decreased = new <= value + 1e-4 * t * slope0 + slack
        flat = (jnp.abs(slope) <= ratio * jnp.abs(slope0)) & ((slope <= 0) | decreased)
        # A residual cut to half is the only test left at rounding level. Where the value rises by
        # more than rounding it proves nothing: such steps were seen to go round in circles.
        return flat | ((jnp.linalg.norm(grad) <= 0.5 * norm0) & (new <= value + slack))

    def unfinished(s: _Search):
        return ~s.accepted & active

    def body(s: _Search):
        new, grad, terms = expand(y + s.t * direction)
        slope = grad @ direction
        usable = jnp.isfinite(new) & jnp.isfinite(slope)
        slope = jnp.where(usable, slope, jnp.inf)
        below = slope < 0
        low, slope_low = jnp.where(below, s.t, s.low), jnp.where(below, slope, s.slope_low)
        high, slope_high = jnp.where(below, s.high, s.t), jnp.where(below, s.slope_high, slope)
        share = slope_low / (slope_low - slope_high)  # secant; 0 when slope_high is infinite
        # Every third trial bisects: a secant alone crawls along a kink.
        share = jnp.where(
            (s.trials % 3 == 2) | ~jnp.isfinite(share), 0.5, jnp.clip(share, 0.05, 0.95)
        )
        inside = low + share * jnp.where(jnp.isfinite(high), high - low, 0)
        # The last trial is the lower end of the bracket, taken whatever it brings: its slope is
        # still negative, so the function is lower there than at the start.
        last = s.trials >= max_steps
        accepted = (usable & accept(s.t, new, grad, slope)) | last
        t = jnp.where(jnp.isfinite(high), inside, 4 * s.t)
        t = jnp.where(s.trials == max_steps - 1, low, t)
        t = jnp.where(accepted, s.t, t)
        return _Search(
            t, new, grad, terms, low, slope_low, high, slope_high, s.trials + 1, accepted
        )

    one, inf = jnp.ones_like(value), jnp.full_like(value, jnp.inf)
    zero = jnp.zeros_like(value)
    none = jnp.zeros_like(value, dtype=int)
    start = _Search(
        one, value, gradient, here.terms, zero, slope0, inf, inf, none, none.astype(bool)
    )
    start = varying_like(start, value, slope0, active)
    s = jax.lax.while_loop(unfinished, body, start)
    return NewtonState(s.value, s.grad, s.t, s.terms, here.evaluations + s.trials, here.products)
