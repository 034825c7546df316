"""Values and derivatives at places inside a function, from one forward and one backward pass."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base.checks import is_concrete
from monojax.base.labels import known_labels, wide_enough
from monojax.splitting.axes import Axes
from monojax.splitting.modes import Mode
from monojax.splitting.pair import Frozen, Pair, SplitError, both
from monojax.splitting.sites import INPUT, Layout, Site
from monojax.splitting.transform import Traced, check_shifts, trace
from monojax.splitting.walk import Walk


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A function traced at one example, with its places known."""

    traced: Traced
    mode: Mode
    shifts: dict[int, Any]
    x: Pair
    sites: tuple[Site, ...]
    classes: int | None
    """Number of outputs, None for a scalar."""
    layout: Layout | None = None
    """The input's axes."""


def prepare(
    fn: Callable[..., Any],
    x: Any,
    args: tuple[Any, ...],
    mode: Mode,
    shifts: dict[int, Any] | None = None,
    input: str = "centre",
) -> Prepared:
    """Traces ``fn`` and finds its places.

    Args:
      fn: maps ONE example (and args) to `[c]` or a scalar.
      x: one example, a floating array.
      args: further arguments, a tuple.
      mode: what the walk carries.
      shifts: fixed re-centring.
      input: "centre" or "positive".

    Returns:
      Prepared.

    Raises:
      ValueError: if fn's output is no vector or scalar, for example because x is a batch; on NaN.
      TypeError: if x is no floating array or args no tuple.
    """
    if not isinstance(args, tuple):
        raise TypeError(f"args must be a tuple of further arguments, got {type(args).__name__}.")
    if len(jax.tree.leaves(x)) != 1:
        raise TypeError(f"x must be one array, got {jax.tree.structure(x)}; pass others in args.")
    traced = trace(fn, x, args)
    (leaf,) = traced.leaves
    outs = traced.closed.jaxpr.outvars
    shape = tuple(outs[0].aval.shape) if len(outs) == 1 else None
    if shape is None or len(shape) > 1:
        found = [tuple(out.aval.shape) for out in outs]
        raise ValueError(
            f"fn must map ONE example of shape {leaf.shape} to a vector [c] or a scalar, got "
            f"output shapes {found}. For a linen model use "
            "lambda x: model.apply(variables, x[None])[0]; for a batch use jax.vmap over this call."
        )
    mass = jnp.abs(leaf) if input == "centre" else leaf
    pair = Pair(leaf, mass if mode.mass else None)
    axes = Axes(traced.closed)
    survey = Walk(mode, axes=axes)
    jax.eval_shape(lambda pair: (traced.run(survey, [pair]), ())[1], pair)
    check_shifts(shifts or {}, survey)
    classes = shape[0] if shape else None
    layout = axes.layout(traced.closed.jaxpr.invars[0])
    return Prepared(traced, mode, shifts or {}, pair, tuple(survey.sites), classes, layout)


def check_target(target: Any, classes: int | None) -> jax.Array:
    """The class as one-hot weights on the outputs, shape `[c]` or `[]`.

    Args:
      target: integer in [0, c); None or 0 for a scalar output.
      classes: number of outputs, None for a scalar.

    Returns:
      float array; NaN for a traced target out of range, which cannot be raised.

    Raises:
      ValueError: if a concrete target is out of range.
      TypeError: if it is no integer.
    """
    if classes is None:
        if target is not None and not (is_concrete(target) and np.asarray(target) == 0):
            raise ValueError(f"fn has one scalar output: target must be 0 or None, got {target!r}.")
        return jnp.ones(())
    if target is None or np.shape(target) != () or not np.issubdtype(_dtype(target), np.integer):
        raise TypeError(
            f"target must be one integer in [0, {classes - 1}], got {target!r}; "
            "for many examples use jax.vmap over x and target."
        )
    if is_concrete(target):
        if not 0 <= int(target) < classes:
            raise ValueError(
                f"target {int(target)} is out of range: fn has {classes} outputs, "
                f"0 to {classes - 1}."
            )
        return jax.nn.one_hot(int(target), classes)
    target = wide_enough(jnp.asarray(target))
    return jnp.where(known_labels(target, classes), jax.nn.one_hot(target, classes), jnp.nan)


def _dtype(x: Any) -> Any:
    return getattr(x, "dtype", None) or np.asarray(x).dtype


@dataclasses.dataclass(frozen=True)
class Reading:
    """What was found at one place."""

    value: Pair
    """The pair there, re-centred."""
    slope: tuple[Pair, ...]
    """Derivatives of the seeded outputs with respect to (f, t) there, one per seed."""
    layout: Layout | None


def read(
    ready: Prepared, indices: Sequence[int], seeds: Sequence[tuple[float, float]], target: Any
) -> tuple[dict[int, Reading], Pair]:
    """Values and derivatives at places.

    Args:
      ready: from `prepare`.
      indices: numbers of the places; `INPUT` is the input.
      seeds: per backward pass the derivatives of the result with respect to the output's value f
        and mass t at the target; (1/2, 1/2) is g, (-1/2, 1/2) is h, (1, 0) is fn.
      target: the class.

    Returns:
      ``(readings by place, the output's pair)``.

    Raises:
      ValueError: on a target out of range.
    """
    weights = check_target(target, ready.classes)
    _check_places(ready, indices)
    layouts = {site.index: site.layout for site in ready.sites}
    layouts[INPUT] = ready.layout
    sizes = _gradient_sizes(ready, weights) if ready.mode.balanced else {}
    out, pullback, records = _tapped(ready, indices, sizes)
    slopes = [pullback(_seed(out, weights, *seed))[0] for seed in seeds]
    if not is_concrete(weights):
        # A traced target that is no class: where a ReLU is shut its NaN would come back as 0.
        wrong = jnp.isnan(weights).any()
        broken = lambda a: jnp.where(wrong, jnp.nan, a).astype(a.dtype)
        slopes = [{i: both(broken, slope[i]) for i in indices} for slope in slopes]
    readings = {
        i: Reading(records[i][0], tuple(slope[i] for slope in slopes), layouts[i]) for i in indices
    }
    return readings, out


def _tapped(ready: Prepared, indices: Sequence[int], sizes: dict[int, Any]) -> Any:
    """The output's pair, its pullback to the places, and what was recorded there."""
    shapes = {site.index: ((*site.steps, *site.shape), site.dtype) for site in ready.sites}
    shapes[INPUT] = (ready.x.f.shape, ready.x.f.dtype)
    zeros = {i: jnp.zeros(*shapes[i]) for i in indices}
    taps = {i: Pair(zero, zero if ready.mode.mass else None) for i, zero in zeros.items()}

    def forward(taps):
        want = frozenset(indices)
        walk = Walk(ready.mode, taps=taps, shifts=ready.shifts, sizes=sizes, want=want)
        x = walk.enter(ready.x, "input", "input")
        (out,) = ready.traced.run(walk, [x])
        if isinstance(out, Frozen) and out.kind:
            raise SplitError(
                f"fn's output itself is held at its forward value (freeze={out.kind!r}), so every "
                "map would be zero: explain what goes into it, for example logits instead of "
                "their softmax."
            )
        return walk.pair(out, "the output"), walk.records

    return jax.vjp(forward, taps, has_aux=True)


def _seed(out: Pair, weights: jax.Array, on_value: float, on_mass: float) -> Pair:
    """Derivatives of a result on the output's pair."""
    seed = lambda a, size: size * jnp.broadcast_to(weights, a.shape).astype(a.dtype)
    mass = None if out.t is None else seed(out.t, on_mass)
    # Only arrays in the cotangent: same tree as the output's.
    return Pair(seed(out.f, on_value), mass, pending=out.pending)


def _gradient_sizes(ready: Prepared, weights: jax.Array) -> dict[int, jax.Array]:
    """Mean absolute gradient at the input of each contraction, one number per step of a scan."""
    sites = [site for site in ready.sites if site.kind in ("conv", "dot")]
    out, pullback, _ = _tapped(ready, [site.index for site in sites], {})
    slopes = pullback(_seed(out, weights, 1.0, 0.0))[0]
    mean = lambda site: jnp.abs(slopes[site.index].f).mean(
        axis=tuple(range(len(site.steps), len(site.steps) + len(site.shape)))
    )
    return {site.index: mean(site) for site in sites}


def _check_places(ready: Prepared, indices: Sequence[int]) -> None:
    """Raises for places that have no map in this mode."""
    for site in ready.sites:
        if site.index not in indices:
            continue
        if site.hidden:
            raise SplitError(
                f"layer {site.path or site.index!r} lies inside a function with a derivative rule "
                "of its own (jax.custom_jvp or jax.custom_vjp), which knows no derivative there: "
                "ask for a layer outside it, or put monojax.tag on what goes into it."
            )
        if jnp.issubdtype(site.dtype, jnp.complexfloating):
            raise SplitError(
                f"layer {site.path or site.index!r} holds complex values, {site.dtype}: maps are "
                "of real ones; ask for a layer before or behind them."
            )


def at_step(reading: Reading, step: int | None) -> Reading:
    """The reading of one step of a scan.

    Args:
      reading: with a step axis in front, if ``step`` is given.
      step: number of the step, or None.

    Returns:
      Reading.
    """
    if step is None:
        return reading
    one = lambda pair: both(lambda a: a[step], pair)
    return Reading(one(reading.value), tuple(map(one, reading.slope)), reading.layout)
