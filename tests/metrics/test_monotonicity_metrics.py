"""Violation rates and reports against counts in numpy."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import monojax as mj


def wave(x):
    """f = x0^2 + x1; slope 2 x0 in the first input, 1 in the second."""
    return x[0] ** 2 + x[1]


X = jnp.stack([jnp.linspace(-1, 1, 21), jnp.zeros(21)], axis=1)  # ten points left of 0, one at 0


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 4, 20, 21, 4096])
def test_rate_counts_strict_violations_once_per_point(batch_size):
    """x0 = 0 has slope 0, which is no violation; a point with two failures counts once."""
    x = np.asarray(X[:, 0])
    for directions, want in [
        ((1, 0), (x < 0).mean()),
        ((-1, 0), (x > 0).mean()),
        ((1, -1), 1.0),
        ((0, 1), 0.0),
        ((0, 0), 0.0),
    ]:
        got = mj.metrics.violation_rate(wave, X, directions, batch_size=batch_size)
        assert float(got) == pytest.approx(want)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [6, 100])
def test_report_per_input(batch_size):
    report = mj.metrics.monotonicity_report(wave, X, (1, -1), batch_size=batch_size)
    x = np.float64(X[:, 0])
    assert float(report.violation_rate) == 1.0
    np.testing.assert_allclose(report.violation_rate_per_input, [(x < 0).mean(), 1])
    np.testing.assert_allclose(report.worst_slope, [-2, -1], rtol=1e-6)
    np.testing.assert_allclose(report.mean_slope, [0, -1], atol=1e-6)
    np.testing.assert_allclose(
        report.penalty_per_input, [(np.minimum(2 * x, 0) ** 2).mean(), 1], rtol=1e-6
    )
    total = mj.monotonicity_penalty(wave, X, (1, -1))
    np.testing.assert_allclose(report.penalty_per_input.sum(), total, rtol=1e-6)


def test_outputs_and_labels_follow_the_points_through_chunks():
    """Output k of a diagonal map rises in input k alone, by (-1)^k."""
    fn = lambda x: x * jnp.array([1.0, -1.0, 1.0])
    points = jax.random.normal(jax.random.key(0), (11, 3))
    labels = jnp.arange(11) % 3
    rate = mj.metrics.violation_rate(
        fn, points, (1, 1, 1), outputs="label", labels=labels, batch_size=4
    )
    assert float(rate) == pytest.approx((np.asarray(labels) == 1).mean())
    paired = mj.metrics.violation_rate(fn, points, np.diag([1, -1, 1]), outputs="paired")
    assert float(paired) == 0.0
    assert float(mj.metrics.violation_rate(fn, points, (1, 1, 1), outputs="all")) == 1.0


@settings(max_examples=25, deadline=None)
@given(
    weights=st.lists(st.floats(-3, 3, width=32), min_size=3, max_size=3),
    directions=st.lists(st.sampled_from([-1, 0, 1]), min_size=3, max_size=3),
)
def test_a_linear_function_violates_everywhere_or_nowhere(weights, directions):
    """Subnormal products may flush to zero, as XLA does; zero is no violation."""
    w = np.float32(weights)
    w = np.where(np.abs(w) < 1e-30, 0, w)
    rate = RATE(jnp.asarray(w), jnp.asarray(directions))
    assert float(rate) == float((w * directions < 0).any())


RATE = jax.jit(lambda w, d: mj.metrics.violation_rate(lambda x: w @ x, jnp.ones((3, 3)), d))


def test_a_slope_that_is_no_number_is_a_violation():
    """A diverged model must not look monotone."""
    broken = lambda x: jnp.sqrt(-1 - jnp.abs(x[0])) + x[1]
    assert float(mj.metrics.violation_rate(broken, X, (1, 1))) == 1.0
    report = mj.metrics.monotonicity_report(broken, X, (1, 1))
    assert float(report.violation_rate) == 1.0 and np.isnan(report.worst_slope[0])
    assert float(report.violation_rate_per_input[1]) == 0.0


def test_report_of_paired_outputs_ignores_free_pairs():
    fn = lambda x: x * jnp.array([1.0, 2.0, 3.0])
    points = jax.random.normal(jax.random.key(0), (5, 3))
    report = mj.metrics.monotonicity_report(fn, points, np.diag([1, 1, 0]), outputs="paired")
    np.testing.assert_allclose(report.worst_slope, [1, 2, 0])
    np.testing.assert_allclose(report.mean_slope, [1, 2, 0])


class Normalised(nn.Module):
    """A falling network with batch normalisation."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, name="bn")(
            -(nn.Dense(3)(x) ** 2) * x[..., :1]
        )
        return x.sum(axis=-1)


@pytest.mark.slow
def test_a_network_in_train_mode_is_given_away():
    """Batch normalisation over one example: no slopes at all, and a violation rate of 0."""
    net, points = Normalised(), 1 + jax.random.uniform(jax.random.key(0), (30, 3))
    variables = net.init(jax.random.key(1), points, train=False)
    modes = {
        "train": lambda x: net.apply(variables, x, train=True, mutable=["batch_stats"])[0],
        "train, one": lambda x: net.apply(variables, x[None], train=True, mutable=["batch_stats"])[
            0
        ][0],
        "evaluation": lambda x: net.apply(variables, x, train=False),
    }
    report = functools.partial(mj.metrics.monotonicity_report, directions=(0, -1, -1))
    reports = {name: jax.jit(functools.partial(report, fn))(points) for name, fn in modes.items()}
    assert (
        float(reports["train"].violation_rate) == float(reports["train, one"].violation_rate) == 0
    )
    assert float(reports["evaluation"].violation_rate) > 0
    # The check: fn of a batch is another function than fn of each alone; or nothing moves.
    assert float(reports["train"].batch_gap) > 0.1
    assert float(reports["train, one"].value_spread) == 0
    assert float(reports["evaluation"].batch_gap) < 1e-5
    assert float(reports["evaluation"].value_spread) > 0.1


@pytest.mark.parametrize(
    ("fn", "gap"),
    [
        (lambda x: x[0] ** 2 + x[1], None),  # takes one example only
        (lambda x: x[..., 0], 0),
        (lambda x: x[..., 0] - jnp.mean(x), 1),  # examples act on each other
        (lambda x: jnp.sum(x), None),
        (lambda x: x / jnp.abs(x).max(), 1),  # normalised by the batch's largest
        (lambda x: x / jnp.abs(x).max(axis=-1, keepdims=True), 0),
    ],
)
@pytest.mark.parametrize("num", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 21))])
def test_batch_gap(fn, gap, num):
    points = np.random.default_rng(0).normal(size=(num, 2)).astype(np.float32)
    report = lambda points: mj.metrics.monotonicity_report(fn, points, (1, 0), outputs="all")
    found = float(jax.jit(report)(points).batch_gap)
    if gap is None:
        assert np.isnan(found)
    elif gap == 0 or num == 1:  # one point beside copies of itself
        assert found < 1e-6 or num == 1
    else:
        assert found > 1e-3


def test_bad_batch_size():
    with pytest.raises(ValueError, match="batch_size"):
        mj.metrics.violation_rate(wave, X, (1, 0), batch_size=0)


class Variants(chex.TestCase):
    """The same numbers eagerly, under jit, and with arguments on and off the device."""

    @chex.all_variants(with_pmap=False)
    def test_rate_and_penalty(self):
        """At the 21 points of X: 10 violate in the first input, none in the second."""

        @self.variant
        def both(points):
            rate = mj.metrics.violation_rate(wave, points, (1, 1))
            return rate, mj.monotonicity_penalty(wave, points, (1, 1))

        rate, penalty = both(X)
        x = np.float64(X[:, 0])
        np.testing.assert_allclose(rate, 10 / 21, rtol=1e-6)
        np.testing.assert_allclose(penalty, (np.minimum(2 * x, 0) ** 2).mean(), rtol=1e-6)
        chex.assert_shape((rate, penalty), ())
