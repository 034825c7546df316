r"""The inner problem of a conjugate: minimise :math:`G(y) - \langle x, y\rangle` over y.

One loop for every method (`monojax.conjugate.loop`): anything that is an optax gradient
transformation fits. Each example stops on its own residual :math:`r = x - \nabla G(y)`; under
`jax.vmap` the finished ones are frozen. If G is :math:`\mu`-strongly convex then
:math:`\|y - y^*\| \le \|r\| / \mu`, an a-posteriori bound that needs only the residual.

``method="auto"`` is damped Newton: "newton" (Cholesky) up to ``DENSE_LIMIT`` unknowns, or up to
``STRUCTURED_LIMIT`` if the potential brings curvature of its own, and "newton_cg" above;
``tests/bench/conjugate.py`` measures that choice.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from monojax.base.checks import is_concrete, one_of
from monojax.conjugate.newton import Model, newton
from monojax.conjugate.potentials import DENSE_LIMIT

STRUCTURED_LIMIT = 16
"""Most unknowns for which "auto" factorises a Hessian with which products are cheap."""

METHODS = ("auto", "newton", "newton_cg", "lbfgs", "gradient", "fixed", "nesterov", "adam")
SEARCHING = ("auto", "newton", "newton_cg", "lbfgs")


@dataclasses.dataclass(frozen=True)
class Solver:
    """How to solve for the maximiser; hashable, so that it can be a static argument.

    Args:
      method: "auto", "newton", "newton_cg", "lbfgs" (optax's, with zoom line search), "gradient"
        (step 2 / (strong_convexity (i + 1)), the schedule of the BLNN paper), "fixed", "nesterov",
        "adam", or any optax gradient transformation.
      tolerance: an example has converged where ``||x - grad G(argmax)||``, and what rounding may
        hide of it, is at most ``tolerance * (1 + ||x||)``; None means 1e-4 in float32 (in which
        smaller dtypes are solved, too) and 1e-9 in float64.
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
        """Checks every field; numbers of numpy and jax become Python's."""
        if isinstance(self.method, str):
            one_of(self.method, METHODS, "method")
        elif not isinstance(self.method, optax.GradientTransformation):
            raise TypeError(
                "method must be a name or an optax transformation, "
                f"got {type(self.method).__name__}."
            )
        for name in ("tolerance", "strong_convexity", "learning_rate", "smoothness"):
            found = _number(getattr(self, name), name)
            if found is not None and not found > 0:
                raise ValueError(f"{name} must be > 0 or None, got {found}.")
            object.__setattr__(self, name, found)
        for name in ("max_steps", "patience"):
            found = _number(getattr(self, name), name)
            if found is None or not found >= 1:
                raise ValueError(f"{name} must be >= 1, got {found}.")
            object.__setattr__(self, name, int(found))
        one_of(self.differentiation, ("implicit", "unrolled"), "differentiation")
        if self.differentiation == "unrolled" and self.searches:
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
        """The residual norm `[]` at which ``x`` `[d]`, in the dtype of the solve, has converged."""
        tolerance = self.tolerance
        if tolerance is None:
            tolerance = 1e-9 if x.dtype == jnp.float64 else 1e-4
        return tolerance * (1 + jnp.linalg.norm(x))


def _number(value: Any, name: str) -> Any:
    """A concrete scalar as Python's, so that a Solver can be hashed; None stays None."""
    if value is None or isinstance(value, (int, float)):
        return value
    if not is_concrete(value):
        raise TypeError(
            f"Solver({name}=...) must be known when the program is traced; give a Python number."
        )
    if np.shape(value) != ():
        raise ValueError(f"{name} must be one number, got shape {np.shape(value)}.")
    return np.asarray(value).item()
