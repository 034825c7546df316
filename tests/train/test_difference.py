"""Difference networks: the guarantees of their streams, and the experiment on a small scale."""

import csv
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from monojax.layers import ICNN, ConvexMLP, DCNetwork
from train.configs.difference import get_config
from train.difference import experiment as difference
from train.difference import maps as pictures
from train.difference.experiment import violations

KEY = jax.random.key(0)


def make(kind, dim=4, scale=0.7, **options):
    """A network with random parameters far from the initial ones."""
    net = DCNetwork((8, 7, 3), kind, **options)
    params = jax.jit(net.init)(KEY, jnp.ones((1, dim)))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    moved = [a + scale * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    return net, jax.tree.unflatten(tree, moved)


def test_convex_outputs_are_the_scalar_icnn():
    """With one output it is ICNN with the same parameters; the recursion is not written twice."""
    x = jax.random.normal(KEY, (5, 4))
    net = ConvexMLP((6, 5, 1), activation="softplus", weight_map="clamp")
    params = jax.jit(net.init)(KEY, x)
    params = jax.tree.map(lambda a: a + 0.3, params)  # the weights that start at 0 count, too
    scalar = ICNN((6, 5), activation="softplus", activate_output=False)
    both = jax.jit(lambda x: (net.apply(params, x)[:, 0], scalar.apply(params, x)))(x)
    np.testing.assert_allclose(*both, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("weight_map", ["square", "softplus"])
def test_convex_streams(weight_map, x64):
    """g(mean of two points) <= mean of both values, 10,000 segments, float64 rounding."""
    net, params = make("convex", weight_map=weight_map)
    a, b = np.random.default_rng(0).normal(size=(2, 10_000, 4))
    streams = jax.jit(lambda x: jnp.stack(net.apply(params, x, method="streams")))
    at_a, at_b, middle = streams(a), streams(b), streams((a + b) / 2)
    assert ((at_a + at_b) / 2 - middle).min() >= -1e-12 * abs(at_a).max()
    assert (at_b - at_a)[..., 0].min() < 0  # not monotone


@pytest.mark.slow
@pytest.mark.parametrize("weight_map", ["square", "exp"])
def test_monotone_streams(weight_map, x64):
    net, params = make("monotone", weight_map=weight_map)
    rng = np.random.default_rng(0)
    low = rng.normal(size=(10_000, 4))
    high = low + rng.exponential(size=low.shape)
    streams = jax.jit(lambda x: jnp.stack(net.apply(params, x, method="streams")))
    assert (streams(high) - streams(low)).min() >= 0
    f = streams(high)[0] - streams(high)[1] - (streams(low)[0] - streams(low)[1])
    assert f.min() < 0 < f.max()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["convex", "monotone"])
def test_second_input(kind):
    """The value is g - h; h sees x, 1 - x or what it is given; dtype and jit."""
    net, params = make(kind)
    other, narrow = net.clone(inverted=True), net.clone(dtype=jnp.bfloat16)

    @jax.jit
    def every(x):
        plain = net.apply(params, x), *net.apply(params, x, method="streams")
        inverted = other.apply(params, x), other.apply(params, x, x), net.apply(params, x, 1 - x)
        return *plain, *inverted, narrow.apply(params, x)

    f, g, h, inverted, overruled, given, rounded = every(jax.random.uniform(KEY, (2, 3, 4)))
    assert f.shape == g.shape == h.shape == (2, 3, 3)
    # float32 under different fusions; values up to about 100.
    np.testing.assert_allclose(f, g - h, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(inverted, given, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(overruled, f, rtol=1e-5, atol=1e-3)
    assert rounded.dtype == jnp.bfloat16


@pytest.mark.slow
def test_inverted_monotone_network_is_monotone(x64):
    """f(x) = g(x) - h(1 - x) is non-decreasing in every input."""
    net, params = make("monotone", inverted=True)
    low = np.random.default_rng(0).uniform(size=(1000, 4))
    high = low + (1 - low) * 0.3
    f = jax.jit(net.apply)
    assert (f(params, high) - f(params, low)).min() >= 0


def test_bad_arguments_are_named():
    x = jnp.ones((2, 4))
    with pytest.raises(ValueError, match=r"kind must be one of .* got 'dic'"):
        DCNetwork((3,), "dic").init(KEY, x)
    with pytest.raises(ValueError, match=r"must have the same shape, got \(2, 4\) and \(2, 3\)"):
        DCNetwork((3,)).init(KEY, x, x[:, :3])
    with pytest.raises(ValueError, match="another width than at init"):
        DCNetwork((3,)).apply(jax.jit(DCNetwork((3,)).init)(KEY, x), x[:, :3])
    with pytest.raises(ValueError, match="non-empty sequence"):
        ConvexMLP(()).init(KEY, x)


@pytest.mark.slow
def test_violations_finds_what_breaks():
    """0 for the guarantee; most pairs once the kinds are exchanged (a convex stream decreases)."""
    images = np.random.default_rng(0).random((50, 4), np.float32)
    for kind in ("convex", "monotone"):
        net, params = make(kind)
        assert violations(net, params, images, 500) == 0
    net, params = make("convex")

    class Mislabelled:
        """The convex network under the other name."""

        kind, apply = "monotone", staticmethod(net.apply)

    assert violations(Mislabelled, params, images, 500) > 100


def test_shares_by_hand():
    """Two images, one class: half of g on ink; h all on the absent stroke."""
    images = np.array([[1.0, 0, 0, 0], [0, 1.0, 0, 0]])
    g = np.array([[[1.0, 1, 0, 0]], [[0, 2.0, 0, 0]]])
    h = np.array([[[0, 3.0, 0, 0]], [[0, 0, 0, 0]]])
    strokes = np.array([[True, True, False, False]])
    seed = next(s for s in range(9) if np.random.default_rng(s).permutation(2)[0] == 1)
    found = pictures.shares(g, h, images, strokes, seed)
    assert found["present"].ravel().tolist() == [0.5, 1.0]
    assert found["present shuffled"].ravel().tolist() == [0.0, 0.5]
    assert found["absent"].ravel().tolist() == [1.0, 0.0]
    assert found["absent shuffled"].ravel().tolist() == [0.0, 0.0]  # a map of zeros; no overlap
    assert found["absent other class"].ravel().tolist() == [1.0, 0.0]  # the only class there is


@pytest.mark.slow
def test_maps_are_the_positive_part_of_the_slopes():
    net, params = make("convex", inverted=True)
    images = np.random.default_rng(0).random((3, 4), np.float32)
    g, h = pictures.maps(net, params, images)
    by_hand = jax.jit(
        jax.vmap(jax.jacobian(lambda b: net.apply(params, b, b, method="streams")[1]))
    )(1 - images)
    np.testing.assert_allclose(h, np.maximum(by_hand, 0), rtol=1e-4, atol=1e-5)
    scaled, _ = pictures.maps(net, params, images, "gradient x input")
    np.testing.assert_allclose(scaled, g * images[:, None], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="kind must be one of"):
        pictures.maps(net, params, images, "saliency")


def test_blend_colours():
    one = np.array([[0.0, 2.0], [0.0, 2.0]])
    colours = pictures.blend(one, one.T)
    want = [[[1, 1, 1], [1, 0, 0]], [[0, 0, 1], [0, 0, 0]]]
    np.testing.assert_allclose(colours, want, atol=1e-12)


class Bar:
    """A progress bar that counts."""

    count = 0

    def update(self, units):
        self.count += units

    def set_postfix_str(self, text):
        pass


@pytest.mark.slow  # whole trainings
def test_quick_run_learns_bars_and_resumes(tmp_path):
    """Two networks on drawn bars; run again, nothing is trained and the tables are the same."""
    config, bar = get_config("quick"), Bar()
    difference.check(config)
    results = difference.run(config, tmp_path, bar)
    assert bar.count == difference.total_steps(config)
    for rows in results.values():
        assert rows[0]["violations"] == 0 and rows[0]["accuracy"] > 0.8  # chance is 0.1
    table = (tmp_path / "accuracy.csv").read_text()
    names = [row["network"] for row in csv.DictReader(table.splitlines())]
    assert names == ["DIC, h(1 - x)", "DM, h(1 - x)"]
    found = list(csv.DictReader((tmp_path / "shares.csv").read_text().splitlines()))
    assert len(found) == len(config.maps.networks) * len(config.maps.kinds) * 2
    for name, kind in itertools.product(config.maps.networks, ("gradient", "mean")):
        assert (tmp_path / f"overlay_{name}_{kind}.png").read_bytes().startswith(b"\x89PNG")
    again = Bar()
    assert difference.run(config, tmp_path, again) == results
    assert (tmp_path / "accuracy.csv").read_text() == table


def test_bad_configs_are_named():
    with pytest.raises(ValueError, match="unknown mode 'fast'"):
        get_config("fast")
    config = get_config("quick")
    for key, value, message in (
        ("data", "mnits", "did you mean 'mnist'"),
        ("epochs", 0, "config.epochs must be at least 1"),
    ):
        other = config.copy_and_resolve_references()
        other[key] = value
        with pytest.raises(ValueError, match=message):
            difference.check(other)
    config.networks.dm_inverted.lr = 0.0
    with pytest.raises(ValueError, match=r"networks\.dm_inverted\.lr must be > 0"):
        difference.check(config)


@pytest.mark.slow
def test_monotone_difference_learns_mnist(data_dir):
    """As many images and epochs as the specification's own trial, which ended at 0.86."""
    config = get_config()
    config.epochs, config.data_dir = 6, str(data_dir)
    whole = difference.load(config)
    data = difference.Images(
        whole.x_train[:12_000], whole.y_train[:12_000], whole.x_test, whole.y_test, 28
    )
    options = config.networks.dm
    net = difference.build(config, options)
    params, _ = difference.train(net, config, options, data, 0, None, False)
    found = difference.measure(net, params, data, config.pairs)
    assert found["accuracy"] > 0.93 and found["violations"] == 0
