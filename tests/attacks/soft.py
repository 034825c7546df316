"""Attacks on penalties, violation rates, nearest neighbours and measured gains."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import monojax as mj
from attacks.promise import Attempt, Promise
from monojax.base.compat import enable_x64

WIDTH, POINTS, HIDDEN = 4, 64, 8
SLACK = 1e-4  # float32: slopes nearer to 0 than this part of the largest are not decided


def _network(weights, x, where=jnp):
    """A smooth network of one example; the same formula serves numpy's float64."""
    a, b, c, shift = weights
    return where.tanh(x @ a + b) @ c + shift


def _weights(rng, scale):
    return (
        scale * rng.normal(size=(WIDTH, HIDDEN)),
        scale * rng.normal(size=HIDDEN),
        rng.normal(size=HIDDEN) / scale,
        rng.normal() * 10.0 ** rng.integers(-2, 4),
    )


def _slopes(weights, x):
    """dfn/dx, float64 numpy, `[n, d]`."""
    a, b, c, _ = weights
    return ((1 - np.tanh(x @ a + b) ** 2) * c) @ a.T


@functools.partial(jax.jit, static_argnames="outputs")
def _rate(weights, points, directions, outputs=None):
    fn = lambda x: _network(weights, x)
    if outputs is not None:
        fn = lambda x: jnp.stack([x[0] + 2.0 * weights[3] + 1e3, _network(weights, x)])
    return mj.metrics.violation_rate(fn, points, directions, outputs=outputs)


def _violations(rng):
    """The rate is at least the share that float64 sees beyond rounding, and at most the rest."""
    worst, tried, where = 0.0, 0, ""
    for _ in range(20):
        scale = 10.0 ** rng.uniform(-2, 1.5)
        weights = _weights(rng, scale)
        points = rng.normal(size=(POINTS, WIDTH)) * 10.0 ** rng.uniform(-2, 1)
        directions = rng.integers(-1, 2, WIDTH)
        points32 = points.astype(np.float32)
        weights32 = tuple(np.float32(w) for w in weights)
        signed = _slopes([np.float64(w) for w in weights32], np.float64(points32)) * directions
        size = np.abs(weights[2]).sum() * np.abs(weights[0]).max() + 1e-300
        surely = (signed < -SLACK * size).any(axis=1).mean()
        perhaps = (signed < SLACK * size).any(axis=1).mean()
        for outputs in (None, "all"):
            found = float(_rate(weights32, points32, directions.astype(np.int32), outputs))
            upper = 1.0 if outputs else perhaps  # the other output may fail as well
            bad = found < surely - 1e-6 or found > upper + 1e-6
            tried += POINTS
            if bad:
                worst, where = 2.0, f"scale {scale:.3g}, {found} outside [{surely}, {upper}]"
    return Attempt(tried, worst, where)


@functools.partial(jax.jit, static_argnames="reduce")
def _penalty(weights, points, directions, margin, reduce):
    fn = lambda w: mj.monotonicity_penalty(
        lambda x: _network(w, x), points, directions, reduce=reduce, margin=margin
    )
    return jax.value_and_grad(fn)(weights)


def _written(weights, points, directions, margin, reduce):
    """The formula, with slopes from central differences of the network in extended precision."""
    wide = [np.asarray(w, np.longdouble) for w in weights]
    points, step = np.asarray(points, np.longdouble), np.longdouble(1e-6)
    columns = []
    for i in range(WIDTH):
        e = step * np.eye(WIDTH, dtype=np.longdouble)[i]
        rise = _network(wide, points + e, np) - _network(wide, points - e, np)
        columns.append(rise / (2 * step))
    hinge = np.maximum(margin - directions * np.stack(columns, axis=1), 0)
    v = np.where(directions != 0, hinge**2, 0)
    return v.sum(axis=1).mean() if reduce == "mean" else v.max()


def _differences(rng):
    """Value and parameter gradient in float64 against differences of the written formula."""
    worst, tried, where = 0.0, 0, ""
    with enable_x64():
        for turn in range(8):
            scale = 10.0 ** rng.uniform(-1, 0.5)
            weights = _weights(rng, scale)
            points = rng.normal(size=(POINTS, WIDTH))
            directions, margin = rng.integers(-1, 2, WIDTH), rng.uniform(0, 0.5)
            reduce = ("mean", "max")[turn % 2]
            value, grads = _penalty(weights, points, directions, margin, reduce)
            want = float(_written(weights, points, directions, margin, reduce))
            error = abs(float(value) - want) / (1e-8 * (1 + want))
            ways = [rng.normal(size=np.shape(w)) for w in weights]
            slope = sum(float(np.sum(np.asarray(g) * v)) for g, v in zip(grads, ways, strict=True))
            h = 1e-4 * min(scale, 1)
            ends = [
                _written(
                    [w + s * h * v for w, v in zip(weights, ways, strict=True)],
                    points, directions, margin, reduce,
                )
                for s in (1, -1, 2, -2)
            ]  # fmt: skip
            numeric = float((8 * (ends[0] - ends[1]) - (ends[2] - ends[3])) / (12 * h))
            # A kink of the hinge or another worst point between the ends: differences do not see
            # a derivative there; such draws are told by two step widths that disagree.
            coarse = float((ends[2] - ends[3]) / (4 * h))
            if abs(coarse - numeric) < 1e-3 * (1 + abs(numeric)):
                error = max(error, abs(slope - numeric) / (1e-3 * (1 + abs(numeric))))
            tried += POINTS
            if error > worst:
                worst, where = error, f"scale {scale:.3g}, {reduce}, margin {margin:.3g}"
    return Attempt(tried, worst, where)


def _neighbours(rng):
    """As near, in float64, as the best that numpy finds from differences."""
    worst, tried, where = 0.0, 0, ""
    for _ in range(6):
        n, d, k = int(rng.integers(30, 400)), int(rng.integers(1, 20)), int(rng.integers(1, 9))
        kind = str(rng.choice(["clusters", "features", "rows", "equal"]))
        gallery = rng.normal(size=(n, d))
        if kind == "clusters":
            gallery = gallery * 10.0 ** rng.uniform(-6, 0) + (
                10.0 ** rng.uniform(0, 9) * rng.normal(size=(4, d))[rng.integers(0, 4, n)]
            )
        elif kind == "features":
            gallery = gallery * 10.0 ** rng.uniform(-12, 12, d)
        elif kind == "rows":
            gallery = gallery * 10.0 ** rng.uniform(-12, 12, (n, 1))
        else:
            gallery = gallery[rng.integers(0, 9, n)]
        gallery = gallery * 10.0 ** rng.uniform(-25, 25)
        if rng.random() < 0.5:
            gallery = gallery.astype(np.float32)
        query = gallery[rng.integers(0, n, 8)] * np.asarray(1 + 1e-3, gallery.dtype)
        similarity = str(rng.choice(["euclidean", "cosine"]))
        k = min(k, n)
        found = mj.metrics.nearest(query, gallery, k, similarity=similarity, batch_size=64)
        q, g = np.float64(query), np.float64(gallery)
        if similarity == "cosine":
            q, g = (rows / np.abs(rows).max(axis=1, keepdims=True) for rows in (q, g))
            q, g = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (q, g))
        top = np.abs(q[:, None] - g).max()
        distance = top * np.linalg.norm((q[:, None] - g) / top, axis=2)
        best = np.sort(distance, axis=1)[:, :k]
        ours = np.take_along_axis(distance, found.indices, axis=1)
        # Cosines equal to float64's rounding are equal: the square of a distance of 1e-8.
        slack = 1e-12 * best + (3e-8 if similarity == "cosine" else 0)
        twice = any(len(set(row)) < k for row in found.indices.tolist())
        ratio = float(((ours - best) / np.maximum(slack, 1e-300)).max())
        ratio = 2.0 if twice else max(ratio, 0.0)
        tried += 8 * n
        if ratio > worst:
            worst, where = ratio, f"{kind}, {similarity}, {gallery.dtype}, n {n}, d {d}"
    return Attempt(tried, worst, where)


@functools.partial(jax.jit, static_argnames="mode")
def _gain(matrices, shift, points, key, mode):
    def fn(x):
        for w in matrices[:-1]:
            x = jnp.abs(x @ w)
        return x @ matrices[-1] + shift

    if mode == "adjacent":
        return mj.metrics.adjacent_differences(fn, points)
    return mj.metrics.empirical_lipschitz(fn, points, key=key if mode == "random" else None)


def _true_bounds(rng):
    """Orthogonal layers and moduli: 1-Lipschitz, times a factor, plus any constant."""
    worst, tried, where = 0.0, 0, ""
    for _ in range(20):
        bound = 10.0 ** rng.uniform(-6, 6)
        turns = [np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0] for _ in range(3)]
        turns[-1] = bound * turns[-1]
        matrices = tuple(np.float32(w) for w in turns)
        # The bound of the rounded weights, with a part for their own rounding.
        true = np.prod([np.linalg.norm(np.float64(w), 2) for w in matrices])
        shift = np.float32(bound * 10.0 ** rng.uniform(-2, 6) * rng.normal(size=WIDTH))
        centre = 10.0 ** rng.uniform(-2, 4) * rng.normal(size=WIDTH)
        spread = 10.0 ** rng.uniform(-6, 2)
        points = np.float32(centre + spread * rng.normal(size=(POINTS, WIDTH)))
        key = jax.random.key(int(rng.integers(2**31)))
        for mode in ("adjacent", "random", "all"):
            upper = float(_gain(matrices, shift, points, key, mode)[1])
            tried += POINTS if mode == "adjacent" else POINTS**2
            ratio = upper / (true * (1 + 1e-5))
            if not ratio <= worst:
                worst, where = ratio, f"bound {bound:.3g}, spread {spread:.3g}, {mode}"
    return Attempt(tried, worst, where)


PROMISES = [
    Promise(
        "violation_rate counts every point that fails", "float32", _violations,
        "slopes within 1e-4 of the largest possible one",
    ),
    Promise(
        "the penalty and its gradient are the written formula's", "float64", _differences,
        "1e-8 of the value; 1e-3 of differences of the gradient",
    ),
    Promise(
        "nearest finds what numpy finds from differences", "float32 and float64", _neighbours,
        "1e-12 of a distance; cosines to 1e-15",
    ),
    Promise("measured gains never refute a true bound", "float32", _true_bounds, "1e-5"),
]  # fmt: skip
