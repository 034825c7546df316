r"""Attacks on the certificates of unfamiliarity.

Features are linear maps drawn at random, so that both slope bounds are known; they are computed in
float32 and then moved by the allowed error in the worst direction. The judge is numpy in float64:
descents of the distance to a centroid outside of a ball, or within one.
"""

import jax
import jax.numpy as jnp
import numpy as np

from attacks.promise import Attempt, Promise
from monojax.uncertainty import largest_certainty, log_kernels, unfamiliarity_radius

SHAPES = ((2, 2, None), (3, 5, None), (4, 6, 9), (5, 5, 5))
"""Width of the input, of the features, and of the embedding; None is the identity head."""
STARTS, STEPS = 64, 60


def draw(rng):
    """A linear map `[p, d]`, inputs, centroids, weight or None, and a length scale."""
    d, p, m = SHAPES[rng.integers(len(SHAPES))]
    scale = 10.0 ** rng.uniform(-2, 2)
    matrix = scale * rng.normal(size=(p, d))
    x = 10.0 ** rng.uniform(-1, 2) * rng.normal(size=(8, d))
    weight = None if m is None else rng.normal(size=(3, m, p)).astype(np.float32)
    h = x @ matrix.T
    z = h[:3, None] if weight is None else np.einsum("np,cmp->ncm", h[:3], weight)
    e = (z[0, 0] + scale * rng.normal(size=(3, z.shape[2]))).astype(np.float32)
    sigma = float(np.abs(h).mean() * 10.0 ** rng.uniform(-1, 0.5))
    return matrix, x, e, weight, sigma


def scores(matrix, x, e, weight, sigma, towards, error):
    """Log-kernels of one class in float32, features moved by ``error`` towards its centroid."""
    h = x @ matrix.T
    w = np.eye(h.shape[1]) if weight is None else weight[towards].astype(float)
    slope = (h @ w.T - e[towards]) @ w
    length = np.linalg.norm(slope, axis=1, keepdims=True)
    h = (h - error[:, None] * slope / np.maximum(length, 1e-30)).astype(np.float32)
    z = h[:, None] if weight is None else np.einsum("np,cmp->ncm", h, weight)
    return np.asarray(log_kernels(jnp.asarray(z), jnp.asarray(e), sigma), float)[:, towards]


def descend(rng, matrix, origin, e, weight, towards, radius, outside):
    """Points outside of a ball, or within it, as near to a centroid as descents come."""
    w = matrix if weight is None else weight[towards].astype(float) @ matrix
    u = rng.normal(size=(STARTS, matrix.shape[1]))
    u = u / np.linalg.norm(u, axis=1, keepdims=True)
    x = origin + radius * u * rng.uniform(1, 3, (STARTS, 1))
    rate = 1 / np.linalg.norm(w, 2) ** 2

    def project(x):
        gap = x - origin
        length = np.linalg.norm(gap, axis=1, keepdims=True)
        edge = origin + gap / np.maximum(length, 1e-300) * radius
        return np.where((length >= radius) == outside, x, edge)

    for _ in range(STEPS):
        x = project(x - rate * ((x @ w.T - e[towards]) @ w))
    return x


def far(rng):
    """No kernel reaches the threshold outside of the certified ball."""
    matrix, x, e, weight, sigma = draw(rng)
    alpha = np.linalg.svd(matrix, compute_uv=False)[-1] * (1 - 1e-12)
    alpha = float(np.nextafter(np.float32(alpha), np.float32(0)))
    t = float(rng.choice([0.9, 0.5, 0.05]))
    a, b = alpha * rng.uniform(0, 0.5), alpha * rng.uniform(0, 0.3)
    h = (x @ matrix.T).astype(np.float32)
    a += 1e-6 * float(np.abs(x @ matrix.T).max())  # the features' own rounding
    b += 1e-6 * np.linalg.norm(matrix, 2)
    options = dict(weight=weight, error=a, error_slope=b, per_class=True)
    radii = np.asarray(unfamiliarity_radius(alpha, h, e, sigma, t, **options), float)
    worst, i = 0.0, int(rng.integers(len(x)))
    for c in range(len(e)):
        if not np.isfinite(radii[i, c]):
            continue
        found = descend(rng, matrix, x[i], e, weight, c, radii[i, c] * (1 + 1e-9), True)
        # The judged error leaves room for the rounding that was added above.
        away = np.linalg.norm(found - x[i], axis=1)
        error = 0.99 * (a + b * away) - 1e-6 * np.abs(found @ matrix.T).max(axis=1)
        reached = scores(matrix, found, e, weight, sigma, c, np.maximum(error, 0))
        worst = max(worst, float(np.exp(reached.max() - np.log(t))))
    return Attempt(len(e) * STARTS, worst, f"shape {matrix.shape}, t {t}")


def near(rng):
    """No kernel in a ball passes the bound."""
    matrix, x, e, weight, sigma = draw(rng)
    upper = float(np.nextafter(np.float32(np.linalg.norm(matrix, 2)), np.float32(np.inf)))
    h = (x @ matrix.T).astype(np.float32)
    radius = float(np.abs(x).mean() * 10.0 ** rng.uniform(-2, 0.5))
    a = 1e-6 * float(np.abs(h).max() + upper * radius) + upper * radius * rng.uniform(0, 0.3)
    bound = largest_certainty(upper, h, e, sigma, radius, weight=weight, error=a)
    bound = np.asarray(jax.device_get(bound), float)
    worst, i = 0.0, int(rng.integers(len(x)))
    for c in range(len(e)):
        found = descend(rng, matrix, x[i], e, weight, c, radius * (1 - 1e-9), False)
        error = 0.99 * a - 1e-6 * np.abs(found @ matrix.T).max(axis=1)
        reached = scores(matrix, found, e, weight, sigma, c, np.maximum(error, 0))
        worst = max(worst, float(np.exp(reached.max() - bound[i])))
    return Attempt(len(e) * STARTS, worst, f"shape {matrix.shape}, radius {radius}")


PROMISES = [
    Promise("uncertain outside of the radius", "float32", far, "stated errors"),
    Promise("the most in a ball", "float32", near, "stated errors"),
]
