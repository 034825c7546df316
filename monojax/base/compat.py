"""The one place that knows how jax versions differ inside (0.7.0 to 0.12 are tested)."""

import importlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Literal

__all__ = [
    "ClosedJaxpr",
    "Literal",
    "as_closed",
    "as_varying",
    "bind",
    "enable_x64",
    "scopes",
    "varying_axes",
]


def bind(eqn: Any, *args: Any) -> Any:
    """Evaluates one equation on plain values, as jax itself would.

    Args:
      eqn: an equation of a jaxpr.
      *args: the values of its operands.

    Returns:
      One value, or a list where the primitive has several results.
    """
    bound = eqn.primitive.get_bind_params(eqn.params)
    # jax before 0.10 returns (functions, params), later ones the params alone.
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    return eqn.primitive.bind(*functions, *args, **params)


def scopes(eqn: Any) -> tuple[str, ...]:
    """The named scopes of an equation, outermost first; transformations are left out.

    Args:
      eqn: an equation of a jaxpr.

    Returns:
      Linen's module path as a tuple, ``()`` where nothing was named.
    """
    names: list[str] = []
    for part in eqn.source_info.name_stack.stack:
        if type(part).__name__ == "Scope":
            names += [name for name in part.name.split("/") if name]
    return tuple(names)


def as_closed(jaxpr: Any, consts: Sequence[Any] = ()) -> ClosedJaxpr:
    """A closed jaxpr, whichever of the two kinds an equation's parameter holds.

    Args:
      jaxpr: a ``Jaxpr`` or ``ClosedJaxpr``.
      consts: constants of an open jaxpr.

    Returns:
      ClosedJaxpr.
    """
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, list(consts))


def enable_x64() -> AbstractContextManager[Any]:
    """Float64 inside a with statement.

    Returns:
      A context manager.
    """
    enable: Any = getattr(jax, "enable_x64", None)
    if enable is None:  # before jax 0.8
        enable = importlib.import_module("jax.experimental").enable_x64
    return enable(True)


def varying_axes(x: Any) -> frozenset[str]:
    """The axes of a `shard_map` along which a value differs between devices.

    Args:
      x: an array, or what `jax.eval_shape` gives.

    Returns:
      Names of axes; none outside `shard_map`, and none in `pmap`.
    """
    value = jax.typeof(x) if isinstance(x, jax.Array) else x
    axes = getattr(value, "vma", None)  # jax 0.7 to 0.9
    if axes is None:
        axes = getattr(getattr(value, "manual_axis_type", None), "varying", None)
    return frozenset(axes or ())


def as_varying(x: jax.Array, axes: frozenset[str]) -> jax.Array:
    """``x``, marked as differing along ``axes`` too: derivatives stay each device's own.

    Args:
      x: an array.
      axes: names of axes of the `shard_map` around.

    Returns:
      The same values.
    """
    new = tuple(sorted(axes - varying_axes(x)))
    if not new:
        return x
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(x, new, to="varying")
    pvary: Any = getattr(jax.lax, "pvary")  # noqa: B009 - before jax 0.9
    return pvary(x, new)
