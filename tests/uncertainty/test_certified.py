"""Certificates of unfamiliarity: closed forms, rounding, and attacks that must not get through."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import monojax as mj
from monojax.uncertainty import largest_certainty, log_kernels, unfamiliarity_radius

RNG = np.random.default_rng(2)
radii = jax.jit(unfamiliarity_radius, static_argnames="per_class")
largest = jax.jit(largest_certainty)


def certainties(h, e, sigma, weight=None):
    """As the head computes them, float32 `[n]`."""
    h = jnp.asarray(h, jnp.float32)
    z = h[:, None] if weight is None else jnp.einsum("np,cmp->ncm", h, weight)
    return np.asarray(jnp.exp(jnp.max(log_kernels(z, e, sigma), axis=1)))


def directions(n, d):
    u = RNG.normal(size=(n, d))
    return u / np.linalg.norm(u, axis=1, keepdims=True)


def test_the_radius_in_closed_form():
    h, e = RNG.normal(size=(6, 3)), RNG.normal(size=(2, 3))
    rho = 0.5 * np.sqrt(2 * 3 * np.log(1 / 0.2))
    gaps = np.linalg.norm(h[:, None] - e[None], axis=-1)
    got = radii(2.0, h, e, 0.5, 0.2)
    np.testing.assert_allclose(got, (rho + gaps.max(1)) / 2, rtol=1e-4)
    assert (np.asarray(got) >= (rho + gaps.max(1)) / 2).all()
    each = radii(2.0, h, e, 0.5, 0.2, per_class=True)
    np.testing.assert_allclose(each, (rho + gaps) / 2, rtol=1e-4)
    error = np.linspace(0, 1, 6)
    got = radii(2.0, h, e, 0.5, 0.2, error=error, error_slope=0.5)
    np.testing.assert_allclose(got, (rho + gaps.max(1) + 2 * error) / 1.5, rtol=1e-4)
    weight = RNG.normal(size=(2, 5, 3))
    e = RNG.normal(size=(2, 5))
    gaps = np.linalg.norm(np.einsum("np,cmp->ncm", h, weight) - e[None], axis=-1)
    least = np.linalg.svd(weight, compute_uv=False)[:, -1]
    rho = 0.5 * np.sqrt(2 * 5 * np.log(1 / 0.2))
    got = radii(2.0, h, e, 0.5, 0.2, weight=weight)
    np.testing.assert_allclose(got, ((rho + gaps) / least).max(1) / 2, rtol=1e-3)
    assert (np.asarray(got) >= ((rho + gaps) / least).max(1) / 2).all()


def test_nothing_is_claimed_without_a_slope():
    h, e = RNG.normal(size=(4, 3)), RNG.normal(size=(2, 3))
    assert np.isinf(radii(0.0, h, e, 0.5, 0.2)).all()
    assert np.isinf(radii(0.5, h, e, 0.5, 0.2, error_slope=0.5)).all()
    narrow = RNG.normal(size=(2, 2, 3)), RNG.normal(size=(2, 2))  # m = 2 < p = 3
    assert np.isinf(radii(1.0, h, narrow[1], 0.5, 0.2, weight=narrow[0])).all()
    flat = np.stack([np.diag([1.0, 1, 0])] * 2)
    assert np.isinf(radii(1.0, h, e, 0.5, 0.2, weight=flat)).all()


@pytest.mark.parametrize("size", [1.0, 3e3])
@pytest.mark.parametrize("t", [1.0, 1 - 1e-7, 0.5, 1e-30])
def test_rounding_is_counted(size, t):
    """h(x) = x in float32: just outside of a ball the computed certainty is below, never equal."""
    h = (size * RNG.normal(size=(300, 7))).astype(np.float32)
    e, sigma = h[:1] + np.float32(1e-3), 0.3
    r = np.asarray(radii(1.0, h, e, sigma, t, per_class=True), np.float64)[:, 0]
    out = h[0] - h  # past the centroid, where the triangle's inequality is tight
    out[0] = 1.0
    out = out / np.linalg.norm(out.astype(np.float64), axis=1, keepdims=True)
    x = h.astype(np.float64) + out * r[:, None]
    eps = np.finfo(np.float32).eps * np.abs(x).max(axis=1, keepdims=True)
    x32 = (x + out * 8 * eps).astype(np.float32)  # rounded, and still outside
    outside = np.linalg.norm(x32.astype(np.float64) - h, axis=1) > r
    assert outside.mean() > 0.9
    assert (certainties(x32, e, sigma)[outside] < t).all()


def test_errors_are_counted():
    """Features off by the allowed error towards the centroids: below with it, above without."""
    alpha, a, t = 0.5, 0.2, 0.1
    x0, e = np.zeros((1, 4)), np.zeros((1, 4))
    u = directions(50, 4)
    for error, below in ((a, True), (0.0, False)):
        r = float(radii(alpha, x0, e, 0.3, t, error=error)[0])
        x = u * r * 1.0001
        off = alpha * x - a * x / np.linalg.norm(x, axis=1, keepdims=True)
        found = certainties(off, e, 0.3) < t
        assert found.all() if below else not found.any()
    slope = 0.1
    r = float(radii(alpha, x0, e, 0.3, t, error=a, error_slope=slope)[0])
    x = u * r * 1.0001
    size = np.linalg.norm(x, axis=1, keepdims=True)
    assert (certainties(alpha * x - (a + slope * size) * x / size, e, 0.3) < t).all()


ALPHA, SIGMA, T = 0.8, 0.4, 0.3


def network(beta, kind):
    """A random network, a point whose features are the first centroid, centroids and weight."""
    net = mj.BLNN((16, 16), alpha=ALPHA, beta=beta)
    points = np.random.default_rng(4).normal(size=(2, 2)).astype(np.float32)
    variables = net.init(jax.random.key(3), points)
    h = np.asarray(jax.jit(net.apply)(variables, points))
    if kind == "identity":
        return net, variables, points[0], h[:1], h, None
    # One map without stretch, so that the bound is tight, and one with.
    weight = np.random.default_rng(5).normal(size=(2, 3, 2)).astype(np.float32)
    weight[0] = np.linalg.qr(weight[0])[0]
    return net, variables, points[0], h[:1], np.einsum("cp,cmp->cm", h, weight), weight


@functools.partial(jax.jit, static_argnames=("net", "steps"))
def attack(net, variables, x, origin, r, e, weight, steps):
    """Ascends the first kernel outside of the ball; the points, their kernels, their errors."""

    def score(x):
        h = net.apply(variables, x)
        z = h[:, None] if weight is None else jnp.einsum("np,cmp->ncm", h, weight)
        return log_kernels(z, e, SIGMA)[:, 0]

    def push(x):  # onto the sphere, a hair outside
        gap = x - origin[None]
        length = jnp.linalg.norm(gap, axis=1, keepdims=True)
        return jnp.where(length > r, x, origin[None] + gap / length * r * (1 + 1e-5))

    def step(x, size):
        slope = jax.grad(lambda x: score(x).sum())(x)
        unit = slope / (jnp.linalg.norm(slope, axis=1, keepdims=True) + 1e-20)
        return push(x + size * unit), None

    x, _ = jax.lax.scan(step, push(x), r * jnp.geomspace(1.0, 1e-3, steps))
    bound = net.apply(variables, x, method="diagnostics").error_bound
    return x, jnp.exp(score(x)), bound


def certified(beta, kind):
    """A network, and its certificate before any x is known: from the solver's tolerance alone."""
    net, variables, origin, h, e, weight = network(beta, kind)
    # Residuals are below 1e-4 (1 + |x|), errors below beta times that; and the last sum rounds.
    slope = 1e-4 * beta + 2e-7
    error = slope * (1 + np.linalg.norm(origin)) + 1e-6
    options = dict(weight=weight, error=error, error_slope=slope, per_class=True)
    r = float(radii(ALPHA, h, e, SIGMA, T, **options)[0, 0])
    return net, variables, origin, e, weight, r, lambda x: error + slope * x


@pytest.mark.slow
def test_nothing_outside_of_the_ball_reaches_the_threshold():
    """In two dimensions circles can be looked at whole."""
    net, variables, origin, e, weight, r, _ = certified(0.1, "linear")
    sizes = np.repeat([1 + 1e-5, 1.2, 2, 10], 100)
    x = (origin + sizes[:, None] * r * directions(400, 2)).astype(np.float32)
    h = np.asarray(jax.jit(net.apply)(variables, x))
    z = np.einsum("np,mp->nm", h, weight[0])
    found = np.exp(in_float64(z, e[0]))
    # All slopes lie in [0.8, 0.9]: the kernel there is T to the power of (0.9 / 0.8)^2 or more.
    assert (found < T).all() and found.max() > 0.98 * T ** ((0.9 / 0.8) ** 2)


def in_float64(z, e):
    return -np.square((np.asarray(z, np.float64) - e) / SIGMA).mean(axis=1) / 2


@pytest.mark.slow
@pytest.mark.parametrize(("beta", "kind"), [(0.1, "identity"), (0.1, "linear"), (2.0, "linear")])
def test_no_attack_of_a_thousand(beta, kind):
    net, variables, origin, e, weight, r, error = certified(beta, kind)
    starts = (origin + 3 * r * directions(1000, 2)).astype(np.float32)
    tried = attack(net, variables, starts, origin, r, e, weight, 60)
    x, found, reached = map(np.asarray, tried)
    away = np.linalg.norm(x.astype(np.float64) - origin, axis=1)
    assert (away > r).all() and (reached <= error(away)).all()
    floor = 0.98 * T ** (((ALPHA + beta) / ALPHA) ** 2)
    assert (found < T).all() and found.max() > floor


def test_the_centroids_own_preimages_give_the_tightest_ball():
    """Outside r = rho / alpha of the preimage, below; the map alpha x attains it."""
    e = np.zeros((1, 2))
    r = float(radii(0.7, e, e, 0.4, 0.3)[0])
    u = directions(100, 2)
    assert (certainties(0.7 * u * r * 1.0001, e, 0.4) < 0.3).all()
    assert (certainties(0.7 * u * r * 0.999, e, 0.4) > 0.3).all()


def test_the_most_in_a_ball():
    h, e = RNG.normal(size=(30, 3)) * 2, RNG.normal(size=(2, 3))
    gaps = np.linalg.norm(h[:, None] - e[None], axis=-1)
    left = np.maximum(gaps - 2.0 * 0.3 - 2 * 0.05, 0)
    want = (-np.square(left / 0.5) / 6).max(1)
    got = np.asarray(largest(2.0, h, e, 0.5, 0.3, error=0.05))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert (got >= want).all() and (got <= 0).all()
    # h(x) = 2 x: points of the ball, attained straight towards the nearest centroid.
    bound = np.exp(np.asarray(largest(2.0, h, e, 0.5, 0.3)))
    nearest = e[gaps.argmin(1)]
    step = (nearest - h) / gaps.min(1)[:, None]
    reach = h + step * np.minimum(0.6, gaps.min(1))[:, None]
    found = certainties(reach, e, 0.5)
    assert (found <= bound * (1 + 1e-6)).all()
    np.testing.assert_allclose(found, bound, rtol=1e-3)
    weight = RNG.normal(size=(2, 4, 3))
    centres = RNG.normal(size=(2, 4))
    bound = np.exp(np.asarray(largest(2.0, h, centres, 0.5, 0.3, weight=weight)))
    for _ in range(20):
        moved = h + 0.6 * directions(30, 3)
        assert (certainties(moved, centres, 0.5, weight) <= bound * (1 + 1e-6)).all()


@pytest.mark.slow
def test_the_most_in_a_ball_of_a_network():
    """alpha + beta is the upper bound: random points of balls never pass it."""
    net, variables, _, _, e, weight = network(2.0, "linear")
    x = 2 * RNG.normal(size=(20, 2)).astype(np.float32)
    apply = jax.jit(net.apply)
    bound = np.exp(largest(2.8, apply(variables, x), e, SIGMA, 0.2, weight=weight, error=1e-4))
    for _ in range(10):
        moved = (x + 0.2 * directions(20, 2)).astype(np.float32)
        found = certainties(apply(variables, moved), e, SIGMA, weight)
        assert (found <= np.asarray(bound)).all()


H, E = np.ones((3, 2)), np.zeros((2, 2))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: unfamiliarity_radius(-1.0, H, E, 0.1, 0.5), "alpha"),
        (lambda: unfamiliarity_radius(1.0, H, E, 0.1, 0.0), "threshold"),
        (lambda: unfamiliarity_radius(1.0, H, E, 0.1, 1.5), "threshold"),
        (lambda: unfamiliarity_radius(1.0, H, E, 0.0, 0.5), "length_scale"),
        (lambda: unfamiliarity_radius(1.0, H, np.zeros((2, 3)), 0.1, 0.5), "differ in width"),
        (lambda: unfamiliarity_radius(1.0, H[0], E, 0.1, 0.5), "features must have shape"),
        (lambda: unfamiliarity_radius(1.0, H * np.nan, E, 0.1, 0.5), "NaN"),
        (lambda: unfamiliarity_radius(1.0, H, E, 0.1, 0.5, weight=np.ones((2, 2))), "weight"),
        (lambda: unfamiliarity_radius(1.0, H, E, 0.1, 0.5, error=-1.0), "error must be >= 0"),
        (lambda: unfamiliarity_radius(1.0, H, E, 0.1, 0.5, error=np.nan), "error must be >= 0"),
        (lambda: unfamiliarity_radius(1.0, H, E, 0.1, 0.5, error=np.ones(2)), r"\[\] or \[3\]"),
        (lambda: largest_certainty(-1.0, H, E, 0.1, 0.5), "lipschitz"),
        (lambda: largest_certainty(1.0, H, E, 0.1, -0.5), "radius must be >= 0"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_float32_features_beside_a_float64_kernel(x64):
    """The head rounds its kernel to the features' dtype; so does the certificate."""
    rng = np.random.default_rng(0)
    h = jnp.asarray(1e6 * rng.normal(size=(1, 8)), jnp.float32)
    weight = 8**-0.5 * rng.normal(size=(1, 8, 8))
    e = jnp.asarray(weight[0] @ np.asarray(h[0], float))[None]
    r = float(unfamiliarity_radius(1.0, h, e, 0.3, 0.5, weight=weight)[0])
    steps = np.linspace(-3, 3, 20001)[:, None]
    along = np.linalg.svd(weight[0])[2][-1]
    x = (np.asarray(h, float) + steps * r * along).astype(np.float32)
    kernel = jnp.asarray(weight, jnp.float32)
    found = certainties(x, jnp.asarray(e, jnp.float32), 0.3, kernel)
    outside = np.linalg.norm(x.astype(float) - np.asarray(h, float), axis=1) > r
    assert outside.any() and not (outside & (found >= 0.5)).any()


@pytest.mark.parametrize("scale", [1e-21, 1e20])
def test_lengths_whose_squares_leave_the_range_of_float32(scale):
    h, e = scale * jnp.array([[3.0, 0.0]]), jnp.zeros((1, 2))
    r = unfamiliarity_radius(1.0, h, e, scale, np.exp(-0.5))
    np.testing.assert_allclose(r / scale, 3 + np.sqrt(2), rtol=1e-4)
    bound = largest_certainty(1.0, h, e, scale, scale)
    np.testing.assert_allclose(bound, -1.0, rtol=1e-3)  # -(3 - 1)^2 / (2 * 2)


def test_where_nothing_is_known_nothing_is_promised():
    h, e = jnp.array([[jnp.nan, 0.0]]), jnp.zeros((1, 2))
    assert np.isinf(radii(1.0, h, e, 1.0, 0.5)) and np.asarray(largest(1.0, h, e, 1.0, 0.0)) == 0
