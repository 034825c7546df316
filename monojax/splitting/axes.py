"""Which axis of a value is what: followed from the convolutions through a function's jaxpr.

A convolution knows which axes of its operand and of its result are examples, channels and
positions. From there the roles are carried along everything that keeps an axis an axis: pads,
crops, transposes, sums over other axes, pools, elementwise functions, products with constant
weights. Axes that a reshape joins or cuts keep their role where all parts have the same one.
Where nothing is known, or two convolutions disagree, there is no role: nothing is guessed.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from monojax.base import compat
from monojax.base.jaxprs import Cond, While, structure_of
from monojax.splitting.rules import NAMED
from monojax.splitting.sites import Layout

BATCH, FEATURE, SPATIAL = "batch", "feature", "spatial"
Node = tuple[int, Any, int]
"""One axis of one value in one call: (number of the call, variable, axis)."""

# Results have the operands' axes, in their order.
_SAME = (
    "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh",
    "cbrt", "ceil", "clamp", "conj", "convert_element_type", "copy", "copy_p", "cos", "cosh",
    "cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum", "digamma", "div", "erf", "erf_inv",
    "erfc", "exp", "exp2", "expm1", "eq", "floor", "ge", "gt", "imag", "integer_pow",
    "is_finite", "le", "lgamma", "log", "log1p", "logistic", "lt", "max", "min", "mul", "name",
    "ne", "neg", "nextafter", "not", "optimization_barrier", "or", "pow", "real",
    "reduce_precision", "rem", "rev", "round", "rsqrt", "select_n", "sharding_constraint",
    "sign", "sin", "sinh", "sort", "sqrt", "square", "stop_gradient", "sub", "tan", "tanh",
    "xor", "concatenate", "dynamic_slice", "dynamic_update_slice", "pad", "reduce_window",
    "reduce_window_max", "reduce_window_min", "reduce_window_sum", "slice", "split", "tile",
    "scatter", "scatter-add", "scatter_add",
)  # fmt: skip
_REDUCTIONS = (
    "argmax", "argmin", "reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_prod",
    "reduce_sum",
)  # fmt: skip


class Axes:
    """The roles of all axes in a function.

    Args:
      closed: the function.
      num: how many of its first arguments are the input; all others are constants.
    """

    def __init__(self, closed: compat.ClosedJaxpr, num: int = 1):
        """Follows them."""
        self._parent: dict[Node, Node] = {}
        self._roles: dict[Node, set[str]] = {}
        self._joins: list[tuple[list[Node], list[Node]]] = []
        self._seen: dict[Any, list[int]] = {}
        self._dims: set[int] = set()
        self._calls = 0
        self._walk(closed.jaxpr, set(closed.jaxpr.invars[:num]))
        self._settle()

    def layout(self, var: Any) -> Layout | None:
        """The axes of a variable of the function or of a part of it.

        Args:
          var: of a jaxpr.

        Returns:
          Layout; None where a role is not known, or not the same in all calls.
        """
        found = {self._layout(call, var) for call in self._seen.get(var, ())}
        return found.pop() if len(found) == 1 else None

    def _layout(self, call: int, var: Any) -> Layout | None:
        shape = var.aval.shape
        roles = [self._role((call, var, i)) for i in range(len(shape))]
        at = lambda role: [i for i, found in enumerate(roles) if found == role]
        large = lambda axes: [i for i in axes if shape[i] != 1]
        unknown = [i for i, role in enumerate(roles) if role not in (BATCH, FEATURE, SPATIAL)]
        features, batches, spatial = at(FEATURE), at(BATCH), at(SPATIAL)
        if large(unknown) or len(large(features)) > 1 or len(spatial) not in self._dims:
            return None
        first = lambda axes: next(iter([*large(axes), *axes]), -1)
        return Layout(first(batches), first(features), tuple(spatial))

    def _role(self, node: Node) -> str | None:
        roles = self._roles.get(self._find(node), set())
        return next(iter(roles)) if len(roles) == 1 else None

    def _find(self, node: Node) -> Node:
        while (up := self._parent.get(node, node)) != node:
            self._parent[node] = self._parent.get(up, up)
            node = up
        return node

    def _link(self, a: Node, b: Node) -> None:
        a, b = self._find(a), self._find(b)
        if a != b:
            self._parent[b] = a
            self._roles.setdefault(a, set()).update(self._roles.pop(b, ()))

    def _tell(self, node: Node, role: str) -> bool:
        """Gives a role; true if that is news."""
        roles = self._roles.setdefault(self._find(node), set())
        news = role not in roles
        roles.add(role)
        return news

    def _settle(self) -> None:
        """Carries roles over joined axes until nothing changes."""
        news = True
        while news:
            news = False
            for sides in self._joins:
                news |= self._carry(*sides)

    def _carry(self, left: list[Node], right: list[Node]) -> bool:
        news = False
        for have, want in ((left, right), (right, left)):
            roles = {self._role(node) for node in have}
            if len(roles) == 1 and (role := roles.pop()):
                blank = [node for node in want if not self._roles.get(self._find(node))]
                for node in blank:
                    news |= self._tell(node, role)
        return news

    def _walk(self, jaxpr: Any, depends: set[Any]) -> tuple[int, set[Any]]:
        """One call of a jaxpr: its number, and the variables that depend on the input."""
        self._calls += 1
        call = self._calls
        for var in depends:
            self._seen.setdefault(var, []).append(call)
        for eqn in jaxpr.eqns:
            if not eqn.outvars or not any(_among(atom, depends) for atom in eqn.invars):
                continue  # prints have no results
            for var in eqn.outvars:
                depends.add(var)
                self._seen.setdefault(var, []).append(call)
            self._equation(call, eqn, depends)
        return call, depends

    def _equation(self, call: int, eqn: Any, depends: set[Any]) -> None:
        name, out = eqn.primitive.name, eqn.outvars[0]
        data = [atom for atom in eqn.invars if _among(atom, depends)]
        node = lambda var, axis: (call, var, axis)
        link = lambda a, i, b, j: self._link(node(a, i), node(b, j))
        if NAMED.get(eqn.params.get("name")) is not None:  # a depthwise convolution
            self._convolution(call, data[0], (0, 3, 1, 2))
            self._convolution(call, out, (0, 3, 1, 2))
        elif name == "conv_general_dilated":
            numbers = eqn.params["dimension_numbers"]
            if _among(eqn.invars[0], depends):
                self._convolution(call, eqn.invars[0], numbers.lhs_spec)
            self._convolution(call, out, numbers.out_spec)
        elif name in _SAME:
            for var in data:
                for other in eqn.outvars:
                    if var.aval.ndim == other.aval.ndim:
                        for i in range(var.aval.ndim):
                            link(var, i, other, i)
        elif name == "reshape":
            for left, right in _grouped(data[0].aval.shape, out.aval.shape):
                sides = [node(data[0], i) for i in left], [node(out, i) for i in right]
                if len(left) == len(right) == 1:
                    self._link(sides[0][0], sides[1][0])
                else:
                    self._joins.append(sides)
        elif name == "dot_general":
            self._product(call, eqn, depends)
        elif name in _MOVES:
            for i, j in _MOVES[name](eqn):
                link(eqn.invars[0], i, out, j)
        elif name in ("stack", "unstack"):
            large, small = (out, data) if name == "stack" else (data[0], eqn.outvars)
            others = [i for i in range(large.aval.ndim) if i != eqn.params["axis"]]
            for var in small:
                for j, i in enumerate(others):
                    link(var, j, large, i)
        elif name in _REDUCTIONS:
            kept = [i for i in range(data[0].aval.ndim) if i not in eqn.params["axes"]]
            for j, i in enumerate(kept):
                link(data[0], i, out, j)
        else:
            for body, operands in _bodies(eqn):
                self._body(call, eqn, body, operands, depends)

    def _convolution(self, call: int, var: Any, spec: Sequence[int]) -> None:
        batch, feature, *spatial = spec
        self._dims.add(len(spatial))
        self._tell((call, var, batch), BATCH)
        self._tell((call, var, feature), FEATURE)
        for axis in spatial:
            self._tell((call, var, axis), SPATIAL)

    def _product(self, call: int, eqn: Any, depends: set[Any]) -> None:
        """Free and batch axes stay; constant weights make of an axis one of the same role."""
        (contracting, batch), out = eqn.params["dimension_numbers"], eqn.outvars[0]
        free = [
            [i for i in range(atom.aval.ndim) if i not in contracting[side] + batch[side]]
            for side, atom in enumerate(eqn.invars)
        ]
        start = len(batch[0]), len(batch[0]) + len(free[0])
        inside = [_among(atom, depends) for atom in eqn.invars]
        for side, atom in enumerate(eqn.invars):
            if not inside[side]:
                continue
            pairs = [*enumerate(batch[side]), *enumerate(free[side], start[side])]
            for j, i in pairs:
                self._link((call, atom, i), (call, out, j))
            other = 1 - side
            if not inside[other] and len(contracting[side]) == len(free[other]) == 1:
                made = (call, out, start[other])
                self._joins.append(([(call, atom, contracting[side][0])], [made]))

    def _body(
        self, call: int, eqn: Any, body: Any, operands: Sequence[Any], depends: set[Any]
    ) -> None:
        """A call, a loop (slices lack the step axis) or a branch."""
        pairs = list(zip(body.invars, operands, strict=True))
        inside, reached = self._walk(body, {b for b, atom in pairs if _among(atom, depends)})
        pairs += zip(body.outvars, eqn.outvars, strict=True)
        for inner, atom in pairs:
            if not (_among(inner, reached) and _among(atom, depends)):
                continue
            steps = atom.aval.ndim - inner.aval.ndim
            if steps in (0, 1):
                for i in range(inner.aval.ndim):
                    self._link((inside, inner, i), (call, atom, i + steps))


def _among(atom: Any, variables: set[Any]) -> bool:
    return not isinstance(atom, compat.Literal) and atom in variables


def _bodies(eqn: Any) -> Iterator[tuple[Any, Sequence[Any]]]:
    """The jaxprs inside an equation, each with the operands that it is given."""
    structure = structure_of(eqn)
    if isinstance(structure, Cond):
        for branch in structure.branches:
            yield branch.jaxpr, eqn.invars[1:]
    elif isinstance(structure, While):
        _, consts, carry = structure.parts(eqn.invars)
        yield structure.body.jaxpr, [*consts, *carry]
    elif structure is not None:
        yield structure.body.jaxpr, eqn.invars


def _grouped(a: Sequence[int], b: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """The smallest groups of axes that a reshape turns into each other; axes of size 1 are free."""
    left = [i for i, n in enumerate(a) if n != 1]
    right = [i for i, n in enumerate(b) if n != 1]
    while left and right:
        mine, theirs = [left.pop(0)], [right.pop(0)]
        have, want = a[mine[0]], b[theirs[0]]
        while have != want:
            if have < want:
                mine.append(left.pop(0))
                have *= a[mine[-1]]
            else:
                theirs.append(right.pop(0))
                want *= b[theirs[-1]]
        yield mine, theirs


def _broadcast(eqn: Any) -> list[tuple[int, int]]:
    return list(enumerate(eqn.params["broadcast_dimensions"]))


def _squeeze(eqn: Any) -> list[tuple[int, int]]:
    gone = eqn.params["dimensions"]
    kept = [i for i in range(eqn.invars[0].aval.ndim) if i not in gone]
    return [(i, j) for j, i in enumerate(kept)]


def _transpose(eqn: Any) -> list[tuple[int, int]]:
    return [(i, j) for j, i in enumerate(eqn.params["permutation"])]


def _gather(eqn: Any) -> list[tuple[int, int]]:
    """Axes that are taken in slices; and the one that is picked from, where it is one."""
    numbers = eqn.params["dimension_numbers"]
    picked = numbers.collapsed_slice_dims
    gone = {*picked, *getattr(numbers, "operand_batching_dims", ())}
    kept = [i for i in range(eqn.invars[0].aval.ndim) if i not in gone]
    pairs = list(zip(kept, numbers.offset_dims, strict=True))
    others = [j for j in range(eqn.outvars[0].aval.ndim) if j not in numbers.offset_dims]
    return pairs + (
        [(picked[0], others[0])] if len(gone) == len(picked) == len(others) == 1 else []
    )


_MOVES: dict[str, Callable[[Any], list[tuple[int, int]]]] = {
    "broadcast_in_dim": _broadcast,
    "gather": _gather,
    "squeeze": _squeeze,
    "transpose": _transpose,
}
