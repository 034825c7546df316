r"""The inner problem of a conjugate: minimise :math:`G(y) - \langle x, y\rangle` over y.

One loop for every method: anything that is an optax gradient transformation fits. Each example
stops on its own residual :math:`r = x - \nabla G(y)`; under `jax.vmap` the finished ones are
frozen. If G is :math:`\mu`-strongly convex then :math:`\|y - y^*\| \le \|r\| / \mu`, an
a-posteriori bound that needs nothing but the residual.

``method="auto"`` is damped Newton: "newton" (Cholesky) up to ``DENSE_LIMIT`` unknowns, or up to
``STRUCTURED_LIMIT`` if the potential brings curvature of its own, and "newton_cg" above;
``tests/bench/conjugate.py`` measures that choice.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from monojax.conjugate.newton import Model, NewtonState, newton

DENSE_LIMIT = 160
"""Largest number of unknowns for which "auto" factorises a dense Hessian."""

STRUCTURED_LIMIT = 16
"""The same where the potential brings its own curvature (``expand``), with cheap products."""

METHODS = ("auto", "newton", "newton_cg", "lbfgs", "gradient", "fixed", "nesterov", "adam")
SEARCHING = ("auto", "newton", "newton_cg", "lbfgs")


@dataclasses.dataclass(frozen=True)
class Solver:
    """How to solve for the maximiser; hashable, so that it can be a static argument.

    Args:
      method: "auto", "newton", "newton_cg", "lbfgs" (optax's, with zoom line search), "gradient"
        (step 2 / (strong_convexity (i + 1)), the schedule of the BLNN paper), "fixed", "nesterov",
        "adam", or any optax gradient transformation.
      tolerance: an example has converged at ``||residual|| <= tolerance * (1 + ||x||)``; None
        means 1e-4 in float32 (and below) and 1e-9 in float64.
      max_steps: limit per example; reaching it gives ``converged=False``, never an error.
      strong_convexity: mu > 0 with G - mu ||y||^2 / 2 convex, if known. "gradient" and "nesterov"
        need it, and it turns the residual into an error bound on the argmax.
      differentiation: "implicit" (memory independent of the steps, needs a twice differentiable
        potential) or "unrolled" (back through ``max_steps`` steps; no line searches).
      learning_rate: step of "fixed" and "adam"; None means 2 / (smoothness + strong_convexity)
        for "fixed", and 0.1 for "adam".
      smoothness: upper bound on the eigenvalues of the Hessian of G, if known.
      patience: steps without a smaller residual after which a method with line search gives
        up: in float32 the tolerance can lie below what rounding allows.

    Raises:
      ValueError: on an unknown name, a tolerance or constant that is not positive, max_steps < 1,
        or a method with a line search where ``differentiation="unrolled"``.
      TypeError: if ``method`` is neither a name nor an optax transformation.

    Example:
      >>> Solver("newton", tolerance=1e-6).max_steps
      100
    """

    method: Any = "auto"
    tolerance: float | None = None
    max_steps: int = 100
    strong_convexity: float | None = None
    differentiation: str = "implicit"
    learning_rate: float | None = None
    smoothness: float | None = None
    patience: int = 15

    def __post_init__(self):
        """Checks every field."""
        if isinstance(self.method, str):
            if self.method not in METHODS:
                raise ValueError(
                    f"method must be one of {METHODS} or optax's, got {self.method!r}."
                )
        elif not isinstance(self.method, optax.GradientTransformation):
            raise TypeError(
                "method must be a name or an optax transformation, "
                f"got {type(self.method).__name__}."
            )
        for name in ("tolerance", "strong_convexity", "learning_rate", "smoothness"):
            found = getattr(self, name)
            if found is not None and not found > 0:
                raise ValueError(f"{name} must be > 0 or None, got {found}.")
        for name in ("max_steps", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}.")
        if self.differentiation not in ("implicit", "unrolled"):
            raise ValueError(
                f"differentiation must be 'implicit' or 'unrolled', got {self.differentiation!r}."
            )
        if self.differentiation == "unrolled" and self.method in SEARCHING:
            raise ValueError(
                f"method={self.method!r} has a line search, which cannot be unrolled; "
                "use 'gradient', 'fixed', 'nesterov' or 'adam'."
            )

    @property
    def searches(self) -> bool:
        """Whether the method has a line search, so that a residual that stays means stalled."""
        return isinstance(self.method, str) and self.method in SEARCHING

    def transformation(
        self,
        dim: int,
        strong_convexity: Any = None,
        smoothness: Any = None,
        structured: bool = False,
        model: Model | None = None,
    ) -> optax.GradientTransformationExtraArgs:
        """The optax transformation to run.

        Args:
          dim: number of unknowns d.
          strong_convexity: mu; may be traced. None means not known.
          smoothness: largest curvature of G; may be traced. None means not known.
          structured: whether the model's Hessian-vector products are cheap.
          model: the function with its curvature, for Newton; None differentiates ``value_fn``.

        Returns:
          A transformation with extra arguments.

        Raises:
          ValueError: if the method needs a constant that is not known.
        """
        method = self.method
        if not isinstance(method, str):
            return optax.with_extra_args_support(method)

        def need(value, name):
            if value is None:
                raise ValueError(
                    f"method={method!r} needs Solver({name}=...); it is not known here."
                )
            return value

        if method in ("auto", "newton", "newton_cg"):
            limit = STRUCTURED_LIMIT if structured else DENSE_LIMIT
            cg = method == "newton_cg" or (method == "auto" and dim > limit)
            return newton("cg" if cg else "dense", model=model)
        if method == "lbfgs":
            return optax.lbfgs()
        if method == "gradient":
            mu = need(strong_convexity, "strong_convexity")
            rule = optax.sgd(lambda count: 2 / (mu * (count + 1)))
        elif method == "fixed":
            rate = self.learning_rate
            if rate is None:
                mu = 0.0 if strong_convexity is None else strong_convexity
                rate = 2 / (need(smoothness, "smoothness") + mu)
            rule = optax.sgd(rate)
        elif method == "nesterov":
            top = need(smoothness, "smoothness")
            root = jnp.sqrt(top / need(strong_convexity, "strong_convexity"))
            rule = optax.sgd(1 / top, momentum=(root - 1) / (root + 1), nesterov=True)
        else:
            rule = optax.adam(0.1 if self.learning_rate is None else self.learning_rate)
        return optax.with_extra_args_support(rule)

    def threshold(self, x: jax.Array) -> jax.Array:
        """The residual norm `[]` at which the example ``x``, `[d]`, has converged."""
        tolerance = self.tolerance
        if tolerance is None:
            tolerance = 1e-9 if x.dtype == jnp.float64 else 1e-4
        return tolerance * (1 + jnp.linalg.norm(x))


class Solution(NamedTuple):
    """Where the loop ended, for one example."""

    argmax: jax.Array
    """`[d]`: the iterate with the smallest residual (the last one when unrolled)."""
    residual: jax.Array
    """`[]`: norm of x - grad G(argmax)."""
    steps: jax.Array
    """`[]` int: steps taken."""
    converged: jax.Array
    """`[]` bool: the residual met the tolerance."""
    curvature: jax.Array
    """`[]`: smallest secant curvature met (inf after no step); <= 0 refutes convexity."""


class _Loop(NamedTuple):
    y: jax.Array
    value: jax.Array
    grad: jax.Array
    inner: Any
    step: jax.Array
    best: jax.Array
    best_norm: jax.Array
    waiting: jax.Array
    curvature: jax.Array
    done: jax.Array


def minimise(
    value_fn: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    start: jax.Array,
    solver: Solver,
    *,
    strong_convexity: Any = None,
    smoothness: Any = None,
    model: Model | None = None,
    structured: bool = False,
) -> Solution:
    r"""Minimises ``value_fn(y) = G(y) - <x, y>`` for one example; see :class:`Solver`.

    Args:
      value_fn: map of `[d]` to `[]`, convex and differentiable.
      x: shape `[d]`; only sets the scale of the tolerance.
      start: first iterate, shape `[d]`.
      solver: the method and its limits.
      strong_convexity: overrides the solver's, may be traced.
      smoothness: overrides the solver's, may be traced.
      model: ``value_fn`` with its curvature, for Newton; None differentiates ``value_fn``.
      structured: whether the model's Hessian-vector products are cheap.

    Returns:
      Solution. With ``differentiation="unrolled"`` it can be differentiated in reverse.
    """
    mu = solver.strong_convexity if strong_convexity is None else strong_convexity
    top = solver.smoothness if smoothness is None else smoothness
    method = solver.transformation(start.shape[0], mu, top, structured, model)
    threshold = solver.threshold(x)
    evaluate = jax.value_and_grad(value_fn)
    small = jnp.finfo(start.dtype).eps

    def searched(y, active=None):
        # optax's line searches refuse extra arguments that their function does not name.
        del active
        return value_fn(y)

    def met(norm):
        # Where a norm overflows, inf <= inf would pass for success.
        return (norm <= threshold) & jnp.isfinite(norm) & jnp.isfinite(threshold)

    def status(norm, waiting):
        return ~jnp.isfinite(norm) | met(norm) | (waiting >= solver.patience)

    def body(s: _Loop) -> _Loop:
        updates, inner = method.update(
            s.grad,
            s.inner,
            s.y,
            value=s.value,
            grad=s.grad,
            value_fn=searched,
            active=~s.done,
        )
        y = s.y + updates
        # Methods with a line search leave the value and the gradient at y in their state.
        value, grad = (optax.tree_utils.tree_get(inner, name) for name in ("value", "grad"))
        if value is None or grad is None:
            value, grad = evaluate(y)
        # The record is not differentiated: a norm has no derivative at 0, where unrolling ends.
        y_now, moves, g_now, g_old = jax.lax.stop_gradient((y, updates, grad, s.grad))
        norm, moved = jnp.linalg.norm(g_now), jnp.linalg.norm(moves)
        better = norm < s.best_norm
        scale = 1 + jnp.linalg.norm(y_now)
        # Steps below rounding count as waiting for any method; steps without progress only
        # where a line search should have found some.
        idle = (moved <= 2 * small * scale) | (~better & solver.searches)
        waiting = jnp.where(idle, s.waiting + 1, 0)
        secant = moves @ (g_now - g_old) / jnp.square(jnp.where(moved > 0, moved, 1))
        told = jnp.isfinite(secant) & (moved > jnp.sqrt(small) * scale)
        return _Loop(
            y=y,
            value=value,
            grad=grad,
            inner=inner,
            step=s.step + 1,
            best=jnp.where(better, y_now, s.best),
            best_norm=jnp.where(better, norm, s.best_norm),
            waiting=waiting,
            curvature=jnp.where(told, jnp.minimum(s.curvature, secant), s.curvature),
            done=status(norm, waiting),
        )

    inner = method.init(start)
    if model is not None and isinstance(inner, NewtonState):
        value, grad = inner.value, inner.grad
    else:
        value, grad = evaluate(start)
    norm = jnp.linalg.norm(jax.lax.stop_gradient(grad))
    zero = jnp.asarray(0)
    loop = _Loop(
        y=start,
        value=value,
        grad=grad,
        inner=inner,
        step=zero,
        best=jax.lax.stop_gradient(start),
        best_norm=norm,
        waiting=zero,
        curvature=jnp.full_like(norm, jnp.inf),
        done=status(norm, zero),
    )
    if solver.differentiation == "unrolled":

        def one(s, _):
            return jax.tree.map(lambda new, old: jnp.where(s.done, old, new), body(s), s), None

        loop, _ = jax.lax.scan(one, loop, length=solver.max_steps)
        argmax, norm = loop.y, jnp.linalg.norm(jax.lax.stop_gradient(loop.grad))
    else:
        loop = jax.lax.while_loop(lambda s: ~s.done & (s.step < solver.max_steps), body, loop)
        argmax, norm = loop.best, loop.best_norm
    return Solution(argmax, norm, loop.step, met(norm), loop.curvature)
