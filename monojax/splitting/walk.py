"""Evaluates a jaxpr in which some values are pairs: one way to walk a network."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base import compat
from monojax.base.checks import is_concrete
from monojax.base.jaxprs import evaluate
from monojax.splitting.curves import curve_of, resolve
from monojax.splitting.freeze import FREEZE, gated
from monojax.splitting.notes import Notebook
from monojax.splitting.pair import Frozen, Pair, Unresolved, both, depends, value_of
from monojax.splitting.rules import AFFINE, PLACES, RULES
from monojax.splitting.sites import INPUT, Layout, Site


@dataclasses.dataclass
class Walk(Notebook):
    """The state of one evaluation; a fresh one per trace."""

    taps: dict[int, Pair] = dataclasses.field(default_factory=dict)
    """Zero perturbations by place: differentiating with respect to them reads a map there."""
    shifts: dict[int, Any] = dataclasses.field(default_factory=dict)
    """Fixed re-centring by place."""
    sizes: dict[int, Any] = dataclasses.field(default_factory=dict)
    """Mean absolute gradient by place, for a balanced shift."""
    axes: Any = None
    """`Axes` of the function, where the places' axes are wanted."""
    want: frozenset[int] = frozenset()
    """Places whose pair and shift are to be recorded."""
    sites: list[Site] = dataclasses.field(default_factory=list)
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    records: dict[int, Any] = dataclasses.field(default_factory=dict)
    counter: int = 0
    steps: tuple[int, ...] = ()
    trail: tuple[int, ...] = ()
    """The equations that are being evaluated, outermost first, by identity."""
    numbers: dict[tuple[int, ...], int] = dataclasses.field(default_factory=dict)
    """Numbers of places by their trail."""
    known: dict[tuple[int, ...], int] | None = None
    """Numbers that are given from outside, for a part that meets only some of the places."""

    def fork(self, **changes: Any) -> "Walk":
        """A walk of a part that is traced on its own (a scan's body); see `adopt`."""
        fresh: dict[str, Any] = {"sites": [], "notes": [], "counts": {}, "records": {}, "holds": 0}
        return dataclasses.replace(self, **(fresh | {"numbers": {}} | changes))

    def adopt(self, part: "Walk") -> None:
        """Takes over what a part has met, but not its records."""
        self.sites += part.sites
        self.notes += part.notes
        self.holds += part.holds
        self.numbers.update(part.numbers)
        for name, number in part.counts.items():
            self.counts[name] = self.counts.get(name, 0) + number
        self.counter = part.counter

    @staticmethod
    def bind(eqn: Any, *values: Any) -> Any:
        """The equation itself, on plain values."""
        return compat.bind(eqn, *values)

    def run(self, closed: compat.ClosedJaxpr, args: Sequence[Any]) -> list[Any]:
        """Evaluates a jaxpr."""
        path, trail = self.path, self.trail

        def apply(eqn, values):
            self.path, self.trail = path + compat.scopes(eqn), (*trail, id(eqn))
            try:
                return self.apply(eqn, values)
            finally:
                self.path, self.trail = path, trail

        return evaluate(closed, args, apply)

    def apply(self, eqn: Any, args: list[Any]) -> Any:
        """One equation, by the first of these cases that it is.

        1. It does not depend on the input: evaluated as it is.
        2. It holds jaxprs (a call, a loop, a branch): its rule walks them.
        3. It has no results (jax.debug.print): evaluated for its effect.
        4. Only derivatives are wanted and nothing is held: its own derivative.
        5. It is a function of one variable whose pair is made when it is needed.
        6. All that it depends on is held: so is its result.
        7. It has no rule: an error, or a note in a lenient walk.
        8. Its rule.
        """
        name = eqn.primitive.name
        if not any(map(depends, args)):
            return _plain(eqn, args)
        self.counts[name] = self.counts.get(name, 0) + 1
        rule = RULES.get(name)
        if getattr(rule, "takes_anything", False):
            return rule(self, eqn, *args)  # type: ignore[misc]
        if not eqn.outvars:
            return self.bind(eqn, *map(value_of, args))
        if self.mode.ordinary and not self.mode.freeze and name not in PLACES | self.mode.changes:
            return self.differentiated(eqn, args)
        return self.by_rule(eqn, args, rule)

    def by_rule(self, eqn: Any, args: list[Any], rule: Any) -> Any:
        """The cases 5 to 8 of `apply`."""
        name = eqn.primitive.name
        given, args = args, gated(self, name, args)
        is_gate = args is not given
        curve = curve_of(eqn, args)
        if curve is not None and (rule is None or _needs_curve(name, args, rule)):
            value = self.bind(eqn, *map(value_of, args))
            return Unresolved(value, curve, name, self.where)
        args = [self.resolved(arg) for arg in args]
        pairs = [arg for arg in args if isinstance(arg, Pair)]
        if not pairs and any(isinstance(arg, Frozen) for arg in args):
            return self.held(eqn, args)
        if name not in AFFINE or len(pairs) > 1:
            args = [self.mode.settle(a) if isinstance(a, Pair) else a for a in args]
        if rule is None:
            return self.missing(eqn, args)
        out = rule(self, eqn, *args)
        if curve is not None and isinstance(out, Pair):
            out = dataclasses.replace(out, curve=curve)
        return dataclasses.replace(out, gated=True) if is_gate and isinstance(out, Pair) else out

    def layout(self, atom: Any) -> Layout | None:
        """The axes of a value that no convolution reads; vectors and matrices are left whole."""
        shape = list(atom.aval.shape)
        while shape and shape[0] == 1:
            del shape[0]
        return None if self.axes is None or len(shape) < 3 else self.axes.layout(atom)

    def differentiated(self, eqn: Any, args: Sequence[Any]) -> Any:
        """The equation with its own derivative; what depends on held values alone stays held."""
        if not any(isinstance(arg, Pair) for arg in args):
            return self.held(eqn, args)
        out = self.bind(eqn, *map(value_of, args))
        return list(map(_differentiable, out)) if _several(eqn) else _differentiable(out)

    def missing(
        self,
        eqn: Any,
        args: Sequence[Any],
        reason: str = "it has no rule",
        group: str | None = None,
    ) -> Any:
        """The result where there is no rule: an error, or in a lenient walk a held value.

        Where only derivatives are wanted, the primitive has its own.
        """
        if self.mode.ordinary:
            return self.differentiated(eqn, [self.resolved(arg) for arg in args])
        self.fail(eqn.primitive.name, reason, group=group)
        return self.held(eqn, args)

    def held(self, eqn: Any, args: Sequence[Any]) -> Any:
        """The equation on values that are held, and so its results; attention stays known."""
        kinds = {arg.kind for arg in args if isinstance(arg, Frozen)}
        kind = next((kind for kind in FREEZE if kind in kinds), "")
        out = self.bind(eqn, *map(value_of, args))
        return [Frozen(o, kind) for o in out] if _several(eqn) else Frozen(out, kind)

    def resolved(self, x: Any) -> Any:
        """A pair, held or plain value: functions of one variable get their pair here."""
        return resolve(self, x) if isinstance(x, Unresolved) else x

    def settled(self, x: Any) -> Any:
        """As `resolved`, and behind its affine map."""
        x = self.resolved(x)
        return self.mode.settle(x) if isinstance(x, Pair) else x

    def pair(self, x: Any, primitive: str = "a constant") -> Pair:
        """``x`` as a pair: constants by their sign, held values too, which is noted."""
        x = self.resolved(x)
        if isinstance(x, Pair):
            return x
        if isinstance(x, Frozen):
            self.note("local", primitive, "a part of it is held at its forward value")
            return self.mode.constant(jax.lax.stop_gradient(x.value))
        return self.mode.constant(x)

    def enter(self, x: Pair, kind: str, name: str, layout: Layout | None = None) -> Pair:
        """A numbered place: re-centre, read, gate."""
        index = INPUT if kind == "input" else self._number()
        if kind != "input":
            shape, dtype = tuple(x.f.shape), x.f.dtype
            self.sites.append(Site(index, kind, name, shape, dtype, layout, self.steps))
            shift = self.shifts.get(index)
            if shift is not None and shift.shape != shape:
                raise ValueError(
                    f"the fixed shift of place {index} has shape {shift.shape}, but the value "
                    f"there has {shape}: call monojax.splitting.calibrate with the same fn and x."
                )
            x, shift = self.mode.enter(self.mode.settle(x), shift)
        else:
            shift = None
        if index in self.want:
            self.records[index] = (Pair(x.f, x.t), shift)
        if index in self.taps:
            x = _tapped(x, self.taps[index])
        return self.mode.leave(x, self.sizes.get(index)) if kind in ("conv", "dot") else x

    def _number(self) -> int:
        """The number of the place that is being entered."""
        if self.known is not None:
            return self.known[self.trail]
        self.numbers[self.trail] = self.counter
        self.counter += 1
        return self.counter - 1


def _several(eqn: Any) -> bool:
    return eqn.primitive.multiple_results


def _differentiable(value: Any) -> Pair | Frozen:
    """A result as what derivatives pass: floating or complex, as in jax."""
    return Pair(value) if jnp.issubdtype(value.dtype, jnp.inexact) else Frozen(value)


def _tapped(x: Pair, tap: Pair) -> Pair:
    if x.t is None or tap.t is None:
        return Pair(x.f + tap.f, x.t)
    return both(lambda a, b: a + b, x, tap)


def _plain(eqn: Any, args: list[Any]) -> Any:
    """An equation that does not depend on the input; scalars stay concrete under `jit`."""
    if eqn.primitive.name == "broadcast_in_dim" and is_concrete(args[0]) and np.size(args[0]) == 1:
        # A view of one number, which jax lowers as such: it stays known as uniform.
        return np.broadcast_to(np.asarray(args[0]).reshape(()), eqn.outvars[0].aval.shape)
    small = all(var.aval.size <= 1 for var in eqn.outvars if hasattr(var.aval, "size"))
    if small and all(is_concrete(arg) and np.size(arg) <= 1 for arg in args) and not eqn.effects:
        with jax.ensure_compile_time_eval():
            return compat.bind(eqn, *args)
    return compat.bind(eqn, *args)


def _needs_curve(name: str, args: Sequence[Any], rule: Any) -> bool:
    """Where the rule for pairs does not apply, but the result may be a function of one variable."""
    if getattr(rule, "holds", False):
        return True
    dependent = sum(map(depends, args))
    product = name in ("mul", "div") and (dependent > 1 or (name == "div" and depends(args[1])))
    return product or any(isinstance(arg, Unresolved) for arg in args)
