"""The split under attack: g - h is fn, and g and h rise and are convex wherever "dc" is said.

The judge is fn itself or numpy in float64; a float32 split is judged by a running error bound of
the network in numpy, which any evaluation in that order has to keep.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import monojax as mj
from attacks.promise import Attempt, Promise
from monojax.base.compat import enable_x64

POINTS = 2000
EPS = {"float32": np.finfo(np.float32).eps, "float64": np.finfo(np.float64).eps}
KINKED: dict[str, Callable[[Any], Any]] = {
    "relu": jax.nn.relu,
    "leaky": lambda x: jax.nn.leaky_relu(x, 0.3),
    "abs": jnp.abs,
    "relu6": jax.nn.relu6,
    "hard_tanh": jax.nn.hard_tanh,
    "sort": lambda x: jnp.sort(x.reshape(-1, 2), axis=-1).ravel(),
    "maxout": lambda x: jnp.maximum(x, x[::-1]),
    "cummax": jax.lax.cummax,
}
SMOOTH: dict[str, Callable[[Any], Any]] = {
    "softplus": jax.nn.softplus,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
    "elu": jax.nn.elu,
    "mish": jax.nn.mish,
    "selu": jax.nn.selu,
    "hard_silu": jax.nn.hard_silu,
}


def network(rng: np.random.Generator, table: dict[str, Any]) -> tuple[Any, int, str]:
    """A random network in float64: widths, depth, weights' scale, activations, residuals."""
    widths = [int(rng.integers(1, 5)), *(2 * rng.integers(1, 7, size=rng.integers(1, 5))), 3]
    widths = [int(width) for width in widths]
    scale = float(10 ** rng.uniform(-1.5, 1.0))
    names = [str(rng.choice(sorted(table))) for _ in widths[1:-1]]
    layers = []
    for fan_in, fan_out in itertools.pairwise(widths):
        kernel = rng.normal(size=(fan_out, fan_in)) * scale * np.sqrt(2 / fan_in)
        layers.append((kernel, rng.normal(size=fan_out) * scale))

    def fn(x):
        for (kernel, bias), name in zip(layers[:-1], names, strict=True):
            y = table[name](kernel @ x + bias)
            x = y + 0.5 * x if y.shape == x.shape else y
        kernel, bias = layers[-1]
        return kernel @ x + bias

    return fn, widths[0], f"widths {widths}, {names}, scale {scale:.3g}"


def difference(rng: np.random.Generator) -> Attempt:
    """g - h against fn, with every way to re-centre."""
    with enable_x64():
        fn, width, where = network(rng, KINKED | SMOOTH)
        recentre = str(rng.choice(["none", "full", "scale"]))
        pool = str(rng.choice(["full", "wta"]))
        x = jnp.asarray(rng.normal(size=(POINTS, width)) * 10 ** rng.uniform(-2, 3))
        pair = jax.jit(jax.vmap(mj.split(fn, recentre=recentre, pool=pool)))(x)
        value = np.asarray(jax.jit(jax.vmap(fn))(x))
        g, h = np.asarray(pair.g), np.asarray(pair.h)
        # fn's own rounding depends on how XLA fuses it; that of g - h on the streams' size.
        size = np.abs(g) + np.abs(h) + np.abs(value).max()
        worst = (np.abs(g - h - value) / (256 * EPS["float64"] * size)).max()
    return Attempt(POINTS, float(worst), f"{where}, {recentre}, {pool}")


def _shape(run: Any, p: Any, n: Any, q: Any, m: Any, rounding: float) -> float:
    """Largest excess over the chord, or loss where the streams rise, to what is allowed."""
    at = lambda p, n: np.concatenate([np.asarray(part) for part in run(p, n)], -1)
    first, second, middle, more = at(p, n), at(q, m), at((p + q) / 2, (n + m) / 2), at(p + q, n + m)
    allowed = rounding * (1 + np.abs(first) + np.abs(second))
    bent = np.maximum(middle - (first + second) / 2, first - more)
    return float((bent / allowed).max())


def parts(table: dict[str, Any], rounding: float) -> Callable[[np.random.Generator], Attempt]:
    """Convexity and monotonicity of both parts, without re-centring."""

    def attack(rng: np.random.Generator) -> Attempt:
        with enable_x64():
            fn, width, where = network(rng, table)
            split = mj.split(fn, recentre="none")
            assert mj.split_report(fn, jnp.ones(width), recentre="none").kind == "dc"
            scale = 10 ** rng.uniform(-2, 2)
            drawn = np.abs(rng.normal(size=(4, POINTS, width))) * scale
            drawn *= rng.random(drawn.shape) < 0.8  # on the edges, too
            run = jax.jit(jax.vmap(lambda p, n: tuple(split.streams(p, n))))
            worst = _shape(run, *map(jnp.asarray, drawn), rounding)
        return Attempt(POINTS, worst, where)

    return attack


def one_variable(rng: np.random.Generator) -> Attempt:
    """Functions of one variable that bend anywhere, at any scale, where "dc" is said."""
    with enable_x64():
        name = str(rng.choice(sorted(SMOOTH)))
        slope = float(10 ** rng.uniform(-3, 3) * rng.choice([-1, 1]))
        centre = float(10 ** rng.uniform(-1, 4) * rng.choice([-1, 1]))
        fn = lambda x: SMOOTH[name](slope * (x - centre)) - 0.3 * SMOOTH[name](x / 2 + centre)
        if mj.split_report(fn, jnp.ones(1), recentre="none").kind != "dc":
            return Attempt(0, 0.0)
        n, m = np.abs(rng.normal(size=(2, POINTS, 1))) * rng.choice([1, 30, centre])
        at = lambda: np.where(
            rng.random((POINTS, 1)) < 0.5,
            centre + rng.normal(size=(POINTS, 1)) * 8 / slope,
            -2 * centre + rng.normal(size=(POINTS, 1)) * 16,
        )
        n, m = np.abs(n), np.abs(m)
        p, q = np.maximum(at() + n, 0), np.maximum(at() + m, 0)
        split = mj.split(fn, recentre="none")
        run = jax.jit(jax.vmap(lambda p, n: tuple(split.streams(p, n))))
        rounding = 1e-9 * (1 + abs(slope * centre))
        worst = _shape(run, *map(jnp.asarray, (p, n, q, m)), rounding)
    return Attempt(POINTS, worst, f"{name}, slope {slope:.3g}, centre {centre:.3g}")


def single_precision(rng: np.random.Generator) -> Attempt:
    """A float32 split of a ReLU network, fully re-centred, against numpy in float64."""
    eps = EPS["float32"]
    depth, width = int(rng.integers(2, 12)), int(rng.integers(4, 64))
    scale = float(10 ** rng.uniform(-0.5, 0.5))
    layers = [
        (
            (rng.normal(size=(width, width)) * scale * np.sqrt(2 / width)).astype(np.float32),
            rng.normal(size=width).astype(np.float32),
        )
        for _ in range(depth)
    ]
    x = (rng.normal(size=(POINTS // 4, width)) * 10 ** rng.uniform(-2, 2)).astype(np.float32)

    def fn(x, layers):
        for kernel, bias in layers[:-1]:
            x = jax.nn.relu(kernel @ x + bias)
        return layers[-1][0] @ x + layers[-1][1]

    pair = jax.jit(jax.vmap(mj.split(fn), in_axes=(0, None)))(x, layers)
    value, error = x.astype(np.float64), np.zeros(x.shape)
    for i, (kernel, bias) in enumerate(layers):
        size = np.abs(value) @ np.abs(kernel).T.astype(np.float64) + np.abs(bias)
        error = error @ np.abs(kernel).T.astype(np.float64) + (width + 2) * eps * size
        value = value @ kernel.T.astype(np.float64) + bias
        if i < depth - 1:
            value = np.maximum(value, 0)
    got = np.asarray(pair.g, np.float64) - np.asarray(pair.h, np.float64)
    # The output's mass is |W| |a| + |b|: forming p and n and their difference rounds that.
    allowed = error + 4 * eps * size
    worst = float((np.abs(got - value) / allowed).max())
    return Attempt(len(x), worst, f"depth {depth}, width {width}, scale {scale:.3g}")


PROMISES = [
    Promise("split: g - h = fn", "float64", difference, "256 roundings of the streams"),
    Promise(
        "split: g, h convex and monotone (kinks)", "float64", parts(KINKED, 1e-12),
        "1e-12 of the streams",
    ),
    Promise(
        "split: g, h convex and monotone (smooth)", "float64", parts(SMOOTH, 1e-8),
        "1e-8 of the streams (knots)",
    ),
    Promise(
        "split: dc of one variable, any scale", "float64", one_variable,
        "1e-9 of the streams and of slope times shift",
    ),
    Promise(
        "split: g - h = fn, fully re-centred", "float32", single_precision,
        "the network's own error bound",
    ),
]  # fmt: skip
