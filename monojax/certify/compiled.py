"""Compiled bounds and gradients, kept for all programs with the same equations.

What is compiled takes a program's float constants (weights) as arguments, so that a network after
more training, or another seed of it, is certified without compiling again.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base import compat
from monojax.base.jaxprs import evaluate
from monojax.certify.bounds import bounds_of
from monojax.certify.interval import Interval
from monojax.certify.program import is_float, program_hash

KEPT = 16
"""For how many different programs what was compiled is kept."""
STEPS = 40
"""Steps of the attack from each of its points."""


@functools.cache
def compiler_options() -> dict[str, Any] | None:
    """Options of XLA for these programs on CPUs, as far as this version knows them.

    Its newer way to compile fused loops computes what they share again and again: bounds were
    measured to take ten times as long to run, and half as long again to compile (jax 0.10).
    """
    options = {"xla_cpu_use_fusion_emitters": False}
    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(lambda x: x + 1, compiler_options=options)(0)
    except Exception:  # whatever a version says of an option that it does not have
        return None
    return options


class Compiled:
    """Functions of (float constants of a program, operands), compiled when they are first used."""

    def __init__(self, program: compat.ClosedJaxpr) -> None:
        """Nothing is compiled yet.

        Args:
          program: of `gradient_program`; other programs with its equations may be given later.
        """
        self.program = program
        jit = functools.partial(jax.jit, compiler_options=compiler_options())
        self._bounds: dict[str, Callable] = {}
        self._jit = jit
        self.sensitivity = jit(jax.vmap(self._sensitivity, in_axes=(None, 0, None)))
        """Of (constants, points `[n, d]`, weights `[d]`): change of weighted slopes, `[n, d]`."""
        self.attack = jit(self._attack, static_argnums=3)
        """Of (constants, low, high, one-hot groups, key, signs `[n, d]`): points `[n, d]`."""

    def bounds(self, kind: str) -> Callable[[Any, Any, Any], Interval]:
        """Bounds of ``(constants, low [n, d], high [n, d])``, of one of `BOUNDS`."""
        if kind not in self._bounds:
            one = lambda constants, low, high: bounds_of(
                self._with(constants), low, high, bound=kind
            )
            self._bounds[kind] = self._jit(jax.vmap(one, in_axes=(None, 0, 0)))
        return self._bounds[kind]

    def _with(self, constants: list[Any]) -> compat.ClosedJaxpr:
        given = iter(constants)
        own = self.program.consts
        return compat.ClosedJaxpr(
            self.program.jaxpr, [next(given) if is_float(c) else c for c in own]
        )

    def _gradient(self, constants: list[Any], x: jax.Array) -> jax.Array:
        return evaluate(self._with(constants), [x], lambda e, a: compat.bind(e, *a))[0]

    def _sensitivity(self, constants: list[Any], x: jax.Array, weights: jax.Array) -> jax.Array:
        return weights @ jnp.abs(jax.jacfwd(functools.partial(self._gradient, constants))(x))

    def _attack(self, constants, low, high, onehot, key, signs) -> jax.Array:
        """Projected steps of the sign of the worst slope's derivative, from random points."""
        low, high = low[None], high[None]
        gradient = functools.partial(self._gradient, constants)
        worst = lambda x, s: jnp.where(s == 0, jnp.inf, s * gradient(x)).min()
        fixed = np.zeros((1, low.size), bool)
        for group in onehot:
            fixed[:, list(group)] = True
        starts = len(signs)
        start_key, group_key = jax.random.split(key)
        start = jax.random.uniform(start_key, (starts, low.size), jnp.float64)
        corner = jnp.round(start)
        start = jnp.where((jnp.arange(starts) % 4 == 0)[:, None], corner, start)
        start = jnp.clip(low * (1 - start) + high * start, low, high)
        for g, group in enumerate(onehot):
            pick = jax.random.randint(jax.random.fold_in(group_key, g), (starts,), 0, len(group))
            chosen = jax.nn.one_hot(pick, len(group), dtype=start.dtype)
            start = start.at[:, jnp.asarray(group)].set(chosen)

        def step(i, state):
            x, best, value = state
            now, slope = jax.vmap(jax.value_and_grad(worst))(x, signs)
            better = now < value
            best = jnp.where(better[:, None], x, best)
            value = jnp.minimum(now, value)
            rate = 0.2 * (1 - i / STEPS) * (high / 2 - low / 2)
            move = jnp.where(jnp.asarray(fixed), 0, jnp.sign(jnp.nan_to_num(slope)) * rate)
            return jnp.clip(x - move, low, high), best, value

        value = jnp.full(starts, jnp.inf)
        _, best, _ = jax.lax.fori_loop(0, STEPS, step, (start, start, value))
        return best


def float_constants(program: compat.ClosedJaxpr) -> list[jax.Array]:
    """The constants that functions of `Compiled` take.

    Args:
      program: of `gradient_program`.

    Returns:
      Float arrays.
    """
    return [jnp.asarray(c) for c in program.consts if is_float(c)]


class _Equations:
    """A program, equal to every other with the same equations but for its float constants."""

    def __init__(self, program: compat.ClosedJaxpr) -> None:
        self.program = program
        plain = [np.zeros(c.shape, c.dtype) if is_float(c) else c for c in program.consts]
        digest = program_hash(compat.ClosedJaxpr(program.jaxpr, plain))
        self.key = f"{digest} {jax.default_backend()}"

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Equations) and self.key == other.key


@functools.lru_cache(maxsize=KEPT)
def _made(equations: _Equations) -> Compiled:
    return Compiled(equations.program)


def compiled(program: compat.ClosedJaxpr) -> Compiled:
    """What is compiled for the equations of a program, now or earlier.

    Args:
      program: of `gradient_program`.

    Returns:
      Compiled.
    """
    return _made(_Equations(program))


def compiled_bounds(program: compat.ClosedJaxpr, bound: str) -> Callable[[Any, Any], Interval]:
    """Bounds over many boxes, compiled once for all programs of the same equations.

    Args:
      program: of `gradient_program`.
      bound: one of `BOUNDS`.

    Returns:
      A function of (low `[n, d]`, high `[n, d]`) to an Interval `[n, d]`.
    """
    return functools.partial(compiled(program).bounds(bound), float_constants(program))
