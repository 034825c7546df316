"""What a conjugate needs of a convex function: one protocol, and the potentials of the networks."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from monojax.conjugate.activations import as_activation
from monojax.conjugate.icnn import ICNNPotential, Terms, orthonormal
from monojax.conjugate.linear import (
    conjugate_gradients,
    dense_solve,
    factored_gradients,
    factored_solve,
    floored_solve,
)

DENSE_LIMIT = 160
"""Most unknowns for which a dense Hessian is factorised."""

CG_FROM = 24
"""Unknowns from which systems with a structured Hessian are solved by conjugate gradients."""


class Potential:
    """A function G(params, y), convex in y; the base class of those that know more than a value.

    Subclasses give ``__call__`` and may replace the rest, each of which has a default by automatic
    differentiation. Instances must be hashable and close over no traced array: everything that
    can be differentiated is in ``params``.
    """

    cheap_products = False
    """Whether products with the Hessian cost about one gradient, without exponentials."""

    keeps_curvature = False
    """Whether :meth:`solve` keeps the strong convexity that rounding of a Hessian would hide."""

    @property
    def piecewise_linear(self) -> bool:
        """Whether the gradient has kinks, where the implicit rule is wrong."""
        return False

    def __call__(self, params: Any, y: jax.Array) -> jax.Array:
        """G `[]` at one point `[d]`."""
        raise NotImplementedError

    def strong_convexity(self, params: Any) -> Any:
        """Lower bound `[]` on the eigenvalues of the Hessian, or None if not known."""
        del params

    def smoothness(self, params: Any) -> Any:
        """Upper bound `[]` on them, or None if not known."""
        del params

    def start(self, params: Any, x: jax.Array) -> jax.Array:
        """First iterate `[d]`."""
        del params
        return x

    def newton_start(self, params: Any, x: jax.Array) -> jax.Array:
        """First iterate `[d]` for methods with a line search; need not be differentiable."""
        return self.start(params, x)

    def expand(self, params: Any, y: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
        """Value `[]`, gradient `[d]`, and a pytree of terms that the next two turn to curvature."""
        return *jax.value_and_grad(self, 1)(params, y), y

    def hessian_at(self, params: Any, terms: Any) -> jax.Array:
        """Hessian `[d, d]` where :meth:`expand` gave ``terms``."""
        return jax.hessian(self, 1)(params, terms)

    def hvp_at(self, params: Any, terms: Any) -> Callable[[jax.Array], jax.Array]:
        """Map of vectors `[d]` to the Hessian times them, where :meth:`expand` gave ``terms``."""
        return jax.linearize(lambda y: jax.grad(self, 1)(params, y), terms)[1]

    def solve(self, params: Any, y: jax.Array, b: jax.Array, floor: Any = None) -> jax.Array:
        """Hessian at ``y`` inverse times ``b``, `[d]`; ``floor`` bounds its eigenvalues below."""
        terms = self.expand(params, y)[2]
        if y.shape[0] > DENSE_LIMIT:
            return conjugate_gradients(
                self.hvp_at(params, terms), b, _fine(y.dtype), 4 * y.shape[0]
            )
        matrix = self.hessian_at(params, terms)
        return dense_solve(matrix, b) if floor is None else floored_solve(matrix, b, floor)

    def restrict(self, params: Any, x: jax.Array) -> tuple[Any, jax.Array, Callable] | None:
        """``(params, x, lift)`` of the same problem in fewer unknowns u, y = lift(u), or None."""
        del params, x
        return None


@dataclasses.dataclass(frozen=True)
class FunctionPotential(Potential):
    """A plain function ``fn(params, y) -> []``."""

    fn: Callable[[Any, jax.Array], jax.Array]

    def __call__(self, params: Any, y: jax.Array) -> jax.Array:
        """The function's value `[]`."""
        return self.fn(params, y)


_MEMBERS = (
    *(name for name in vars(Potential) if not name.startswith("_")),
    *("hessian", "hvp", "hessian_solve"),  # members of old
)


def as_potential(potential: Any) -> Potential:
    """A function as a :class:`Potential`; a Potential as it is.

    Raises:
      TypeError: if it is not callable, or has members of a Potential and is none: they would not
        be used.
    """
    if isinstance(potential, Potential):
        return potential
    if not callable(potential):
        raise TypeError(f"potential must be callable, got {type(potential).__name__}.")
    found = [name for name in _MEMBERS if hasattr(potential, name)]
    if found:
        raise TypeError(
            f"{type(potential).__name__} has {', '.join(found)}, which are used of a "
            "monojax.conjugate.Potential only: inherit from it."
        )
    return FunctionPotential(potential)


@dataclasses.dataclass(frozen=True)
class ScaledICNN(Potential):
    r"""The potential :math:`G(y) = w F(y) + \tfrac{c}{2}\|y\|^2` with all that the solver can use.

    Parameters: ``{"core": params of F, "weight": w [] >= 0, "curvature": c [] > 0}``.
    """

    net: ICNNPotential

    cheap_products = True
    keeps_curvature = True

    @property
    def piecewise_linear(self) -> bool:
        """Whether the implicit rule is wrong for it."""
        return self.net.activation.piecewise_linear

    def __call__(self, params: Any, y: jax.Array) -> jax.Array:
        """G(y) `[]` at one point `[d]`."""
        return params["weight"] * self.net.value(params["core"], y) + (
            0.5 * params["curvature"] * (y @ y)
        )

    def strong_convexity(self, params: Any) -> jax.Array:
        """The curvature c `[]`."""
        return params["curvature"]

    def smoothness(self, params: Any) -> jax.Array:
        """Certified bound `[]` on the largest curvature of G."""
        return params["weight"] * self.net.bounds(params["core"])[1] + params["curvature"]

    def start(self, params: Any, x: jax.Array) -> jax.Array:
        """x / c, the solution for F = 0, which is never farther off than ||grad F|| / c."""
        return x / params["curvature"]

    def newton_start(self, params: Any, x: jax.Array) -> jax.Array:
        r"""The Newton step from 0, or x / c in more than ``DENSE_LIMIT`` dimensions.

        The Hessian at 0 does not depend on x: under `jax.vmap` it is factorised once for a batch.
        x / c is often far out, where F is almost linear and its curvature misleads Newton.
        """
        if x.shape[0] > DENSE_LIMIT:
            return self.start(params, x)
        _, slope, terms = self.expand(params, jnp.zeros(x.shape, x.dtype))
        return dense_solve(self.hessian_at(params, terms), x - slope)

    def expand(self, params: Any, y: jax.Array) -> tuple[jax.Array, jax.Array, Terms]:
        """G `[]`, its gradient `[d]`, and what its Hessian is made of, in one pass."""
        weight, c = params["weight"], params["curvature"]
        value, gradient, terms = self.net.expand(params["core"], y)
        return weight * value + 0.5 * c * (y @ y), weight * gradient + c * y, terms

    def hessian_at(self, params: Any, terms: Terms) -> jax.Array:
        """Hessian of G `[d, d]` where :meth:`expand` gave ``terms``."""
        out = params["weight"] * self.net.hessian_at(params["core"], terms)
        return out + params["curvature"] * jnp.eye(out.shape[0], dtype=out.dtype)

    def hvp_at(self, params: Any, terms: Terms):
        """Map of vectors `[d]` to the Hessian of G times them, where ``expand`` gave ``terms``."""
        product = self.net.hvp_at(params["core"], terms)
        return lambda v: params["weight"] * product(v) + params["curvature"] * v

    def solve(self, params: Any, y: jax.Array, b: jax.Array, floor: Any = None) -> jax.Array:
        """Hessian of G inverse times ``b``, `[d]`, from the factors of F's Hessian."""
        del floor  # the curvature is one
        core, weight, c = params["core"], params["weight"], params["curvature"]
        terms = self.expand(params, y)[2]
        if self.net.weight_map == "projected":  # may be negative: no factors
            if y.shape[0] < CG_FROM:
                return dense_solve(self.hessian_at(params, terms), b)
            return conjugate_gradients(
                self.hvp_at(params, terms), b, _fine(y.dtype), 4 * y.shape[0]
            )
        root = jnp.sqrt(weight)
        if y.shape[0] < CG_FROM:
            gram = weight * self.net.hessian_at(core, terms)
            factor = lambda terms: root * self.net.factor_at(core, terms)
            return factored_solve(gram, factor, terms, c, b)
        forward, backward = self.net.products_at(core, terms)
        return factored_gradients(
            lambda v: root * forward(v),
            lambda u: root * backward(u),
            c,
            b,
            _fine(y.dtype),
            4 * y.shape[0],
        )

    def restrict(self, params: Any, x: jax.Array) -> tuple[Any, jax.Array, Callable] | None:
        """The same problem in as many unknowns as F has units, if those are fewer than d.

        grad F lies in the span of the rows of the input weights; off that span y = x / c. With Q an
        orthonormal basis of the span, y = Q u + (x - Q Q' x) / c and F(y) = F(Q u): the rest of y
        is orthogonal to every row.
        """
        core, dim = params["core"], x.shape[0]
        names = [name for name in core if name.startswith("y_kernel_")]
        rows = jnp.concatenate([core[name] for name in names], axis=1)
        if rows.shape[1] >= dim:
            return None
        basis = orthonormal(rows)
        small = {**core, **{name: basis.T @ core[name] for name in names}}
        inside = basis.T @ x
        outside = (x - basis @ inside) / params["curvature"]
        return {**params, "core": small}, inside, lambda u: basis @ u + outside


@dataclasses.dataclass(frozen=True)
class ContextPotential(Potential):
    r""":math:`G(w; c) = s F(w; c) + \tfrac{k}{2}\|w\|^2` for a linen module ``net(c, w) -> []``.

    Parameters: ``{"core", "context" [p], "weight": s [], "curvature": k []}``; the context is one
    of them so that the implicit rule differentiates in it.
    """

    net: Any

    @property
    def piecewise_linear(self) -> bool:
        """Whether the implicit rule is wrong for it."""
        return as_activation(self.net.activation).piecewise_linear

    def __call__(self, params: Any, w: jax.Array) -> jax.Array:
        """G `[]` at one point `[d]`."""
        value = self.net.apply({"params": params["core"]}, params["context"], w)
        return params["weight"] * value + 0.5 * params["curvature"] * (w @ w)

    def strong_convexity(self, params: Any) -> jax.Array:
        """The curvature k `[]`."""
        return params["curvature"]

    def start(self, params: Any, x: jax.Array) -> jax.Array:
        """x / k, the solution for F = 0."""
        return x / params["curvature"]


def _fine(dtype: Any) -> float:
    """Tolerance of conjugate gradients on the tangent's system."""
    return 1e-12 if dtype == jnp.float64 else 1e-6
