"""Training of DUQ on a scaled table: one compiled epoch per shape."""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from monojax.bilipschitz import BLNN
from monojax.conjugate.activations import softplus
from monojax.conjugate.solvers import Solver
from monojax.estimators.training import Part
from monojax.models.mlp import MLP
from monojax.penalties.norm import gradient_norm_penalty
from monojax.uncertainty import DUQ
from monojax.uncertainty.kernels import kernel_loss

EXTRACTORS = ("blnn", "mlp")
CHUNK = 4096
"""Rows that are scored in one call."""


@dataclasses.dataclass(frozen=True)
class Net:
    """What a compiled epoch depends on, beside shapes: hashable."""

    extractor: str
    width: int
    """Of the features: of the lifted input for "blnn"."""
    core: tuple[int, ...]
    classes: int
    head: str
    embedding: int
    length_scale: float
    momentum: float
    penalty: float

    def duq(self) -> DUQ:
        """The head."""
        linear = self.head == "linear"
        return DUQ(
            self.classes,
            self.embedding if linear else None,
            self.length_scale,
            self.momentum,
            self.head,
            initial_count=1.0,
            centroid_scale=1.0 if linear else 0.5,
        )

    def module(self) -> nn.Module:
        """The extractor; its call takes alpha and beta for "blnn"."""
        if self.extractor == "mlp":
            return MLP(self.core, self.width)
        return BLNN(self.core, 1.0, 1.0, softplus(3.0), Solver(max_steps=50))

    def features(self, params: Any, x: jax.Array, alpha: Any, beta: Any) -> jax.Array:
        """Features `[n, width]` of scaled inputs `[n, d]`."""
        module: Any = self.module()
        if self.extractor == "mlp":
            return module.apply(params, x)
        return module.apply(params, lifted(x, self.width), alpha=alpha, beta=beta)


class State(NamedTuple):
    """Parameters, centroids and what training remembers."""

    params: Any
    """``{"net": ..., "head": ...}``."""
    centroids: Any
    rule: Any
    key: Any


def isometry(dim: int, width: int) -> np.ndarray:
    """A fixed matrix `[dim, width]` with orthonormal rows, float32: it keeps all distances."""
    draws = np.random.default_rng(0).normal(size=(width, dim))
    return np.linalg.qr(draws)[0].T.astype(np.float32)


def lifted(x: jax.Array, width: int) -> jax.Array:
    """Inputs `[n, d]` turned into `[n, width]` with all distances kept."""
    if width <= x.shape[-1]:
        return x
    return x @ jnp.asarray(isometry(x.shape[-1], width), x.dtype)


def _rule() -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(10.0), optax.scale_by_adam())


@functools.partial(jax.jit, static_argnames=("net", "dim"))
def initial(net: Net, dim: int, key: jax.Array) -> State:
    """Fresh parameters and centroids."""
    first, second, rest = jax.random.split(key, 3)
    x = jnp.zeros((1, dim))
    module: Any = net.module()
    params = module.init(first, x if net.extractor == "mlp" else lifted(x, net.width))
    head = net.duq().init(second, jnp.zeros((1, net.width)))
    both = {"net": params, "head": head.get("params", {})}
    return State(both, head["centroids"], _rule().init(both), rest)


def log_kernels(net: Net, state: State, x: jax.Array, alpha: Any, beta: Any) -> jax.Array:
    """Logarithms of the kernels `[n, c]`."""
    h = net.features(state.params["net"], x, alpha, beta)
    variables = {"params": state.params["head"], "centroids": state.centroids}
    return net.duq().apply(variables, h, method="log_kernels")  # type: ignore[return-value]


def _loss(net: Net, params: Any, centroids: Any, batch: Part, alpha: Any, beta: Any) -> jax.Array:
    state = State(params, centroids, None, jnp.zeros(()))
    found = log_kernels(net, state, batch.x, alpha, beta)
    loss = kernel_loss(found, batch.y.astype(jnp.int32), weights=batch.weight)
    if not net.penalty:
        return loss
    total = lambda x: jnp.exp(log_kernels(net, state, x[None], alpha, beta)).sum()
    return loss + net.penalty * gradient_norm_penalty(total, batch.x)


@functools.partial(jax.jit, static_argnames=("net", "steps"))
def epoch(
    net: Net, steps: int, state: State, train: Part, alpha: jax.Array, beta: jax.Array, rate: Any
) -> tuple[State, jax.Array]:
    """One pass over the rows in random order; the mean loss `[]`."""
    key, shuffle = jax.random.split(state.key)
    order = jax.random.permutation(shuffle, len(train.x)).reshape(steps, -1)

    def step(state, rows):
        batch = Part(*(leaf[rows] for leaf in train))
        loss = lambda p: _loss(net, p, state.centroids, batch, alpha, beta)
        value, slopes = jax.value_and_grad(loss)(state.params)
        moves, rule = _rule().update(slopes, state.rule)
        params = jax.tree.map(lambda p, m: p - rate * m, state.params, moves)
        h = net.features(params["net"], batch.x, alpha, beta)
        variables = {"params": params["head"], "centroids": state.centroids}
        _, moved = net.duq().apply(
            variables,
            h,
            batch.y.astype(jnp.int32),
            weights=batch.weight,
            method="update",
            mutable=["centroids"],
        )
        return State(params, moved["centroids"], rule, state.key), value

    state, values = jax.lax.scan(step, state._replace(key=key), order)
    return state, values.mean()


@functools.partial(jax.jit, static_argnames=("net",))
def _scored(net: Net, state: State, x: jax.Array, alpha: jax.Array, beta: jax.Array) -> jax.Array:
    return log_kernels(net, state, x, alpha, beta)


def scored(net: Net, state: State, x: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """Logarithms of the kernels `[n, c]`, float64, in chunks of few shapes."""
    made = []
    for start in range(0, len(x), CHUNK):
        chunk = x[start : start + CHUNK]
        rows = 1 << max(4, (len(chunk) - 1).bit_length())
        fill = np.concatenate([chunk, np.repeat(chunk[:1], rows - len(chunk), axis=0)])
        out = _scored(net, state, fill, jnp.float32(alpha), jnp.float32(beta))
        made.append(np.asarray(out, np.float64)[: len(chunk)])
    return np.concatenate(made)
