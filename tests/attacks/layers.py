"""Promises of `monojax.layers`: slopes of guaranteed layers, for parameters of any scale.

Slopes are Jacobians in the layer's own dtype, judged in float64 numpy: a quotient of differences
would measure the rounding of values. Order and convexity are judged on values, with an allowance
for their rounding. Parameters are drawn at scales from 1e-30 to 1e30, one per leaf.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from attacks.promise import Attempt, Promise
from monojax import layers as L

DTYPES = {"float32": 1e-4, "bfloat16": 0.05}
"""Relative allowance for rounding: of the weights' cast and of a few sums in that dtype."""

SCALES = (1e-30, 1e-19, 1e-11, 1e-3, 1.0, 30.0, 1e4, 1e10, 1e25)
IN_RANGE = SCALES[:7]
"""For networks whose values are products of weights of any sign."""
POINTS = 24

# Each layer with its width; the norm is the Euclidean one.
DENSE = {
    "SpectralDense": (L.SpectralDense(5), 4),
    "SpectralDense bound": (L.SpectralDense(6, norm="bound"), 3),
    "AOLDense": (L.AOLDense(5), 4),
    "CayleyDense wide": (L.CayleyDense(3), 5),
    "CayleyDense tall": (L.CayleyDense(6), 4),
    "SLLDense": (L.SLLDense(4, hidden=6), 4),
    "SandwichDense": (L.SandwichDense(5), 4),
    "Rotation": (L.Rotation(), 5),
    "MonLipDense": (L.MonLipDense((4, 3), 0.5, 2.0), 3),
    "BiLipNet": (L.BiLipNet((4, 3), 0.5, 2.0), 3),
    "LipschitzMLP": (L.LipschitzMLP((6, 2), 3.0), 4),
}
IMAGES = {
    "AOLConv": L.AOLConv(3),
    "CayleyConv": L.CayleyConv(3),
    "SLLConv": L.SLLConv(2, hidden=3),
    "SandwichConv": L.SandwichConv(3),
}
SIZE = (4, 3, 2)
DIRECTIONS = (1, 0, -1, 1)
MONOTONE = {
    "MonotoneMLP tanh": L.MonotoneMLP((6, 5, 2), DIRECTIONS),
    "MonotoneMLP relu": L.MonotoneMLP((6, 5, 2), DIRECTIONS, activation="relu"),
    "SmoothMinMax": L.SmoothMinMax(3, 4, DIRECTIONS, 2),
    "min-max": L.SmoothMinMax(3, 4, DIRECTIONS, 2, smooth=False),
    "ScalableMonotoneNetwork": L.ScalableMonotoneNetwork((5, 4), DIRECTIONS, outputs=2),
    "LMN one": L.LMN((6, 2), 2.0, DIRECTIONS),
    "LMN two": L.LMN((6, 2), 2.0, DIRECTIONS, "two"),
}
HEADS = {"MonotoneHead": L.MonotoneHead(3), "NonNegativeDense": L.NonNegativeDense(3)}
CONVEX = {"ICNN": L.ICNN((5, 4)), "ConvexMLP": L.ConvexMLP((5, 4, 2), "softplus")}


@functools.cache
def shapes(module, shape):
    """The parameters' shapes; `init` itself would compile."""
    return jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, "float32"))


def draw(rng, module, shape, scales=SCALES):
    """Normal parameters, each leaf at a scale of its own, half of them with spread entries."""
    scale = lambda: scales[rng.integers(len(scales))]

    def leaf(spec):
        value = rng.normal(size=spec.shape) * scale()
        if rng.random() < 0.5:
            value = value * np.exp(rng.normal(size=spec.shape) * rng.choice([0.5, 3.0]))
        return jnp.asarray(np.clip(value, -1e30, 1e30), "float32")

    common = rng.random() < 0.3
    if common:
        one = scale()
        return jax.tree.map(
            lambda s: jnp.asarray(one * rng.normal(size=s.shape), "float32"), shapes(module, shape)
        )
    return jax.tree.map(leaf, shapes(module, shape))


@functools.cache
def jacobians(module, dtype, shape):
    """Compiled once for a module and a dtype: Jacobians `[n, e, d]` at points `[n, d]`."""
    narrow = module.clone(dtype=jnp.dtype(dtype)) if hasattr(module, "dtype") else module

    def one(variables, x):
        return narrow.apply(variables, x.reshape(shape)).ravel()

    return jax.jit(jax.vmap(jax.jacfwd(one, argnums=1), in_axes=(None, 0)))


def points(rng, width, dtype):
    size = rng.choice([1e-3, 1.0, 30.0])
    return jnp.asarray(size * rng.normal(size=(POINTS, width)), dtype)


def slopes(rng, module, dtype, shape, rounds=40):
    """Largest and smallest singular values over their bounds, for ``rounds`` draws."""
    worst, where, allowed = 0.0, "", 1 + DTYPES[dtype]
    width = int(np.prod(shape))
    for _ in range(rounds):
        variables = draw(rng, module, (1, *shape))
        low, high = (float(b) for b in module.apply(variables, method="bounds"))
        found = jacobians(module, dtype, shape)(variables, points(rng, width, dtype))
        found = np.asarray(found, np.float64)
        if not np.isfinite(found).all():
            return Attempt(rounds * POINTS, np.inf, f"not finite: {describe(variables)}")
        sigma = np.linalg.svd(found, compute_uv=False)
        ratio = sigma.max() / (high * allowed)
        if low > 0:  # what rounding may take off grows with the largest slope
            ratio = max(ratio, low / max(sigma.min() + DTYPES[dtype] * high, 1e-300))
        if ratio > worst:
            worst, where = ratio, describe(variables)
    return Attempt(rounds * POINTS, worst, where)


def describe(variables):
    return ", ".join(
        f"{jax.tree_util.keystr(path)} to {np.abs(leaf).max():.1e}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
        if leaf.size
    )


def monotone(rng, module, dtype, directions, rounds=40):
    """Slopes of the wrong sign, over what rounding allows; bounds in the module's norms."""
    worst, where, width = 0.0, "", len(directions)
    for _ in range(rounds):
        scales = SCALES if isinstance(module, L.LMN) or min(directions) > 0 else IN_RANGE
        variables = draw(rng, module, (1, width), scales)
        found = jacobians(module, dtype, (width,))(variables, points(rng, width, dtype))
        found = np.asarray(found, np.float64)
        if not np.isfinite(found).all():
            return Attempt(rounds * POINTS, np.inf, f"not finite: {describe(variables)}")
        high = module.apply(variables, method="bounds")[1]
        signed = found * np.asarray(directions)
        # 2 lambda of LMN is the sum of two numbers of which one is rounded.
        allowance = DTYPES[dtype] * (float(module.lipschitz) if isinstance(module, L.LMN) else 0)
        wrong = -signed.min() / allowance if allowance else (2.0 if signed.min() < 0 else 0.0)
        ends = {"one": 1, "two": 2, "inf": np.inf}
        start, end = module.norms
        if start == end == "two":
            gain = np.linalg.norm(found, 2, axis=(1, 2)).max()
        else:  # outputs one by one: the dual norm of each gradient
            dual = {"one": np.inf, "two": 2, "inf": 1}[start]
            gain = np.linalg.norm(found, dual, axis=2).max()
        assert end in (*ends, "any")
        ratio = max(wrong, gain / max(float(high) * (1 + DTYPES[dtype]), 1e-300))
        if np.isinf(float(high)):
            ratio = wrong
        if ratio > worst:
            worst, where = ratio, describe(variables)
    return Attempt(rounds * POINTS, worst, where)


def convex(rng, module, dtype, rounds=40):
    """f at the middle above the mean of the ends, over the rounding of the values."""
    worst, where, width = 0.0, "", 3
    moderate = (1e-11, 1e-3, 1.0, 10.0)  # values leave the range of floats beyond
    narrow = module.clone(dtype=jnp.dtype(dtype)) if hasattr(module, "dtype") else module
    apply = value_of(narrow)
    for _ in range(rounds):
        variables = draw(rng, module, (1, width), moderate)
        a, b = (points(rng, width, dtype) for _ in range(2))
        middle = jnp.asarray((np.float64(a) + np.float64(b)) / 2, dtype)
        b = jnp.asarray(2 * np.float64(middle) - np.float64(a), dtype)
        mid = (np.float64(a) + np.float64(b)) / 2
        exact = mid == np.float64(middle)
        keep = exact.all(axis=1)
        at_a, at_b, at_mid = (np.asarray(apply(variables, p), np.float64) for p in (a, b, middle))
        scale = np.maximum(np.maximum(abs(at_a), abs(at_b)), abs(at_mid)).max()
        eps = float(jnp.finfo(dtype).eps)
        excess = (at_mid - (at_a + at_b) / 2)[keep]
        if excess.size:
            ratio = excess.max() / max(64 * eps * scale, 1e-300)
            if not ratio <= worst:
                worst, where = ratio, describe(variables)
    return Attempt(rounds * POINTS, worst, where)


@functools.cache
def value_of(module):
    return jax.jit(module.apply)


def _dense(name, dtype):
    module, width = DENSE[name]
    return lambda rng: slopes(rng, module, dtype, (width,))


def _images(name, dtype):
    return lambda rng: slopes(rng, IMAGES[name], dtype, SIZE, rounds=15)


def _monotone(name, dtype):
    return lambda rng: monotone(rng, MONOTONE[name], dtype, DIRECTIONS)


def _head(name, dtype):
    return lambda rng: monotone(rng, HEADS[name], dtype, (1, 1, 1))


def _convex(name, dtype):
    return lambda rng: convex(rng, CONVEX[name], dtype)


def inverse(rng, dtype="float32", rounds=40):
    """Errors of the inverse over the record's bound, where the record says converged."""
    worst, where = 0.0, ""
    for _ in range(rounds):
        lower = float(10.0 ** rng.uniform(-2, 0))
        upper = lower * float(10.0 ** rng.uniform(0.3, 3))
        variables = draw(rng, L.BiLipNet((4, 3), 1.0, 2.0), (1, 3), (1e-3, 0.3, 1.0, 3.0, 10.0))
        x = jnp.asarray(rng.choice([0.1, 1.0, 10.0]) * rng.normal(size=(POINTS, 3)), dtype)
        error, record, offset = round_trip()(variables, x, lower, upper)
        ratio = np.asarray(error / (record.error_bound + offset), np.float64)
        ratio = ratio[np.asarray(record.converged)]
        if ratio.size and not ratio.max() <= worst:
            worst, where = float(ratio.max()), f"{lower=:.3g} {upper=:.3g} {describe(variables)}"
    return Attempt(rounds * POINTS, worst, where)


@functools.cache
def round_trip():
    def run(variables, x, lower, upper):
        net = L.BiLipNet((4, 3), lower, upper)
        y = net.apply(variables, x)
        back = net.apply(variables, y, method="inverse")
        record = net.apply(variables, y, method="inverse_diagnostics")
        # y itself is rounded: the x that it belongs to is not exactly this one.
        size = jnp.linalg.norm(y, axis=-1) + upper * jnp.linalg.norm(x, axis=-1)
        size = size + jnp.linalg.norm(net.apply(variables, jnp.zeros_like(x)), axis=-1)
        offset = 16 * jnp.finfo(x.dtype).eps * size / lower
        return jnp.linalg.norm(back - x, axis=-1), record, offset

    return jax.jit(run)


PROMISES = [
    *(
        Promise(f"{name}: slopes within bounds(), l2", dtype, make(name, dtype), str(DTYPES[dtype]))
        for table, make in ((DENSE, _dense), (IMAGES, _images))
        for name in table
        for dtype in DTYPES
    ),
    *(
        Promise(f"{name}: signs of slopes, bounds()", dtype, make(name, dtype), str(DTYPES[dtype]))
        for table, make in ((MONOTONE, _monotone), (HEADS, _head))
        for name in table
        for dtype in DTYPES
    ),
    *(
        Promise(f"{name}: convex", dtype, _convex(name, dtype), "64 eps of the values")
        for name in CONVEX
        for dtype in DTYPES
    ),
    Promise("BiLipNet: error of the inverse", "float32", inverse, "error_bound"),
]
