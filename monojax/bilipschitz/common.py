"""What the bi-Lipschitz networks share: constants, checks, batches."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import is_concrete
from monojax.conjugate.activations import as_activation
from monojax.conjugate.solvers import Solver
from monojax.layers.guarantee import Guaranteed


def known(value: Any) -> float | None:
    """A number that can be read now, also inside `jax.jit`; None for a traced one or None."""
    if value is None or not is_concrete(value):
        return None
    return float(np.asarray(value))


def check_constants(alpha: Any, beta: Any) -> None:
    """Raises unless the concrete ones among them satisfy alpha >= 0 and beta > 0, finite."""
    for name, value in (("alpha", alpha), ("beta", beta)):
        if np.shape(value) != ():
            raise ValueError(f"{name} must be one number, got shape {np.shape(value)}.")
    alpha, beta = known(alpha), known(beta)
    if alpha is not None and not 0 <= alpha < math.inf:
        raise ValueError(f"alpha must be >= 0 and finite, got {alpha}.")
    if beta is not None and not 0 < beta < math.inf:
        raise ValueError(
            f"beta must be > 0 and finite, got {beta}; the upper constant is alpha + beta."
        )


def check_solver(solver: Solver | None, activation: Any) -> Solver:
    """The solver, after refusing the implicit rule for a piecewise linear activation."""
    solver = Solver() if solver is None else solver
    if not isinstance(solver, Solver):
        raise TypeError(f"solver must be a monojax.conjugate.Solver, got {type(solver).__name__}.")
    if as_activation(activation).piecewise_linear and solver.differentiation == "implicit":
        raise ValueError(
            "a piecewise linear activation (relu) has no valid implicit rule: its solutions sit on "
            "kinks, where autodiff sees no curvature. Use softplus(30), or "
            "Solver('gradient', max_steps=500, differentiation='unrolled')."
        )
    return solver


def check_input(x: Any, name: str, dim: int | None = None) -> jax.Array:
    """``x`` as a floating array `[..., d]` of the width the parameters are for."""
    x = jnp.asarray(x)
    if x.ndim < 1 or x.shape[-1] < 1:
        raise ValueError(f"{name} must have shape [..., d] with d >= 1, got {x.shape}.")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{name} must be floating point, got {x.dtype}.")
    if dim is not None and x.shape[-1] != dim:
        raise ValueError(f"{name} has width {x.shape[-1]}, but the parameters are for {dim}.")
    return x


def inverse_case(alpha: Any, activation: Any) -> tuple[bool, bool]:
    """Whether alpha is known to be 0, and whether grad G has kinks.

    There grad G(w) is a set, of which autodiff returns one element; (y - w) / alpha is the one.

    Raises:
      ValueError: if both, so that there is no inverse.
    """
    zero = known(alpha) == 0
    kinked = as_activation(activation).piecewise_linear
    if zero and kinked:
        raise ValueError(
            "no inverse: with alpha = 0 and a piecewise linear core, f is constant on open "
            "sets; use alpha > 0 or softplus."
        )
    return zero, kinked


class Constants(Guaranteed):
    """Shared by the networks: alpha, beta and a sharpness, fixed or trained (as logarithms)."""

    def _constant(self, name: str, value: float, trained: bool) -> Any:
        if not trained:
            return value
        start = known(value)
        if start is None or start <= 0:
            raise ValueError(f"a trained {name} must start > 0, got {value}.")
        log = self.param(f"log_{name}", lambda _: jnp.log(jnp.asarray(value, jnp.float32)))
        return jnp.exp(log)

    def _learned_sharpness(self, wanted: bool, activation: Any) -> Any:
        """The core's sharpness, 1 where it is not learned."""
        learned = wanted and not as_activation(activation).piecewise_linear
        # Parameters without it, such as a core's put in by hand, stand for a sharpness of 1.
        here = self.is_initializing() or self.has_variable("params", "log_sharpness")
        return self._constant("sharpness", 1.0, learned and here)


def sharpened(core: Any, sharpness: Any) -> dict[str, jax.Array]:
    """A convex core's parameters with the sharpness in its y kernels and biases."""
    if isinstance(sharpness, float):
        return dict(core)
    scale = lambda name, leaf: leaf if name.startswith("z_") else leaf * sharpness
    return {name: scale(name, leaf) for name, leaf in core.items()}
