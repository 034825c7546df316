r"""``split``: any network as a difference of two monotone convex ones, without touching it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base import compat
from monojax.base.checks import check_function, is_concrete, one_of
from monojax.splitting import (  # noqa: F401  the table
    rules_calls,
    rules_linear,
    rules_loops,
    rules_max,
)
from monojax.splitting.freeze import check_freeze
from monojax.splitting.modes import POOLS, RECENTRE, Mode, SplitMode
from monojax.splitting.pair import Frozen, Pair, SplitError, SplitPair, value_of
from monojax.splitting.walk import Walk

INPUTS = ("centre", "positive")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Shifts:
    """Re-centring with constants that are fixed in advance; made by :func:`calibrate`."""

    arrays: dict[int, jax.Array]
    """The array k that both streams lose, by number of place."""


@dataclasses.dataclass(frozen=True)
class Traced:
    """A function as a jaxpr, with the arrays it was given apart from everything else."""

    closed: compat.ClosedJaxpr
    leaves: list[Any]
    """The leaves of x."""
    rest: list[Any]
    """The arrays among the leaves of args."""
    out_tree: Any

    def run(self, walk: Walk, xs: list[Any]) -> list[Any]:
        """Results, as pairs, held or plain values."""
        return [walk.settled(out) for out in walk.run(self.closed, [*xs, *self.rest])]


def trace(fn: Callable[..., Any], x: Any, args: tuple[Any, ...]) -> Traced:
    """``fn(x, *args)`` as a jaxpr.

    Args:
      fn: function of x and args.
      x: array or pytree of arrays.
      args: pytrees; leaves that are no arrays stay as they are.

    Returns:
      Traced.

    Raises:
      TypeError: if fn is no function, or a leaf of x is not floating point.
      ValueError: on NaN in x; if fn cannot be traced at x: a batch where fn takes one example, an
        image with its axes in another order, a module in train mode.
    """
    check_function(fn, "fn", "it as lambda x: net.apply(params, x)")
    leaves, x_tree = jax.tree.flatten(x)
    leaves = [_float_leaf(leaf) for leaf in leaves]
    arg_leaves, arg_tree = jax.tree.flatten(args)
    arrays = [i for i, leaf in enumerate(arg_leaves) if isinstance(leaf, jax.Array | np.ndarray)]
    trees: list[Any] = []

    # A new function object each time: jax caches traces by function, and a closure over weights
    # that were changed in place (nnx) would go stale.
    def flat(leaves, rest):
        filled = list(arg_leaves)
        for i, value in zip(arrays, rest, strict=True):
            filled[i] = value
        out = fn(jax.tree.unflatten(x_tree, leaves), *jax.tree.unflatten(arg_tree, filled))
        flat_out, tree = jax.tree.flatten(out)
        trees.append(tree)
        return flat_out

    rest = [arg_leaves[i] for i in arrays]
    try:
        closed = jax.make_jaxpr(flat)(leaves, rest)
    except Exception as error:
        message = _tracing_failed(error, [leaf.shape for leaf in leaves])
        if message is None:
            raise
        raise ValueError(message) from error
    return Traced(closed, leaves, rest, trees[0])


def _tracing_failed(error: Exception, shapes: list[tuple[int, ...]]) -> str | None:
    """What to do about an error that fn raised while it was traced; None for errors of its own."""
    name = type(error).__name__
    if name == "TraceContextError":
        return (
            "fn changes the state of a module while it is traced, as nnx modules in train mode do "
            "(BatchNorm its statistics, Dropout its keys): call model.eval() first, or write fn "
            f"with nnx.split and nnx.merge. It said: {error}"
        )
    of_shapes = name.startswith("Scope") or isinstance(error, TypeError | ValueError)
    if not of_shapes or isinstance(error, SplitError | jax.errors.JAXTypeError):
        return None
    listed = ", ".join(map(str, shapes))
    return (
        f"fn cannot be evaluated at x of shape {listed}. If x is a batch and fn takes ONE example, "
        "use jax.vmap over this call; if x is an image, its axes must be in fn's own order (flax "
        f"reads [height, width, channels], torch [channels, height, width]). It said: {error}"
    )


def _float_leaf(leaf: Any) -> jax.Array:
    array = jnp.asarray(leaf)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"x must be floating point to be split, got {array.dtype} of shape {array.shape}; "
            "convert with x.astype(jnp.float32), or pass integers through args."
        )
    if is_concrete(leaf) and not np.isfinite(np.asarray(leaf, np.float64)).all():
        raise ValueError(f"x has NaN or infinite values, shape {array.shape}; impute or drop them.")
    return array


def check_options(pool: Any, recentre: Any, kind: Any = "centre") -> tuple[str, dict[int, Any]]:
    """The name of the re-centring and its fixed arrays, checked.

    Args:
      pool: "full" or "wta".
      recentre: "full", "scale", "none" or Shifts.
      kind: "centre" or "positive".

    Returns:
      ``(strategy, shifts)``.

    Raises:
      ValueError: on another name.
    """
    one_of(pool, POOLS, "pool")
    one_of(kind, INPUTS, "input")
    if isinstance(recentre, Shifts):
        return "none", recentre.arrays
    return one_of(recentre, RECENTRE, "recentre (or the result of calibrate)"), {}


class SplitFunction:
    """``run(x, *args) -> SplitPair``; made by :func:`split`."""

    def __init__(
        self, fn: Callable[..., Any], pool: str, recentre: Any, input: str, freeze: Any = ()
    ):
        """Takes what :func:`split` takes."""
        check_function(fn, "fn", "mj.split(lambda x: net.apply(params, x))")
        self._fn, self._pool, self._input = fn, pool, input
        self._strategy, self._shifts = check_options(pool, recentre, input)
        self._freeze = check_freeze(freeze)

    def __call__(self, x: Any, *args: Any) -> SplitPair:
        """The two parts at ``x``; ``args`` are not split."""
        traced = trace(self._fn, x, args)
        mass = jnp.abs if self._input == "centre" else lambda leaf: leaf
        return self._run(traced, [Pair(leaf, mass(leaf)) for leaf in traced.leaves])

    def streams(self, p: Any, n: Any, *args: Any) -> SplitPair:
        """The two parts as functions of the streams, at the input p - n.

        Args:
          p: positive stream, shaped as x.
          n: negative stream, shaped as x.
          *args: as in the call.

        Returns:
          SplitPair. With pool "full" and recentre "none" or fixed shifts both parts are convex and
          nondecreasing in (p, n) jointly, where `kind` is "dc".
        """
        traced = trace(self._fn, jax.tree.map(lambda a, b: a - b, p, n), args)
        masses = jax.tree.leaves(jax.tree.map(lambda a, b: a + b, p, n))
        return self._run(traced, [Pair(f, t) for f, t in zip(traced.leaves, masses, strict=True)])

    def _run(self, traced: Traced, pairs: list[Pair]) -> SplitPair:
        walk = Walk(SplitMode(self._pool, self._strategy, freeze=self._freeze), shifts=self._shifts)
        outs = traced.run(walk, pairs)
        check_shifts(self._shifts, walk)
        outs = [_output(walk, out) for out in outs]
        unflatten = lambda parts: jax.tree.unflatten(traced.out_tree, parts)
        statuses = {note.status for note in walk.notes}
        kind = "local" if "local" in statuses else "exact" if "exact" in statuses else "dc"
        return SplitPair(unflatten([o.p for o in outs]), unflatten([o.n for o in outs]), kind)


def _output(walk: Walk, out: Any) -> Pair:
    if isinstance(out, Frozen):
        return SplitMode().constant(value_of(out))
    return walk.pair(out, "the output")


def check_shifts(shifts: dict[int, Any], walk: Walk) -> None:
    """Raises if fixed shifts belong to another function than the one walked."""
    want = {s.index: (*s.steps, *s.shape) for s in walk.sites}
    have = {i: tuple(k.shape) for i, k in shifts.items()}
    if shifts and have != want:
        raise ValueError(
            f"these shifts were calibrated for {len(have)} places, but this function has "
            f"{len(want)}: call monojax.splitting.calibrate with the same fn and shape of x."
        )


def split(
    fn: Callable[..., Any],
    pool: str = "full",
    recentre: Any = "full",
    input: str = "centre",
    freeze: Any = (),
) -> SplitFunction:
    r"""Splits a network into two parts with ``g - h = fn``, monotone and convex.

    Nothing is retrained and no weight is copied: the function is traced, and each value that
    depends on ``x`` is computed as a pair :math:`(p, n)` of streams by
    :math:`\mathrm{ReLU}(p - n) = \max\{p, n\} - n`. With pool "full" and recentre "none", or with
    fixed shifts, g and h are convex and nondecreasing in :math:`(x^+, x^-)`; as functions of x they
    are convex, and with input "positive" nondecreasing too. The default recentre "full" depends
    on x: it keeps g - h and every derivative at x, is safe in float32, but x -> g(x) as a whole is
    then neither convex nor monotone.

    A function with a derivative rule of its own (`jax.custom_jvp`, `jax.custom_vjp`) is split by
    what it computes: g - h is its value, and its rule plays no part, so that derivatives of g and h
    (and all maps made of them) are those of its body; :func:`split_report` lists such functions.
    Complex values have no order: a path through them is refused.

    Args:
      fn: ``fn(x, *args)``, x an array or pytree of floating arrays, any shapes; args (weights,
        statistics) stay plain. Pass weights as args, or closed over.
      pool: what maxima do with those that lose: "full" keeps their mass, "wta" drops it (exact,
        but not convex).
      recentre: "full" subtracts min(p, n) at the input of each contraction, "scale" shrinks
        streams above 10 to a tenth of their smaller part (the paper's, needs float64), "none"
        nothing (needs float64 beyond a few layers); or the result of
        :func:`monojax.splitting.calibrate`.
      input: "centre" starts from :math:`(x^+, x^-)`, "positive" from :math:`(x, 0)`.
      freeze: what is held at its forward value because it has no form as convex minus convex:
        "softmax" (exponentials, so attention weights), "normalizer" (squares, roots, denominators,
        so 1/sigma of a layer norm), "product" (one factor of a product of two values that depend on
        x: the gate, or else the second), "gate" (Phi(x) of an activation x Phi(x), which otherwise
        has its own form); several names, or True for all but "gate". The split is then that of the
        frozen network, which agrees with fn at x only: `kind` is "local".

    Returns:
      ``run(x, *args) -> SplitPair(g, h)``, each shaped as ``fn(x, *args)``; it works under `jit`,
      `vmap` and `grad`. ``run.streams(p, n, *args)`` takes the streams themselves.

    Raises:
      ValueError: on an unknown option; when run, on NaN in x, and (SplitError) on a primitive that
        has no rule, with its name, its place and what to do.
      TypeError: when run, if x is not floating point.

    Example:
      >>> fn = lambda x: jnp.maximum(x[0] - 2 * x[1], 0.0)
      >>> g, h = split(fn)(jnp.array([3.0, 1.0]))
      >>> float(g - h)
      1.0

    Reference:
      Zimmermann, Loho, "Hidden Monotonicity: Explaining Deep Neural Networks via their DC
      Decomposition", CVPR 2026, arXiv 2601.07700.
    """
    return SplitFunction(fn, pool, recentre, input, freeze)


def calibrate(
    fn: Callable[..., Any],
    x0: Any,
    *args: Any,
    pool: str = "full",
    recentre: str = "full",
    freeze: Any = (),
) -> Shifts:
    """Fixes the re-centring at the arrays that ``x0`` gives, to be used at any x.

    With constants fixed in advance, g and h stay convex and monotone everywhere and are of
    moderate size near x0.

    Args:
      fn: as in :func:`split`.
      x0: the point to calibrate at, shaped as x.
      *args: as in :func:`split`.
      pool: "full" or "wta".
      recentre: "full" or "scale".
      freeze: as in :func:`split`.

    Returns:
      Shifts, a pytree of arrays; pass it as ``recentre`` to :func:`split`.

    Raises:
      ValueError: as :func:`split`.
    """
    strategy, _ = check_options(pool, recentre)
    mode = SplitMode(pool, strategy, freeze=freeze)
    traced = trace(fn, x0, args)
    pairs = [Pair(leaf, jnp.abs(leaf)) for leaf in traced.leaves]
    return Shifts({i: k for i, (_, k) in _everything(traced, mode, pairs).items()})


def _everything(traced: Traced, mode: Mode, pairs: list[Pair]) -> dict[int, Any]:
    """Pair and shift at every numbered place."""
    survey = Walk(mode)
    jax.eval_shape(lambda pairs: _none(traced.run(survey, pairs)), pairs)
    walk = Walk(mode, want=frozenset(site.index for site in survey.sites))
    traced.run(walk, pairs)
    return walk.records


def _none(_: Any) -> tuple[()]:
    return ()
