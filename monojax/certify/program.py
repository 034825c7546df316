"""The program whose slopes are bounded: fn's own derivative, as equations.

A certificate is about the function, so its derivative must be the function's: `stop_gradient` is
taken away, and so is every derivative rule (`jax.custom_jvp`, `jax.custom_vjp`), which may differ
from the derivative of what the function computes. Where a body is, equation by equation, that of a
function of jax with a rule of its own (`OWN`: relu, logaddexp, softmax), jax's function is called
afresh: its rule is the true derivative in a safer form.
"""

import functools
import hashlib
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base import compat
from monojax.base.jaxprs import (
    Call,
    Cond,
    CustomRule,
    Scan,
    bodies,
    evaluate,
    inner_equations,
    structure_of,
)
from monojax.certify.shifts import shifts

Fn = Callable[[jax.Array], jax.Array]


class CertifyError(ValueError):
    """The function cannot be bounded; the message names the primitive and where it stands."""


def place(eqn: Any) -> str:
    """Where an equation stands, for a message."""
    scope = "/".join(compat.scopes(eqn))
    return f"{eqn.primitive.name!r}" + (f" in {scope}" if scope else "")


def traced(fn: Fn, example: Any) -> compat.ClosedJaxpr:
    """The equations of ``fn``: traced once, for everything that is found out about them.

    Args:
      fn: map of ONE example `[d]` to a scalar.
      example: float `[d]`, for its shape and dtype.

    Returns:
      A closed jaxpr.

    Raises:
      ValueError: if ``fn`` is not scalar-valued.
    """
    closed, out = jax.make_jaxpr(fn, return_shape=True)(example)
    if not hasattr(out, "shape") or out.shape != ():
        shape = getattr(out, "shape", type(out).__name__)
        raise ValueError(
            f"fn must map ONE example [d] to a scalar, got {shape}; choose an output, "
            "for example lambda x: fn(x)[0]."
        )
    return own_constants(closed)


def true_function(closed: compat.ClosedJaxpr) -> Fn:
    """A function without `stop_gradient` and without derivative rules that are not jax's own.

    Args:
      closed: of `traced`.

    Returns:
      A function with the same values, whose `jax.grad` is its derivative.
    """

    def call(x):
        (out,) = _true(closed, [x])
        return out

    return call


def _true(closed: compat.ClosedJaxpr, args: Any) -> list[Any]:
    """Results of a body, without rules of derivatives."""
    kept = set(map(id, shifts(closed.jaxpr)))

    def apply(eqn, values):
        return compat.bind(eqn, *values) if id(eqn) in kept else _apply(eqn, values)

    return evaluate(closed, args, apply, outs=range(len(closed.jaxpr.outvars)))


def _apply(eqn: Any, args: list[Any]) -> Any:
    """One equation, or what it holds, without rules of derivatives."""
    structure = structure_of(eqn)
    if eqn.primitive.name == "stop_gradient":
        return args[0]
    if not has_floats(eqn):  # an index, of which the number must be known
        if structure is None and not any(isinstance(arg, jax.core.Tracer) for arg in args):
            with jax.ensure_compile_time_eval():
                return compat.bind(eqn, *args)
        return compat.bind(eqn, *args)
    if eqn.primitive.name == "sort" and (ordered := _sorted(eqn, args)) is not None:
        return [ordered]
    name = eqn.primitive.name
    if name in SLOPES or name in PAIRS:
        return (SLOPES.get(name) or PAIRS[name])(*args)
    if name == "clamp":  # jax's slope is 0 where two of the three are equal, all along
        low, x, high = args
        return PAIRS["min"](PAIRS["max"](x, low), high)
    if name in ("reduce_max", "reduce_min") and (out := _extreme(eqn, args[0])) is not None:
        return out
    if isinstance(structure, CustomRule) and (own := _own(structure)) is not None:
        return as_results(eqn, [own(*args)])
    if isinstance(structure, (Call, CustomRule)):
        return as_results(eqn, _true(structure.body, args))
    if isinstance(structure, Scan):
        return _scanned(structure, args)
    if isinstance(structure, Cond):
        if not isinstance(args[0], jax.core.Tracer):
            last = len(structure.branches) - 1
            return _true(structure.branches[min(max(int(args[0]), 0), last)], args[1:])
        index = args[0].astype(jnp.int32)
        cases = [lambda *ops, b=b: tuple(_true(b, ops)) for b in structure.branches]
        return list(jax.lax.switch(index, cases, *args[1:]))
    combines = eqn.primitive.name.startswith("scatter")  # its function is for its result alone
    if structure is not None or (_holds_jaxpr(eqn) and not combines):
        raise CertifyError(
            f"no bound for {place(eqn)}: the derivative of what it holds may not be its own."
        )
    return compat.bind(eqn, *args)


def _with_slope(fn: Callable, slope: Callable) -> Callable:
    """A function with its own derivative in one factor, which is bounded as one function.

    jax multiplies by one part of the slope after the other, and what they share is lost.
    """
    made = jax.custom_jvp(fn)

    @made.defjvp
    def _rule(primals, tangents):
        y = fn(*primals)
        return y, tangents[0] * slope(y)

    return made


SLOPES: dict[str, Callable] = {
    "tanh": _with_slope(jax.lax.tanh, lambda y: (1 - y) * (1 + y)),
    "logistic": _with_slope(jax.lax.logistic, lambda y: y * (1 - y)),
}


def _ordered(fn: Callable, wins: Callable) -> Callable:
    """A maximum or minimum whose slope compares its operands with each other.

    jax compares each with the result, and two enclosures that overlap are never seen to be equal.
    """
    made = jax.custom_jvp(fn)

    @made.defjvp
    def _rule(primals, tangents):
        (x, y), (a, b) = primals, tangents
        share = lambda x, y: jnp.where(wins(x, y), 1.0, jnp.where(wins(y, x), 0.0, 0.5))
        return fn(x, y), share(x, y).astype(x.dtype) * a + share(y, x).astype(x.dtype) * b

    return lambda x, y: made(*jnp.broadcast_arrays(x, y))


MOST_SORTED = 16
"""The longest axis of which a sort, a maximum or a minimum is written pair by pair."""
PAIRS: dict[str, Callable] = {
    "max": _ordered(jax.lax.max, jnp.greater),
    "min": _ordered(jax.lax.min, jnp.less),
}


def _sorted(eqn: Any, args: list[Any]) -> Any:
    """A short sort as a network of minima and maxima, whose slopes need no index that varies."""
    axis, size = eqn.params["dimension"], args[0].shape[eqn.params["dimension"]]
    if len(args) != 1 or size > MOST_SORTED:
        return None
    parts = [jax.lax.index_in_dim(args[0], i, axis, keepdims=True) for i in range(size)]
    for turn in range(size):  # odd and even transpositions
        for i in range(turn % 2, size - 1, 2):
            a, b = parts[i : i + 2]
            parts[i : i + 2] = PAIRS["min"](a, b), PAIRS["max"](a, b)
    return jax.lax.concatenate(parts, axis)


def _extreme(eqn: Any, x: Any) -> Any:
    """The maximum or minimum along short axes, pair by pair; None for longer ones."""
    axes = tuple(eqn.params["axes"])
    if not 1 <= math.prod(x.shape[axis] for axis in axes) <= MOST_SORTED:
        return None
    rows = jnp.moveaxis(x, axes, range(len(axes)))
    rows = rows.reshape(-1, *rows.shape[len(axes) :])
    return functools.reduce(PAIRS[eqn.primitive.name.removeprefix("reduce_")], rows)


def _scanned(scan: Scan, args: list[Any]) -> list[Any]:
    """A scan whose body holds no rules of derivatives."""
    consts, carry, slices = scan.parts(args)

    def step(carry, at):
        outs = _true(scan.body, [*consts, *carry, *at])
        kept = [jnp.asarray(c).astype(old.dtype) for c, old in zip(outs, carry, strict=False)]
        return tuple(kept), tuple(outs[scan.num_carry :])

    start = tuple(jnp.asarray(c) for c in carry)
    end, made = jax.lax.scan(step, start, tuple(slices), length=scan.length, reverse=scan.reverse)
    return [*end, *made]


def has_floats(eqn: Any) -> bool:
    """True if the equation, or any that it holds, reads or makes a float."""
    inner = [e for body in bodies(structure_of(eqn)) for e in inner_equations(body)]
    atoms = [atom for e in (eqn, *inner) for atom in (*e.invars, *e.outvars)]
    return any(is_float(atom.aval) for atom in atoms)


def is_float(aval: Any) -> bool:
    """True for floats and complex numbers."""
    dtype = getattr(aval, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.inexact)


def _holds_jaxpr(eqn: Any) -> bool:
    def held(value):
        if isinstance(value, (tuple, list)):
            return any(map(held, value))
        return hasattr(value, "eqns") or hasattr(value, "jaxpr")

    return any(map(held, eqn.params.values()))


OWN: dict[str, Callable[..., Any]] = {
    "relu": jax.nn.relu,
    "logaddexp": jnp.logaddexp,
    "logaddexp2": jnp.logaddexp2,
}
"""Functions of jax with a derivative of their own that is called afresh."""


def _own(rule: CustomRule) -> Callable[..., Any] | None:
    """jax's function that has exactly this body, if there is one."""
    if rule.kind != "custom_jvp" or rule.body.consts:
        return None
    avals = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in rule.body.jaxpr.invars]
    found = dict(OWN)
    for axis in range(len(avals[0].shape)) if len(avals) == 1 else ():
        found[f"softmax {axis}"] = functools.partial(jax.nn.softmax, axis=axis)
    wanted = str(rule.body.jaxpr)
    for fn in found.values():
        try:
            traced = jax.make_jaxpr(fn)(*avals)
        except TypeError:  # another number of operands
            continue
        for eqn in inner_equations(traced):
            structure = structure_of(eqn)
            if isinstance(structure, CustomRule):
                same = not structure.body.consts and str(structure.body.jaxpr) == wanted
                if same and traced.jaxpr.outvars[0].aval.shape == eqn.outvars[0].aval.shape:
                    return fn
                break
    return None


def as_results(eqn: Any, values: list[Any]) -> Any:
    """A body's results in the form that an equation has: several, or the one."""
    return values if eqn.primitive.multiple_results else values[0]


def gradient_program(fn: Fn | compat.ClosedJaxpr, example: Any) -> compat.ClosedJaxpr:
    """The equations of the derivative of ``fn``.

    Args:
      fn: map of ONE example `[d]` to a scalar, or its equations, of `traced`.
      example: float `[d]`, for its shape and dtype.

    Returns:
      A closed jaxpr from `[d]` to `[d]`.

    Raises:
      ValueError: if ``fn`` is not scalar-valued.
      CertifyError: on a derivative that is not the function's own, or a constant out of range.
    """
    closed = fn if isinstance(fn, compat.ClosedJaxpr) else traced(fn, example)
    closed = own_constants(jax.make_jaxpr(jax.grad(true_function(closed)))(example))
    _check_constants(closed)
    return closed


_BY_INFINITY = ("clamp", "eq", "ge", "gt", "le", "lt", "max", "min", "ne")
"""Primitives that may be given an infinite constant."""


def _check_constants(closed: compat.ClosedJaxpr) -> None:
    """Refuses constants of which the hardware's arithmetic is no arithmetic of real numbers.

    CPUs under XLA read subnormal numbers as 0, so that a product with one says nothing.
    """
    holders = [closed, *(b for e in inner_equations(closed) for b in bodies(structure_of(e)))]
    values = [(c, "") for holder in holders for c in holder.consts]
    for eqn in inner_equations(closed):
        literals = [atom.val for atom in eqn.invars if isinstance(atom, compat.Literal)]
        values += [(value, eqn.primitive.name) for value in literals]
    for value, name in values:
        if isinstance(value, jax.core.Tracer) or not is_float(jnp.asarray(value)):
            continue
        plain = np.asarray(value)
        size = np.abs(plain.astype(np.float64))
        tiny = float(jnp.finfo(plain.dtype).tiny)
        if np.any((size > 0) & (size < tiny)):
            raise CertifyError(
                f"fn holds a subnormal constant (below {tiny:.3g}), which hardware may read as 0; "
                "replace it by 0."
            )
        if not np.isfinite(size).all() and name not in _BY_INFINITY:
            raise CertifyError("fn's derivative holds a constant that is not finite.")


def own_constants(closed: compat.ClosedJaxpr) -> compat.ClosedJaxpr:
    """Constants as jax arrays of today's mode: numpy's float64 would be read as two dtypes."""
    return compat.ClosedJaxpr(closed.jaxpr, [jnp.asarray(c) for c in closed.consts])


def program_hash(*programs: compat.ClosedJaxpr) -> str:
    """Hash of the equations and constants of programs.

    Args:
      *programs: closed jaxprs, in their order.

    Returns:
      Hexadecimal digits of SHA-256.
    """
    digest = hashlib.sha256()
    for program in programs:
        digest.update(_text(program.jaxpr).encode())
        for constant in map(np.asarray, _numbers(program)):
            digest.update(f"{constant.shape} {constant.dtype}".encode())
            digest.update(np.ascontiguousarray(constant).tobytes())
    return digest.hexdigest()


def function_hash(fn: Callable, width: int) -> str:
    """Hash of a function's own equations and constants, of which no derivative is asked.

    Args:
      fn: map of ONE example float `[d]`; it may hold solvers.
      width: d.

    Returns:
      Hexadecimal digits.
    """
    with compat.enable_x64():
        example = jax.ShapeDtypeStruct((width,), jnp.float64)
        return program_hash(own_constants(jax.make_jaxpr(fn)(example)))


def _numbers(closed: compat.ClosedJaxpr) -> list[Any]:
    """All constants and literals of a program, of the bodies that it holds too."""
    found = list(closed.consts)
    for eqn in inner_equations(closed):
        found += [atom.val for atom in eqn.invars if isinstance(atom, compat.Literal)]
        found += [const for body in bodies(structure_of(eqn)) for const in body.consts]
    return found


def _text(jaxpr: Any) -> str:
    """The equations as text, without what differs from run to run (addresses of objects)."""
    return re.sub(r"0x[0-9a-f]+", "", str(jaxpr))
