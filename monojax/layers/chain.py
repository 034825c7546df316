"""Modules with known constants, one after another."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import is_concrete
from monojax.layers.cayley import limited, polished
from monojax.layers.guarantee import Guaranteed
from monojax.layers.lipschitz_common import prepare, weight
from monojax.layers.roots import InverseDiagnostics, explicit_error

SKEW_LIMIT = 1000.0
"""Largest Frobenius norm of the skew matrix that is used."""


class Rotation(Guaranteed):
    r"""A learned rotation of `[..., d]`: the Cayley transform of a skew matrix, slopes exactly 1.

    Q = (I + A)^-1 (I - A) with A = W - W', orthogonal with determinant 1, in l2 and up to
    rounding. An A of Frobenius norm above 1000 is scaled to 1000: what lies beyond moves Q by
    less than 1e-2, and rounding grows with the norm.

    Attributes:
      dtype: of the output; by default that of x and the parameters together.
      param_dtype: of the parameters.
    """

    dtype: Any = None
    param_dtype: Any = jnp.float32

    def _matrix(self, dim: int, build: Any) -> jax.Array:
        w = weight(self, "skew", nn.initializers.normal(dim**-0.5), (dim, dim), build)
        skew, eye = limited(w - w.T, SKEW_LIMIT), jnp.eye(dim, dtype=w.dtype)
        return polished(jnp.linalg.solve(eye + skew, eye - skew))

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Q x, `[..., d]`."""
        x, build = prepare(x, 1, self.dtype, self.param_dtype)
        return x @ self._matrix(x.shape[-1], build).T.astype(x.dtype)

    @nn.compact
    def inverse(self, y: jax.Array) -> jax.Array:
        """Q' y, `[..., d]`."""
        y, build = prepare(y, 1, self.dtype, self.param_dtype)
        return y @ self._matrix(y.shape[-1], build).astype(y.dtype)

    def bounds(self) -> tuple[float, float]:
        """Certified ``(smallest, largest)`` slope in l2: ``(1, 1)``.

        Called as ``net.apply(params, method="bounds")``.
        """
        return 1.0, 1.0


class Chain(Guaranteed):
    """Modules one after another, with constants and inverses carried through.

    Constants multiply where the norm of one module's outputs is that of the next one's inputs:
    the chain is certified between the products of the smallest and of the largest slopes. Unlike
    one BLNN it is not a gradient, so it can turn.

    Attributes:
      modules: linen modules with ``bounds()``, and ``inverse(y)`` if the chain's is asked for;
        one that does not name its ``norms`` is taken to mean the Euclidean one.
    """

    modules: Sequence[nn.Module]

    def __call__(self, x: jax.Array) -> jax.Array:
        """All modules in order, `[..., d]` to `[..., e]`."""
        for module in self._checked():
            x = module(x)
        return x

    def inverse(self, y: jax.Array) -> jax.Array:
        """All inverses in reverse order.

        Raises:
          ValueError: if a module has none.
        """
        for module in reversed(self._checked()):
            y = self._inverted(module, y)
        return y

    def inverse_diagnostics(self, y: jax.Array) -> InverseDiagnostics:
        """How well :meth:`inverse` did for ``y`` `[..., d]`; fields `[...]`.

        ``error_bound`` adds up what each module's own record allows, divided by the smallest
        slopes of the modules before; ``residual`` and ``steps`` are the largest of the modules',
        ``converged`` is whether all did. Modules with an explicit inverse count with its rounding.

        Raises:
          ValueError: if a module has no inverse, or a smallest slope of 0.
        """
        y = jnp.asarray(y)
        zero = jnp.zeros(y.shape[:-1], jnp.promote_types(y.dtype, jnp.float32))
        residual, steps, error = zero, zero.astype(jnp.int32), zero
        converged = jnp.ones(y.shape[:-1], bool)
        for module in reversed(self._checked()):
            x, (lower, upper) = self._inverted(module, y), module.bounds()
            if is_concrete(lower) and not np.asarray(lower) > 0:
                raise ValueError(
                    f"no bound of the inverse's error: {type(module).__name__} has slopes down "
                    f"to {lower}."
                )
            if hasattr(module, "inverse_diagnostics"):
                one = module.inverse_diagnostics(y)
                own, residual = one.error_bound, jnp.maximum(residual, one.residual)
                steps, converged = jnp.maximum(steps, one.steps), converged & one.converged
            else:
                own = explicit_error(x, y, lower, upper)
            error, y = own + error / lower, x
        return InverseDiagnostics(residual, steps, converged, error)

    def bounds(self) -> tuple[Any, Any]:
        """Certified ``(smallest, largest)`` slope of the chain, in :attr:`norms`.

        Called as ``net.apply(params, method="bounds")``.

        Raises:
          ValueError: if the norms of two neighbours differ: constants do not multiply then.
        """
        low, high, before = 1.0, 1.0, "any"
        for module in self._checked():
            start, end = norms_of(module)
            if "any" not in (before, start) and before != start:
                raise ValueError(
                    f"constants do not multiply: {type(module).__name__} takes the norm {start!r} "
                    f"of its inputs, and what comes before is bounded in {before!r}."
                )
            before = end
            one_low, one_high = module.bounds()
            low, high = low * one_low, high * one_high
        return low, high

    @property
    def norms(self) -> tuple[str, str]:
        """Of the first module's inputs and of the last one's outputs."""
        return norms_of(self.modules[0])[0], norms_of(self.modules[-1])[1]

    def _inverted(self, module: nn.Module, y: jax.Array) -> jax.Array:
        if not hasattr(module, "inverse"):
            raise ValueError(f"no inverse: {type(module).__name__} in the chain has none.")
        return module.inverse(y)  # type: ignore[no-any-return]

    def _checked(self) -> Sequence[Any]:
        if not self.modules:
            raise ValueError("modules must hold at least one module, got none.")
        for module in self.modules:
            if not hasattr(module, "bounds"):
                raise ValueError(
                    f"{type(module).__name__} has no bounds(), so the chain's are not known."
                )
        return self.modules


def norms_of(module: Any) -> tuple[str, str]:
    """A module's ``norms``, the Euclidean ones where it names none."""
    found: tuple[str, str] = getattr(module, "norms", ("two", "two"))
    return found
