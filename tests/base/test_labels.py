"""Labels of every width, and traced ones that are no class."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import monojax as mj
from monojax import groups
from monojax.base.labels import known_labels, own_column
from monojax.models.vae import Posterior, share_posteriors

MANY = 300
"""More classes than a label of one byte counts."""
LABELS = (5, 100)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.uint32])
def test_narrow_labels_of_many_classes(dtype):
    labels = np.asarray(LABELS, dtype)
    values = jnp.arange(2.0 * MANY).reshape(2, MANY)
    for given in (labels, jnp.asarray(labels)):
        assert np.asarray(known_labels(jnp.asarray(given), MANY)).all()
        np.testing.assert_array_equal(own_column(values, jnp.asarray(given)), [5, MANY + 100])
        np.testing.assert_array_equal(jax.jit(own_column)(values, given), [5, MANY + 100])
        slopes = groups.group_logits(jnp.ones((2, MANY)), given, MANY, head=lambda a: a**2)
        np.testing.assert_array_equal(np.argwhere(slopes), [[0, 5], [1, 100]])
        pair = Posterior(jnp.ones((2, MANY)), jnp.zeros((2, MANY)))
        for share in (share_posteriors, jax.jit(share_posteriors)):
            first, _ = share(pair, Posterior(-pair.mean, pair.log_variance), given)
            np.testing.assert_array_equal(np.argwhere(first.mean), [[0, 5], [1, 100]])


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32])
@pytest.mark.parametrize("count", [256, MANY])
def test_a_narrow_target_is_its_class_alone(dtype, count):
    weights = jnp.ones((3, 1)) * jnp.arange(float(count))[None]
    explain = lambda target: mj.attribution.gradient(lambda x: x @ weights, jnp.ones(3), target)
    for map_ in (explain(dtype(100)), jax.jit(explain)(dtype(100))):
        np.testing.assert_array_equal(map_, [100] * 3)


def test_no_labels_of_no_points():
    shares = jnp.zeros((0, 3))
    for report in (groups.class_report, jax.jit(groups.class_report)):
        found = report(shares, shares, np.zeros(0, np.int32))
        np.testing.assert_array_equal(found.examples, [0, 0, 0])
        assert np.isnan(found.own_share).all()


METHODS = ("gradient", "gradient_x_input", "guided_backprop", "integrated_gradients", "lrp")


@pytest.mark.parametrize("method", [*METHODS, "split_grad", "split_cam", "split_lrp"])
def test_a_traced_target_that_is_no_class_is_nan_behind_shut_relus(method):
    """A shut ReLU makes 0 of the NaN that comes back: the map itself must say it."""
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(12, 5)), jnp.float32)
    x = jnp.linspace(-1, 1, 12)
    fn = lambda x: jax.nn.relu(x) @ weights
    options = {"split_lrp": {"recentre": "full"}, "split_cam": {"layer": 0}}.get(method, {})
    explain = jax.jit(lambda t: getattr(mj.attribution, method)(fn, x, t, **options))
    assert np.isnan(explain(7)).all() and np.isnan(explain(-1)).all()
    assert np.isfinite(explain(4)).all()


def test_a_traced_query_that_is_no_token():
    from flax import linen as nn

    net = nn.MultiHeadDotProductAttention(2, qkv_features=4)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)), jnp.float32)
    variables = net.init(jax.random.key(0), x)
    ask = lambda q: mj.attribution.attention_rollout(lambda x: net.apply(variables, x), x, query=q)
    rows = ask(None)
    for query in (0, 4):
        # Two programs' orders of summing: a few roundings of float32.
        np.testing.assert_allclose(jax.jit(ask)(query), rows[query], rtol=1e-6)
    for query in (-1, 5):
        assert np.isnan(jax.jit(ask)(query)).all()


def test_ids_outside_of_a_vocabulary():
    from monojax.models.minilm import MiniLM

    net = MiniLM(vocabulary=10, width=8, layers=1, heads=2, hidden=8)
    variables = net.init(jax.random.key(0), jnp.zeros((1, 3), jnp.int32))
    embed = lambda ids: net.apply(variables, ids, method="embed")
    whole = np.asarray(embed(jnp.asarray([[1, 2, 9]])))
    for wrong in (-1, 10):
        with pytest.raises(ValueError, match="ids must lie in 0 to 9"):
            embed(jnp.asarray([[1, 2, wrong]]))
        found = np.asarray(jax.jit(embed)(jnp.asarray([[1, 2, wrong]])))
        np.testing.assert_array_equal(found[0, :2], whole[0, :2])
        assert np.isnan(found[0, 2]).all()


def test_operations_that_are_none():
    from monojax.data.augment import OPERATIONS, apply_operations

    images = jnp.zeros((2, 4, 4, 3), jnp.uint8)
    for wrong in (-1, len(OPERATIONS)):
        with pytest.raises(ValueError, match="operation must be places in OPERATIONS"):
            apply_operations(images, np.asarray([0, wrong]), np.zeros(2))


def test_counts_of_bfloat16_go_on_beyond_256():
    """Exact: 1,000 right of 1,000."""
    totals = jnp.ones((1000, 2), jnp.bfloat16) * jnp.asarray([[2.0, 1.0]], jnp.bfloat16)
    report = groups.class_report(totals, totals, np.zeros(1000, np.int32))
    assert report.output_accuracy[0] == 1 and report.activation_accuracy[0] == 1


def test_labels_on_two_devices_of_features_on_both():
    """Inside shard_map: each device's slopes are those of its own labels, not the sum of all."""
    from jax.sharding import Mesh
    from jax.sharding import PartitionSpec as P

    mesh = Mesh(np.asarray(jax.devices()[:2]), ("b",))
    split = lambda f: jax.jit(jax.shard_map(f, mesh=mesh, in_specs=(P(), P("b")), out_specs=P("b")))
    fn = lambda x: jnp.stack([-x[0], x[0] + x[1]])
    slopes = lambda points, labels: mj.penalties.signed_slopes(
        fn, points, (1, 1), outputs="label", labels=labels
    )[1]
    found = split(slopes)(jnp.ones((1, 2)), jnp.asarray([0, 1]))
    np.testing.assert_array_equal(found, [[-1, 0], [1, 1]])
    logits = lambda a, y: groups.group_logits(a, y, 2, head=lambda a: a**2)
    found = split(logits)(jnp.ones((1, 2)), jnp.asarray([0, 1]))
    np.testing.assert_array_equal(found, [[2, 0], [0, 2]])
