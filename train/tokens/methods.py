"""Explanations per token, the order they give, and what deleting tokens in that order does."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax import attribution
from monojax.base.compat import enable_x64
from train.tokens.data import Problem

GATE = ("softmax", "normalizer", "product", "gate")
ONCE = {"shift_at": "contraction"}
"""No ReLU follows a product of a transformer: alpha counts once for each."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where and how a map is read."""

    layer: str | None = None
    alpha: float | None = None
    stream: str | None = None

    def __str__(self) -> str:
        """For tables."""
        parts = [self.layer or ""]
        parts += [] if self.alpha is None else [f"alpha {self.alpha:g}"]
        parts += [] if self.stream is None else [f"stream {self.stream}"]
        return ", ".join(part for part in parts if part) or "-"


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to explain, and what is screened for it."""

    call: Callable[..., Any] | None
    """``call(fn, x, target, args=, layer=, ...)``; None for orders that need no explanation."""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    alphas: bool = False
    streams: tuple[str, ...] = ()
    layers: bool = True
    double: bool = False
    """Needs float64."""


METHODS = {
    "random order": Method(None, layers=False),
    "attention rollout": Method(None, layers=False),
    "gradient x input": Method(attribution.gradient_x_input),
    "gradient x input, frozen": Method(attribution.gradient_x_input, {"freeze": GATE}),
    "LRP gamma, frozen": Method(attribution.lrp, {"freeze": GATE, "rule": "gamma"}),
    "SplitGrad": Method(attribution.split_grad, {"freeze": GATE} | ONCE, alphas=True),
    "SplitCAM": Method(attribution.split_cam, {"freeze": GATE} | ONCE, True, ("+", "both")),
    "SplitLRP": Method(attribution.split_lrp, {"freeze": GATE, "recentre": "scale"}, double=True),
}
"""Attention, normalisers, products and gates are held, except for the plain gradient. LRP epsilon
is missing: of a network frozen like this it is gradient times input."""


def settings(method: Method, config: Any) -> list[Setting]:
    """All settings of a method that are screened.

    Args:
      method: one of `METHODS`.
      config: group of the problem: `layers`, `alphas`.

    Returns:
      At least one.
    """
    layers = config.layers if method.layers else (None,)
    alphas = config.alphas if method.alphas else (None,)
    streams = method.streams or (None,)
    return [Setting(la, a, s) for la in layers for s in streams for a in alphas]


def attributions(
    problem: Problem, name: str, setting: Setting, rows: np.ndarray, batch_size: int
) -> np.ndarray:
    """One number per token.

    Args:
      problem: what is explained.
      name: of the method.
      setting: one of its settings.
      rows: numbers of the examples.
      batch_size: examples at once.

    Returns:
      float `[len(rows), t]`.
    """
    if name == "random order":
        return np.random.default_rng(len(problem.x)).random(problem.tokens.shape)[rows]
    explain = _compiled(problem, name, setting.layer, setting.stream)
    done = []
    with enable_x64() if METHODS[name].double else contextlib.nullcontext():
        widen = _double if METHODS[name].double else lambda tree: tree
        shared = widen(problem.shared)
        for part in chunks(rows, batch_size):
            x, own = (
                widen(problem.x[part]),
                widen(jax.tree.map(lambda a, i=part: a[i], problem.own)),
            )
            target = None if problem.targets is None else problem.targets[part]
            done.append(np.asarray(explain(x, own, shared, target, setting.alpha)))
    return np.concatenate(done)[: len(rows)]


@functools.lru_cache(maxsize=64)
def _compiled(problem: Problem, name: str, layer: Any, stream: Any) -> Callable[..., Any]:
    method = METHODS[name]

    def one(x, own, shared, target, alpha):
        args = (own, shared)
        if method.call is None:
            matrix = attribution.attention_rollout(problem.fn, x, args=args)
            if problem.query == "mean":  # of the tokens that are there, as in the pooling
                there = own["there"] / own["there"].sum()
                return there @ matrix
            return matrix[problem.query, problem.skip :]
        options = dict(method.options)
        options |= {} if alpha is None else {"alpha": alpha}
        options |= {} if stream is None else {"stream": stream}
        found = method.call(problem.fn, x, target, args=args, layer=layer, **options)
        return found.sum(-1)[problem.skip :]

    targets = None if problem.targets is None else 0
    return jax.jit(jax.vmap(one, in_axes=(0, 0, None, targets, None)))


def _double(tree: Any) -> Any:
    wide = lambda a: np.asarray(a, np.float64) if np.asarray(a).dtype.kind == "f" else a
    return jax.tree.map(wide, tree)


def chunks(rows: np.ndarray, size: int) -> Iterable[np.ndarray]:
    """Rows in parts of one size; the last is filled up with its first row.

    Args:
      rows: ints `[n]`.
      size: of a part.

    Yields:
      ints `[size]`.
    """
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        yield np.concatenate([part, np.repeat(part[:1], size - len(part))])


def deletion(
    problem: Problem, rows: np.ndarray, maps: np.ndarray, steps: int, batch_size: int
) -> np.ndarray:
    """Scores while tokens are deleted by decreasing attribution.

    Args:
      problem: what is explained.
      rows: numbers of the examples `[n]`.
      maps: one number per token, `[n, t]`.
      steps: the deleted share grows by 1 / steps.
      batch_size: examples at once.

    Returns:
      float `[n, steps + 1]`: nothing deleted first, everything that may be deleted last.
    """
    tokens = problem.tokens[rows]
    order = np.argsort(np.where(tokens, -maps, np.inf), axis=1, kind="stable")
    rank = np.argsort(order, axis=1, kind="stable")
    gone = np.rint(np.linspace(0, 1, steps + 1)[:, None] * tokens.sum(1)).astype(int)
    score = _scores(problem)
    done = []
    for part in chunks(np.arange(len(rows)), batch_size):
        at = rows[part]
        own = jax.tree.map(lambda a, at=at: a[at], problem.own)
        target = None if problem.targets is None else problem.targets[at]
        keep = rank[part] >= gone[:, part, None]
        done.append(np.asarray(score(problem.x[at], own, problem.shared, target, keep)).T)
    return np.concatenate(done)[: len(rows)]


@functools.lru_cache(maxsize=4)
def _scores(problem: Problem) -> Callable[..., Any]:
    targets = None if problem.targets is None else 0
    batch = jax.vmap(problem.score, in_axes=(0, 0, None, targets, 0))

    @jax.jit
    def all_steps(x, own, shared, target, keep):
        return jax.lax.map(lambda keep: batch(x, own, shared, target, keep), jnp.asarray(keep))

    return all_steps


def area(curve: np.ndarray) -> np.ndarray:
    """Area under deletion curves, the deleted share going from 0 to 1.

    Args:
      curve: `[..., steps + 1]`.

    Returns:
      `[...]`.
    """
    return np.trapezoid(curve, dx=1 / (curve.shape[-1] - 1), axis=-1)
