"""The program whose slopes are bounded: fn's own derivative, as equations.

A certificate is about the function, so its derivative must be the function's: `stop_gradient` is
taken away, and so are derivative rules of the user's own (`jax.custom_jvp`, `jax.custom_vjp`),
which may differ from the derivative of what the function computes. Rules that come with jax are
kept: they are the true derivatives in a safer form.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from monojax.base import compat
from monojax.base.jaxprs import Call, CustomRule, evaluate, structure_of

Fn = Callable[[jax.Array], jax.Array]


class CertifyError(ValueError):
    """The function cannot be bounded; the message names the primitive and where it stands."""


def place(eqn: Any) -> str:
    """Where an equation stands, for a message."""
    scope = "/".join(compat.scopes(eqn))
    return f"{eqn.primitive.name!r}" + (f" in {scope}" if scope else "")


def true_function(fn: Fn, example: jax.Array) -> Fn:
    """``fn`` without `stop_gradient` and without derivative rules that are not jax's own.

    Args:
      fn: map of ONE example.
      example: float `[d]`, for its shape and dtype.

    Returns:
      A function with the same values, whose `jax.grad` is its derivative.
    """
    closed = own_constants(jax.make_jaxpr(fn)(example))

    def apply(eqn, args):
        structure = structure_of(eqn)
        if eqn.primitive.name == "stop_gradient":
            return args[0]
        if isinstance(structure, Call):
            return as_results(eqn, evaluate(structure.body, args, apply))
        if isinstance(structure, CustomRule) and not _is_jax_own(structure):
            return as_results(eqn, evaluate(structure.body, args, apply))
        return compat.bind(eqn, *args)

    def call(x):
        (out,) = evaluate(closed, [x], apply)
        return out

    return call


def as_results(eqn: Any, values: list[Any]) -> Any:
    """A body's results in the form that an equation has: several, or the one."""
    return values if eqn.primitive.multiple_results else values[0]


def _is_jax_own(rule: CustomRule) -> bool:
    """True for the functions of jax.nn and jax.numpy that bring their own derivative."""
    name = rule.name.replace("\\", "/")
    return "/jax/_src/" in name


def gradient_program(fn: Fn, example: jax.Array) -> compat.ClosedJaxpr:
    """The equations of the derivative of ``fn``.

    Args:
      fn: map of ONE example `[d]` to a scalar.
      example: float `[d]`, for its shape and dtype.

    Returns:
      A closed jaxpr from `[d]` to `[d]`.

    Raises:
      ValueError: if ``fn`` is not scalar-valued.
    """
    out = jax.eval_shape(fn, example)
    if not hasattr(out, "shape") or out.shape != ():
        shape = getattr(out, "shape", type(out).__name__)
        raise ValueError(
            f"fn must map ONE example [d] to a scalar, got {shape}; choose an output, "
            "for example lambda x: fn(x)[0]."
        )
    return own_constants(jax.make_jaxpr(jax.grad(true_function(fn, example)))(example))


def own_constants(closed: compat.ClosedJaxpr) -> compat.ClosedJaxpr:
    """Constants as jax arrays of today's mode: numpy's float64 would be read as two dtypes."""
    return compat.ClosedJaxpr(closed.jaxpr, [jnp.asarray(c) for c in closed.consts])
