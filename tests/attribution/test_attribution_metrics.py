"""Metrics against plain loops and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from monojax import attribution
from monojax.attribution import metrics
from monojax.attribution.batches import in_batches

KERNEL = np.random.default_rng(0).normal(size=(3, 3, 2, 3))


@jax.jit
def fn(x):
    numbers = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x[None], KERNEL, (1, 1), "SAME", dimension_numbers=numbers)
    return jax.nn.relu(y)[0].mean((0, 1))


@pytest.fixture
def data(x64):
    rng = np.random.default_rng(1)
    return rng.normal(size=(6, 7, 2)), rng.normal(size=(6, 7))


def test_pixel_flipping_is_a_loop_over_features(data):
    x, a = data
    curve = jax.jit(
        lambda x, a: metrics.pixel_flipping(fn, x, 1, a, features_in_step=5, softmax=False)
    )(x, a)
    order = np.argsort(-np.repeat(a.reshape(-1), 2), kind="stable")
    flat, want = x.reshape(-1).copy(), []
    for start in range(0, 84, 5):
        flat[order[start : start + 5]] = flat.min()
        want.append(float(fn(flat.reshape(x.shape).copy())[1]))  # done before flat changes
    np.testing.assert_allclose(curve.scores, want, atol=1e-12)
    np.testing.assert_allclose(curve.auc, np.trapezoid(want), atol=1e-11)
    np.testing.assert_allclose(metrics.area(curve.scores, 5), np.trapezoid(want[:5]), atol=1e-11)
    options = dict(features_in_step=5, steps=3, batch_size=2, softmax=False)
    first = jax.jit(lambda x, a: metrics.pixel_flipping(fn, x, 1, a, **options))(x, a)
    np.testing.assert_allclose(first.scores, want[:3], atol=1e-12)


def test_selectivity_is_a_loop_over_patches(data):
    """6 x 7 with patches of 3: two rows; columns padded by 1 in front and 1 behind."""
    x, a = data
    curve = jax.jit(lambda x, a: metrics.selectivity(fn, x, 2, a, patch_size=3, softmax=False))(
        x, a
    )
    blocks = [(slice(r, r + 3), c) for r in (0, 3) for c in (slice(0, 2), slice(2, 5), slice(5, 7))]
    sums = [a[block].sum() for block in blocks]
    image, want = x.copy(), []
    for i in np.argsort(-np.array(sums)):
        image[blocks[i]] = x.min()
        want.append(float(fn(image.copy())[2]))  # done before image changes
    np.testing.assert_allclose(curve.scores, want, atol=1e-12)
    some = lambda x, a: metrics.selectivity(fn, x, 2, a, patch_size=3, batch_size=2)
    soft = jax.jit(some)(x, a)
    # The last image has the minimum everywhere.
    last = jax.nn.softmax(fn(jnp.full(x.shape, x.min())))[2]
    np.testing.assert_allclose(soft.scores[-1], last, atol=1e-12)


def test_localisation_and_pointing(x64):
    a = jnp.array([[1.0, -3.0], [2.0, 0.0]])
    mask = jnp.array([[0, 1], [1, 0]])
    share = metrics.attribution_localisation
    np.testing.assert_allclose(share(a, mask, scale=False), 5 / 6, rtol=1e-8)
    assert float(metrics.pointing_game(a, mask)) == 1.0
    assert float(metrics.pointing_game(a, 1 - mask)) == 0.0
    assert float(metrics.pointing_game(a, mask.at[1, 0].set(0), absolute=True)) == 1.0
    for measure in (share, metrics.pointing_game):
        assert np.isnan(measure(a, jnp.zeros((2, 2))))
        with pytest.raises(ValueError, match="mask has shape"):
            measure(a, jnp.ones((3, 2)))
    # Signed maps can exceed 1, which is stated as NaN.
    assert np.isnan(
        share(jnp.array([[3.0, -2.5]]), jnp.array([[1, 0]]), absolute=False, scale=False)
    )


def test_max_sensitivity_of_a_linear_map(x64):
    """A(x) = 3 x changes by 3 |e|, relative to 3 |x|; at most 0.2 sqrt(n) / |x|."""
    x = jnp.arange(1.0, 5.0)
    key = jax.random.key(0)
    measure = lambda **o: jax.jit(
        lambda key, x: metrics.max_sensitivity(key, lambda x: 3 * x, x, samples=50, **o)
    )(key, x)
    found = measure()
    draw = lambda k: jax.random.uniform(k, (4,), jnp.float64, -0.2, 0.2)
    noise = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(key, 50)))
    want = max(np.linalg.norm(e) for e in noise) / np.linalg.norm(x)
    np.testing.assert_allclose(found, want, rtol=1e-12)
    by_input = measure(relative_to="input")
    np.testing.assert_allclose(by_input, 3 * want, rtol=1e-12)
    with pytest.raises(ValueError, match="relative_to"):
        metrics.max_sensitivity(key, lambda x: x, x, relative_to="output")


def test_random_weights_change_a_map_that_depends_on_them(x64):
    rng = np.random.default_rng(0)
    params = {"a": {"w": jnp.asarray(rng.normal(size=(40, 40)))}}
    params["b"] = {"w": jnp.asarray(rng.normal(size=(1, 40)))}
    x = jnp.asarray(rng.normal(size=40))
    net = lambda p, x: p["b"]["w"] @ jax.nn.relu(p["a"]["w"] @ x)
    explain = jax.jit(lambda p, x: attribution.gradient(lambda x: net(p, x), x, 0))
    found = metrics.random_weights_check(jax.random.key(0), explain, params, x)
    assert list(found) == ["b", "a"] and all(abs(float(c)) < 0.6 for c in found.values())
    blind = metrics.random_weights_check(jax.random.key(0), lambda p, x: x, params, x)
    np.testing.assert_allclose(list(blind.values()), 1.0)
    with pytest.raises(ValueError, match="nested dicts"):
        metrics.random_weights_check(jax.random.key(0), explain, {"w": x}, x)


def test_rank_correlation_with_ties(x64):
    """Ranks (1, 2.5, 2.5, 4) against (1, 2, 3, 4): by the formula with mean ranks."""
    a, b = jnp.array([1.0, 5.0, 5.0, 9.0]), jnp.array([0.0, 1.0, 2.0, 3.0])
    want = np.corrcoef([1, 2.5, 2.5, 4], [1, 2, 3, 4])[0, 1]
    np.testing.assert_allclose(metrics.rank_correlation(a, b), want, rtol=1e-12)


def test_batched_on_the_device(data):
    x, a = data
    batch = jax.jit(jax.vmap(lambda x, y, a: metrics.selectivity(fn, x, y, a, patch_size=3).auc))
    many = batch(jnp.stack([x, x]), jnp.array([0, 1]), jnp.stack([a, -a]))
    one = metrics.selectivity(fn, x, 1, -a, patch_size=3).auc
    np.testing.assert_allclose(many[1], one, atol=1e-12)


def test_bad_input(data):
    x, a = data
    with pytest.raises(ValueError, match="resize"):
        metrics.pixel_flipping(fn, x, 1, a[:3])
    with pytest.raises(ValueError, match="out of range"):
        metrics.selectivity(fn, x, 3, a)
    with pytest.raises(ValueError, match="steps"):
        metrics.pixel_flipping(fn, x, 1, a, steps=1000)


@pytest.mark.parametrize("num", [1, 5, 8, 9, 20])  # one batch, some, a loop
def test_batches_give_what_vmap_gives(num):
    xs = jnp.arange(2.0 * num).reshape(num, 2)
    fn = lambda x: {"sum": x.sum(), "square": x**2}
    got, want = jax.jit(lambda xs: in_batches(fn, xs, 2))(xs), jax.vmap(fn)(xs)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_batches_of_nothing_are_refused():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        in_batches(jnp.sin, jnp.ones(3), 0)
