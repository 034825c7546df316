"""The supervised contrastive loss against a double loop, and its gradient against differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import monojax as mj
from monojax.compact.contrastive import supcon_loss

LABELS = np.array([0, 0, 1, 2, 1, 0, 7, 2, 0, 1])  # class 7 has one member: no positives
LOSS = jax.jit(supcon_loss, static_argnames=("reduce", "batch_size"))
FLOAT32 = 2e-6  # rounding of similarities of order 1 / tau = 10


def double_loop(z, labels, tau):
    """The formula as it is written, float64; the sum over anchors."""
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    total = 0.0
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        if positives:
            s = z[i] @ z.T / tau
            top = max(s[a] for a in others)
            lse = top + np.log(sum(np.exp(s[a] - top) for a in others))
            total -= sum(s[p] - lse for p in positives) / len(positives)
    return total


def embeddings(n=10, e=6, seed=0):
    return np.random.default_rng(seed).normal(size=(n, e)) * 3


@pytest.mark.parametrize("block", [None, 4, 1])
@pytest.mark.parametrize("tau", [0.07, 1.0])
def test_agrees_with_the_double_loop(x64, block, tau):
    z = embeddings()
    want = double_loop(z, LABELS, tau)
    found = LOSS(jnp.asarray(z), LABELS, tau, reduce="sum", batch_size=block)
    assert float(found) == pytest.approx(want, rel=1e-12)
    # Anchors without positives count as 0 and stay in the mean.
    mean = LOSS(jnp.asarray(z), LABELS, tau, batch_size=block)
    assert float(mean) == pytest.approx(want / 10, rel=1e-12)


@pytest.mark.parametrize("block", [None, 4])
def test_gradients_agree_with_differences(x64, block):
    z, tau = embeddings(), 0.2
    loss = jax.jit(lambda z, tau: supcon_loss(z, LABELS, tau, batch_size=block))
    by_z, by_tau = jax.grad(loss, (0, 1))(jnp.asarray(z), tau)
    h = 1e-5  # error h^2 and rounding 1e-16 / h, both below 1e-9
    want = np.empty_like(z)
    for i in np.ndindex(*z.shape):
        step = np.zeros_like(z)
        step[i] = h
        ends = [double_loop(z + sign * step, LABELS, tau) / 10 for sign in (1, -1)]
        want[i] = (ends[0] - ends[1]) / (2 * h)
    np.testing.assert_allclose(by_z, want, atol=1e-8)
    ends = [double_loop(z, LABELS, tau + sign * h) / 10 for sign in (1, -1)]
    assert float(by_tau) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-6)


def test_gradient_of_the_gradient(x64):
    """Along a direction, against differences of the gradient; the rule itself is differentiable."""
    z, v = jnp.asarray(embeddings()), jnp.asarray(embeddings(seed=1))
    gradient = jax.jit(jax.grad(lambda z: supcon_loss(z, LABELS, 0.5)))
    found = jax.jit(jax.grad(lambda z: jnp.vdot(gradient(z), v)))(z)
    h = 1e-5
    want = (gradient(z + h * v) - gradient(z - h * v)) / (2 * h)
    np.testing.assert_allclose(found, want, atol=1e-8)


def test_invariant_under_permutation_scale_and_names_of_classes():
    z = jnp.asarray(embeddings(), jnp.float32)
    want = LOSS(z, LABELS, 0.1)
    order = np.random.default_rng(1).permutation(10)
    scales = jnp.geomspace(0.01, 100, 10)[:, None]
    for other in (
        LOSS(z[order], LABELS[order], 0.1),
        LOSS(z * scales, LABELS, 0.1),
        LOSS(z, -3 * LABELS, 0.1),
    ):
        assert float(other) == pytest.approx(float(want), rel=FLOAT32)


@pytest.mark.parametrize("block", [None, 3])
def test_stays_finite_at_the_edges(block):
    value = jax.jit(jax.value_and_grad(functools.partial(supcon_loss, batch_size=block)))
    z = jnp.asarray(embeddings(), jnp.float32)
    cases = {
        "tiny temperature": (z, LABELS, 1e-4),
        "one class": (z, np.zeros(10, int), 0.1),
        "no positives at all": (z, np.arange(10), 0.1),
        "all equal": (jnp.ones((10, 6)), LABELS, 0.1),
        "opposite, so that every s is far below 1 / tau": (
            jnp.eye(10)[:, :6] - 1e-3,
            LABELS,
            1e-3,
        ),
        "a row of zeros": (z.at[3].set(0), LABELS, 0.1),
    }
    for name, args in cases.items():
        loss, gradient = value(*args)
        assert np.isfinite(loss) and np.isfinite(gradient).all(), name
    assert float(value(z, np.arange(10), 0.1)[0]) == 0
    # All equal: every other example is as likely, log 9 for the nine anchors that have a positive.
    equal = value(jnp.ones((10, 6)), LABELS, 0.1)[0]
    assert float(equal) == pytest.approx(0.9 * np.log(9), rel=FLOAT32)


@pytest.mark.parametrize("block", [None, 1])
def test_a_batch_of_one_has_no_loss(block):
    loss, gradient = jax.value_and_grad(LOSS)(
        jnp.ones((1, 3)), np.array([5]), 0.1, batch_size=block
    )
    assert loss == 0 and not gradient.any()


def test_small_temperature_against_the_double_loop():
    """Where a floor of 1e-9 inside the logarithm would be felt: all s far below 1 / tau."""
    z = np.eye(6)
    labels = np.array([0, 0, 1, 1, 2, 2])
    want = double_loop(z, labels, 0.02) / 6  # log 5
    found = LOSS(jnp.asarray(z, jnp.float32), labels, 0.02)
    assert float(found) == pytest.approx(want, rel=FLOAT32) == pytest.approx(np.log(5))


@pytest.mark.parametrize("block", [None, 3])
def test_eight_devices_give_the_loss_of_one(block):
    n, e = 40, 6
    z = jnp.asarray(embeddings(n, e), jnp.float32)
    labels = np.random.default_rng(2).integers(0, 9, n)
    weight = jnp.asarray(embeddings(e, e, 3), jnp.float32)

    def loss(weight, z, labels, axis_name=None):
        return supcon_loss(z @ weight, labels, 0.1, axis_name=axis_name, batch_size=block)

    def step(z, labels):
        value, gradient = jax.value_and_grad(loss)(weight, z, labels, "batch")
        return value, jax.lax.pmean(gradient, "batch")

    assert jax.device_count() == 8
    parts = z.reshape(8, 5, e), labels.reshape(8, 5)
    values, gradients = jax.pmap(step, axis_name="batch")(*parts)
    want, gradient = jax.jit(jax.value_and_grad(loss))(weight, z, labels)
    np.testing.assert_allclose(values, want, rtol=1e-6)
    for found in gradients:
        np.testing.assert_allclose(found, gradient, atol=1e-6 * jnp.abs(gradient).max())
    summed = jax.pmap(
        lambda z, labels: supcon_loss(z, labels, 0.1, axis_name="b", reduce="sum"), "b"
    )(z.reshape(8, 5, e), labels.reshape(8, 5))
    np.testing.assert_allclose(summed, LOSS(z, labels, 0.1, reduce="sum"), rtol=1e-6)


def test_low_precision_input_is_computed_in_float32():
    z = jnp.asarray(embeddings(), jnp.bfloat16)
    loss, gradient = jax.value_and_grad(LOSS)(z, LABELS)
    assert loss.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
    assert float(loss) == pytest.approx(float(LOSS(z.astype(jnp.float32), LABELS)))


def test_vmap():
    z = jnp.stack([jnp.asarray(embeddings(seed=s), jnp.float32) for s in (0, 1)])
    found = jax.jit(jax.vmap(lambda z: supcon_loss(z, LABELS, batch_size=4)))(z)
    np.testing.assert_allclose(found, [LOSS(row, LABELS) for row in z], rtol=FLOAT32)


@pytest.mark.parametrize("block", [None, 3])
@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e19, 1e30])
def test_the_length_of_an_embedding_does_not_count(size, block):
    """Squares of 1e19 do not fit float32: the loss was that of equal embeddings, or NaN."""
    z = embeddings().astype(np.float32)
    value = jax.jit(jax.value_and_grad(functools.partial(supcon_loss, batch_size=block)))
    want, slope = value(z, LABELS)
    found, gradient = value(z * np.float32(size), LABELS)
    assert float(found) == pytest.approx(float(want), rel=FLOAT32)
    np.testing.assert_allclose(
        np.float64(gradient) * size, slope, rtol=1e-3, atol=2e-5 * np.abs(slope).max()
    )


@pytest.mark.parametrize(
    "labels",
    [
        np.array([1, 1, 1 + 2**32, 1 + 2**32, 5, 5]),
        np.array([0, 0, 2**63 - 1, 2**63 - 1, -(2**63), -(2**63)]),
        np.array([3, 3, 2**64 - 1, 2**64 - 1, 2**32 + 3, 2**32 + 3], np.uint64),
        [7, 7, 7 - 2**32, 7 - 2**32, 2**40, 2**40],
    ],
)
def test_labels_of_64_bits_stay_apart(labels):
    """Cut to 32 bits, 1 and 1 + 2^32 are one class."""
    z = embeddings(6).astype(np.float32)
    want = supcon_loss(z, np.array([0, 0, 1, 1, 2, 2]))
    assert float(supcon_loss(z, labels)) == pytest.approx(float(want), rel=FLOAT32)
    assert float(jax.jit(lambda z: supcon_loss(z, labels))(z)) == pytest.approx(
        float(want), rel=FLOAT32
    )


def test_a_concrete_jax_temperature_inside_jit():
    z = embeddings().astype(np.float32)
    tau, wrong = jnp.float32(0.2), jnp.float32(-0.2)
    assert float(jax.jit(lambda: supcon_loss(z, LABELS, tau))()) == pytest.approx(
        float(LOSS(z, LABELS, 0.2)), rel=FLOAT32
    )
    with pytest.raises(ValueError, match=r"temperature must be finite and > 0, got -0.2"):
        jax.jit(lambda: supcon_loss(z, LABELS, wrong))()


def test_old_names_raise_with_the_new_one():
    for old, new in (("reduction", "reduce"), ("block", "batch_size")):
        with pytest.raises(TypeError, match=f"'{old}' is named '{new}' now"):
            supcon_loss(embeddings(), LABELS, **{old: None})


def test_is_public():
    assert mj.supcon_loss is supcon_loss


@pytest.mark.parametrize(
    ("message", "change"),
    [
        (r"shape \(10,\), got int64 of shape \(9,\)", {"labels": LABELS[:9]}),
        (r"labels must be one integer per embedding", {"labels": LABELS * 1.0}),
        (
            r"z has 1 of 10 rows with NaN",
            {"z": np.where(np.arange(60).reshape(10, 6) == 25, np.nan, 1.0)},
        ),
        (r"z must have shape \[n, d\]", {"z": np.ones(6)}),
        (r"temperature must be finite and > 0, got 0", {"temperature": 0.0}),
        (r"temperature must be finite and > 0, got -1", {"temperature": -1.0}),
        (r"reduce must be one of 'mean', 'sum', got 'none'", {"reduce": "none"}),
        (r"batch_size must be at least 1 anchor", {"batch_size": 0}),
    ],
)
def test_bad_input_is_named(message, change):
    args = {"z": np.ones((10, 6)), "labels": LABELS, "temperature": 0.1, **change}
    with pytest.raises(ValueError, match=message):
        supcon_loss(**args)


def test_integers_are_no_embedding():
    with pytest.raises(TypeError, match="floating point"):
        supcon_loss(np.ones((10, 6), int), LABELS)
